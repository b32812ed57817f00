"""The numbers of a sample of photos, and the random projection of their features."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sagehound.monitoring.photo_measures import PhotoMeasures

Floats = npt.NDArray[np.float32]

MEASURES = ("confidence", "brightness", "contrast", "sharpness", "width", "height")
DIMENSIONS = 128  # of the projected features


@dataclass(frozen=True)
class Sample:
    """What is measured of n photos.

    Attributes:
        features: projected features of the backbone, n x d.
        predicted: number of the most probable class, n.
        measures: by the names of ``MEASURES``, n each. The confidence is the probability of the predicted class.
    """

    features: Floats
    predicted: npt.NDArray[np.int32]
    measures: dict[str, Floats]

    def __len__(self) -> int:
        return len(self.predicted)


def sample_of(features: Floats, probabilities: Floats, photos: Sequence[PhotoMeasures]) -> Sample:
    """A sample from projected features, n x d, probabilities, n x c, and n photos."""
    measures = {name: [float(getattr(photo, name)) for photo in photos] for name in MEASURES[1:]}
    return Sample(
        features,
        probabilities.argmax(1).astype(np.int32),
        {"confidence": probabilities.max(1).astype(np.float32)}
        | {name: np.array(values, np.float32) for name, values in measures.items()},
    )


class Projection:
    """A random projection of features to ``DIMENSIONS`` numbers, which nearly keeps their distances.

    Every entry is +1 or -1 with equal probability: Achlioptas, "Database-friendly random projections", J. Comput. Syst.
    Sci. 66 (2003). It does not depend on any photo. A projection that was fitted to the baseline, such as its principal
    components, would describe the baseline better than other photos of the same kind, and cause false alarms.

    Args:
        signs: f x d, +1 or -1.
    """

    def __init__(self, signs: npt.NDArray[np.int8]) -> None:
        self.signs = signs

    @classmethod
    def random(cls, features: int, seed: int = 0) -> "Projection":
        """A projection of ``features`` numbers."""
        signs = np.random.default_rng(seed).integers(0, 2, (features, DIMENSIONS), np.int8)
        return cls((2 * signs - 1).astype(np.int8))

    @classmethod
    def from_bits(cls, bits: npt.NDArray[np.uint8]) -> "Projection":
        """From ``bits``, f x d / 8."""
        return cls(2 * np.unpackbits(bits, axis=1).astype(np.int8) - 1)

    @property
    def bits(self) -> npt.NDArray[np.uint8]:
        """The signs as bits, f x d / 8."""
        return np.packbits(self.signs > 0, axis=1)

    def __call__(self, features: Floats) -> Floats:
        """Project features, n x f, to n x d."""
        projected = features.astype(np.float32) @ self.signs.astype(np.float32)
        return np.asarray(projected / np.sqrt(np.float32(self.signs.shape[1])), np.float32)
