"""The charts of a report as SVG or PNG in data URIs, drawn without a screen."""

import base64
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from PIL import Image

_BINS = 10  # of confidence, as the expected calibration error has
_FIXED: dict[Any, Any] = {
    "svg.hashsalt": "sagehound",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
}  # the same bytes each time


@dataclass(frozen=True)
class Picture:
    """A picture of the page: its address as a data URI, and its description for readers that do not see it."""

    source: str
    alt: str


def vector(figure: Figure, alt: str) -> Picture:
    """A figure as SVG; its texts stay texts."""
    FigureCanvasSVG(figure)
    content = io.BytesIO()
    with rc_context(_FIXED), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # a box replaces a character that the font lacks
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    return Picture("data:image/svg+xml;base64," + base64.b64encode(content.getvalue()).decode(), alt)


def raster(figure: Figure, alt: str, dpi: int = 90) -> Picture:
    """A figure as PNG with 64 colours, for those with thousands of cells."""
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(dpi)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        canvas.draw()
    content = io.BytesIO()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(64)
    image.save(content, format="PNG", optimize=True)
    return Picture("data:image/png;base64," + base64.b64encode(content.getvalue()).decode(), alt)


def reliability(confidence: Any, correct: Any) -> Figure:  # noqa: ANN401 - array-like, n
    """Draw the accuracy of photos by the probability of their prediction, in ten bins, and how many each bin has."""
    p, right = np.asarray(confidence, float), np.asarray(correct, bool)
    index = np.clip(np.ceil(p * _BINS) - 1, 0, _BINS - 1).astype(int)
    count = np.bincount(index, minlength=_BINS)
    used = count > 0
    accuracy = np.bincount(index, right, _BINS)[used] / count[used]
    mean = np.bincount(index, p, _BINS)[used] / count[used]
    figure = Figure(figsize=(5.5, 4.6))
    upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 1], "hspace": 0.08})
    upper.plot([0, 1], [0, 1], ":", color="0.5", label="perfectly calibrated")
    upper.plot(mean, accuracy, "o-", label="this model")
    upper.set(ylabel="share that is right", xlim=(0, 1), ylim=(0, 1.02), title="Calibration of the test photos")
    upper.legend(loc="upper left", frameon=False)
    lower.bar((np.arange(_BINS) + 0.5) / _BINS, count, 0.9 / _BINS, color="C0", alpha=0.6)
    lower.set(xlabel="probability of the predicted class", ylabel="photos")
    lower.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=3))
    return figure


def learning_curve(points: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the leave-one-out accuracy over the number of photos."""
    figure = Figure(figsize=(5.5, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.plot([p["photos"] for p in points], [p["top1"] for p in points], "o-")
    axes.set(xlabel="photos", ylabel="leave-one-out accuracy", title="Learning curve of a head on the features")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlim(left=0)
    return figure


def bars(values: Mapping[str, float], title: str, unit: str) -> Figure:
    """Draw a horizontal bar for each named value."""
    height, margin = 0.36 * len(values) + 1.1, 0.085 * max(map(len, values)) + 0.3  # inches
    figure = Figure(figsize=(7, height))
    figure.subplots_adjust(margin / 7, 0.5 / height, 0.95, 1 - 0.4 / height)
    axes = figure.subplots()
    names = list(values)[::-1]
    drawn = axes.barh(names, [values[name] for name in names], color="C0")
    axes.bar_label(drawn, fmt="%.3g", padding=3)
    axes.margins(x=0.12)
    axes.set(xlabel=unit, title=title)
    return figure


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]],
    title: str,
    x: str,
    y: str,
    marks: Mapping[float, str] | None = None,
) -> Figure:
    """Draw several named lines of (x, y) points, and a vertical line with a text at each mark."""
    figure = Figure(figsize=(7, 3.8))
    figure.subplots_adjust(0.11, 0.15, 0.97, 0.9)
    axes = figure.subplots()
    for name, points in series.items():
        axes.plot([p[0] for p in points], [p[1] for p in points], ".-", label=name)
    for at, text in (marks or {}).items():
        axes.axvline(at, color="C3", linestyle=":")
        axes.text(at, 0.98, f" {text}", color="C3", fontsize=8, va="top", transform=axes.get_xaxis_transform())
    axes.set(xlabel=x, ylabel=y, title=title)
    axes.legend(frameon=False, fontsize=8)
    return figure
