"""The table of metrics. All code that computes, writes or reads a metric uses it.

Every entry is in metrics.json and the final table. An entry with ``each_epoch`` is also in history.csv, the curves, the
loggers, the lines that SageMaker reads, the objectives for pruning, and the choices for the best epoch. Imports torch
only when a metric is computed.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torchmetrics
    from torch import Tensor
    from torchmetrics import MetricCollection

FITTED = ("valid", "train")  # the splits that have metrics after each epoch


@dataclass(frozen=True)
class Metric:
    """A metric of a split's predictions."""

    name: str  # in metrics.json, such as top1 in valid.top1
    label: str  # in tables and plots
    direction: Literal["minimize", "maximize"]
    make: Callable[[int], "torchmetrics.Metric"]  # from the number of classes c; takes logits, b x c, and labels, b
    format: str = ".3f"  # in the final table
    each_epoch: tuple[str, ...] = ()  # the splits for which it is also computed after each epoch
    splits: tuple[str, ...] = ("train", "valid", "test")
    calibrated: bool = False  # of probabilities after temperature scaling
    of_loss: bool = False  # takes the loss of a batch instead of logits and labels
    least_classes: int = 2  # with fewer classes the final table omits it

    @property
    def epoch_format(self) -> str:
        """The format in the line that is printed after each epoch."""
        return self.format if self.format.endswith("%") else ".4f"


def _top1(classes: int) -> "torchmetrics.Metric":
    from torchmetrics.classification import MulticlassAccuracy

    return MulticlassAccuracy(classes, average="micro")


def _top5(classes: int) -> "torchmetrics.Metric":
    from torchmetrics.classification import MulticlassAccuracy

    return MulticlassAccuracy(classes, average="micro", top_k=min(5, classes))


def _macro_f1(classes: int) -> "torchmetrics.Metric":
    from torchmetrics.classification import MulticlassF1Score

    return MulticlassF1Score(classes, average="macro")


def _loss(_: int) -> "torchmetrics.Metric":
    from torchmetrics import MeanMetric

    return MeanMetric(nan_strategy=float("inf"))


def _ece(classes: int) -> "torchmetrics.Metric":
    """The expected calibration error over 15 bins of confidence (Guo et al. 2017)."""
    from torchmetrics.classification import MulticlassCalibrationError

    return MulticlassCalibrationError(classes, n_bins=15, norm="l1")


METRICS = (
    Metric("top1", "top-1", "maximize", _top1, ".1%", each_epoch=FITTED),
    Metric("top5", "top-5", "maximize", _top5, ".1%", least_classes=6),
    Metric("macro_f1", "macro F1", "maximize", _macro_f1, each_epoch=("valid",)),
    Metric("loss", "loss", "minimize", _loss, each_epoch=FITTED, of_loss=True),
    Metric("ece", "ECE", "minimize", _ece, calibrated=True),
)
EACH_EPOCH = tuple(sorted((m for m in METRICS if m.each_epoch), key=lambda m: not m.of_loss))  # the loss first


def of_epoch(splits: Iterable[str] = FITTED, separator: str = ".") -> list[str]:
    """The names of the metrics that are computed after each epoch, such as valid.loss."""
    return [f"{split}{separator}{m.name}" for split in splits for m in EACH_EPOCH if split in m.each_epoch]


def objectives() -> dict[str, Literal["minimize", "maximize"]]:
    """The metrics that a search may minimise or maximise: all of metrics.json except those of the test split."""
    return {f"{split}.{m.name}": m.direction for split in FITTED for m in METRICS if split in m.splits}


def direction(name: str) -> Literal["minimize", "maximize"]:
    """Whether a lower or a higher value of a metric such as valid.loss is better."""
    return objectives()[name]


def collection(classes: int, split: str) -> "MetricCollection":
    """Create the metrics of a split, with names such as train/loss: of test all, of the others those of each epoch.

    They work on the device and across processes.
    """
    from torchmetrics import MetricCollection

    modules = {m.name: m.make(classes) for m in METRICS if split in (m.each_epoch if split in FITTED else m.splits)}
    return MetricCollection(dict(modules), prefix=f"{split}/", compute_groups=False)  # each has its own update


def update(scores: "MetricCollection", loss: "Tensor", logits: "Tensor", labels: "Tensor") -> None:
    """Update metrics with a batch: its mean loss, logits, b x c, and labels, b."""
    for m in METRICS:
        if m.name not in scores:
            continue
        if m.of_loss:
            scores[m.name].update(loss.detach(), weight=len(labels))
        else:
            scores[m.name].update(logits.detach(), labels)


def final(logits: "Tensor", labels: "Tensor", split: str | None = None, temperature: float = 1.0) -> dict[str, float]:
    """Compute all metrics of a split from logits, b x c, and labels, b.

    The loss is the mean cross entropy of the logits as they are, as after each epoch. The metrics that are
    ``calibrated`` get the logits divided by the temperature.
    """
    from torch.nn import functional as F

    values = {}
    for m in METRICS:
        if split is not None and split not in m.splits:
            continue
        metric = m.make(logits.shape[1])
        given = logits / temperature if m.calibrated else logits
        metric.update(*((F.cross_entropy(given, labels),) if m.of_loss else (given, labels)))
        values[m.name] = round(float(metric.compute()), 6)
    return values
