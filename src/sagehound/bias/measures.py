"""The measures of SageMaker Clarify, computed from counts.

The formulas are those of the SageMaker Developer Guide, sections "Measure Pre-training Bias"
(docs.aws.amazon.com/sagemaker/latest/dg/clarify-measure-data-bias.html) and "Measure Post-training Data and Model Bias"
(clarify-measure-post-training-bias.html). AWS's library ``smclarify`` is not used: version 0.5 fails with columns of
text in pandas 3, and section 3.3 of its licence permits use with services of Amazon only.

The group that is measured is Clarify's disfavoured facet d; all other photos are its favoured facet a. A measure that
would divide by zero is None. (``smclarify`` takes 0 / 0 as 0, which would read as a recall of 0. It also leaves classes
that one side lacks out of KL, JS, LP, TVD and KS.)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from sagehound.evaluation.tables import wilson

Flags: TypeAlias = npt.NDArray[np.bool_]
Interval: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class Counts:
    """The counts of one group for an outcome that a photo has or has not."""

    tp: int
    fp: int
    fn: int
    tn: int

    @classmethod
    def of(cls, labelled: Flags, predicted: Flags) -> "Counts":
        """Count a group's n photos, given whether each has the outcome and whether the outcome is predicted for it."""
        both, neither = int((labelled & predicted).sum()), int((~labelled & ~predicted).sum())
        return cls(both, int(predicted.sum()) - both, int(labelled.sum()) - both, neither)

    @property
    def photos(self) -> int:
        """All photos of the group."""
        return self.tp + self.fp + self.fn + self.tn


Share: TypeAlias = tuple[int, int]  # photos that count, and of how many
_Shares: TypeAlias = Callable[[Counts], Share]


@dataclass(frozen=True)
class Measure:
    """A measure: its name at Clarify, and how to read it."""

    name: str
    description: str  # Clarify's
    range: str
    worse: str  # the values that show a bias
    # the meaning; {d} and {a} are the values of group and others, {group}, {others} and {outcome} their names
    meaning: str


@dataclass(frozen=True)
class Difference(Measure):
    """The difference of a share of photos between others (a) and group (d)."""

    share: _Shares
    sign: int = 1  # 1: a - d; -1: d - a

    def value(self, a: Counts, d: Counts) -> float | None:
        """The difference; None if a share has no photos."""
        of_a, of_d = ratio(*self.share(a)), ratio(*self.share(d))
        return None if of_a is None or of_d is None else self.sign * (of_a - of_d)

    def interval(self, a: Counts, d: Counts) -> Interval | None:
        """The 95 % interval of the difference; see ``newcombe``."""
        if not (self.share(a)[1] and self.share(d)[1]):
            return None
        low, high = newcombe(self.share(a), self.share(d))
        return (low, high) if self.sign > 0 else (-high, -low)


@dataclass(frozen=True)
class Comparison(Measure):
    """A comparison of a ratio that is no share, between others (a) and group (d)."""

    ratio: Callable[[Counts], float | None]
    compare: Callable[[float, float], float | None]  # of a and of d
    photos: Callable[[Counts], int]  # that the ratio counts

    def value(self, a: Counts, d: Counts) -> float | None:
        """The comparison; None if a ratio is not defined."""
        of_a, of_d = self.ratio(a), self.ratio(d)
        return None if of_a is None or of_d is None else self.compare(of_a, of_d)


@dataclass(frozen=True)
class Distance(Measure):
    """A distance between the distributions of labels of others (a) and group (d)."""

    between: Callable[[npt.NDArray[np.float64], npt.NDArray[np.float64]], float]

    def value(self, a: npt.NDArray[np.int64], d: npt.NDArray[np.int64]) -> float | None:
        """The distance of counts by class, c and c; None without photos in one of them."""
        return float(self.between(a / a.sum(), d / d.sum())) if a.sum() and d.sum() else None


def ratio(part: float, whole: float) -> float | None:
    """A ratio; None if the denominator is 0."""
    return part / whole if whole else None


def newcombe(a: Share, d: Share) -> Interval:
    """The 95 % interval of the difference of two independent shares, a - d.

    Method 10 of Newcombe (1998), "Interval estimation for the difference between independent proportions", Statistics
    in Medicine 17, 873-890. It combines the Wilson intervals of both shares.
    """
    (low_a, high_a), (low_d, high_d) = wilson(*a), wilson(*d)
    of_a, of_d = a[0] / a[1], d[0] / d[1]
    low = of_a - of_d - math.hypot(of_a - low_a, high_d - of_d)
    return low, of_a - of_d + math.hypot(high_a - of_a, of_d - low_d)


def imbalance(others: int, group: int) -> float | None:
    """Class Imbalance (CI): (n_a - n_d) / (n_a + n_d)."""
    return ratio(others - group, others + group)


def conditional_disparity(accepted: Flags, group: Flags, strata: npt.NDArray[np.object_]) -> float | None:
    """Conditional Demographic Disparity (CDDL of labels, CDDPL of predictions).

    The mean of DD_i = (the group's share of the rejected) - (its share of the accepted) over the strata i, weighted by
    their photos. DD is not defined where all photos of a stratum are accepted or all rejected; these strata are left
    out. (``smclarify`` takes the missing share as 0, so a stratum without a rejection counts as a bias.)

    Args:
        accepted: whether each photo has the outcome, n.
        group: whether it belongs to the group, n.
        strata: the value of the column that is conditioned on, n.
    """
    total = weighted = 0.0
    for value in np.unique(strata):
        one = strata == value
        yes, no = one & accepted, one & ~accepted
        if yes.any() and no.any():
            disparity = group[no].mean() - group[yes].mean()
            weighted, total = weighted + int(one.sum()) * float(disparity), total + int(one.sum())
    return ratio(weighted, total)


def _kl(p: npt.NDArray[np.float64], q: npt.NDArray[np.float64]) -> float:
    """Sum of p log(p / q) in nats; infinite if q lacks a class that p has."""
    used = p > 0
    if (q[used] == 0).any():
        return math.inf
    return float(np.sum(p[used] * np.log(p[used] / q[used])))


def _js(p: npt.NDArray[np.float64], q: npt.NDArray[np.float64]) -> float:
    middle = (p + q) / 2
    return (_kl(p, middle) + _kl(q, middle)) / 2


_MIX = "From 0 (the same classes in the same shares): {group} and {others} differ by {value}"
DISTANCES = (
    Distance("KL", "Kullback-Leibler Divergence (KL)", "from 0 to infinity", "above 0",
             _MIX + " nats in their mix of classes; infinite if {group} lack a class.", _kl),
    Distance("JS", "Jensen-Shannon Divergence (JS)", "from 0 to 0.693", "above 0",
             _MIX + " nats in their mix of classes; 0.693 if they share no class.", _js),
    Distance("LP", "L-p Norm (LP)", "from 0 to 1.414", "above 0",
             _MIX + " in the L2 norm of their shares of classes.", lambda p, q: float(np.linalg.norm(p - q))),
    Distance("TVD", "Total Variation Distance (TVD)", "from 0 to 1", "above 0",
             "{percent} of {group} would need another class to give the mix of classes of {others}.",
             lambda p, q: float(np.abs(p - q).sum() / 2)),
    Distance("KS", "Kolmogorov-Smirnov Distance (KS)", "from 0 to 1", "above 0",
             "The share of a single class differs by at most {percent} between {group} and {others}.",
             lambda p, q: float(np.abs(p - q).max())),
)  # fmt: skip

CI = Measure(
    "CI", "Class Imbalance (CI)", "from -1 to 1", "near 1: few photos of the group; near -1: few others",
    "{d} of all photos are {group}, {a} are not.",
)  # fmt: skip
DPL = Difference(
    "DPL", "Difference in Positive Proportions in Labels (DPL)", "from -1 to 1", "far from 0",
    "{d} of {group} are labelled {outcome}, {a} of {others}.", lambda c: (c.tp + c.fn, c.photos),
)  # fmt: skip
DPPL = Difference(
    "DPPL", "Difference in Positive Proportions in Predicted Labels (DPPL)", "from -1 to 1", "far from 0",
    "{d} of {group} are {classified}, {a} of {others}.", lambda c: (c.tp + c.fp, c.photos),
)  # fmt: skip
AD = Difference(
    "AD", "Accuracy Difference (AD)", "from -1 to 1", "above 0: the group is classified worse; below 0: the others are",
    "{d} of {group} are classified correctly, {a} of {others}.", lambda c: (c.tp + c.tn, c.photos),
)  # fmt: skip
RD = Difference(
    "RD", "Recall Difference (RD)", "from -1 to 1", "above 0: the group's recall is lower; below 0: the others' is",
    "Of photos of {outcome}, {d} are recognised among {group}, {a} among {others}.", lambda c: (c.tp, c.tp + c.fn),
)  # fmt: skip
SD = Difference(
    "SD", "Specificity Difference (SD)", "from -1 to 1", "below 0: more of the group are wrongly given the class",
    "Of photos of other classes, {d} are not mistaken for {outcome} among {group}, {a} among {others}.",
    lambda c: (c.tn, c.tn + c.fp), -1,
)  # fmt: skip
DAR = Difference(
    "DAR", "Difference in Acceptance Rates (DAR)", "from -1 to 1", "above 0: the group's precision is lower",
    "Of predictions of {outcome}, {d} are right among {group}, {a} among {others}.", lambda c: (c.tp, c.tp + c.fp),
)  # fmt: skip
DRR = Difference(
    "DRR", "Difference in Rejection Rates (DRR)", "from -1 to 1", "below 0: more of the group's photos are missed",
    "Of predictions of other classes, {d} are rightly not {outcome} among {group}, {a} among {others}.",
    lambda c: (c.tn, c.tn + c.fn), -1,
)  # fmt: skip
DI = Comparison(
    "DI", "Disparate Impact (DI)", "from 0 to infinity", "far from 1; the four-fifths rule asks for 0.8 to 1.25",
    "{group} are {classified} {value} times as often as {others}.",
    lambda c: ratio(c.tp + c.fp, c.photos), lambda a, d: ratio(d, a), lambda c: c.photos,
)  # fmt: skip
DCA = Comparison(
    "DCA", "Difference in Conditional Acceptance (DCA)", "any number",
    "below 0: the class is predicted too rarely in the group, compared with the others",
    "For each prediction of {outcome} there are {d} photos of it among {group}, {a} among {others}.",
    lambda c: ratio(c.tp + c.fn, c.tp + c.fp), lambda a, d: a - d, lambda c: c.tp + c.fp + c.fn,
)  # fmt: skip
DCR = Comparison(
    "DCR", "Difference in Conditional Rejection (DCR)", "any number",
    "above 0: other classes are predicted too rarely in the group, compared with the others",
    "For each prediction of another class than {outcome} there are {d} such photos among {group}, {a} among {others}.",
    lambda c: ratio(c.tn + c.fp, c.tn + c.fn), lambda a, d: d - a, lambda c: c.tn + c.fp + c.fn,
)  # fmt: skip
TE = Comparison(
    "TE", "Treatment Equality (TE)", "any number",
    "far from 0: above, the group's photos are rather missed; below, rather mistaken for the class",
    "For each photo that is mistaken for {outcome}, {d} of {outcome} are missed among {group}, {a} among {others}.",
    lambda c: ratio(c.fn, c.fp), lambda a, d: d - a, lambda c: c.fn + c.fp,
)  # fmt: skip
_CONDITIONAL = (
    "Within each {strata}, {group} are a {more} share of {without} than of {having}, by {percent} on average."
)
CDDL = Measure(
    "CDDL", "Conditional Demographic Disparity in Labels (CDDL)", "from -1 to 1",
    "above 0: the group has the outcome more rarely, also within the column's values", _CONDITIONAL,
)  # fmt: skip
CDDPL = Measure(
    "CDDPL", "Conditional Demographic Disparity in Predicted Labels (CDDPL)", "from -1 to 1",
    "above 0: the group has the outcome more rarely, also within the column's values", _CONDITIONAL,
)  # fmt: skip

ONE_VS_REST = (AD, DAR, DCA, DCR, DI, DPPL, DRR, RD, SD, TE)  # after training, of a class against the rest
MEASURES = {m.name: m for m in (CI, DPL, *DISTANCES, CDDL, *ONE_VS_REST, CDDPL)}
