"""A trained model in Python: predicts labels and probabilities of photos. Only a checkpoint needs torch."""

import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from sagehound.artifact import archive
from sagehound.errors import ConfigError, InputError
from sagehound.inference.decode import BadPhoto, to_rgb
from sagehound.inference.preprocessing import Pixels, Preprocessing, centre, prepare, to_pixels
from sagehound.inference.thresholds import Thresholds
from sagehound.system.imports import importing
from sagehound.system.machine import cores

if TYPE_CHECKING:
    from sagehound.models.classifier import Classifier

Photo = str | Path | bytes | Image.Image | npt.NDArray[np.uint8]  # a file, its content, or its pixels
_Probabilities = npt.NDArray[np.float32]
_ONE = (str, Path, bytes, bytearray, memoryview, Image.Image)
_BATCH = 8  # photos per forward pass
CHECKPOINT = "checkpoints/best.ckpt"
# raised for a file that is not a checkpoint, or has other hyperparameters; AssertionError comes from timm
_BROKEN = (
    *(OSError, RuntimeError, pickle.UnpicklingError, EOFError),
    *(LookupError, TypeError, ValueError, AttributeError, AssertionError),
)


@dataclass(frozen=True)
class Prediction:
    """A model's prediction for one photo."""

    label: str
    probability: float  # of the label
    top: list[tuple[str, float]]  # the most probable labels with their probabilities
    probabilities: dict[str, float]  # of every class, in the order of the model's outputs
    unknown: bool | None = None  # whether the photo is like none of the training; None if the model cannot say
    unknown_score: float | None = None  # 0 like the mean photo of a class, 1 and more like none
    set: list[str] | None = None  # of the classes that ``coverage`` asked for


class Model:
    """A trained classifier.

    Args:
        classes: the c class names.
        preprocessing: how a photo is prepared for the network.
        network: maps a list of b photos, uint8, h x w x 3, to probabilities, b x c, or b x (c + 1): the last column is
            then the score of unknown photos.
        thresholds: of unknown photos and sets of classes.
    """

    def __init__(
        self,
        classes: list[str],
        preprocessing: Preprocessing,
        network: Callable[[list[Pixels]], _Probabilities],
        thresholds: Thresholds | None = None,
    ) -> None:
        self.classes, self.preprocessing, self._network = classes, preprocessing, network
        self.thresholds = thresholds or Thresholds()

    @overload
    def predict(  # type: ignore[overload-overlap] # a str is also an Iterable[str], and one photo
        self, photos: Photo, top_k: int = 5, coverage: float | None = None
    ) -> Prediction: ...

    @overload
    def predict(self, photos: Iterable[Photo], top_k: int = 5, coverage: float | None = None) -> list[Prediction]: ...

    def predict(
        self, photos: Photo | Iterable[Photo], top_k: int = 5, coverage: float | None = None
    ) -> Prediction | list[Prediction]:
        """Predict one photo, or several.

        Args:
            photos: a path, the content of a file, a PIL image, an array of uint8, h x w x 3 (RGB) or h x w (grey), or
                several of them as a list or an array, b x h x w x 3.
            top_k: number of the most probable labels in ``top``.
            coverage: share of photos whose ``set`` of classes should hold the right one, such as 0.9; None: no set.

        Raises:
            InputError: a photo cannot be read; names the photo. Or the model has no sets of this coverage.
            ConfigError: ``top_k`` is below 1.
        """
        if top_k < 1:
            raise ConfigError(f"top_k={top_k}: must be at least 1")
        self.thresholds.check(unknown=False, coverage=coverage)
        several_in_one = isinstance(photos, Iterable) and not hasattr(photos, "read")  # an open file yields lines
        dimensions = getattr(photos, "ndim", 4)  # an array's, or those of a tensor, which is refused as a whole
        single = isinstance(photos, _ONE) or not several_in_one or dimensions != 4
        several: Iterable[Any] = [photos] if single else photos  # type: ignore[assignment]
        results = [self._prediction(p, top_k, coverage) for p in self._probabilities(iter(several), single=single)]
        return results[0] if single else results

    def _probabilities(self, photos: Iterator[Photo], *, single: bool) -> Iterator[_Probabilities]:
        number = 0
        with ThreadPoolExecutor(1 if single else cores()) as pool:
            while batch := list(islice(photos, _BATCH)):
                names = [f"photo {number + i}" if len(batch) > 1 or number else "the photo" for i in range(len(batch))]
                yield from self._network(list(pool.map(self._pixels, batch, names)))
                number += len(batch)

    def _pixels(self, photo: Photo, name: str) -> Pixels:
        if isinstance(photo, str | Path):
            path = Path(photo).expanduser()
            try:
                return prepare(path, self.preprocessing)
            except InputError as error:
                message = str(error)
                raise type(error)(message if str(path) in message else f"{path}: {message}") from error
        try:
            if isinstance(photo, bytes):
                return prepare(photo, self.preprocessing)
            return to_pixels(centre(to_rgb(_image(photo)), self.preprocessing))
        except InputError as error:
            raise type(error)(f"{name}: {error}") from error

    def _prediction(self, row: _Probabilities, top_k: int, coverage: float | None) -> Prediction:
        probabilities, *scores = np.split(row, [len(self.classes)])
        order = np.argsort(-probabilities, kind="stable")[:top_k]
        top = [(self.classes[i], float(probabilities[i])) for i in order]
        probability_of = dict(zip(self.classes, map(float, probabilities), strict=True))
        label, probability = top[0]
        chosen = None if coverage is None else self.thresholds.set_of(probabilities, coverage)
        score = float(scores[0][0]) if len(scores[0]) and self.thresholds.unknown is not None else None
        return Prediction(
            label,
            probability,
            top,
            probability_of,
            unknown=None if score is None or self.thresholds.unknown is None else score > self.thresholds.unknown,
            unknown_score=score,
            set=None if chosen is None else [self.classes[i] for i in chosen],
        )


def _image(photo: Any) -> Image.Image:  # noqa: ANN401 - whatever the user gave
    if isinstance(photo, Image.Image):
        return photo
    if not isinstance(photo, np.ndarray):
        raise BadPhoto(f"{type(photo).__name__}: give a path, bytes, a PIL image or an array of uint8")
    if photo.dtype != np.uint8 or not (photo.ndim == 2 or (photo.ndim == 3 and photo.shape[2] == 3)) or not photo.size:
        shape = " x ".join(map(str, photo.shape))
        raise BadPhoto(f"an array of {photo.dtype}, {shape}: give uint8, height x width x 3 (RGB) or height x width")
    return Image.fromarray(photo)


def load(model: str | os.PathLike[str]) -> Model:
    """Open a trained model.

    Args:
        model: a run, its folder, a model.tar.gz, or a checkpoint. Only a checkpoint, or a run without a model.tar.gz,
            needs torch.

    Raises:
        InputError: the model does not exist, or is broken.
    """
    path = Path(model).expanduser()
    if path.suffix == ".ckpt":
        return _load_checkpoint(path)
    is_run = path.is_dir() and not (path / archive.NAME).exists() and not (path / "model.json").exists()
    if is_run and (path / CHECKPOINT).exists():
        return _load_checkpoint(path / CHECKPOINT)
    from sagehound.serving.predictor import Predictor

    with archive.opened(path) as folder:
        predictor = Predictor(folder)
    card = predictor.card
    network = predictor if card.thresholds.unknown is None else predictor.scored
    return Model(card.classes, card.preprocessing, network, card.thresholds)


def read_checkpoint(path: Path) -> "Classifier":
    """The classifier of a checkpoint, on the CPU.

    Raises:
        InputError: there is no such checkpoint, or it is broken.
    """
    with importing():
        from sagehound.models.classifier import Classifier

    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint (from {Path.cwd()})")
    try:
        return Classifier.load_from_checkpoint(path, map_location="cpu", weights_only=True, load_weights=False)
    except (*_BROKEN, ConfigError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path}: not a checkpoint of a Classifier, or a broken one ({reason}); give another"
        ) from error


def _load_checkpoint(path: Path) -> Model:
    import torch

    classifier = read_checkpoint(path)
    classifier.eval()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    classifier.to(device)

    def network(photos: list[Pixels]) -> _Probabilities:
        pixels = torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2)
        with torch.inference_mode():
            return classifier.probabilities(classifier(pixels.to(device)).float()).cpu().numpy()

    return Model(classifier.classes, classifier.preprocessing, network)
