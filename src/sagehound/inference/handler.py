"""The functions that SageMaker's PyTorch containers call; copied into model.tar.gz.

They rebuild the network from model.safetensors with timm, on a GPU if there is one. Sagehound's own server computes the
same with model.onnx. In AWS's containers, wrong input is raised as an error of their toolkit, sagemaker_inference, so
that the response has a status of 4xx. The toolkit responds to any other error with 500.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

import numpy as np
import timm
import torch
from safetensors.torch import load_file

from sagehound.inference.decode import NoDecoder, TooManyPixels
from sagehound.inference.formats import (
    NotAcceptable,
    PhotoResult,
    Probabilities,
    ResponseFormat,
    encode,
    failure,
    photo_result,
    response_format,
    with_file,
)
from sagehound.inference.input_errors import InputError, in_file
from sagehound.inference.network import (
    Normalise,
    ServedNetwork,
    Unknown,
    features_of,
    make_head,
    set_input_size,
)
from sagehound.inference.preprocessing import Preprocessing, prepare
from sagehound.inference.request_body import RequestBody, UnsupportedContentType, photos_in
from sagehound.inference.thresholds import Thresholds

# statuses of errors, as of Sagehound's own server; 400 for others
_STATUS = {TooManyPixels: 413, NoDecoder: 415, UnsupportedContentType: 415, NotAcceptable: 406}


class Model(NamedTuple):
    """A loaded model."""

    network: ServedNetwork
    classes: list[str]
    preprocessing: Preprocessing
    device: torch.device
    thresholds: Thresholds = Thresholds()


class Prediction(NamedTuple):
    """The predictions for a request's photos."""

    classes: list[str]
    results: list[tuple[Probabilities, float | None] | InputError]  # probabilities, c, and unknown score of each photo
    given: RequestBody
    thresholds: Thresholds = Thresholds()


def model_fn(model_dir: str) -> Model:
    """Load the model from an unpacked artifact."""
    card = json.loads(Path(model_dir, "model.json").read_text(encoding="utf-8"))
    preprocessing, head, classes = Preprocessing.read(card["preprocessing"]), card["head"], card["classes"]
    backbone = timm.create_model(card["backbone"], pretrained=False, num_classes=0)
    set_input_size(backbone, preprocessing.size)
    network = ServedNetwork(
        Normalise(preprocessing, channels_last=True),
        backbone,
        make_head(features_of(backbone), head["hidden"], len(classes), head["dropout"]),
        Unknown(torch.zeros(len(classes), features_of(backbone))) if "unknown" in card else None,
        float(card.get("temperature", 1)),
    )
    network.load_state_dict(load_file(Path(model_dir, "model.safetensors")))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(memory_format=torch.channels_last)
    return Model(network.to(device).eval(), classes, preprocessing, device, Thresholds.read(card))


@contextmanager
def _client_errors() -> Iterator[None]:
    """Raise wrong input as an error of AWS's toolkit, if this process is a container of AWS."""
    try:
        yield
    except InputError as error:
        try:
            from sagemaker_inference.errors import (  # type: ignore[import-not-found] # only in AWS's containers
                GenericInferenceToolkitError,
            )
        except ImportError:
            raise error from None
        status = HTTPStatus(_STATUS.get(type(error), 400))
        raise GenericInferenceToolkitError(status.value, json.dumps(failure(error)), status.phrase) from None


@_client_errors()
def input_fn(body: bytes | str, content_type: str | None) -> RequestBody:
    """The photos of a request as files.

    Raises:
        InputError: it has none, or its content type cannot be read; in AWS's containers the error of their toolkit.
    """
    return photos_in(body.encode() if isinstance(body, str) else bytes(body), content_type)


@_client_errors()
def predict_fn(given: RequestBody, model: Model) -> Prediction:
    """Classify each photo. If one cannot be read, only this one fails.

    Raises:
        InputError: the request was a single photo that cannot be read; in AWS's containers the error of their toolkit.
    """
    results: list[tuple[Probabilities, float | None] | InputError] = []
    for photo, file in zip(given.photos, given.files, strict=True):
        try:
            if isinstance(photo, InputError):
                raise photo
            pixels = torch.from_numpy(np.array(prepare(photo, model.preprocessing)))[None]
            with torch.inference_mode():
                probabilities, *unknown = model.network(pixels.to(model.device))
            results.append((probabilities[0].cpu().numpy(), float(unknown[0]) if unknown else None))
        except InputError as error:
            if given.single:
                raise in_file(error, file) from error
            results.append(in_file(error, file))
    return Prediction(model.classes, results, given, model.thresholds)


@_client_errors()
def output_fn(prediction: Prediction, accept: str) -> bytes:
    """The response's body, as application/json, application/jsonlines or text/csv.

    Raises:
        InputError: none of these is accepted, or the model lacks what is asked for; in AWS's containers the error of
            their toolkit.
    """
    want = response_format(accept, "")
    prediction.thresholds.check(unknown=want.unknown, coverage=want.coverage)
    responses: list[PhotoResult] = [
        failure(p) if isinstance(p, InputError) else _photo_result(prediction, *p, want) for p in prediction.results
    ]
    named = [with_file(r, file) for r, file in zip(responses, prediction.given.files, strict=True)]
    return encode(named, want, single=prediction.given.single)


def _photo_result(
    prediction: Prediction, probabilities: Probabilities, unknown: float | None, want: ResponseFormat
) -> PhotoResult:
    score = unknown if want.unknown else None
    return photo_result(prediction.classes, probabilities, want, prediction.thresholds, score)
