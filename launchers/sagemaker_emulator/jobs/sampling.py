"""Points of a tuning job's search space, as AWS describes the space."""

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from sagemaker_emulator.storage.records import Record

Point: TypeAlias = dict[str, str]  # every value is text, as in the job

_FIRST = 4  # random points before a Bayesian search uses the best point
_NEAR = 0.75  # share of later points near the best one
_SPREAD = 0.3  # standard deviation, as a share of the range on its scale; divided by the root of the number of points


@dataclass(frozen=True)
class Number:
    """A range of numbers."""

    low: float
    high: float
    scale: str  # Linear, Logarithmic, ReverseLogarithmic
    whole: bool

    def at(self, share: float) -> str:
        """The value at a share (0 to 1) of the range, on its scale."""
        low, high = (self.low - 0.5, self.high + 0.5) if self.whole else (self.low, self.high)
        if self.whole and self.scale == "Logarithmic":
            low = max(low, self.low / 2)
        if self.scale == "Logarithmic":
            value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        elif self.scale == "ReverseLogarithmic":
            value = 1 - math.exp(math.log(1 - low) + share * (math.log(1 - high) - math.log(1 - low)))
        else:
            value = low + share * (high - low)
        if self.whole:
            return str(min(max(round(value), round(self.low)), round(self.high)))
        return repr(min(max(value, self.low), self.high))

    def share(self, text: str) -> float:
        """The place of a value in the range, from 0 to 1 on its scale."""
        low, high, value = self.low, self.high, min(max(float(text), self.low), self.high)
        if low == high:
            return 0.5
        if self.scale == "Logarithmic":
            low, high, value = math.log(low), math.log(high), math.log(value)
        elif self.scale == "ReverseLogarithmic":
            low, high, value = math.log(1 - low), math.log(1 - high), math.log(1 - value)
        return (value - low) / (high - low)


def numbers(ranges: Record) -> dict[str, Number]:
    """The ranges of numbers by name; Auto is Logarithmic if a range spans a factor of 100 or more."""
    numeric = {}
    for kind, whole in (("IntegerParameterRanges", True), ("ContinuousParameterRanges", False)):
        for given in ranges.get(kind, []):
            low, high = float(given["MinValue"]), float(given["MaxValue"])
            scale = given.get("ScalingType", "Auto")
            if scale == "Auto":
                scale = "Logarithmic" if low > 0 and high / low >= 100 else "Linear"
            numeric[given["Name"]] = Number(low, high, scale, whole)
    return numeric


def choices(ranges: Record) -> dict[str, list[str]]:
    """The categorical ranges' values by name."""
    return {r["Name"]: r["Values"] for r in ranges.get("CategoricalParameterRanges", [])}


def wrong_ranges(ranges: Record) -> Iterator[str]:
    """Problems of the ranges that AWS would refuse."""
    for kind in ("IntegerParameterRanges", "ContinuousParameterRanges"):
        for given in ranges.get(kind, []):
            where = f"{kind} {given['Name']}"
            try:
                low, high = float(given["MinValue"]), float(given["MaxValue"])
                if kind.startswith("Integer"):
                    int(given["MinValue"]), int(given["MaxValue"])
            except ValueError:
                yield f"{where}: MinValue and MaxValue must be numbers of its kind"
                continue
            scale = given.get("ScalingType", "Auto")
            if not math.isfinite(low) or not math.isfinite(high) or low > high:
                yield f"{where}: MinValue must be less than or equal to MaxValue"
            elif scale == "Logarithmic" and low <= 0:
                yield f"{where}: Logarithmic scaling takes only values greater than 0"
            elif scale == "ReverseLogarithmic" and (low < 0 or high >= 1):
                yield f"{where}: ReverseLogarithmic scaling takes only values within 0 <= x < 1.0"
            elif scale == "ReverseLogarithmic" and kind.startswith("Integer"):
                yield f"{where}: ReverseLogarithmic scaling is for continuous ranges only"
    if ranges.get("AutoParameters"):
        yield "AutoParameters: the emulator has none"


def combinations(ranges: Record) -> int:
    """The number of points of a grid."""
    return math.prod(len(values) for values in choices(ranges).values())


def grid(ranges: Record) -> list[Point]:
    """Every combination of the categorical ranges' values."""
    choices_of = choices(ranges)
    return [dict(zip(choices_of, values, strict=True)) for values in itertools.product(*choices_of.values())]


class Sampler:
    """Proposes points: random ones, or near the best one. The same seed gives the same points."""

    def __init__(self, ranges: Record, seed: int | None, *, guided: bool) -> None:
        """Make it ready.

        Args:
            ranges: AWS's ParameterRanges.
            seed: RandomSeed, or None.
            guided: whether later points are near the best one: a simplified Bayesian search.
        """
        self._numbers, self._choices, self._guided = numbers(ranges), choices(ranges), guided
        self._random = random.Random(seed)

    def propose(self, known: Sequence[tuple[Mapping[str, str], float]]) -> Point:
        """The next point.

        Args:
            known: points with their objectives (lower is better); some may be of other spaces.
        """
        draw: Any = self._random
        best: Mapping[str, str] = min(known, key=lambda k: k[1])[0] if known else {}
        near = self._guided and len(known) >= _FIRST and draw.random() < _NEAR
        spread = _SPREAD / math.sqrt(max(len(known), 1))
        point = {}
        for name, number in self._numbers.items():
            share = draw.random()
            if near and name in best:
                share = min(max(draw.gauss(number.share(best[name]), spread), 0.0), 1.0)
            point[name] = number.at(share)
        for name, values in self._choices.items():
            chosen = draw.choice(values)
            point[name] = best[name] if near and best.get(name) in values and draw.random() < _NEAR else chosen
        return point
