"""The report of several runs: scores, differences of their configs, curves, and a test on the same photos."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from sagehound.evaluation.mcnemar import mcnemar
from sagehound.evaluation.tables import describe_interval
from sagehound.report import charts
from sagehound.report.contents import Contents
from sagehound.report.page import Part, Section, render

_SCORES = ("top1", "top5", "macro_f1", "loss", "ece")
_SURE = 0.05  # p value, below which a difference is called one


def page(runs: Sequence[Contents]) -> str:
    """The comparison of several runs as HTML."""
    names = [f"{number}: {run.name}" for number, run in enumerate(runs, 1)]
    sections = [_answer(runs, names), _differences(runs, names), _curves(runs, names), _scores(runs, names)]
    return render(f"Comparison of {len(runs)} runs", ", ".join(names), sections)


def _answer(runs: Sequence[Contents], names: Sequence[str]) -> Section:
    section = Section("Result")
    best = max(range(len(runs)), key=lambda i: runs[i].metrics["test"]["top1"])
    top1 = runs[best].metrics["test"]["top1"]
    section.parts.append(Part("answer", text=f"Highest test accuracy {top1:.1%}: run {names[best]}"))
    rows = []
    for (i, a), (j, b) in itertools.combinations(enumerate(runs), 2):
        photos, only_a, only_b, p = mcnemar(a.of_split("test"), b.of_split("test"))
        verdict = "no test photos in common" if not photos else "differ" if p < _SURE else "no difference shown"
        rows.append([f"{i + 1} and {j + 1}", photos, only_a, only_b, f"{p:.3f}", verdict])
    columns = ["runs", "same test photos", "only the first right", "only the second right", "p", "verdict"]
    section.table("McNemar's exact test for each pair", columns, rows)
    section.text(
        "A run that was chosen because it has the highest test accuracy is expected to be a little worse on new "
        "photos. Choose by valid scores, and look at the test once."
    )
    return section


def _differences(runs: Sequence[Contents], names: Sequence[str]) -> Section:
    section = Section("Settings that differ")
    flat = [dict(_leaves(run.config)) for run in runs]
    keys = sorted(set().union(*flat))
    rows = [
        [key, *(config.get(key, "") for config in flat)]
        for key in keys
        if len({str(config.get(key, "")) for config in flat}) > 1
    ]
    if rows:
        section.table("Keys of the configs with different values", ["key", *names], rows)
    else:
        section.text("None.")
    return section


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, object]]:  # noqa: ANN401 - a config
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def _curves(runs: Sequence[Contents], names: Sequence[str]) -> Section:
    section = Section("Training")
    for column, label in (("valid_loss", "valid loss"), ("valid_top1", "valid top-1")):
        series = {
            name: [(row["epoch"], row[column]) for row in run.history if column in row]
            for name, run in zip(names, runs, strict=True)
        }
        last = ", ".join(f"{name} {points[-1][1]:.3g}" for name, points in series.items() if points)
        if last:
            section.picture(
                charts.vector(charts.lines(series, label.capitalize(), "epoch", label), f"{label}, at the end: {last}")
            )
    return section


def _scores(runs: Sequence[Contents], names: Sequence[str]) -> Section:
    section = Section("Scores")
    for split in ("test", "valid", "train"):
        scores = [run.metrics.get(split, {}) for run in runs]
        rows: list[list[object]] = [
            [name, *(f"{s[name]:.4f}" if name in s else "" for s in scores)] for name in _SCORES
        ]
        intervals = [describe_interval(s["top1_interval"]) if "top1_interval" in s else "" for s in scores]
        rows.insert(1, ["top1, 95 % interval in percent", *intervals])
        section.table(f"Scores of the {split} photos", ["score", *names], rows)
    seconds: list[list[object]] = [
        ["seconds in all", *(f"{sum(run.metrics.get('seconds', {}).values()):.1f}" for run in runs)]
    ]
    section.table("Time", ["phase", *names], seconds)
    return section
