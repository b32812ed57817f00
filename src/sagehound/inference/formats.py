"""Responses of an endpoint, for the server and the artifact's inference.py. Imports no torch."""

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from sagehound.inference.input_errors import InputError
from sagehound.inference.request_body import JSON, LINES, media_of
from sagehound.inference.spreadsheet import csv_line
from sagehound.inference.thresholds import Thresholds

CSV = "text/csv"
ANSWERS = (JSON, LINES, CSV)

Probabilities: TypeAlias = npt.NDArray[np.float32]
PhotoResult: TypeAlias = dict[str, Any]


class NotAcceptable(InputError):
    """No response can be written in an accepted type."""


@dataclass(frozen=True)
class ResponseFormat:
    """The form of a response."""

    media: str  # application/json, application/jsonlines or text/csv
    top_k: int = 5  # how many labels
    all: bool = False  # with the probability of every class
    unknown: bool = False  # with the score of unknown photos
    coverage: float | None = None  # with a set of classes of this coverage


def response_format(
    accept: str | None,
    content_type: str,
    top_k: int | None = None,
    all_: bool | None = None,
    unknown: bool | None = None,
    coverage: float | None = None,
) -> ResponseFormat:
    """The form of the response: the best accepted media type, with its parameters.

    The parameters are top_k=N, probabilities=all, unknown=1 and coverage=0.9.

    Args:
        accept: the header; None: application/json, or application/jsonlines for a body of that type.
        content_type: of the body.
        top_k: overrides accept's.
        all_: overrides accept's.
        unknown: overrides accept's.
        coverage: overrides accept's.

    Raises:
        NotAcceptable: no accepted type can be written, or it is text/csv and has no place for unknown or coverage.
        InputError: top_k is not a number from 1 on, or coverage no number.
    """
    usual = LINES if media_of(content_type) == LINES else JSON
    best: tuple[float, str, dict[str, str]] = (0.0, "", {})
    for part in (accept or "*/*").split(","):
        media, *rest = (piece.strip() for piece in part.split(";"))
        parameters = {k.strip().lower(): v.strip().strip('"') for k, _, v in (r.partition("=") for r in rest)}
        matches = [m for m in (usual, *ANSWERS) if media.lower() in (m, "*/*", m.partition("/")[0] + "/*")]
        quality = _number(parameters.get("q", "1"), float, 0.0)
        if matches and best[0] < quality <= 1:
            best = (quality, matches[0], parameters)
    _, media, parameters = best
    if not media:
        raise NotAcceptable(f"accept {accept!r}: answers are written as {', '.join(ANSWERS)}")
    top_k = _number(parameters.get("top_k", "5"), int, 0) if top_k is None else top_k
    if top_k < 1:
        raise InputError("top_k must be a whole number from 1 on")
    every = parameters.get("probabilities") == "all" if all_ is None else all_
    unknown = parameters.get("unknown", "0") in ("1", "true") if unknown is None else unknown
    if coverage is None and "coverage" in parameters:
        coverage = _number(parameters["coverage"], float, math.nan)
    if coverage is not None and not 0 < coverage < 1:
        raise InputError("coverage must be a number between 0 and 1, such as 0.9")
    if media == CSV and (unknown or coverage is not None):
        raise NotAcceptable(f"unknown and coverage are written as {JSON} or {LINES}, not as {CSV}")
    return ResponseFormat(media, top_k, every, unknown, coverage)


def _number(text: str, kind: Callable[[str], Any], otherwise: float) -> Any:  # noqa: ANN401 - of that kind
    try:
        return kind(text)
    except ValueError:
        return otherwise


def photo_result(
    classes: Sequence[str],
    probabilities: Probabilities,
    want: ResponseFormat,
    thresholds: Thresholds | None = None,
    unknown: float | None = None,
) -> PhotoResult:
    """The response for one photo.

    Args:
        classes: c names.
        probabilities: c, of one photo.
        want: number of labels, and what else to add.
        thresholds: of the model; they are checked for ``want``.
        unknown: the photo's score, if it is wanted.
    """
    top = np.argsort(-probabilities, kind="stable")[: want.top_k]
    ranked = [{"label": classes[i], "probability": round(float(probabilities[i]), 6)} for i in top]
    response: PhotoResult = {**ranked[0], "top": ranked}
    if want.all:
        response["probabilities"] = {c: round(float(p), 6) for c, p in zip(classes, probabilities, strict=True)}
    if thresholds and want.coverage is not None:
        response["set"] = [classes[i] for i in thresholds.set_of(probabilities, want.coverage)]
    if thresholds and unknown is not None and thresholds.unknown is not None:
        response |= {"unknown": unknown > thresholds.unknown, "unknown_score": round(unknown, 6)}
    return response


def failure(error: Exception) -> PhotoResult:
    """The response for a photo that failed: the kind of error, and a sentence."""
    code = re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__).lower()
    return {"error": {"code": code, "message": str(error)}}


def with_file(result: PhotoResult, file: str | None) -> PhotoResult:
    """The response for a photo, with the name of its file if the client gave it."""
    return result if file is None else {"file": file, **result}


def encode(answers: Sequence[PhotoResult], want: ResponseFormat, *, single: bool) -> bytes:
    """The body of a response.

    Args:
        answers: the responses for the photos, in order.
        want: the media type. text/csv has a line per photo: label, probability, label, probability, ..., or the
            probabilities of all classes in order; for a failed photo two empty fields and the reason.
        single: whether the request was a single photo; its response is not in a list.
    """
    if want.media == CSV:
        return b"".join(csv_line(_row(a)) for a in answers)
    if want.media == LINES:
        return b"".join(_json(a) + b"\n" for a in answers)
    return _json(answers[0] if single else {"predictions": list(answers)})


def _row(response: PhotoResult) -> list[Any]:
    if "error" in response:
        return ["", "", response["error"]["message"]]
    if "probabilities" in response:
        return list(response["probabilities"].values())
    return [field for best in response["top"] for field in (best["label"], best["probability"])]


def _json(content: Any) -> bytes:  # noqa: ANN401 - whatever json can write
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(errors="backslashreplace")
