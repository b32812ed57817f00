"""The archive in AWS's own PyTorch containers: what their toolkit, sagemaker_inference, makes a client see."""

import base64
import importlib
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sagehound.artifact.archive import opened
from sagehound.inference import handler
from sagehound.inference.handler import Model, input_fn, model_fn, output_fn, predict_fn


class GenericInferenceToolkitError(Exception):
    """As the toolkit's class, version 1.10: sagemaker_inference/errors.py."""

    def __init__(self, status_code: int, message: str | None = None, phrase: str | None = None) -> None:
        super().__init__(status_code, message, phrase)
        self.status_code, self.message, self.phrase = status_code, message, phrase


@pytest.fixture
def toolkit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The only part of the toolkit that the archive uses."""
    errors = types.ModuleType("sagemaker_inference.errors")
    errors.GenericInferenceToolkitError = GenericInferenceToolkitError  # type: ignore[attr-defined] # a new module
    monkeypatch.setitem(sys.modules, "sagemaker_inference", types.ModuleType("sagemaker_inference"))
    monkeypatch.setitem(sys.modules, "sagemaker_inference.errors", errors)


@pytest.fixture(scope="module")
def model(run: Path) -> Iterator[Model]:
    """The model of ``run``, as a container loads it."""
    with opened(run) as folder:
        yield model_fn(str(folder))


def form(*contents: bytes) -> bytes:
    parts = [
        f'--xyz\r\nContent-Disposition: form-data; name="file"; filename="{i}.jpg"\r\n\r\n'.encode() + content + b"\r\n"
        for i, content in enumerate(contents)
    ]
    return b"".join(parts) + b"--xyz--"


FORM = "multipart/form-data; boundary=xyz"
WRONG = [  # body, content type, accept; status, code and message of the response
    (b"no photo", "image/jpeg", "*/*", 400, "bad_photo", "not an image file"),
    (b"", "image/jpeg", "*/*", 400, "bad_photo", "empty file"),
    (form(b"no photo"), FORM, "*/*", 400, "bad_photo", "0.jpg: not an image file"),
    (b"{", "application/json", "*/*", 400, "input_error", "no JSON"),
    (b"x", "text/plain", "*/*", 415, "unsupported_content_type", "content type 'text/plain'"),
    (b"x", None, "*/*", 415, "unsupported_content_type", "content type none"),
    (None, "image/jpeg", "image/png", 406, "not_acceptable", "accept 'image/png'"),
    (None, "image/jpeg", "application/json; coverage=0.5", 400, "input_error", "coverage=0.5"),
]


@pytest.mark.usefixtures("toolkit")
@pytest.mark.parametrize(("body", "content_type", "accept", "status", "code", "message"), WRONG)
def test_wrong_input_is_an_error_of_the_client(
    model: Model,
    photo: bytes,
    body: bytes | None,
    content_type: str | None,
    accept: str,
    status: int,
    code: str,
    message: str,
) -> None:
    with pytest.raises(GenericInferenceToolkitError) as raised:
        output_fn(predict_fn(input_fn(photo if body is None else body, content_type), model), accept)
    assert raised.value.status_code == status
    assert raised.value.phrase.isascii()
    found = json.loads(raised.value.message)["error"]
    assert (found["code"], message in found["message"]) == (code, True)


@pytest.mark.usefixtures("toolkit")
def test_a_format_without_a_decoder_is_415(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(GenericInferenceToolkitError, match="needs pillow-heif") as raised:
        predict_fn(input_fn(heic, "image/heic"), model)
    assert raised.value.status_code == 415


def test_a_form_is_classified(model: Model, photo: bytes) -> None:
    one = json.loads(output_fn(predict_fn(input_fn(form(photo), FORM), model), "application/json"))
    assert (one["file"], one["label"]) == ("0.jpg", "Slate")
    several = output_fn(predict_fn(input_fn(form(photo, b"no photo"), FORM), model), "application/json")
    good, bad = json.loads(several)["predictions"]
    assert good == one
    assert bad["file"] == "1.jpg"
    assert bad["error"]["message"] == "1.jpg: not an image file"


class Context:
    """What the model server gives the toolkit for one request."""

    def __init__(self, folder: Path, content_type: str, accept: str) -> None:
        self.system_properties = {"model_dir": str(folder)}
        self.request_processor = [self]
        self.properties = {"Content-Type": content_type, "Accept": accept}
        self.status = 200

    def get_request_properties(self) -> dict[str, str]:
        return self.properties

    def set_response_status(self, code: int, phrase: str) -> None:
        self.status = code

    def set_response_content_type(self, number: int, content_type: str) -> None: ...


def test_the_real_toolkit(run: Path, photo: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    transformer = pytest.importorskip("sagemaker_inference.transformer", reason="pip install sagemaker-inference")
    monkeypatch.setenv("SAGEMAKER_PROGRAM", "inference.py")
    monkeypatch.setitem(sys.modules, "inference", handler)
    monkeypatch.setattr(handler, "__spec__", importlib.machinery.ModuleSpec("inference", None))

    with opened(run) as folder:
        serving = transformer.Transformer()

        def respond(body: bytes, content_type: str, accept: str = "application/json") -> tuple[int, Any]:
            context = Context(folder, content_type, accept)
            (content,) = serving.transform([{"body": body}], context)
            text = content.decode() if isinstance(content, bytes) else content
            return context.status, json.loads(text.partition("\n")[0])  # a traceback follows

        assert respond(photo, "image/jpeg")[1]["label"] == "Slate"
        instances = json.dumps({"instances": [base64.b64encode(photo).decode()]}).encode()
        assert respond(instances, "application/json")[1]["predictions"][0]["label"] == "Slate"
        assert respond(form(photo), FORM)[1]["file"] == "0.jpg"
        for body, content_type, accept, status, code, _ in WRONG:
            if content_type is not None:
                found, content = respond(photo if body is None else body, content_type, accept)
                assert (found, content["error"]["code"]) == (status, code), (content_type, accept)
