"""Pictures of an evaluation, drawn without a screen."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from sagehound.data.decode import read_photo
from sagehound.files import replacing
from sagehound.tables import ClassScore, Predictions

Floats = npt.NDArray[np.float64]


def save(figure: Figure, path: Path) -> npt.NDArray[np.uint8]:
    """Write a PNG, atomically; returns its pixels, height x width x 4."""
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(110)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())
    with replacing(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG", compress_level=1)
    return pixels


def confusion_matrix(counts: npt.NDArray[np.int64], classes: list[str]) -> Figure:
    """Share of each class's photos (row) that got each answer (column); counts, c x c."""
    side = min(max(4.0, 0.28 * len(classes) + 2.5), 24.0)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the class's photos", shrink=0.7)
    if len(classes) <= 200:  # more could not be read, and take seconds to lay out
        size = 9 if len(classes) <= 40 else 5
        axes.set_xticks(range(len(classes)), classes, rotation=90, fontsize=size)
        axes.set_yticks(range(len(classes)), classes, fontsize=size)
    axes.set(xlabel="answer", ylabel="label", title="Confusion of the test photos")
    if len(classes) <= 20:
        for i, j in zip(*np.nonzero(counts), strict=True):
            colour = "white" if share[i, j] > 0.5 else "black"
            axes.text(j, i, str(counts[i, j]), ha="center", va="center", color=colour, fontsize=8)
    return figure


def accuracy_by_class_size(scores: list[ClassScore]) -> Figure:
    """Each class's test accuracy over its number of training photos, and the mean of each quarter of the classes."""
    known = sorted((s.counts["train"], s.accuracy, s.name) for s in scores if s.accuracy is not None)
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    size, accuracy = np.array([k[0] for k in known]), np.array([k[1] for k in known])
    axes.scatter(size, accuracy, alpha=0.6, label="a class")
    axes.plot(*means_by_size(size, accuracy), "o-", color="C1", label="mean of a quarter of the classes")
    for n, a, name in sorted(known, key=lambda k: k[1])[:5]:
        axes.annotate(name, (n, a), textcoords="offset points", xytext=(4, 4), fontsize=8)
    axes.set(
        xlabel="training photos of the class",
        ylabel="test accuracy",
        ylim=(-0.03, 1.05),
        title="Accuracy against class size",
    )
    axes.legend(loc="lower right")
    return figure


def means_by_size(size: npt.NDArray[np.int64], accuracy: Floats) -> tuple[Floats, Floats]:
    """Mean size and mean accuracy of each quarter of the classes by size; classes of one size are never torn apart."""
    quarter = np.digitize(size, np.quantile(size, [0.25, 0.5, 0.75]), right=True)
    groups = [quarter == q for q in np.unique(quarter)]
    return np.array([size[g].mean() for g in groups]), np.array([accuracy[g].mean() for g in groups])


def worst_mistakes(p: Predictions, classes: list[str], root: Path, most: int = 16) -> Figure:
    """The wrong answers that the model was surest of."""
    probabilities = p.probabilities
    sure = probabilities.max(1)
    wrong = [int(i) for i in np.argsort(-sure, kind="stable") if not p.right[i]][:most]
    height = 2.9 * max(-(-len(wrong) // 4), 1) + 0.5
    figure = Figure(figsize=(10, height))  # matplotlib's constrained layout takes a second for so many axes
    figure.subplots_adjust(0.01, 0.01, 0.99, 1 - 0.95 / height, wspace=0.05, hspace=0.25)
    figure.suptitle("The test photos that were most confidently mistaken" if wrong else "No test photo was mistaken")
    for k, i in enumerate(wrong):
        axes = figure.add_subplot(-(-len(wrong) // 4), 4, k + 1)
        photo = read_photo(root / p.photos[i].file)
        photo.thumbnail((256, 256))
        axes.imshow(np.asarray(photo))
        axes.set_title(f"{classes[p.labels[i]]}\ntaken for {classes[p.answers[i]]} ({sure[i]:.0%})", fontsize=8)
        axes.axis("off")
    return figure
