"""What debugger=local costs: whole commands with and without it, in turn.

python benchmarks/debugger.py [--rounds 3] [--kinds head,full] [--inside]

A head trains on features that a first run left in the cache. The rules alone are measured by debugger.preflight=false.
With --inside, one command of each kind adds up the seconds that it spends in the debugger's code, which a clock that
changes between commands does not blur.
"""

import os
import runpy
import statistics
import subprocess
import sys
import threading
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, Row, metrics, parser, scratch, show, train

KINDS = {
    "head": ["finetune=head", "trainer.max_epochs=10"],
    "gradual": ["finetune=gradual", "finetune.head_epochs=1", "trainer.max_epochs=2"],
    "full": ["finetune=full", "trainer.max_epochs=2"],
}
WAYS = {
    "without": [],
    "rules": ["debugger=local", "debugger.preflight=false"],
    "both": ["debugger=local"],
}


def measure(arguments: list[str] | None = None) -> list[Row]:
    """A row for each kind of fine-tuning, with the rules alone and with the checks before the first epoch."""
    p = parser(__doc__)
    p.add_argument("--kinds", default="head,gradual,full")
    p.add_argument("--inside", action="store_true")
    a = p.parse_args(arguments)
    names = {"rules": "the rules", "both": "the rules and the checks before the first epoch"}
    if a.inside:
        return inside(a, __file__, WAYS, names, "<= 1.03 x; <= 5 s more")
    promised = {"rules": "<= 1.03 x", "both": "<= 5 s more"}
    return overhead(a, WAYS, names, promised)


def overhead(a: Namespace, ways: dict[str, list[str]], names: dict[str, str], promised: dict[str, str]) -> list[Row]:
    """Train each kind in each way, in turn; a row for each way but ``without``.

    Args:
        a: data, weights, backbone, rounds, kinds.
        ways: overrides by name; one of them is ``without``.
        names: of the ways, for the table.
        promised: of the ways.
    """
    model = [f"backbone.name={a.backbone}", f"backbone.weights={a.weights}", "artifact=false", "report=false"]
    rows = []
    with scratch() as folder:
        for kind in a.kinds.split(","):
            wall: dict[str, list[float]] = {way: [] for way in ways}
            fit: dict[str, list[float]] = {way: [] for way in ways}
            for turn in range(-1 if kind == "head" else 0, a.rounds):  # the first fills the cache
                for way, given in ways.items():
                    run = folder / f"{kind}-{way}-{turn}"
                    seconds = train(a.data, folder / "cache", run, *model, *KINDS[kind], *given)
                    if turn >= 0:
                        wall[way].append(seconds)
                        fit[way].append(phase(run))
            for way, name in names.items():
                medians = [statistics.median(wall[w]) for w in (way, "without")]
                extra = statistics.median(fit[way]) - statistics.median(fit["without"])
                ratio, low, high = of_the_command(*((np.array(fit[w]), np.array(wall[w])) for w in (way, "without")))
                rows.append(
                    Row(
                        f"{kind} with {name}",
                        f"{medians[0]:.1f} s ({extra:+.2f} s of training)",
                        f"{medians[1]:.1f} s",
                        f"{medians[0] / medians[1]:.3f} x; by the training's share of each command {ratio:.3f} x "
                        f"({low:.3f} to {high:.3f})",
                        promised[way],
                    )
                )
                print(rows[-1], flush=True)
    return rows


def inside(a: Namespace, program: str, ways: dict[str, list[str]], names: dict[str, str], promised: str) -> list[Row]:
    """Seconds that one command of each kind and way spends in a part of the code.

    Args:
        a: data, weights, backbone, kinds.
        program: a file of this folder that runs train.py with the rest of its arguments, and prints the seconds.
        ways: overrides by name.
        names: of the ways, for the table.
        promised: for the table.
    """
    rows = []
    with scratch() as folder:
        environment = os.environ | {"SAGEHOUND_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
        for kind in a.kinds.split(","):
            for way in (*(["without"] if kind == "head" else []), *names):  # the first run fills the cache
                overrides = [
                    *("data=folder", f"data.root={a.data}", f"backbone.name={a.backbone}"),
                    *(f"backbone.weights={a.weights}", "artifact=false", "report=false", *KINDS[kind], *ways[way]),
                ]
                command = [sys.executable, program, "--child", *overrides, f"hydra.run.dir={folder}/{kind}-{way}"]
                start = time.perf_counter()
                done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
                whole = time.perf_counter() - start
                if way == "without":
                    continue
                seconds = float(done.stderr.split("seconds inside: ")[1].split()[0])
                claim, ratio = f"{kind} with {names[way]}, seconds in its code", f"{whole / (whole - seconds):.3f} x"
                rows.append(Row(claim, f"{seconds:.2f} s of {whole:.1f} s", "", ratio, promised))
                print(rows[-1], flush=True)
    return rows


def child(overrides: list[str], parts: list[tuple[Any, str]]) -> None:
    """Run train.py, and print the seconds in these functions, where those that call another count once.

    Args:
        overrides: of the command.
        parts: class or module, and the name of its function.
    """
    from sagehound.evaluation import tensorboard

    spent, depth = [0.0], threading.local()

    def timed(owner: Any, name: str) -> None:  # noqa: ANN401 - a class or a module
        plain = getattr(owner, name)

        def call(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401
            depth.now = getattr(depth, "now", 0) + 1
            start = time.perf_counter()
            try:
                return plain(*arguments, **named)
            finally:
                depth.now -= 1
                spent[0] += time.perf_counter() - start if not depth.now else 0.0

        setattr(owner, name, call)

    for owner, name in parts:
        timed(owner, name)
    plain = tensorboard.summarise

    def tell(*arguments: Any, **named: Any) -> None:  # noqa: ANN401 - at the end of a run; then the process exits
        plain(*arguments, **named)
        print(f"seconds inside: {spent[0]:.4f}", file=sys.stderr, flush=True)

    tensorboard.summarise = tell
    sys.argv = ["train.py", *overrides]
    runpy.run_path(str(ROOT / "train.py"), run_name="__main__")


def parts() -> list[tuple[Any, str]]:
    """The callbacks of the hook, the functions of observers, and what prepares them."""
    from sagehound.debugger import monitor
    from sagehound.debugger.hook import TensorHook
    from sagehound.debugger.observers import Observers

    public = [(o, n) for o in (TensorHook, Observers) for n in vars(o) if n[0] != "_" and callable(getattr(o, n))]
    return [*public, (monitor, "prepare")]


Runs = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]  # seconds of the phase train and of the command, each n


def of_the_command(given: Runs, without: Runs) -> tuple[float, float, float]:
    """How much longer a command takes by what training takes longer, with a 95 % interval by bootstrap.

    The phase is divided by its own command's seconds, so that a clock that changes between commands changes nothing.
    """

    def ratio(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
        with_, out = (float(np.median(t[i] / w[i])) for (t, w), i in ((given, a), (without, b)))
        return 1 + (with_ - out) / (1 - with_)

    n, random = len(given[0]), np.random.default_rng(0)
    drawn = [ratio(random.integers(n, size=n), random.integers(n, size=n)) for _ in range(2000)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return ratio(np.arange(n), np.arange(n)), float(low), float(high)


def phase(run: Path) -> float:
    """Seconds of the phase train."""
    return float(metrics(run)["seconds"]["train"])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:], parts())
    else:
        show(measure())
