"""The gate of a registry: scores that a model must have, and the test that it is better than the approved one."""

import operator
import re
from collections.abc import Sequence

from sagehound.errors import ConfigError, SagehoundError
from sagehound.evaluation.mcnemar import mcnemar
from sagehound.metrics import METRICS
from sagehound.system import console
from sagehound_launchers.packages.package import APPROVED, Package, Registry

SURE = 0.05  # p value of the one-sided test
_COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_RULE = re.compile(r"(train|valid|test)\.(\w+)\s*(>=|<=|>|<)\s*([-+\d.e]+)")


class NotGoodEnough(SagehoundError):
    """The model does not pass the gate."""


def parse(rule: str) -> tuple[str, str, str, float]:
    """Read a rule such as ``test.top1>=0.85``: split, score, comparison, value.

    Raises:
        ConfigError: it has another form.
    """
    match = _RULE.fullmatch(rule.strip())
    if match and match[2] not in (names := [metric.name for metric in METRICS]):
        raise ConfigError(f"registry.require={rule}: no such score; choose from {', '.join(names)}")
    try:
        if match:
            return match[1], match[2], match[3], float(match[4])
    except ValueError:
        pass
    raise ConfigError(f"registry.require={rule}: write a rule as test.top1>=0.85")


def check(package: Package, rules: Sequence[str]) -> None:
    """Check a model's scores.

    Raises:
        NotGoodEnough: a score breaks a rule.
        ConfigError: the model has no such score.
    """
    for rule in rules:
        split, score, comparison, wanted = parse(rule)
        scores = package.metrics.get(split, {})
        if not isinstance(scores.get(score), int | float):
            known = ", ".join(k for k, v in scores.items() if isinstance(v, int | float))
            raise ConfigError(
                f"registry.require={rule}: the model has no {split}.{score}; it has {known or 'no scores'}"
            )
        if not _COMPARE[comparison](scores[score], wanted):
            raise NotGoodEnough(
                f"registry.require={rule}: {split}.{score} is {scores[score]:g}; nothing was registered"
            )
        console.info(f"gate: {split}.{score} is {scores[score]:g}, which passes {rule}")


def check_better(package: Package, registry: Registry, name: str) -> None:
    """Check that a model is better than the newest approved one, by McNemar's one-sided test on the same photos.

    Raises:
        NotGoodEnough: it is not, or there is nothing to compare. Without an approved model, the first one passes.
    """
    approved = next((v for v in registry.versions(name) if v.status == APPROVED), None)
    if approved is None:
        console.info(f"gate: no version of {name} is approved yet, so there is nothing to be better than")
        return
    if approved.digest == package.digest:
        console.info(f"gate: this is {approved.address} itself")
        return
    photos, better, worse, p = mcnemar(package.predictions, registry.predictions(approved), better=True)
    compared = f"of {photos} test photos the new model alone is right on {better}, {approved.address} alone on {worse}"
    if not photos:
        raise NotGoodEnough(
            f"registry.better_than_approved: no test photo is common with {approved.address}; nothing was registered"
        )
    if p >= SURE:
        raise NotGoodEnough(
            f"registry.better_than_approved: {compared}, p={p:.3f}, which is not below {SURE}; nothing was registered"
        )
    console.info(f"gate: {compared}, p={p:.3f}: better than {approved.address}")
