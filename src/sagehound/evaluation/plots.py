"""Figures of a run and its evaluation, drawn without a screen."""

import io
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox
from PIL import Image

from sagehound.evaluation.tables import ClassScore, Epochs, Predictions, describe_interval, most_confused, wilson
from sagehound.inference.decode import read_photo
from sagehound.metrics import EACH_EPOCH
from sagehound.storage.atomic import replacing

Floats = npt.NDArray[np.float64]

_FEW = 20  # classes; a larger confusion is sorted and lists its pairs
_QUARTERS = 8  # classes; with fewer, a quarter would be one class
_READABLE = 200  # classes; more names could not be read, and take seconds to draw


def save(figure: Figure, path: Path) -> bytes:
    """Write a PNG, atomically; returns its bytes."""
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(110)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # a box replaces a character that the font lacks
        canvas.draw()
    content = io.BytesIO()
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").save(content, format="PNG", compress_level=1)
    with replacing(path) as temporary:
        temporary.write_bytes(content.getbuffer())
    return content.getvalue()


def curves(epochs: Epochs, best_epoch: int) -> Figure:
    """Draw loss, top-1, ... of train and valid over the epochs, with the epoch of the best weights."""
    columns = len(EACH_EPOCH)
    figure = Figure(figsize=(5 * columns, 4))
    figure.subplots_adjust(0.14 / columns, 0.13, 1 - 0.04 / columns, 0.9, wspace=0.2)
    number = [e["epoch"] for e in epochs]
    for axes, metric in zip(figure.subplots(1, columns, squeeze=False).flat, EACH_EPOCH, strict=True):
        for split in ("train", "valid"):
            if split in metric.each_epoch:
                axes.plot(number, [e.get(f"{split}_{metric.name}", np.nan) for e in epochs], ".-", label=split)
        for best in (e for e in epochs if e["epoch"] == best_epoch):
            axes.axvline(best_epoch, color="0.6", linestyle=":", zorder=0)
            value = best.get(f"valid_{metric.name}", np.nan)
            axes.plot(best_epoch, value, "*", color="C1", markersize=14, label=f"best epoch, {best_epoch}: {value:.4g}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set(xlabel="epoch", title=metric.label[0].upper() + metric.label[1:])
        axes.legend()
    return figure


def confusion_matrix(counts: npt.NDArray[np.int64], classes: list[str]) -> Figure:
    """Draw the share of each class's photos (row) with each prediction (column); counts, c x c.

    More than twenty classes are sorted so that confused ones are neighbours, and the twenty pairs with the most
    mistakes are listed.
    """
    c = len(classes)
    many, readable = c > _FEW, c <= _READABLE
    order = clustered(counts) if many else np.arange(c)
    names = [shown(classes[i], 40) for i in order]
    cell = min(0.32, 24 / c) if readable else 24 / c  # inches
    font = min(9.0, 60 * cell)  # points
    margin = max(map(len, names)) * font * 0.58 / 72 + 0.5 if readable else 0.5
    side, panel = max(c * cell, 2.5), (7.5 if many else 1.3)
    width, height = margin + side + panel, margin + max(side, 6.5 if many else 0) + 0.5
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((margin / width, 1 - (side + 0.45) / height, side / width, side / height))
    share = (counts / np.maximum(counts.sum(1, keepdims=True), 1))[np.ix_(order, order)]
    # the square root for many classes, so that one or two photos are visible
    image = axes.imshow(share, cmap="Blues", norm=PowerNorm(0.5 if many else 1, 0, 1), interpolation="nearest")
    top = 1 - 0.45 / height
    bar = figure.add_axes(((margin + side + 0.3) / width, top - 2.5 / height, 0.18 / width, 2.5 / height))
    figure.colorbar(image, cax=bar, label="share of the class's photos")
    if readable:
        axes.set_xticks(range(c), names, rotation=90, fontsize=font, parse_math=False)
        axes.set_yticks(range(c), names, fontsize=font, parse_math=False)
        axes.set_xticks(np.arange(c + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(c + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="0.92", linewidth=0.4)
        axes.tick_params(which="minor", length=0)
    axes.set(xlabel="answer", ylabel="label", title="Confusion of the test photos")
    if many:
        figure.text(
            (margin + side + 1.4) / width, top, _pairs(counts, classes), va="top", fontsize=11, parse_math=False
        )
    else:
        for i, j in zip(*np.nonzero(counts), strict=True):
            colour = "white" if share[i, j] > 0.5 else "black"
            axes.text(j, i, str(counts[i, j]), ha="center", va="center", color=colour, fontsize=8)
    return figure


def _pairs(counts: npt.NDArray[np.int64], classes: list[str], most: int = 20) -> str:
    """The most confused pairs as text."""
    pairs = most_confused(counts)[:most]
    if not pairs:
        return "No test photo was mistaken"
    lines = [
        f"{counts[i, j]} of {counts[i].sum()}: {shown(classes[i], 24)} → {shown(classes[j], 24)}" for i, j in pairs
    ]
    return "\n".join(["Most confused: photos, label → answer", "", *lines, "", "All pairs: confusions.csv"])


def clustered(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """An order of the classes in which classes that are often confused are neighbours.

    It is the order of the leaves of an average-linkage tree. The distance of two classes is 1 minus the mean share of
    their photos that are predicted as the other class. Up to the number of classes whose names a plot shows, leaves
    are ordered so that neighbours are as close as possible (Bar-Joseph et al. 2001); above it, that takes too long.

    Args:
        counts: photos by label and prediction, c x c.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage  # slow to import, and not needed for few classes
    from scipy.spatial.distance import squareform

    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    distance = 1 - (share + share.T) / 2
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance, checks=False), "average", optimal_ordering=len(counts) <= _READABLE)
    return np.asarray(leaves_list(tree), np.int64)


def accuracy_by_class_size(scores: list[ClassScore], scenes: int | None = None) -> Figure:
    """Draw each class's test accuracy with its 95 % interval over its number of train photos, and means.

    The five lowest classes are named if there is room. Classes of one size are drawn in order of accuracy.

    Args:
        scores: of the classes.
        scenes: number of different scenes of the test photos, if known.
    """
    known = sorted((s.counts["train"], s.accuracy, s.name, s.interval) for s in scores if s.accuracy is not None)
    figure = Figure(figsize=(9, 5.5))
    figure.subplots_adjust(0.08, 0.2, 0.98, 0.93)
    axes = figure.subplots()
    right, photos = sum(s.correct for s in scores), sum(s.counts["test"] for s in scores)
    if photos:
        n = scenes or photos
        interval = wilson(right / photos * n, n)
        label = f"all photos: {right / photos:.1%}, 95 % interval {describe_interval(interval)}"
        axes.axhspan(*interval, color="C2", alpha=0.15, linewidth=0, label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set(
        xlabel="training photos of the class",
        ylabel="test accuracy",
        ylim=(-0.03, 1.05),
        title="Accuracy against class size",
    )
    if known:
        _draw_classes(axes, known)
    return figure


def _draw_classes(axes: Axes, known: list[tuple[int, float, str, tuple[float, float]]]) -> None:
    """Draw the classes (size, accuracy, name, interval), sorted by size; the axes' height is set."""
    size, accuracy = np.array([k[0] for k in known]), np.array([k[1] for k in known])
    one_size = len(known) > 1 and size[0] == size[-1]
    x = np.arange(len(known), dtype=float) if one_size else _side_by_side(size)
    if one_size:
        axes.set(
            xlabel=f"classes, lowest accuracy first; each has {size[0]:,} training photos",
            xticks=[],
            title="Accuracy of the classes",
        )
    low, high = np.array([k[3] for k in known]).reshape(-1, 2).T
    spread = np.maximum([accuracy - low, high - accuracy], 0)
    axes.errorbar(x, accuracy, spread, fmt="o", alpha=0.5, elinewidth=1, label="a class, with its 95 % interval")
    if len(known) >= _QUARTERS and not one_size:
        axes.plot(*means_by_size(size, accuracy), "o-", color="C1", label="mean of a quarter of the classes", zorder=3)
    axes.set_xlim(x.min() - 0.5 - 0.03 * np.ptp(x), x.max() + 0.5 + 0.03 * np.ptp(x))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, fontsize=8, frameon=False)
    lowest = sorted(range(len(known)), key=lambda i: accuracy[i])[:5]
    _label(axes, [(float(x[i]), float(accuracy[i]), shown(known[i][2], 32)) for i in lowest])


def _side_by_side(size: npt.NDArray[np.int64]) -> Floats:
    """Sorted sizes; equal ones are spread over less than one photo, so that each point is visible."""
    x = size.astype(float)
    for n in np.unique(size):
        same = size == n
        if same.sum() > 1:
            x[same] += np.linspace(-0.4, 0.4, same.sum())
    return x


def _label(axes: Axes, points: list[tuple[float, float, str]]) -> None:
    """Name the points (x, y, name) inside the axes without overlaps."""
    assert isinstance(axes.figure, Figure)
    renderer = FigureCanvasAgg(axes.figure).get_renderer()
    inside = axes.get_window_extent(renderer)
    axes.get_xlim(), axes.get_ylim()  # sets the positions of the points
    places = [(away, across, up) for away in range(6, 90, 12) for up in (-1, 1) for across in (1, -1)]
    taken: list[Bbox] = []
    for x, y, name in points:
        for away, across, up in places:  # points (1/72 inch) above or below; the nearest free place
            note = axes.annotate(
                name,
                (x, y),
                textcoords="offset points",
                xytext=(across * 6, up * away),
                ha="left" if across > 0 else "right",
                va="bottom" if up > 0 else "top",
                fontsize=8,
                parse_math=False,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5},
                arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": "0.5"},
            )
            note.update_positions(renderer)
            box = Text.get_window_extent(note, renderer).padded(1)  # of the name, without its line
            fits = inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1
            if fits and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            note.remove()


def means_by_size(size: npt.NDArray[np.int64], accuracy: Floats) -> tuple[Floats, Floats]:
    """Mean size and mean accuracy of each quarter of the classes by size; classes of one size stay together."""
    quarter = np.digitize(size, np.quantile(size, [0.25, 0.5, 0.75]), right=True)
    groups = [quarter == q for q in np.unique(quarter)]
    return np.array([size[g].mean() for g in groups]), np.array([accuracy[g].mean() for g in groups])


def worst_mistakes(p: Predictions, classes: list[str], root: Path, most: int = 16) -> Figure:
    """Draw the most confident wrong predictions, each with its file name."""
    probabilities = p.probabilities
    sure = probabilities.max(1)
    wrong = [int(i) for i in np.argsort(-sure, kind="stable") if not p.correct[i]][:most]
    if not wrong:
        figure = Figure(figsize=(3, 0.6))
        figure.text(0.5, 0.5, "No test photo was mistaken", ha="center", va="center", fontsize=12)
        return figure
    height = 3.1 * -(-len(wrong) // 4) + 0.5
    figure = Figure(figsize=(10, height))  # matplotlib's constrained layout takes a second here
    figure.subplots_adjust(0.01, 0.25 / height, 0.99, 1 - 0.95 / height, wspace=0.05, hspace=0.35)
    figure.suptitle("The test photos that were most confidently mistaken")
    for k, i in enumerate(wrong):
        axes = figure.add_subplot(-(-len(wrong) // 4), 4, k + 1)
        photo = read_photo(root / p.photos[i].file)
        photo.thumbnail((256, 256))
        axes.imshow(np.asarray(photo))
        label, answer = shown(classes[p.labels[i]], 36), shown(classes[p.predicted[i]], 26)
        axes.set_title(f"{label}\ntaken for {answer} ({sure[i]:.0%})", fontsize=8, parse_math=False)
        path = Path(p.photos[i].file)
        with_folder = "/".join(path.parts[-2:])
        file = shown(with_folder if len(with_folder) <= 44 else path.name, 44)
        axes.text(
            0.5, -0.02, file, transform=axes.transAxes, ha="center", va="top", fontsize=7, color="0.3", parse_math=False
        )
        axes.axis("off")
    return figure


def shown(name: str, most: int) -> str:
    """A name as printable text of at most ``most`` characters."""
    name = name.encode(errors="backslashreplace").decode()
    half = (most - 1) // 2
    return name if len(name) <= most else f"{name[: most - 1 - half]}…{name[-half:]}"
