"""The report's section of what bias=local or bias=sagemaker measured."""

from typing import Any

from sagehound.evaluation.tables import describe_interval
from sagehound.report.page import Section

_POST = "post_training_bias_metrics"
_PAIRS = 5


def section(bias: dict[str, Any]) -> Section:
    """Classes with intervals, groups of photos by accuracy, and the pairs that are confused most.

    Args:
        bias: the content of bias.json; empty without one.
    """
    part = Section("Bias")
    if not bias:
        return part
    number = ", ".join(f"{count:,} {split}" for split, count in bias["photos"].items())
    part.text(
        f"Measured on the predictions of {bias['predictions_of']} photos and the labels of {bias['labels_of']} photos "
        f"({number}). bias.csv has every measure with its range and meaning. Of twenty measures without a bias, about "
        "one is called clear by chance."
    )
    scores = [[one["class"], one["photos"], *(_with_interval(one, s) for s in ("recall", "precision", "f1"))]
              for one in bias["classes"]]  # fmt: skip
    columns = ["class", "photos", "recall (95 % interval), %", "precision, %", "F1, %"]
    part.table("Scores of each class with intervals", columns, scores, sortable=True)
    if groups := _groups(bias):
        columns = ["group", "photos", "accuracy difference AD", "finding", "meaning"]
        part.table("Groups of photos, compared with all other photos", columns, groups, sortable=True)
    pairs = [
        [p["label"], p["prediction"], f"{p['mistaken']} of {p['photos']}", describe_interval(p["interval"])]
        for p in bias["confused"][:_PAIRS]
    ]
    if pairs:
        part.table("Classes that are confused most", ["label", "taken for", "photos", "95 % interval, %"], pairs)
    return part


def _with_interval(one: dict[str, Any], score: str) -> str:
    if one[score] is None:
        return "no photos"
    return f"{100 * one[score]:.1f} ({describe_interval(one[f'{score}_interval'])})"


def _groups(bias: dict[str, Any]) -> list[list[object]]:
    """A row for each value of a column: its accuracy difference."""
    rows: list[list[object]] = []
    for facet, groups in bias.get(_POST, {}).get("facets", {}).items():
        for group in groups:
            for metric in group["metrics"]:
                if facet != "class" and metric["name"] == "AD" and metric["value"] is not None:
                    name = f"{facet}={group['value_or_threshold']}"
                    rows.append(
                        [name, metric["photos"], f"{metric['value']:.3f}", metric["verdict"], metric["meaning"]]
                    )
    return rows
