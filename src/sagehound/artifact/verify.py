"""Verifies in fresh processes that a model.tar.gz predicts what the trained model predicts."""

import math
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sagehound.artifact import archive
from sagehound.artifact.fresh_processes import WAYS, FreshProcesses, unfit
from sagehound.data.photo_set import PhotoSet
from sagehound.evaluation.tables import Floats, Predictions
from sagehound.storage.atomic import read_csv

TOLERANCE = 1e-3  # largest allowed difference of a probability
_TIE = 2 * TOLERANCE  # if two probabilities are this close, rounding may change their order
PHOTOS = 32  # test photos that are sent
MOST = 64  # photos that are sent if there are more classes than PHOTOS
OTHERS = 4  # photos that are sent again with each other content type
_JPEG, _PNG, _WEBP, _ANY = "image/jpeg", "image/png", "image/webp", "application/x-image"
_JSON, _LINES = "application/json", "application/jsonlines"


@dataclass(frozen=True)
class Expected:
    """The trained model's predictions for n photos."""

    classes: list[str]  # c, in the order of the model's outputs
    files: list[str]
    labels: list[str]  # n, the classes of the photos
    predictions: list[str]  # n, as in predictions.csv
    probabilities: Floats  # n x c
    unknown: Floats | None = None  # n, the scores of unknown photos

    @property
    def is_clear(self) -> npt.NDArray[np.bool_]:
        """Whether the two most probable classes differ enough that rounding cannot change their order, n."""
        return _margins(self.probabilities) > _TIE


def verify(
    model: Path,
    photos: PhotoSet,
    test: Predictions,
    table: Path,
    fresh: FreshProcesses,
    quantized: Predictions | None = None,
) -> str:
    """Compare an archive's predictions with the trained model's and with the labels; returns a line about it.

    Args:
        model: the archive.
        photos: the photo set.
        test: the model's predictions of the test photos.
        table: predictions.csv of the run.
        fresh: the started processes.
        quantized: the predictions of model.onnx, if it is in int8: the server is compared with them.

    Raises:
        SagehoundError: a prediction differs, or a process fails.
    """
    chosen = choose(test)
    rows = [row for row in read_csv(table) if row["split"] == "test"]
    expected = Expected(
        photos.classes,
        [test.photos[i].file for i in chosen],
        [rows[i]["label"] for i in chosen],
        [rows[i]["prediction"] for i in chosen],
        test.probabilities[chosen],
        None if test.unknown is None else test.unknown[chosen],
    )
    of_server = expected if quantized is None or not chosen else _of_network(quantized, chosen, expected)
    with tempfile.TemporaryDirectory(prefix="sagehound-") as folder, ThreadPoolExecutor(len(WAYS)) as pool:
        requests = make_requests([photos.root / file for file in expected.files])
        sent = [{"content_type": r.content_type, "photos": [str(p) for p in r.photos]} for r in requests]
        unpacked = Path(folder, "model")
        pending = {"server": pool.submit(fresh.ask, "server", model, sent)} if "server" in fresh.ways else {}
        if "inference" in fresh.ways:
            archive.unpack(model, unpacked)
            pending["inference"] = pool.submit(fresh.ask, "inference", unpacked, sent)
        off, called = 0.0, []
        for way, answers in pending.items():
            through, responses = answers.result()
            off = max(off, compare(way, requests, responses, of_server if way == "server" else expected))
            called.append(through)
    what = f"in fresh processes {' and '.join(called)} classify {len(chosen)} test photos as the"
    if quantized is not None:
        return f"{what} int8 network and the trained model did in the run; probabilities differ by {off:.0e} at most"
    return f"{what} trained model does; probabilities differ from the trained model's by {off:.0e} at most"


def _of_network(quantized: Predictions, chosen: list[int], expected: Expected) -> Expected:
    """What the server must respond with a network in int8: what this network computed in the run."""
    return replace(
        expected,
        predictions=[expected.classes[i] for i in quantized.predicted[chosen]],
        probabilities=quantized.probabilities[chosen],
        unknown=None if quantized.unknown is None else quantized.unknown[chosen],
    )


def choose(test: Predictions) -> list[int]:
    """Choose photos that reveal mixed-up classes: one of every class, and more up to ``PHOTOS``, in order.

    For each class, the first photo that is classified correctly without a near tie, if there is one. With more than
    ``MOST`` classes, ``MOST`` evenly spaced ones.
    """
    clear = _margins(test.probabilities) > _TIE
    rank = np.where(clear & test.correct, 0, np.where(clear, 1, 2))
    of_class: dict[int, int] = {}
    for i in np.argsort(rank, kind="stable"):
        of_class.setdefault(int(test.labels[i]), int(i))
    some = [of_class[label] for label in sorted(of_class)]
    chosen = {some[k] for k in _spaced(len(some), MOST)}
    rest = [i for i in range(len(test.photos)) if i not in chosen]
    return sorted(chosen | {rest[k] for k in _spaced(len(rest), max(PHOTOS - len(chosen), 0))})


def _spaced(total: int, most: int) -> list[int]:
    """At most ``most`` of the numbers below ``total``, evenly spaced."""
    return [i * total // most for i in range(most)] if most < total else list(range(total))


def _margins(probabilities: Floats) -> Floats:
    second, first = np.sort(probabilities, axis=1)[:, -2:].T
    return np.asarray(first - second)


@dataclass(frozen=True)
class Request:
    """One request, and the numbers of its photos."""

    content_type: str
    photos: list[Path]
    numbers: list[int]


def make_requests(files: list[Path]) -> list[Request]:
    """Make a request for every photo with its own content type, and some more with each other content type.

    Formats other than JPEG, PNG and WebP are sent as application/x-image; the server detects the format.
    """
    paths = [file.resolve() for file in files]
    requests = [Request(_content_type(path), [path], [i]) for i, path in enumerate(paths)]
    for turn, content_type in enumerate((_ANY, _JSON, _LINES)):
        some = [(turn + i) % len(files) for i in _spaced(len(files), OTHERS)]  # other photos for each type
        groups = [[i] for i in some] if content_type == _ANY else [some]
        requests += [Request(content_type, [paths[i] for i in group], group) for group in groups]
    return requests


def _content_type(file: Path) -> str:
    with file.open("rb") as content:
        head = content.read(12)
    if head.startswith(b"\xff\xd8"):
        return _JPEG
    if head.startswith(b"\x89PNG"):
        return _PNG
    if head.startswith(b"RIFF") and head.endswith(b"WEBP"):
        return _WEBP
    return _ANY


def compare(way: str, requests: list[Request], responses: list[list[Any]], expected: Expected) -> float:
    """Compare responses with the trained model's predictions, by class name; returns the largest difference.

    Raises:
        SagehoundError: a response is missing; class names or their order differ; a probability or a score of unknown
            photos differs by more than the tolerance; a label differs without a near tie of the two best classes; fewer
            photos are classified correctly.
    """
    off, others, right = 0.0, [], set()
    for request, answers in zip(requests, responses, strict=True):
        for number, answer in zip(request.numbers, answers, strict=True):
            if "error" in answer:
                raise unfit(way, f"{request.content_type}: {answer['error']['message']}")
            if (names := list(answer["probabilities"])) != expected.classes:
                raise unfit(way, f"its classes are {_first_difference(names, expected.classes)}")
            probabilities = np.array(list(answer["probabilities"].values()), np.float32)
            off = max(off, float(np.abs(probabilities - expected.probabilities[number]).max()))
            if expected.unknown is not None:
                _check_unknown(way, answer, float(expected.unknown[number]))
            if not _is_label(answer, expected, number):
                others.append(f"{expected.files[number]} is {answer['label']}, not {expected.predictions[number]}")
            if answer["label"] == expected.labels[number]:
                right.add(number)
    if not off <= TOLERANCE or others:
        example = f": {others[0]}" if others else ""
        raise unfit(
            way,
            f"probabilities differ by up to {off:.2g} ({TOLERANCE:g} is allowed), "
            f"{len(others)} of {sum(len(r.numbers) for r in requests)} answers are others{example}",
        )
    was_right = {i for i in np.flatnonzero(expected.is_clear) if expected.predictions[i] == expected.labels[i]}
    if len(was_right - right):
        raise unfit(way, f"{len(was_right - right)} photos that the trained model classifies right are wrong")
    return off


def _check_unknown(way: str, answer: dict[str, Any], expected: float) -> None:
    score = answer.get("unknown_score", math.nan)
    if not abs(score - expected) <= TOLERANCE:
        raise unfit(way, f"the score of an unknown photo is {score:.3f} instead of {expected:.3f}")


def _is_label(answer: dict[str, Any], expected: Expected, number: int) -> bool:
    """Whether a response ranks the trained model's class first, or one that nearly ties with it."""
    label, probability = answer["label"], answer["probability"]
    if label not in answer["probabilities"] or answer["top"][0] != {"label": label, "probability": probability}:
        return False
    if abs(probability - answer["probabilities"][label]) > TOLERANCE:
        return False
    trained = expected.probabilities[number]
    lost = trained.max() - trained[expected.classes.index(label)]
    return bool(label == expected.predictions[number] or (lost <= _TIE and not expected.is_clear[number]))


def _first_difference(names: list[str], classes: list[str]) -> str:
    if len(names) != len(classes):
        return f"{len(names)} instead of {len(classes)}"
    k = next(k for k, (a, b) in enumerate(zip(names, classes, strict=True)) if a != b)
    return f"others or in another order: number {k + 1} is {names[k]} instead of {classes[k]}"
