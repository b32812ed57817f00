"""What a head's first run costs as the photos grow to twice and four times as many, drawn into benchmarks/linear.png.

python benchmarks/linear.py [--data PATH] [--rounds 3]
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from common import Row, machine, median, metrics, multiply, parser, scratch, show, train
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

SIZES = (1, 2, 4)
Numbers = npt.NDArray[np.float64]


def measure(arguments: list[str] | None = None) -> list[Row]:
    """The rows of this benchmark, and the drawing."""
    a = parser(__doc__).parse_args(arguments)
    base = sum(1 for _ in a.data.glob("*/*/*"))
    model = [f"backbone.name={a.backbone}", f"backbone.weights={a.weights}"]
    whole: dict[int, list[float]] = {n: [] for n in SIZES}
    passes: dict[int, list[float]] = {n: [] for n in SIZES}
    with scratch() as folder:
        data = {n: multiply(a.data, folder / f"x{n}", n * base) for n in SIZES}
        for turn in range(a.rounds):
            for n in SIZES:
                run = folder / f"run{turn}x{n}"
                whole[n].append(train(data[n], folder / f"cache{turn}x{n}", run, *model))
                passes[n].append(metrics(run)["seconds"]["features"])
                print(
                    f"round {turn + 1}: {n * base} photos {whole[n][-1]:.1f} s, features {passes[n][-1]:.1f} s",
                    flush=True,
                )
    photos = np.array([n * base for n in SIZES])
    seconds, features = (np.array([median(values[n]) for n in SIZES]) for values in (whole, passes))
    slope, fixed = np.polyfit(photos, seconds, 1)
    draw(a.backbone, photos, seconds, features, slope, fixed, Path(__file__).with_name("linear.png"))
    off = (np.abs(seconds - (slope * photos + fixed)) / seconds).max()
    return [
        Row(
            f"first run of {' / '.join(map(str, photos))} photos",
            " / ".join(f"{s:.1f}" for s in seconds) + " s",
            f"{fixed:.1f} s + {1000 * slope:.1f} ms a photo",
            f"at most {off:.1%} off the line",
            "linear",
        )
    ]


def draw(
    backbone: str, photos: Numbers, seconds: Numbers, features: Numbers, slope: float, fixed: float, path: Path
) -> None:
    """Points and the line through them."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    x = np.array([0, photos.max()])
    axes.plot(x, slope * x + fixed, color="C0", alpha=0.5, label=f"{fixed:.1f} s + {1000 * slope:.1f} ms a photo")
    axes.plot(photos, seconds, "o", color="C0", label="whole command")
    axes.plot(photos, features, "s", color="C1", label="features only")
    axes.set(xlabel="photos", ylabel="seconds", ylim=(0, None), xlim=(0, None))
    axes.set_title(f"First run, 10 epochs of a head, {backbone}\n{machine()}", fontsize=9)
    axes.legend()
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    show(measure())
