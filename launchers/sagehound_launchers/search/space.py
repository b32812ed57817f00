"""The search space: parsed from Hydra's sweep grammar, converted for Optuna and for SageMaker's tuning jobs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, Quote, QuotedString, RangeSweep
from hydra.errors import HydraException

from sagehound.cli.hydra_errors import explain
from sagehound.errors import ConfigError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

ROLES = (
    "scientific",
    "nuisance",
    "fixed",
)  # roles of the deep learning tuning playbook
_SCALES = {"log": "Logarithmic", "reverse_log": "ReverseLogarithmic"}
_MOST_RANGES, _MOST_VALUES, _MOST_CHARACTERS = (
    30,
    30,
    256,
)  # limits of a tuning job


@dataclass(frozen=True)
class Interval:
    """Numbers between two bounds, inclusive."""

    low: float
    high: float
    integer: bool = False
    scale: str = ""  # log, reverse_log (dense near the upper end, below 1), or empty for linear
    step: int = 1  # of integers


@dataclass(frozen=True)
class Choice:
    """One of several values, each as in an override: 32, adam, [512,256], 'with space'."""

    values: tuple[str, ...]


Range: TypeAlias = Interval | Choice


@dataclass(frozen=True)
class SearchSpace:
    """The ranges to search by key, and the fixed overrides."""

    ranges: dict[str, Range]
    fixed: list[str]  # overrides of every trial
    roles: dict[str, str]  # roles of ranges

    def middle(self) -> list[str]:
        """The overrides of one point, to compose and check before anything starts."""
        return [*self.fixed, *overrides({key: _middle(r) for key, r in self.ranges.items()})]


def parse(given: Sequence[str]) -> SearchSpace:
    """Parse a search space from overrides.

    interval(a,b) is continuous, int(interval(a,b)) and range(a,b) are integers, a,b and choice(a,b) are one of several;
    tag(log, ...) and tag(reverse_log, ...) scale an interval, tag(scientific, ...), tag(nuisance, ...) and
    tag(fixed, ...) give it a role. Other overrides are fixed.

    Raises:
        ConfigError: an override cannot be searched; the message says what to write.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(given))
    except HydraException as error:
        raise ConfigError(explain(error)) from error
    ranges: dict[str, Range] = {}
    fixed: list[str] = []
    roles: dict[str, str] = {}
    for text, override in zip(given, parsed, strict=True):
        if not override.is_sweep_override():
            fixed.append(text)
            continue
        key = override.get_key_element().lstrip("+")
        if key in ranges:
            raise ConfigError(f"{text}: {key} is searched already; give it once")
        sweep = override._value
        role = role_of(text, sweep)
        dimension = _range(text, override)
        if role == "fixed":
            if not isinstance(dimension, Choice) or len(dimension.values) > 1:
                raise ConfigError(f"{text}: what is fixed has one value: write {key}=VALUE")
            fixed.append(f"{key}={dimension.values[0]}")
            continue
        ranges[key] = dimension
        if role:
            roles[key] = role
    return SearchSpace(ranges, fixed, roles)


def role_of(text: str, sweep: Any) -> str:  # noqa: ANN401 - one of Hydra's sweeps
    """The role in a sweep's tag; empty without one.

    Raises:
        ConfigError: there is no such tag, or two roles.
    """
    tags = set(getattr(sweep, "tags", ()))
    unknown = sorted(tags - {*ROLES, *_SCALES})
    if unknown:
        raise ConfigError(f"{text}: no such tag {unknown[0]}; choose from {', '.join((*_SCALES, *ROLES))}")
    roles = [role for role in ROLES if role in tags]
    if len(roles) > 1:
        raise ConfigError(f"{text}: {' and '.join(roles)} contradict each other; keep one")
    return roles[0] if roles else ""


def _range(text: str, override: Override) -> Range:
    sweep = override._value
    scales = [scale for scale in _SCALES if scale in getattr(sweep, "tags", ())]
    if len(scales) > 1:
        raise ConfigError(f"{text}: log and reverse_log contradict each other; keep one")
    if isinstance(sweep, IntervalSweep):
        return _interval(text, sweep, scales[0] if scales else "")
    if scales:
        raise ConfigError(f"{text}: {scales[0]} scales an interval: write tag({scales[0]}, interval(LOW,HIGH))")
    if isinstance(sweep, RangeSweep):
        return _from_range(text, sweep)
    if isinstance(sweep, ChoiceSweep):
        values = tuple(dict.fromkeys(_written(value) for value in sweep.list))
        return Choice(values)
    raise ConfigError(f"{text}: cannot be searched; write a,b,c or interval(LOW,HIGH)")


def _interval(text: str, sweep: IntervalSweep, scale: str) -> Interval:
    low, high = sweep.start, sweep.end
    assert low is not None
    assert high is not None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"{text}: give two finite numbers, the smaller first")
    if scale == "log" and low <= 0:
        raise ConfigError(f"{text}: a logarithmic interval must lie above 0")
    if scale == "reverse_log" and not 0 <= low < high < 1:
        raise ConfigError(f"{text}: a reverse logarithmic interval must lie between 0 and 1")
    integer = isinstance(low, int) and isinstance(high, int)
    if scale == "reverse_log" and integer:
        raise ConfigError(f"{text}: integers have no reverse logarithmic scale; use log, or none")
    return Interval(low, high, integer, scale)


def _from_range(text: str, sweep: RangeSweep) -> Range:
    """The values of Hydra's range, without its end."""
    values = list(sweep.range())
    if not values:
        raise ConfigError(f"{text}: an empty range; the end is left out, as in Python")
    ascending = sorted(values)
    if len(values) > 1 and all(isinstance(v, int) for v in values):
        return Interval(int(ascending[0]), int(ascending[-1]), True, step=abs(int(sweep.step)))
    return Choice(tuple(_written(float(f"{v:.12g}") if isinstance(v, float) else v) for v in values))


def _written(value: Any) -> str:  # noqa: ANN401 - what Hydra's grammar has
    """A value as in an override."""
    if isinstance(value, QuotedString | str):
        return _text(value.text if isinstance(value, QuotedString) else value)
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{k}:{_written(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_written, value)) + "]"
    return str(value)


def _text(text: str) -> str:
    """Text unchanged if Hydra parses it as the same text; otherwise quoted."""
    try:
        override = OverridesParser.create().parse_override(f"k={text}")
        plain = not override.is_sweep_override() and override.value() == text and isinstance(override._value, str)
    except HydraException:
        plain = False
    return text if plain else QuotedString(text, Quote.single).with_quotes()


def _middle(dimension: Range) -> str | float:
    if isinstance(dimension, Choice):
        return dimension.values[0]
    if dimension.integer:
        return int(dimension.low)
    return (
        math.sqrt(dimension.low * dimension.high) if dimension.scale == "log" else (dimension.low + dimension.high) / 2
    )


def overrides(point: Mapping[str, str | float]) -> list[str]:
    """A proposed point as overrides: numbers with all digits, choices as written."""
    return [f"{key}={value if isinstance(value, str) else repr(value)}" for key, value in point.items()]


def to_optuna(space: SearchSpace) -> "dict[str, BaseDistribution]":
    """Optuna's distributions; reverse_log becomes linear, because Optuna lacks it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    distributions: dict[str, BaseDistribution] = {}
    for key, r in space.ranges.items():
        if isinstance(r, Choice):
            distributions[key] = CategoricalDistribution(r.values)
        elif r.integer:
            distributions[key] = IntDistribution(int(r.low), int(r.high), log=r.scale == "log", step=r.step)
        else:
            distributions[key] = FloatDistribution(r.low, r.high, log=r.scale == "log")
    return distributions


def to_sagemaker(space: SearchSpace, *, grid: bool = False) -> dict[str, list[dict[str, Any]]]:
    """ParameterRanges of a tuning job.

    Args:
        space: the search space.
        grid: whether the strategy is Grid, which takes only categoricals.

    Raises:
        ConfigError: there are more ranges, values or characters than a tuning job may have, or an interval in a grid.
    """
    ranges: dict[str, list[dict[str, Any]]] = {
        f"{kind}ParameterRanges": [] for kind in ("Continuous", "Integer", "Categorical")
    }
    for key, r in space.ranges.items():
        if isinstance(r, Interval) and r.step > 1:
            r = Choice(tuple(map(str, range(int(r.low), int(r.high) + 1, r.step))))
        if isinstance(r, Choice):
            _check_values(key, r)
            ranges["CategoricalParameterRanges"].append({"Name": key, "Values": list(r.values)})
            continue
        if grid:
            raise ConfigError(
                f"{key}: a grid takes values, not intervals: write {key}=a,b,c or choose another strategy"
            )
        bounds = (str(int(r.low)), str(int(r.high))) if r.integer else (repr(float(r.low)), repr(float(r.high)))
        kind = "Integer" if r.integer else "Continuous"
        ranges[f"{kind}ParameterRanges"].append(
            {"Name": key, "MinValue": bounds[0], "MaxValue": bounds[1], "ScalingType": _SCALES.get(r.scale, "Linear")}
        )
    if len(space.ranges) > _MOST_RANGES:
        raise ConfigError(f"{len(space.ranges)} keys are searched: a tuning job takes {_MOST_RANGES}; search fewer")
    return {kind: of_kind for kind, of_kind in ranges.items() if of_kind}


def _check_values(key: str, choice: Choice) -> None:
    if len(choice.values) > _MOST_VALUES:
        raise ConfigError(f"{key}: {len(choice.values)} values, a tuning job takes {_MOST_VALUES}; give fewer")
    long = [v for v in choice.values if len(v) > _MOST_CHARACTERS]
    if long:
        raise ConfigError(f"{key}={long[0][:40]}...: a tuning job's values have at most {_MOST_CHARACTERS} characters")
