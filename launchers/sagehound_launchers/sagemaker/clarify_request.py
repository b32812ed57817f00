"""The request, the configuration and the table of a job of SageMaker Clarify, from pure functions."""

import csv
import importlib.util
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sagehound.bias import measures
from sagehound.bias.photo_rows import CLASS, PhotoRows
from sagehound.errors import ConfigError
from sagehound_launchers.config import Aws
from sagehound_launchers.sagemaker import requests
from sagehound_launchers.sagemaker.requests import Account

# paths and names that Clarify's image reads: SageMaker Developer Guide, clarify-processing-job-configure-parameters
_CONFIG, _DATA, _OUTPUT = (f"/opt/ml/processing/{folder}" for folder in ("input/config", "input/data", "output"))
VOLUME_GB = 20
UNKNOWN = "unknown"  # the group of photos without a value
_EXPECTED, _RECOGNISED, _LABEL, _PREDICTION = "expected_outcome", "recognised_outcome", "label", "prediction"
OWN_COLUMNS = {CLASS, _EXPECTED, _RECOGNISED, _LABEL, _PREDICTION}


@dataclass(frozen=True)
class Place:
    """S3 URIs of a job."""

    config: str  # an object
    data: str  # an object
    output: str  # a prefix


def image(region: str) -> str:
    """Clarify's image in a region, from the table of accounts in AWS's SDK (sagemaker.core, clarify.json).

    AWS lists the same in "SageMaker Clarify container images" of the SageMaker Developer Guide.

    Raises:
        ConfigError: Clarify is not in that region.
    """
    spec = importlib.util.find_spec("sagemaker")  # which does not import it
    if not (spec and spec.origin):
        raise ConfigError("bias=sagemaker needs sagemaker, which is not installed: pip install 'sagehound[sagemaker]'")
    table = json.loads((Path(spec.origin).parent / "core/image_uri_config/clarify.json").read_text())
    version, known = max(table["processing"]["versions"].items())
    accounts = known["registries"]
    if region not in accounts:
        raise ConfigError(f"bias=sagemaker: Clarify is not in {region}: choose aws.region from {', '.join(accounts)}")
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"{accounts[region]}.dkr.ecr.{region}.{domain}/{known['repository']}:{version}"


def filled(photos: PhotoRows) -> PhotoRows:
    """The photos with the value "unknown" where a column has none, because Clarify would read it as a number."""
    return photos.with_facets({name: [value or UNKNOWN for value in column] for name, column in photos.facets.items()})


def analysis_config(photos: PhotoRows, label: str | None, group_by: str | None) -> dict[str, Any]:
    """analysis_config.json: see the SageMaker Developer Guide, clarify-processing-job-configure-analysis.

    Clarify compares one positive outcome between groups.

    Args:
        photos: those of the table.
        label: the class that is the positive outcome; None: that a photo is recognised, with each class as a group.
        group_by: the column for CDDL and CDDPL; without ``label`` the class.
    """
    facets = [name for name in photos.facets if name != group_by]
    pre = [measures.CI.name]
    if label is None:
        facets, strata = [CLASS, *facets], CLASS
        post = [measures.AD.name, measures.DI.name]
        columns = {"label": _EXPECTED, "predicted_label": _RECOGNISED, "label_values_or_threshold": ["yes"]}
    else:
        strata = group_by or ""
        pre += [measures.DPL.name, *([measures.CDDL.name] if strata else [])]
        post = [measure.name for measure in measures.ONE_VS_REST]
        positive = _as_text(CLASS, [label], photos.classes)
        columns = {"label": _LABEL, "predicted_label": _PREDICTION, "label_values_or_threshold": positive}
    post += [measures.CDDPL.name] if strata else []
    return {
        "version": "1.0",
        "dataset_type": "text/csv",
        "headers": _headers(photos, label),
        **columns,
        "facet": [{"name_or_index": name} for name in facets],
        **({"group_variable": strata} if strata else {}),
        "methods": {
            "pre_training_bias": {"methods": pre},
            "post_training_bias": {"methods": post},
            "report": {"name": "report", "title": "Bias of an image classifier"},
        },
    }


def table(photos: PhotoRows, label: str | None) -> str:
    """The CSV of photos, without a header, in the columns of ``analysis_config``."""
    columns = [_as_text(name, list(column), list(column)) for name, column in photos.facets.items()]
    labels, predictions = (
        _as_text(CLASS, list(c), photos.classes) for c in (photos.labels, photos.predictions)
    )  # fmt: skip
    if label is None:
        right = ["yes" if is_right else "no" for is_right in photos.labels == photos.predictions]
        columns = [["yes"] * len(right), right, labels, *columns]
    else:
        columns = [labels, predictions, *columns]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(zip(*columns, strict=True))
    return text.getvalue()


def _headers(photos: PhotoRows, label: str | None) -> list[str]:
    return [*((_EXPECTED, _RECOGNISED, CLASS) if label is None else (_LABEL, _PREDICTION)), *photos.facets]


def _as_text(name: str, values: Sequence[str], among: Sequence[str]) -> list[str]:
    """The values as Clarify reads them as categories: it takes numbers for measurements, so these get a name."""
    return [f"{name} {value}" for value in values] if _are_numbers(among) else list(values)


def sent_values(photos: PhotoRows) -> dict[str, dict[str, str]]:
    """For each column of groups, the values of the photos by the text that is sent for them."""
    columns = {CLASS: photos.classes} | {name: list(column) for name, column in photos.facets.items()}
    return {name: dict(zip(_as_text(name, column, column), column, strict=True)) for name, column in columns.items()}


def _are_numbers(values: Sequence[str]) -> bool:
    try:
        return [float(value) for value in values] != []
    except ValueError:
        return False


def processing_job(name: str, aws: Aws, account: Account, place: Place) -> dict[str, Any]:
    """CreateProcessingJob.

    Args:
        name: at most 63 characters.
        aws: the machine, the network, the keys and the tags.
        account: role and Clarify's image.
        place: of inputs and results.
    """
    inputs = [
        requests.ProcessingInput("analysis_config", place.config, _CONFIG),
        requests.ProcessingInput("dataset", place.data, _DATA),
    ]
    output = requests.ProcessingOutput(place.output, _OUTPUT, name="analysis_result")
    return requests.processing_job(name, aws, account, inputs, output, "bias")
