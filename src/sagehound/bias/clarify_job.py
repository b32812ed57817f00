"""What the emulator runs for the image of SageMaker Clarify: bias measures of a CSV, by an analysis_config.json.

It reads and writes the files of a processing job as the image does: see the SageMaker Developer Guide,
clarify-processing-job-configure-analysis and clarify-processing-job-analysis-results. It computes bias measures of
categories; explanations, models and numbers as groups are refused.
"""

import csv
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from sagehound.bias import measures
from sagehound.bias.measures import Counts, Flags, Measure
from sagehound.bias.photo_rows import Names, names
from sagehound.errors import InputError
from sagehound.storage.atomic import write_json

_SECTIONS = {"pre_training_bias": "pre_training_bias_metrics", "post_training_bias": "post_training_bias_metrics"}
_FOLDER = "processing"
_KNOWN = {
    *("version", "dataset_type", "headers", "label", "predicted_label", "label_values_or_threshold", "facet"),
    *("group_variable", "methods"),
}


def analyse(config: dict[str, Any], columns: dict[str, Names]) -> dict[str, Any]:
    """The content of analysis.json.

    Args:
        config: analysis_config.json.
        columns: of the table, n values each, by name.

    Raises:
        InputError: the configuration asks for something else than bias measures of categories, or names no column.
    """
    if unknown := set(config) - _KNOWN:
        raise InputError(f"analysis_config.json: {min(unknown)}: the emulator's Clarify computes bias measures only")
    methods = config.get("methods", {})
    if others := set(methods) - {*_SECTIONS, "report"}:
        raise InputError(
            f"analysis_config.json: methods.{min(others)}: the emulator's Clarify computes no such analysis"
        )
    labelled = _positive(config, columns, "label")
    predicted = _positive(config, columns, "predicted_label") if "predicted_label" in config else labelled
    strata = _column(columns, config["group_variable"], "group_variable") if "group_variable" in config else None
    content: dict[str, Any] = {"version": "1.0"}
    for method, section in _SECTIONS.items():
        if method not in methods:
            continue
        chosen = _chosen(methods[method]["methods"], method)
        facets = {}
        for facet in config["facet"]:
            column = _column(columns, facet["name_or_index"], "facet")
            values = [str(v) for v in facet.get("value_or_threshold", sorted({*column}))]
            facets[str(facet["name_or_index"])] = [
                {
                    "value_or_threshold": value,
                    "metrics": [_metric(m, column == value, labelled, predicted, strata) for m in chosen],
                }
                for value in values
            ]
        value = ",".join(map(str, config["label_values_or_threshold"]))
        content[section] = {"label": config["label"], "label_value_or_threshold": value, "facets": facets}
    return content


def _chosen(wanted: Any, method: str) -> list[Measure]:  # noqa: ANN401 - a list, or all
    pre = (measures.CI, measures.DPL, *measures.DISTANCES, measures.CDDL)
    known = {m.name: m for m in (pre if method == "pre_training_bias" else (*measures.ONE_VS_REST, measures.CDDPL))}
    if wanted == "all":
        return list(known.values())
    if unknown := [name for name in wanted if name not in known]:
        raise InputError(
            f"analysis_config.json: methods.{method}: {unknown[0]}: the emulator's Clarify computes {', '.join(known)}"
        )
    return [known[name] for name in sorted(wanted)]


def _metric(measure: Measure, d: Flags, labelled: Flags, predicted: Flags, strata: Names | None) -> dict[str, Any]:
    """A measure of the group d as Clarify writes it."""
    value = _value(measure, d, labelled, predicted, strata)
    metric: dict[str, Any] = {"name": measure.name, "description": measure.description, "value": value}
    if value is None:
        metric["error"] = "a share or a ratio has no rows"
    elif np.isinf(value):
        metric["value"] = "Infinity" if value > 0 else "-Infinity"
    return metric


def _value(measure: Measure, d: Flags, labelled: Flags, predicted: Flags, strata: Names | None) -> float | None:
    if measure is measures.CI:
        return measures.imbalance(int((~d).sum()), int(d.sum()))
    if measure in (measures.CDDL, measures.CDDPL):
        accepted = labelled if measure is measures.CDDL else predicted
        return None if strata is None else measures.conditional_disparity(accepted, d, strata)
    if isinstance(measure, measures.Distance):
        a_counts, d_counts = (np.array([labelled[side].sum(), (~labelled[side]).sum()]) for side in (~d, d))
        return measure.value(a_counts, d_counts)
    assert isinstance(measure, measures.Difference | measures.Comparison)
    return measure.value(Counts.of(labelled[~d], predicted[~d]), Counts.of(labelled[d], predicted[d]))


def _positive(config: dict[str, Any], columns: dict[str, Names], key: str) -> Flags:
    """Whether each row's label has a positive value."""
    positive = {str(value) for value in config.get("label_values_or_threshold", [])}
    if not positive:
        raise InputError("analysis_config.json: label_values_or_threshold is missing")
    return np.array([value in positive for value in _column(columns, config.get(key), key)], bool)


def _column(columns: dict[str, Names], name: Any, key: str) -> Names:  # noqa: ANN401 - a name or an index
    found = columns.get(list(columns)[name] if isinstance(name, int) and 0 <= name < len(columns) else name)
    if found is None:
        raise InputError(f"analysis_config.json: {key}: no column {name!r}; there are {', '.join(columns)}")
    return found


def _read(folder: Path, headers: list[str]) -> dict[str, Names]:
    """The columns of all files of the input "dataset"."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    rows = []
    for path in files:
        with path.open(encoding="utf-8", newline="") as file:
            rows += [row for row in csv.reader(file) if row]
    if not rows or any(len(row) != len(headers) for row in rows):
        raise InputError(f"the input dataset has no rows, or not the {len(headers)} columns of headers")
    return {name: names(list(column)) for name, column in zip(headers, zip(*rows, strict=True), strict=True)}


def main() -> None:
    """Run the job; exit code 1 with output/message after an error."""
    ml = Path(os.environ.get("SAGEMAKER_EMULATOR_OPT_ML", "/opt/ml"))
    try:
        config = json.loads((ml / _FOLDER / "input/config/analysis_config.json").read_text(encoding="utf-8"))
        columns = _read(ml / _FOLDER / "input/data", [str(name) for name in config.get("headers", [])])
        write_json(ml / _FOLDER / "output/analysis.json", analyse(config, columns))
    except (InputError, OSError, ValueError, KeyError) as error:
        reason = f"{error!r}" if isinstance(error, KeyError) else str(error)
        (ml / "output").mkdir(exist_ok=True)
        (ml / "output/message").write_text(reason)
        sys.exit(f"Customer Error: {reason}")
    print(f"{sum(map(len, columns.values())) // len(columns)} rows; analysis.json is written", flush=True)


if __name__ == "__main__":
    main()
