"""Few photos of some classes: the methods that balance them, by macro F1 and top-1 of the test photos.

python benchmarks/unbalanced.py [--largest 60] [--smallest 2] [--seeds 3] [--finetune head]

The train photos of class i, in a random order of the classes, are ``largest`` x (smallest / largest)^(i / (c - 1)), as
in the long-tailed CIFAR of Cui et al. 2019. Each seed draws other classes and photos, the same for every method. Valid
and test photos stay as they are.
"""

import csv
from pathlib import Path

import numpy as np
from common import SHARES, machine, metrics, parser, scratch, train

METHODS = {
    "none": (),
    "loss.class_weights=balanced": ("loss.class_weights=balanced",),
    "data.sampling=balanced": ("data.sampling=balanced",),
    "loss.logit_adjustment=1": ("loss.logit_adjustment=1",),
    "trainer.monitor=valid.macro_f1": ("trainer.monitor=valid.macro_f1",),
    "loss.logit_adjustment=1 trainer.monitor=valid.macro_f1": (
        "loss.logit_adjustment=1",
        "trainer.monitor=valid.macro_f1",
    ),
}


def long_tail(source: Path, table: Path, largest: int, smallest: int, seed: int) -> int:
    """Write a table with fewer and fewer train photos by class, and all of valid and test; returns the train photos."""
    generator, rows = np.random.default_rng(seed), []
    classes = sorted(p.name for p in (source / "train").iterdir() if p.is_dir())
    share = dict(zip(generator.permutation(classes), np.linspace(0, 1, len(classes)), strict=True))
    for split in SHARES:
        for name in classes:
            files = sorted(p for p in (source / split / name).iterdir() if p.is_file())
            if split == "train":
                wanted = round(largest * (smallest / largest) ** share[name])
                files = [files[i] for i in generator.permutation(len(files))[:wanted]]
            rows += [[file.relative_to(source).as_posix(), name, split] for file in files]
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["file", "label", "split"], *rows])
    return sum(row[2] == "train" for row in rows)


def measure(arguments: list[str] | None = None) -> list[list[str]]:
    """One row for each method: its name, and the median and all values of macro F1 and top-1."""
    p = parser(__doc__)
    p.add_argument("--largest", type=int, default=60)
    p.add_argument("--smallest", type=int, default=2)
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--finetune", default="head")
    p.add_argument("--epochs", type=int, default=10)
    a = p.parse_args(arguments)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in METHODS}
    with scratch() as folder:
        for seed in range(a.seeds):
            table = folder / f"{seed}.csv"
            photos = long_tail(a.data, table, a.largest, a.smallest, seed)
            for number, (name, overrides) in enumerate(METHODS.items()):
                run = folder / f"run{seed}-{number}"
                given = [f"data.table={table}", f"backbone.name={a.backbone}", f"backbone.weights={a.weights}"]
                given += [f"finetune={a.finetune}", f"trainer.max_epochs={a.epochs}", f"seed={seed}", "results=scores"]
                train(a.data, folder / "cache", run, *given, *overrides)
                test = metrics(run)["test"]
                found[name].append((test["macro_f1"], test["top1"]))
                print(f"seed {seed}, {photos} train photos, {name}: {found[name][-1]}", flush=True)
    return [[name, *(_column(values) for values in zip(*pairs, strict=True))] for name, pairs in found.items()]


def _column(values: tuple[float, ...]) -> str:
    each = ", ".join(f"{100 * value:.1f}" for value in values)
    return f"{100 * float(np.median(values)):.1f} ({each})"


def main() -> None:
    """Print the table as Markdown."""
    rows = measure()
    print(f"\n{machine()}\n\n| what | macro F1, % | top-1, % |\n|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
