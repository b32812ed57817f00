"""The baseline inside model.tar.gz: a sample of photos that the model was not trained on."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from sagehound.errors import InputError
from sagehound.monitoring.sample import MEASURES, Floats, Projection, Sample

NAME = "baseline.safetensors"
MOST = 300  # photos
_FORMAT = "1"
_MOST_BYTES = 8 * 2**20  # of the file; 300 photos of resnet50 need 0.12 MB
HINT = "make one from photos like those of the training: monitor.baseline=FOLDER"


@dataclass(frozen=True)
class Baseline:
    """The photos with which others are compared.

    Attributes:
        sample: their numbers. Features are divided by ``scale``.
        projection: of features.
        scale: root mean square of the projected features, so that 16 bits can hold them.
        about: where the photos come from: ``split`` and ``photos``, the number of photos of the split.
    """

    sample: Sample
    projection: Projection
    scale: float
    about: dict[str, Any]

    def project(self, features: Floats) -> Floats:
        """Project features, n x f, as those of the baseline, n x d."""
        return _sixteen_bits(self.projection(features) / np.float32(self.scale))

    def content(self) -> bytes:
        """The content of ``NAME``, a safetensors file."""
        sample = self.sample
        arrays: dict[str, npt.NDArray[Any]] = {
            "projection": self.projection.bits,
            "scale": np.array([self.scale], np.float32),
            "features": sample.features.astype(np.float16),
            "predicted": sample.predicted,
            **sample.measures,
        }
        # one entry: safetensors writes several in an order that differs from process to process
        return bytes(save(arrays, {"about": json.dumps({"format": _FORMAT, **self.about})}))

    @classmethod
    def read(cls, folder: Path) -> "Baseline":
        """Read it from an unpacked artifact, as untrusted input.

        Raises:
            InputError: there is none, or it is broken.
        """
        path = folder / NAME
        if not path.is_file():
            raise InputError(f"the model has no {NAME}: an older Sagehound wrote it; {HINT}")
        try:
            if path.stat().st_size > _MOST_BYTES:
                raise ValueError(f"more than {_MOST_BYTES // 2**20} MiB")
            content = path.read_bytes()
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
            about = json.loads(header["about"])
            if about.pop("format", header.get("format")) != _FORMAT:  # a header of its own in earlier files
                raise ValueError(f"another format than {_FORMAT}, which this Sagehound reads")
            return _checked(load(content), about)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            raise InputError(f"the model's {NAME} is broken ({error}); {HINT}") from error


def make(features: Floats, sample: Callable[[Floats], Sample], about: dict[str, Any]) -> Baseline:
    """A baseline of n photos, 2 or more.

    Args:
        features: of the backbone, n x f.
        sample: makes the sample from projected features.
        about: see ``Baseline``.
    """
    projection = Projection.random(features.shape[1])
    projected = projection(features)
    scale = float(np.sqrt(np.mean(np.square(projected, dtype=np.float64)))) or 1.0
    return Baseline(sample(_sixteen_bits(projected / np.float32(scale))), projection, scale, about)


def chosen(photos: int, most: int = MOST, seed: int = 0) -> list[int]:
    """At most ``most`` of the numbers below ``photos``, at random and in order."""
    return sorted(np.random.default_rng(seed).permutation(photos)[:most].tolist())


def _sixteen_bits(values: Floats) -> Floats:
    """Round as in the file, so that a baseline compares the same before and after it is written."""
    return values.astype(np.float16).astype(np.float32)


def _checked(arrays: dict[str, npt.NDArray[Any]], about: Any) -> Baseline:  # noqa: ANN401 - whatever JSON holds
    """A baseline from the arrays of a file.

    Raises:
        ValueError, KeyError, TypeError: an array is missing, or has another shape or a number that is not finite.
    """
    features, bits, predicted = arrays["features"], arrays["projection"], arrays["predicted"]
    measures = {name: arrays[name].astype(np.float32) for name in MEASURES}
    scale = float(arrays["scale"][0])
    n = len(features)
    if bits.ndim != 2 or bits.dtype != np.uint8 or features.shape != (n, 8 * bits.shape[1]) or n < 2:
        raise ValueError("wrong shapes of features")
    if any(values.shape != (n,) for values in (predicted, *measures.values())) or predicted.dtype != np.int32:
        raise ValueError("not one number for each photo")
    if not all(np.isfinite(values).all() for values in (features, *measures.values())) or not 0 < scale < np.inf:
        raise ValueError("a number that is not finite")
    if not isinstance(about, dict):
        raise ValueError("no description")
    return Baseline(Sample(features.astype(np.float32), predicted, measures), Projection.from_bits(bits), scale, about)
