import csv
import io
import json

import numpy as np
import pytest

from sagehound.errors import InputError
from sagehound.inference.decode import BadPhoto, TooManyPixels
from sagehound.inference.formats import (
    CSV,
    NotAcceptable,
    ResponseFormat,
    encode,
    failure,
    photo_result,
    response_format,
)
from sagehound.inference.request_body import JSON, LINES

CLASSES = ["Boxer", 'say "Chow", please', "Ñandú"]
PROBABILITIES = np.array([0.25, 0.5, 0.25], np.float32)


@pytest.mark.parametrize(
    ("accept", "content_type", "expected"),
    [
        (None, "image/jpeg", ResponseFormat(JSON)),
        ("*/*", "image/jpeg", ResponseFormat(JSON)),
        ("", "application/jsonlines", ResponseFormat(LINES)),
        ("application/*", "application/jsonlines", ResponseFormat(LINES)),
        ("application/json", "application/jsonlines", ResponseFormat(JSON)),
        ("text/*", "image/jpeg", ResponseFormat(CSV)),
        ("text/html, text/csv;q=0.5, application/json;q=0.9", "image/jpeg", ResponseFormat(JSON)),
        ("Application/JSON; Top_K=2; probabilities=all", "image/jpeg", ResponseFormat(JSON, 2, True)),
        ('text/csv; top_k="3"', "image/jpeg", ResponseFormat(CSV, 3)),
    ],
)
def test_the_answer_looks_as_it_is_accepted(accept: str | None, content_type: str, expected: ResponseFormat) -> None:
    assert response_format(accept, content_type) == expected


def test_an_address_wins_over_accept() -> None:
    assert response_format("application/json; top_k=2", "image/jpeg", 4, True) == ResponseFormat(JSON, 4, True)


@pytest.mark.parametrize(
    "accept", ["image/png", "text/html", "application/json;q=0", "application/json;q=nan", "text/csv;q=inf", ";;,"]
)
def test_what_cannot_be_written_is_not_acceptable(accept: str) -> None:
    with pytest.raises(NotAcceptable, match="answers are written as application/json"):
        response_format(accept, "image/jpeg")


@pytest.mark.parametrize("top_k", ["0", "-1", "many", "1e3", "²"])
def test_top_k_is_a_number(top_k: str) -> None:
    with pytest.raises(InputError, match="top_k must be a whole number"):
        response_format(f"application/json; top_k={top_k}", "image/jpeg")


def test_an_answer_names_the_most_probable_first() -> None:
    said = photo_result(CLASSES, PROBABILITIES, ResponseFormat(JSON, 2))
    assert said["label"] == CLASSES[1]
    assert [best["label"] for best in said["top"]] == [CLASSES[1], "Boxer"]
    assert "probabilities" not in said
    everything = photo_result(CLASSES, PROBABILITIES, ResponseFormat(JSON, 100, all=True))
    assert everything["probabilities"] == dict(zip(CLASSES, [0.25, 0.5, 0.25], strict=True))
    assert len(everything["top"]) == 3


def test_answers_as_json_lines_and_csv() -> None:
    good, bad = photo_result(CLASSES, PROBABILITIES, ResponseFormat(JSON, 2)), failure(BadPhoto("empty file"))
    assert json.loads(encode([good], ResponseFormat(JSON), single=True)) == good
    assert json.loads(encode([good, bad], ResponseFormat(JSON), single=False)) == {"predictions": [good, bad]}
    assert [json.loads(line) for line in encode([good, bad], ResponseFormat(LINES), single=False).splitlines()] == [
        good,
        bad,
    ]
    assert encode([good, bad], ResponseFormat(CSV), single=False).decode() == (
        '"say ""Chow"", please",0.5,Boxer,0.25\n,,empty file\n'
    )
    odd = photo_result(["a\rb", "c\nd", "e"], PROBABILITIES, ResponseFormat(CSV, 3))
    assert len(list(csv.reader(io.StringIO(encode([odd], ResponseFormat(CSV), single=True).decode(), newline="")))) == 1
    everything = photo_result(CLASSES, PROBABILITIES, ResponseFormat(CSV, all=True))
    assert encode([everything], ResponseFormat(CSV), single=True) == b"0.25,0.5,0.25\n"


def test_a_failure_has_a_code_of_its_kind() -> None:
    assert failure(TooManyPixels("9 x 9")) == {"error": {"code": "too_many_pixels", "message": "9 x 9"}}
    assert failure(InputError("x"))["error"]["code"] == "input_error"
