"""Computes every measure of bias for the photos of a run."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sagehound.bias import measures
from sagehound.bias.class_scores import ClassScores, ConfusedPair, class_scores, confused_pairs
from sagehound.bias.measures import Counts, Flags, Interval, Measure
from sagehound.bias.photo_rows import CLASS, Names, PhotoRows
from sagehound.errors import InputError

PRE, POST = "pre_training", "post_training"
RECOGNISED = "(recognised)"  # the outcome of a photo that is classified correctly
ANY_CLASS = "(any class)"  # the outcome of measures that take all classes at once
FEW = 10  # photos; the 95 % interval of a share of 10 photos may be 0.53 wide


@dataclass(frozen=True)
class Row:
    """One measure of one group."""

    stage: str  # PRE: of the labels of train photos; POST: of the predictions
    facet: str  # class, or a column
    group: str  # a value of the facet
    outcome: str  # a class (against the rest), RECOGNISED or ANY_CLASS
    measure: Measure
    value: float | None  # None: not defined
    interval: Interval | None  # 95 %; None: the measure has none
    photos: int  # of the group that the measure counts
    others: int  # the same of the others
    meaning: str  # one sentence

    @property
    def verdict(self) -> str:
        """What the interval allows to say; empty without one."""
        if min(self.photos, self.others) < FEW:
            return "too few photos"
        if self.interval is None:
            return ""
        return "clear" if self.interval[0] > 0 or self.interval[1] < 0 else "may be chance"


@dataclass(frozen=True)
class Analysis:
    """All results."""

    split: str  # whose predictions were measured
    labelled: str  # the split whose labels were measured
    photos: dict[str, int]  # by these two splits
    facets: tuple[str, ...]
    rows: list[Row]
    classes: list[ClassScores]
    confused: list[ConfusedPair]  # most photos first


def analyse(photos: PhotoRows, split: str, group_by: str | None = None, labelled: str = "train") -> Analysis:
    """Compute all measures.

    Args:
        photos: of all splits, with the columns that make groups.
        split: whose predictions are measured.
        group_by: a column within whose values CDDL and CDDPL of each class compare; None: they are left out.
        labelled: the split whose labels are measured.

    Raises:
        InputError: the split has no predictions.
    """
    tested, given = photos.of_split(split), photos.of_split(labelled)
    tested = tested.where(tested.predictions != "")
    if not len(tested.files):
        have = sorted({*photos.splits[photos.predictions != ""]})
        raise InputError(f"bias.split={split}: no photo has a prediction; choose from {', '.join(have)}")
    scores = class_scores(photos.of_split("train"), tested)
    rows = [*_of_classes(given, [one.name for one in scores]), *_predicted_classes(scores)]
    for facet in photos.facets:
        if facet != group_by:
            rows += [*_labels(given, facet, group_by), *_predictions(tested, facet, group_by)]
    rows.sort(key=lambda row: row.stage == POST)
    facets = (CLASS, *(name for name in photos.facets if name != group_by))
    number = {labelled: len(given.files), split: len(tested.files)}
    return Analysis(split, labelled, number, facets, rows, scores, confused_pairs(tested))


def _of_classes(given: PhotoRows, classes: list[str]) -> Iterator[Row]:
    """CI of each class."""
    total = len(given.files)
    for name in classes:
        number = int((given.labels == name).sum())
        sizes = (total - number, number)
        text = {"d": _percent(number, total), "equal": _percent(1, len(classes))}
        yield _row(PRE, CLASS, name, ANY_CLASS, measures.CI, measures.imbalance(*sizes), None, sizes, text)


def _predicted_classes(scores: list[ClassScores]) -> Iterator[Row]:
    """Each class against all others: one-vs-rest counts of the class, and their sums over the other classes."""
    for one in scores:
        rest = [other.counts for other in scores if other is not one]
        a = Counts(*(sum(getattr(c, name) for c in rest) for name in ("tp", "fp", "fn", "tn")))
        d = one.counts
        recognised = Counts(a.tp, 0, a.fn, 0), Counts(d.tp, 0, d.fn, 0)  # of each class's own photos
        yield from _compared((measures.AD, measures.DI), CLASS, one.name, RECOGNISED, *recognised)
        which = (measures.RD, measures.DAR, measures.DCA, measures.TE)
        yield from _compared(which, CLASS, one.name, RECOGNISED, a, d)


def _labels(given: PhotoRows, facet: str, group_by: str | None) -> Iterator[Row]:
    """The labels by the values of a column."""
    known = given.where(given.facets[facet] != "")
    by_class = [(name, known.labels == name) for name in known.classes]
    for group in _values(known.facets[facet]):
        d = known.facets[facet] == group
        sizes = (int((~d).sum()), int(d.sum()))
        text = {"d": _percent(sizes[1], len(d)), "a": _percent(sizes[0], len(d))}
        yield _row(PRE, facet, group, ANY_CLASS, measures.CI, measures.imbalance(*sizes), None, sizes, text)
        a_counts, d_counts = (np.array([(labelled & side).sum() for _, labelled in by_class]) for side in (~d, d))
        for distance in measures.DISTANCES:
            value = distance.value(a_counts, d_counts)
            yield _row(PRE, facet, group, ANY_CLASS, distance, value, None, sizes, {})
        for name, labelled in by_class:
            nothing = np.zeros_like(labelled)
            a, c = Counts.of(labelled[~d], nothing[~d]), Counts.of(labelled[d], nothing[d])
            yield from _compared((measures.DPL,), facet, group, name, a, c, PRE)
            if group_by:
                yield _conditional(known, facet, group, name, labelled, group_by, PRE)


def _predictions(tested: PhotoRows, facet: str, group_by: str | None) -> Iterator[Row]:
    """The predictions by the values of a column: whether they are right, then each class against the rest."""
    known = tested.where(tested.facets[facet] != "")
    right = np.asarray(known.labels == known.predictions, bool)
    by_class = [(name, known.labels == name, known.predictions == name) for name in known.classes]
    for group in _values(known.facets[facet]):
        d = known.facets[facet] == group
        should = np.ones_like(right)
        a, c = Counts.of(should[~d], right[~d]), Counts.of(should[d], right[d])
        yield from _compared((measures.AD, measures.DI), facet, group, RECOGNISED, a, c)
        yield _conditional(known, facet, group, RECOGNISED, right, CLASS, POST)
        for name, labelled, predicted in by_class:
            a, c = Counts.of(labelled[~d], predicted[~d]), Counts.of(labelled[d], predicted[d])
            yield from _compared(measures.ONE_VS_REST, facet, group, name, a, c)
            if group_by:
                yield _conditional(known, facet, group, name, predicted, group_by, POST)


def _compared(
    which: tuple[Measure, ...],
    facet: str,
    group: str,
    outcome: str,
    a: Counts,
    d: Counts,
    stage: str = POST,
) -> Iterator[Row]:
    """Measures of two groups' counts."""
    for measure in which:
        if isinstance(measure, measures.Difference):
            text = {"d": _percent(*measure.share(d)), "a": _percent(*measure.share(a))}
            trials = measure.share(a)[1], measure.share(d)[1]
            interval = measure.interval(a, d)
            yield _row(stage, facet, group, outcome, measure, measure.value(a, d), interval, trials, text)
        elif isinstance(measure, measures.Comparison):
            text = {"d": _number(measure.ratio(d)), "a": _number(measure.ratio(a))}
            number = measure.photos(a), measure.photos(d)
            yield _row(stage, facet, group, outcome, measure, measure.value(a, d), None, number, text)


def _conditional(
    photos: PhotoRows, facet: str, group: str, outcome: str, accepted: Flags, strata: str, stage: str
) -> Row:
    d = photos.facets[facet] == group
    by = photos.labels if strata == CLASS else photos.facets[strata]
    value = measures.conditional_disparity(accepted, d, by)
    measure = measures.CDDL if stage == PRE else measures.CDDPL
    verb = "labelled" if stage == PRE else "classified as"
    having, without = f"the photos that are {verb} {outcome}", f"those that are not {verb} {outcome}"
    if outcome == RECOGNISED:
        having, without = "the right predictions", "the wrong predictions"
    text = {
        "strata": strata,
        "more": "larger" if (value or 0) >= 0 else "smaller",
        "having": having,
        "without": without,
    }
    return _row(stage, facet, group, outcome, measure, value, None, (int((~d).sum()), int(d.sum())), text)


def _row(
    stage: str,
    facet: str,
    group: str,
    outcome: str,
    measure: Measure,
    value: float | None,
    interval: Interval | None,
    sizes: tuple[int, int],
    text: dict[str, str],
) -> Row:
    return Row(stage, facet, group, outcome, measure, value, interval, sizes[1], sizes[0],
               meaning(measure, facet, group, outcome, value, text))  # fmt: skip


def meaning(
    measure: Measure, facet: str, group: str, outcome: str, value: float | None, text: dict[str, str]
) -> str:  # fmt: skip
    """One sentence about the value for these classes and groups.

    Args:
        measure: whose sentence it is.
        facet: class, or a column.
        group: a value of the facet.
        outcome: a class, RECOGNISED or ANY_CLASS.
        value: of the measure.
        text: the parts that only the counts give.
    """
    if value is None:
        return "Not defined: a share or a ratio has no photos in the group or in the others."
    if facet == CLASS:
        name, others = f"photos of {group}", "photos of other classes"
        if measure.name in BY_CLASS:
            return BY_CLASS[measure.name].format(group=group, **text)
    else:
        name, others = f"photos with {facet}={group}", "the other photos"
    classified = "classified correctly" if outcome == RECOGNISED else f"classified as {outcome}"
    size = "infinity" if math.isinf(value) else f"{value:.2f}"
    parts = {"value": size, "percent": f"{abs(value):.1%}", "classified": classified, **text}
    sentence = measure.meaning.format(group=name, others=others, outcome=outcome, **parts)
    return sentence[0].upper() + sentence[1:]


BY_CLASS = {  # sentences of measures of one class against the others
    "CI": "{d} of the photos are of {group}; equal shares would be {equal}.",
    "RD": "The recall of {group} is {d}, that of the other classes {a}.",
    "DAR": "{d} of the predictions of {group} are right, {a} of the predictions of other classes.",
    "DCA": "For each prediction of {group} there are {d} photos of it; for other classes there are {a}.",
    "TE": "For each photo that is mistaken for {group}, {d} photos of it are missed; for other classes {a}.",
}


def _values(column: Names) -> list[str]:
    return sorted({*column})


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "none"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"
