"""UpdateEndpoint and UpdateEndpointWeightsAndCapacities.

An update starts the new containers beside the old ones, shifts the requests to them by the steps of its policy, and
lets each step bake. An alarm in state ALARM, or the update's time limit, shifts the requests back.
"""

import time
from collections.abc import Sequence

from sagemaker_emulator.errors import JobFailed, invalid
from sagemaker_emulator.hosting.alarms import Alarms
from sagemaker_emulator.hosting.deployment import Deployment
from sagemaker_emulator.hosting.endpoint_description import active_instances, described, pending
from sagemaker_emulator.hosting.endpoints import Endpoints
from sagemaker_emulator.hosting.update_policy import Plan, Step, make_plan
from sagemaker_emulator.processes.tasks import Tasks
from sagemaker_emulator.storage.records import Record, Records

_POLL = 0.1  # seconds between two looks at the alarms
_LONGEST_CALL = 3600.0  # seconds that an asynchronous call may run
_RETAINED = {"InitialInstanceCount": "DesiredInstanceCount", "InitialVariantWeight": "DesiredWeight"}


class EndpointUpdates:
    """Changes of endpoints that are in service."""

    def __init__(self, endpoints: Endpoints, alarms: Alarms, records: Records, tasks: Tasks) -> None:
        self._endpoints, self._alarms, self._records, self._tasks = endpoints, alarms, records, tasks

    def UpdateEndpoint(self, request: Record) -> Record:
        """Start the containers of another configuration, then replace the old ones by the steps of a policy."""
        record, config = self._endpoints.changeable(request["EndpointName"]), request["EndpointConfigName"]
        variants = self._endpoints.planned(config)
        if request.get("RetainAllVariantProperties"):
            excluded = {p["VariantPropertyType"] for p in request.get("ExcludeRetainedVariantProperties", [])}
            _retain(variants, record["_Variants"], excluded)
        policy = request.get("DeploymentConfig")
        if policy is None and request.get("RetainDeploymentConfig"):
            policy = record.get("LastDeploymentConfig")
        plan = make_plan(policy or {}, record["_Variants"], variants)
        self._alarms.check(plan.alarms)
        self._endpoints.check_quotas(variants)
        summary = {"EndpointConfigName": config, "StartTime": time.time()}
        self._endpoints.change(
            record["EndpointName"],
            EndpointStatus="Updating",
            PendingDeploymentSummary=summary | pending(variants, 0.0, "Creating", "Launching {all} instance(s)."),
            FailureReason=None,
            LastDeploymentConfig=policy or record.get("LastDeploymentConfig"),
            _Pending=variants,
        )
        self._tasks.background(self._replace, record["EndpointName"], plan)
        return {"EndpointArn": record["EndpointArn"]}

    def UpdateEndpointWeightsAndCapacities(self, request: Record) -> Record:
        """Change the weights of variants, and their number of instances or their serverless configuration."""
        record = self._endpoints.changeable(request["EndpointName"])
        changed = [dict(v) for v in record["_Variants"]]
        variants = {v["VariantName"]: v for v in changed}
        for desired in request["DesiredWeightsAndCapacities"]:
            variant = variants.pop(desired["VariantName"], None)
            if variant is None:
                raise invalid(f"Variant {desired['VariantName']} not found, or given twice.")
            self._rescale(variant, desired)
        self._endpoints.change(record["EndpointName"], EndpointStatus="Updating", **_desired(record, changed))
        self._tasks.background(self._apply, record["EndpointName"], changed)
        return {"EndpointArn": record["EndpointArn"]}

    def _rescale(self, variant: Record, desired: Record) -> None:
        """Change a variant as requested, if AWS would accept that."""
        name, count = variant["VariantName"], desired.get("DesiredInstanceCount")
        serverless = variant.get("ServerlessConfig")
        if count is not None:
            if serverless:
                raise invalid(f"Variant {name} is serverless: it has no instances.")
            if count < 1:
                raise invalid(f"DesiredInstanceCount of variant {name} must be at least 1.")
            more = max(count - variant["InitialInstanceCount"], 0)
            self._endpoints.check_quotas([variant | {"InitialInstanceCount": more}])
            variant["InitialInstanceCount"] = count
        if update := desired.get("ServerlessUpdateConfig"):
            if not serverless:
                raise invalid(f"Variant {name} is not serverless.")
            variant["ServerlessConfig"] = serverless = serverless | update
            if serverless.get("ProvisionedConcurrency", 0) > serverless["MaxConcurrency"]:
                raise invalid("ProvisionedConcurrency must be less than or equal to MaxConcurrency.")
        if "DesiredWeight" in desired:
            variant["InitialVariantWeight"] = desired["DesiredWeight"]

    # In threads

    def _apply(self, name: str, variants: list[Record]) -> None:
        """Put weights and capacities into effect."""
        with self._records.lock:
            if deployment := self._endpoints.fleets.get(name):
                deployment.change(variants)
                self._endpoints.in_service(name, variants)

    def _replace(self, name: str, plan: Plan) -> None:
        """Replace the configuration by the pending one; keep the old one if that fails or an alarm trips."""
        until = None if plan.most is None else time.monotonic() + plan.most
        fleets, record = self._endpoints.fleets, self._endpoints.found(name)
        variants = record["_Pending"]
        new = self._endpoints.deployment(name, variants)
        try:
            new.start()
        except JobFailed as failed:
            self._keep_old(name, str(failed))
            return
        try:
            reason = self._shift(name, new, plan, until)
        except Exception as error:  # an internal error must not leave the endpoint in Updating
            reason = f"InternalServerError: {error!r}"
        if reason is not None or self._tasks.stopping.is_set():
            fleets.shift_back(name)
            new.stop()
            self._keep_old(name, reason or "")
            return
        old = fleets.get(name)
        if fleets.put(name, new):
            config = record["PendingDeploymentSummary"]["EndpointConfigName"]
            with self._records.lock:
                self._endpoints.change(name, EndpointConfigName=config, _Pending=None, PendingDeploymentSummary=None)
                self._endpoints.in_service(name, variants)
            if old:
                old.stop(_LONGEST_CALL if "AsyncInferenceConfig" in old.config else None)

    def _shift(self, name: str, new: Deployment, plan: Plan, until: float | None) -> str | None:
        """Shift the requests step by step; returns why the update must be rolled back, or None."""
        for step in plan.steps:
            capacity = f"{'full' if step.share == 1 else 'canary'} capacity of {{active}} instance(s)."
            self._describe(name, plan, step, "ActivatingTraffic", f"Activating traffic on {capacity}")
            self._endpoints.fleets.shift(name, new, step.share)
            baking = f"Baking for {step.seconds:g} seconds ({step.setting}) with traffic enabled on {capacity}"
            if step.seconds:
                self._describe(name, plan, step, "Baking", baking)
            if reason := self._bake(step.seconds, plan.alarms, until):
                return reason
        return None

    def _bake(self, seconds: float, alarms: Sequence[str], until: float | None) -> str | None:
        """Watch the alarms for some time; returns why the update must be rolled back, or None."""
        end = time.monotonic() + seconds
        while True:
            if tripped := self._alarms.tripped(alarms):
                return f"One or more configured alarm(s) went into ALARM state: [{', '.join(tripped)}]"
            now = time.monotonic()
            if until is not None and now > until:
                return "The deployment exceeded MaximumExecutionTimeoutInSeconds and was rolled back."
            if now >= end or self._tasks.stopping.wait(min(end - now, _POLL)):
                return None

    def _describe(self, name: str, plan: Plan, step: Step, status: str, message: str) -> None:
        """Show a stage of an update in DescribeEndpoint."""
        with self._records.lock:
            record = self._endpoints.found(name)
            summary = record["PendingDeploymentSummary"] | pending(record["_Pending"], step.share, status, message)
            old = described(record["_Variants"])["ProductionVariants"]
            if plan.is_rolling:  # the old instances end batch by batch
                for variant, shown in zip(record["_Variants"], old, strict=False):
                    left = variant["InitialInstanceCount"] - active_instances(variant, step.share)
                    shown["CurrentInstanceCount"] = max(left, 0)
            self._endpoints.change(name, PendingDeploymentSummary=summary, ProductionVariants=old)

    def _keep_old(self, name: str, reason: str) -> None:
        """End an update that failed."""
        if self._tasks.stopping.is_set():
            return  # the next start of the emulator ends it
        with self._records.lock:
            variants = self._endpoints.found(name)["_Variants"]
            self._endpoints.change(name, FailureReason=reason, _Pending=None, PendingDeploymentSummary=None)
            self._endpoints.in_service(name, variants)


def _retain(variants: Sequence[Record], old: Sequence[Record], excluded: set[str]) -> None:
    """Let variants keep the number of instances and the weight that they have in service."""
    existing = {v["VariantName"]: v for v in old}
    for variant in variants:
        before = existing.get(variant["VariantName"], {})
        for member, property_type in _RETAINED.items():
            if member in before and member in variant and property_type not in excluded:
                variant[member] = before[member]


def _desired(record: Record, changed: Sequence[Record]) -> Record:
    """The variants as DescribeEndpoint shows them while weights and capacities change."""
    shown = {}
    for member in ("ProductionVariants", "ShadowProductionVariants"):
        after = described(list(changed))[member] or []
        before = described(record["_Variants"])[member] or []
        for new, old in zip(after, before, strict=True):
            new |= {k: v for k, v in old.items() if k.startswith("Current")}
            if (count := new.get("DesiredInstanceCount")) != old.get("CurrentInstanceCount"):
                text = f"Scaling out desired instance count to {count}."
                new["VariantStatus"] = [{"Status": "Updating", "StatusMessage": text, "StartTime": time.time()}]
        shown[member] = after or None
    return shown
