"""DeploymentConfig of UpdateEndpoint: the steps by which an update shifts traffic, and what AWS refuses.

Rules come from AWS's API reference and its developer guide, "Deployment guardrails"; RULES.md has the source of each.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sagemaker_emulator.errors import invalid
from sagemaker_emulator.storage.records import Record

_PERCENT = {"CanarySize": (0, 50), "LinearStepSize": (10, 50), "MaximumBatchSize": (5, 50)}
_NO_GUARDRAILS = "ml.inf1."  # these instances fall back to all at once, without baking


@dataclass(frozen=True)
class Step:
    """One shift of traffic, and the baking period after it."""

    share: float  # of the requests for the new containers, from 0 to 1
    seconds: float  # the baking period
    setting: str  # the member of the policy that says how long it is


@dataclass(frozen=True)
class Plan:
    """How an update proceeds."""

    steps: tuple[Step, ...]
    alarms: tuple[str, ...] = ()  # names; one in state ALARM rolls the update back
    most: float | None = None  # seconds for the whole update
    is_rolling: bool = False


def make_plan(config: Record, old: Sequence[Record], new: Sequence[Record]) -> Plan:
    """The plan of an update.

    Args:
        config: the DeploymentConfig; empty: all at once.
        old: variants in service.
        new: variants of the new configuration.

    Raises:
        ApiError: AWS would refuse the config.
    """
    blue_green, rolling = config.get("BlueGreenUpdatePolicy"), config.get("RollingUpdatePolicy")
    if blue_green and rolling:
        raise invalid("Only one of BlueGreenUpdatePolicy and RollingUpdatePolicy can be given.")
    if not config:
        return Plan((Step(1.0, 0.0, ""),))
    if _names(old) != _names(new):
        raise invalid(
            "With a DeploymentConfig, the new endpoint configuration must have the same variant names as the old one: "
            f"{', '.join(sorted(_names(old)))}."
        )
    listed = config.get("AutoRollbackConfiguration", {}).get("Alarms", [])
    alarms = tuple(alarm["AlarmName"] for alarm in listed if "AlarmName" in alarm)
    policy = blue_green or rolling or {}
    production = [v for v in new if not v.get("_Shadow")]
    if _falls_back(production, bool(rolling)):
        return Plan((Step(1.0, 0.0, ""),))
    steps = _rolling_steps(policy, production) if rolling else _blue_green_steps(policy, production)
    most = policy.get("MaximumExecutionTimeoutInSeconds")
    waits = sum(step.seconds for step in steps)
    if most is not None and most <= waits:
        raise invalid(f"MaximumExecutionTimeoutInSeconds must be larger than the {waits:g} seconds of waiting in all.")
    return Plan(steps, alarms, most, bool(rolling))


def _falls_back(variants: Sequence[Record], is_rolling: bool) -> bool:
    """Whether AWS updates such an endpoint all at once, whatever the policy."""
    if any(v.get("InstanceType", "").startswith(_NO_GUARDRAILS) for v in variants):
        return True
    return is_rolling and (len(variants) > 1 or "ServerlessConfig" in variants[0])


def _blue_green_steps(policy: Record, variants: Sequence[Record]) -> tuple[Step, ...]:
    routing = policy.get("TrafficRoutingConfiguration", {"Type": "ALL_AT_ONCE"})
    last = Step(1.0, policy.get("TerminationWaitInSeconds", 0), "TerminationWaitInSeconds")
    member = {"CANARY": "CanarySize", "LINEAR": "LinearStepSize"}.get(routing["Type"])
    if member is None:
        return (last,)
    if member not in routing:
        raise invalid(f"{member} must be given for traffic routing of type {routing['Type']}.")
    size = _share(member, routing[member], variants)
    count = 1 if member == "CanarySize" else math.ceil(1 / size - 1e-9) - 1
    wait = routing["WaitIntervalInSeconds"]
    return (*(Step(size * i, wait, "WaitIntervalInSeconds") for i in range(1, count + 1)), last)


def _rolling_steps(policy: Record, variants: Sequence[Record]) -> tuple[Step, ...]:
    size = _share("MaximumBatchSize", policy["MaximumBatchSize"], variants)
    count, wait = math.ceil(1 / size - 1e-9), policy["WaitIntervalInSeconds"]
    return tuple(Step(min(size * i, 1.0), wait, "WaitIntervalInSeconds") for i in range(1, count + 1))


def _share(member: str, size: Record, variants: Sequence[Record]) -> float:
    """A CapacitySize as a share of the variant that it is the smallest part of."""
    shares: list[float] = [
        size["Value"] / (100 if size["Type"] == "CAPACITY_PERCENT" else max(v.get("InitialInstanceCount", 1), 1))
        for v in variants
    ]
    least, most = _PERCENT[member]
    if min(shares) * 100 < least or max(shares) * 100 > most:
        allowed = f"at most {most} %" if least == 0 else f"{least} to {most} %"
        raise invalid(f"{member} must be {allowed} of the variant's total instance count.")
    return min(shares)


def _names(variants: Sequence[Record]) -> set[str]:
    return {v["VariantName"] for v in variants}
