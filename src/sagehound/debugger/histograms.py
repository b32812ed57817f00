"""Histograms of observed tensors for the loggers that have them: TensorBoard and Weights & Biases."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sagehound.debugger.observation import Observed

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

COLLECTIONS = ("weights", "biases", "gradients", "relu_input", "saturating_input", "predictions")
_BINS = 64
_MOST = 10_000  # values of a tensor that are counted, evenly spaced: all of a large one take milliseconds

Histogram = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]  # values, counts, edges


def log(tensors: Mapping[str, Mapping[str, Observed]], loggers: "Sequence[Logger]", step: int) -> None:
    """Log a histogram of each tensor under ``COLLECTION/NAME``.

    At most 10,000 evenly spaced values of each are counted. Values that are not finite are left out.

    Args:
        tensors: by collection and name.
        loggers: the run's.
        step: of the optimizer.
    """
    writers = [writer for writer in map(_writer, loggers) if writer]
    if not writers:
        return
    for collection in COLLECTIONS:
        for name, observed in tensors.get(collection, {}).items():
            if histogram := _count(observed.values):
                for write in writers:
                    write(f"{collection}/{name}", histogram, step)


def _count(values: np.ndarray[Any, Any]) -> Histogram | None:
    flat: np.ndarray[Any, Any] = values.ravel()
    flat = flat[:: -(-flat.size // _MOST) or 1].astype(np.float64)
    flat = flat[np.isfinite(flat)]
    if not flat.size:
        return None
    counts, edges = np.histogram(flat, _BINS)
    return flat, counts, edges


def _writer(logger: "Logger") -> Callable[[str, Histogram, int], None] | None:
    """What writes a histogram to a logger; None if it has none."""
    from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

    def to_tensorboard(tag: str, histogram: Histogram, step: int) -> None:
        values, counts, edges = histogram
        logger.experiment.add_histogram_raw(  # type: ignore[attr-defined]
            tag,
            min=float(values.min()),
            max=float(values.max()),
            num=len(values),
            sum=float(values.sum()),
            sum_squares=float(np.square(values).sum()),
            bucket_limits=edges[1:].tolist(),
            bucket_counts=counts.tolist(),
            global_step=step,
        )

    def to_wandb(tag: str, histogram: Histogram, step: int) -> None:
        import wandb

        points = wandb.Histogram(np_histogram=(histogram[1], histogram[2]))
        logger.experiment.log({tag: points, "trainer/global_step": step})  # type: ignore[attr-defined]

    if isinstance(logger, TensorBoardLogger):
        return to_tensorboard
    if isinstance(logger, WandbLogger):
        return to_wandb
    return None
