"""A search on a space with bad learning rates, with hpo.pruner=diagnosis, median and none, in turn.

python benchmarks/diagnosis.py [--rounds 2] [--epochs 20] [--trials 20]

The points are those of a Sobol sequence, so all three searches propose the same ones.
"""

import csv
import statistics
import subprocess
import sys
import time
from pathlib import Path

from common import ROOT, Row, parser, scratch, show

PRUNERS = ("diagnosis", "median", "none")


def measure(arguments: list[str] | None = None) -> list[Row]:
    """A row for each pruner beside none."""
    p = parser(__doc__)
    p.add_argument("--epochs", type=int, default=20)
    p.add_argument("--trials", type=int, default=20)
    p.set_defaults(rounds=2)
    a = p.parse_args(arguments)
    seconds: dict[str, list[float]] = {name: [] for name in PRUNERS}
    best: dict[str, float] = {}
    with scratch() as folder:
        for turn in range(-1, a.rounds):  # the first fills the cache
            for name in PRUNERS if turn >= 0 else ("none",):
                trials = 1 if turn < 0 else a.trials
                study = folder / f"{name}{turn}"
                start = time.perf_counter()
                _search(a.data, a.weights, folder / "cache", study, name, trials, a.epochs)
                if turn >= 0:
                    seconds[name].append(time.perf_counter() - start)
                    best[name] = min(_objectives(study))
    none = statistics.median(seconds["none"])
    return [
        Row(
            f"{a.trials} trials x {a.epochs} epochs, hpo.pruner={name}; best valid loss {best[name]:.4f}",
            f"{statistics.median(seconds[name]):.1f} s",
            f"{none:.1f} s (none; best {best['none']:.4f})",
            f"{statistics.median(seconds[name]) / none:.2f} x",
            "<= 0.60 x" if name == "diagnosis" else "-",
        )
        for name in PRUNERS[:2]
    ]


def _search(data: Path, weights: Path, cache: Path, study: Path, pruner: str, trials: int, epochs: int) -> None:
    command = [
        *(sys.executable, str(ROOT / "launch.py"), "-m", "hpo=optuna", "hpo.sampler=qmc", f"hpo.pruner={pruner}"),
        *("data=folder", f"data.root={data}", "backbone=mobilenetv2", f"backbone.weights={weights}"),
        *(f"cache.dir={cache}", f"hydra.sweep.dir={study}", f"hpo.max_jobs={trials}", f"trainer.max_epochs={epochs}"),
        "optimizer.lr=tag(log, interval(1e-7,100))",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def _objectives(study: Path) -> list[float]:
    rows = csv.DictReader((study / "trials.csv").open())
    return [float(row["objective"]) for row in rows if row["state"] == "complete"]


if __name__ == "__main__":
    show(measure())
