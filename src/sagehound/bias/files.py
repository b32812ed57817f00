"""Writes bias.json and bias.csv, and the summary for the console."""

import math
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

from sagehound.bias.analysis import ANY_CLASS, POST, PRE, RECOGNISED, Analysis, Row
from sagehound.bias.class_scores import ClassScores, ConfusedPair
from sagehound.bias.measures import MEASURES
from sagehound.bias.photo_rows import CLASS
from sagehound.evaluation.tables import describe_interval
from sagehound.storage.atomic import write_csv, write_json

JSON, CSV = "bias.json", "bias.csv"
_PAIRS = 20  # in bias.json
_COLUMNS = [
    *("stage", "facet", "group", "outcome", "measure", "value", "low", "high", "photos", "others", "verdict"),
    *("range", "worse", "meaning"),
]


def write(folder: Path, found: Analysis, more: dict[str, Any] | None = None) -> None:
    """Write bias.json and bias.csv.

    bias.json has the layout of Clarify's analysis.json (docs.aws.amazon.com/sagemaker/latest/dg,
    clarify-processing-job-analysis-results.html) for the measures that take all classes at once. Clarify analyses one
    positive label at a time, so ``one_vs_rest`` holds the same two sections for each class.

    Args:
        folder: for the files.
        found: the analysis.
        more: further members of bias.json.
    """
    outcomes = sorted({row.outcome for row in found.rows} - {ANY_CLASS, RECOGNISED})
    content = {
        "version": "1.0",
        **_sections([row for row in found.rows if row.outcome in (ANY_CLASS, RECOGNISED)], RECOGNISED),
        "one_vs_rest": [_sections([r for r in found.rows if r.outcome == one], one) for one in outcomes],
        "classes": [_class(one) for one in found.classes],
        "confused": [_pair(one) for one in found.confused[:_PAIRS]],
        "measures": {m.name: {"range": m.range, "worse": m.worse} for m in MEASURES.values()},
        "photos": found.photos,
        "labels_of": found.labelled,
        "predictions_of": found.split,
        **(more or {}),
    }
    write_json(folder / JSON, content)
    write_csv(folder / CSV, _COLUMNS, [_line(row) for row in found.rows])


def _sections(rows: Iterable[Row], outcome: str) -> dict[str, Any]:
    """Clarify's sections of one positive label."""
    sections: dict[str, Any] = {}
    for stage in (PRE, POST):
        facets: dict[str, list[dict[str, Any]]] = {}
        of_stage = sorted((r for r in rows if r.stage == stage), key=lambda r: (r.facet, r.group))
        for (facet, group), some in groupby(of_stage, key=lambda r: (r.facet, r.group)):
            values = {"value_or_threshold": group, "metrics": [_metric(row) for row in some]}
            facets.setdefault(facet, []).append(values)
        if facets:
            label = {"label": "label", "label_value_or_threshold": outcome}
            sections[f"{stage}_bias_metrics"] = {**label, "facets": facets}
    return sections


def _metric(row: Row) -> dict[str, Any]:
    measure = row.measure
    metric: dict[str, Any] = {"name": measure.name, "description": measure.description, "value": _plain(row.value)}
    if row.value is None:
        metric["error"] = row.meaning
    low, high = row.interval or (None, None)
    return metric | {
        "interval": None if row.interval is None else [_plain(low), _plain(high)],
        "photos": row.photos,
        "others": row.others,
        "verdict": row.verdict,
        "meaning": row.meaning,
    }


def _plain(value: float | None) -> float | str | None:
    """A number for JSON; Clarify writes infinity as text."""
    if value is None:
        return None
    return ("Infinity" if value > 0 else "-Infinity") if math.isinf(value) else round(value, 6)


def _line(row: Row) -> list[Any]:
    low, high = row.interval or (None, None)
    numbers = ["" if v is None else _plain(v) for v in (row.value, low, high)]
    where = [row.stage, row.facet, row.group, row.outcome, row.measure.name]
    about = [row.photos, row.others, row.verdict, row.measure.range, row.measure.worse, row.meaning]
    return [*where, *numbers, *about]


def _class(one: ClassScores) -> dict[str, Any]:
    scores = {
        "precision": (one.precision, one.precision_interval),
        "recall": (one.recall, one.recall_interval),
        "f1": (one.f1, one.f1_interval),
    }
    numbers: dict[str, Any] = {"class": one.name, "train_photos": one.trained, "photos": one.photos}
    for name, (value, interval) in scores.items():
        numbers |= {name: _plain(value), f"{name}_interval": [_plain(bound) for bound in interval]}
    return numbers


def _pair(one: ConfusedPair) -> dict[str, Any]:
    share = {"share": _plain(one.mistaken / one.photos), "interval": [_plain(bound) for bound in one.interval]}
    return {"label": one.label, "prediction": one.prediction, "mistaken": one.mistaken, "photos": one.photos, **share}


def summary(found: Analysis) -> list[str]:
    """At most nine lines: what is measured, the weakest classes and groups, the most confused pair."""
    lines = [
        f"bias in {found.photos[found.split]:,} {found.split} photos and the labels of "
        f"{found.photos[found.labelled]:,} {found.labelled} photos, "
        f"{len(found.classes)} classes, by {', '.join(found.facets)}"
    ]
    few, many = min(found.classes, key=lambda c: c.trained), max(found.classes, key=lambda c: c.trained)
    if few.trained == many.trained:
        lines.append(f"train photos: {few.trained:,} of each class")
    else:
        lines.append(f"train photos: from {few.trained:,} of {few.name} to {many.trained:,} of {many.name}")
    lines += _of_interest(_weakest_classes(found), 2)
    lines += _of_interest(_worst_groups(found), 3)
    if found.confused:
        worst = found.confused[0]
        share = describe_interval(worst.interval)
        lines.append(f"most confused: {worst.mistaken} of {worst.photos} {worst.label} taken for {worst.prediction} "
                     f"({share} %)")  # fmt: skip
    return lines


def _weakest_classes(found: Analysis) -> list[Row]:
    """AD of the classes whose photos are recognised more rarely than others."""
    return [r for r in found.rows if r.facet == CLASS and r.measure.name == "AD" and (r.value or 0) > 0]


def _worst_groups(found: Analysis) -> list[Row]:
    """AD of the groups of columns that are classified worse than others; if only one class was compared, its RD."""
    of_columns = [r for r in found.rows if r.facet != CLASS and (r.value or 0) > 0]
    worse = [r for r in of_columns if r.measure.name == "AD" and r.outcome == RECOGNISED]
    outcomes = {r.outcome for r in found.rows if r.stage == POST}
    return worse if RECOGNISED in outcomes else [r for r in of_columns if r.measure.name == "RD"]


def _of_interest(rows: list[Row], most: int) -> list[str]:
    """The largest values that are no chance, or else the largest one."""
    largest = sorted(rows, key=lambda row: (row.verdict != "clear", -(row.value or 0)))
    clear = [row for row in largest if row.verdict == "clear"]
    return [_sentence(row) for row in (clear or largest[:1])[:most]]


def _sentence(row: Row) -> str:
    low, high = row.interval or (math.nan, math.nan)
    return f"{row.measure.name} {row.value:.2f} ({low:.2f} to {high:.2f}, {row.verdict}): {row.meaning}"
