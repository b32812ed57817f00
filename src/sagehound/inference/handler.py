"""The functions that SageMaker's PyTorch containers call; copied into model.tar.gz.

They rebuild the network from model.safetensors with timm, on a GPU if there is one. Sagehound's own server computes the
same with model.onnx.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import timm
import torch
from safetensors.torch import load_file

from sagehound.inference.formats import (
    PhotoResult,
    Probabilities,
    ResponseFormat,
    encode,
    failure,
    is_photo,
    photo_result,
    photos_in,
    response_format,
)
from sagehound.inference.input_errors import InputError
from sagehound.inference.network import (
    Normalise,
    ServedNetwork,
    Unknown,
    features_of,
    make_head,
    set_input_size,
)
from sagehound.inference.preprocessing import Preprocessing, prepare
from sagehound.inference.thresholds import Thresholds


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
    single: bool
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


def input_fn(body: bytes | str, content_type: str) -> tuple[list[bytes | InputError], bool]:
    """The photos of a request as files, and whether it was a single photo."""
    photos = photos_in(body.encode() if isinstance(body, str) else bytes(body), content_type)
    return photos, is_photo(content_type)


def predict_fn(given: tuple[list[bytes | InputError], bool], model: Model) -> Prediction:
    """Classify each photo. If one cannot be read, only this one fails.

    Raises:
        BadPhoto: the request was a single photo that cannot be read.
    """
    photos, single = given
    results: list[tuple[Probabilities, float | None] | InputError] = []
    for photo in photos:
        try:
            if isinstance(photo, InputError):
                raise photo
            pixels = torch.from_numpy(np.array(prepare(photo, model.preprocessing)))[None]
            with torch.inference_mode():
                probabilities, *unknown = model.network(pixels.to(model.device))
            results.append((probabilities[0].cpu().numpy(), float(unknown[0]) if unknown else None))
        except InputError as error:
            if single:
                raise
            results.append(error)
    return Prediction(model.classes, results, single, model.thresholds)


def output_fn(prediction: Prediction, accept: str) -> bytes:
    """The response's body, as application/json, application/jsonlines or text/csv."""
    want = response_format(accept, "")
    prediction.thresholds.check(unknown=want.unknown, coverage=want.coverage)
    responses: list[PhotoResult] = [
        failure(p) if isinstance(p, InputError) else _photo_result(prediction, *p, want) for p in prediction.results
    ]
    return encode(responses, want, single=prediction.single)


def _photo_result(
    prediction: Prediction, probabilities: Probabilities, unknown: float | None, want: ResponseFormat
) -> PhotoResult:
    score = unknown if want.unknown else None
    return photo_result(prediction.classes, probabilities, want, prediction.thresholds, score)
