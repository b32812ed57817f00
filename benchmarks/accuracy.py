"""Ways to fine-tune with the same weights, photos and epochs: test accuracy, and McNemar's test beside the solved head.

python benchmarks/accuracy.py [--sets woof10 demo] [--methods head full] [--epochs 5] [--seeds 3] [--folds 2] [...]

woof10 is --data with --weights; demo is drawn, with efficientnet_lite0. With --folds no test photo is used: each of the
first folds of the train photos, of five, is left out once and tested. Other arguments are overrides of every run, such
as data.image_size=128.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from common import machine, metrics, parser, scratch, train

from sagehound.config import Data
from sagehound.data.demo import draw
from sagehound.data.photos import find_photos
from sagehound.evaluation.mcnemar import mcnemar
from sagehound.models.logistic import folds_of

METHODS = {
    "head": ["finetune=head", "finetune.solver=auto"],
    "gradual": ["finetune=gradual"],
    "full": ["finetune=full"],
    "full-random": ["finetune=full", "finetune.start=random"],
}


@dataclass
class Result:
    """The runs of one method on one set, one for each seed and fold."""

    top1: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)  # alphas
    rows: list[dict[str, str]] = field(
        default_factory=list
    )  # predictions of the test split; ``file`` names the run too

    def add(self, folder: Path, run: str) -> None:
        """Read a run."""
        found = metrics(folder)
        self.top1.append(found["test"]["top1"])
        self.loss.append(found["test"]["loss"])
        self.seconds.append(sum(found["seconds"].values()))
        self.kept += [found["finetune_choice"]["kept"]] if "finetune_choice" in found else []
        with (folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
        self.rows += [row | {"file": f"{run}/{row['file']}"} for row in rows]


def left_out(root: Path, folder: Path, folds: int) -> Iterator[list[str]]:
    """Overrides for each fold: a table in which the test split is one fold of the train photos."""
    found = find_photos(Data(name="folder", root=str(root)), folder)
    inner, scene = found.split("train"), dict(zip(found.photos, found.scenes(), strict=True))
    fold = dict(zip(inner, folds_of(found.labels(inner), [scene[p] for p in inner], 0), strict=True))
    for number in range(folds):
        table = folder / f"fold{number}.csv"
        rows = [
            [p.file, p.label, "test" if fold.get(p) == number else p.split] for p in found.photos if p.split != "test"
        ]
        with table.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["file", "label", "split"], *rows])
        yield [f"data.table={table}"]


def measure(arguments: list[str] | None = None) -> list[list[str]]:
    """One row for each set and method."""
    p = parser(__doc__)
    p.add_argument("--sets", nargs="+", choices=("woof10", "demo"), default=["woof10", "demo"])
    p.add_argument("--methods", nargs="+", choices=list(METHODS), default=["head", "gradual", "full"])
    p.add_argument("--epochs", type=int, default=5)
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--folds", type=int, default=0)
    a, overrides = p.parse_known_args(arguments)
    rows = []
    with scratch() as folder:
        if "demo" in a.sets:
            draw(folder / "demo")
        for name in a.sets:
            root = a.data if name == "woof10" else folder / "demo"
            model = [f"backbone.name={a.backbone}", f"backbone.weights={a.weights}"]
            model = model if name == "woof10" else ["backbone=efficientnet_lite0"]
            cases = list(left_out(root, folder, a.folds)) if a.folds else [[]]
            results = {method: Result() for method in a.methods}
            for run in (f"{seed}-{case}" for seed in range(a.seeds) for case in range(len(cases))):
                seed, case = map(int, run.split("-"))
                given = [*model, *cases[case], f"trainer.max_epochs={a.epochs}", f"seed={seed}", *overrides]
                for method, result in results.items():
                    place = folder / f"{name}-{method}-{run}"
                    how = [*METHODS[method], "results=tables", "artifact=false"]
                    if method == "gradual":  # 3 of 10 by default
                        how.append(f"finetune.head_epochs={max(1, round(0.3 * a.epochs))}")
                    train(root, folder / "cache", place, *given, *how)
                    result.add(place, run)
                    print(
                        f"{name}, seed {seed}, {method}: {result.top1[-1]:.3f}, {result.seconds[-1]:.0f} s", flush=True
                    )
            rows += [_row(name, method, result, results[a.methods[0]]) for method, result in results.items()]
    return rows


def _row(name: str, method: str, result: Result, first: Result) -> list[str]:
    """A row of the table; the test compares all runs with those of the first method."""
    each = ", ".join(f"{100 * top1:.1f}" for top1 in result.top1)
    _, only, only_first, p = mcnemar(result.rows, first.rows)
    beside = "" if result is first else f"{only}, {only_first}, {p:.2f}"
    kept = ", ".join(f"{alpha:g}" for alpha in result.kept)
    seconds = f"{float(np.median(result.seconds)):.0f}"
    return [name, method, each, f"{float(np.mean(result.loss)):.3f}", beside, kept, seconds]


def main() -> None:
    """Print the table as Markdown."""
    rows = measure()
    columns = ["set", "method", "top-1 of each run, %", "mean loss", "only this, only the first right, p", "alpha", "s"]
    print(f"\n{machine()}\n\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
