"""What debugger=local costs: whole commands with and without it, in turn.

python benchmarks/debugger.py [--rounds 3] [--kinds head,full]

A head trains on features that a first run left in the cache. The rules alone are measured by debugger.preflight=false.
"""

import statistics
from argparse import Namespace
from pathlib import Path

from common import Row, metrics, parser, scratch, show, train

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
    a = p.parse_args(arguments)
    names = {"rules": "the rules", "both": "the rules and the checks before the first epoch"}
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
                rows.append(
                    Row(
                        f"{kind} with {name}",
                        f"{medians[0]:.1f} s ({extra:+.2f} s of training)",
                        f"{medians[1]:.1f} s",
                        f"{medians[0] / medians[1]:.3f} x",
                        promised[way],
                    )
                )
                print(rows[-1], flush=True)
    return rows


def phase(run: Path) -> float:
    """Seconds of the phase train."""
    return float(metrics(run)["seconds"]["train"])


if __name__ == "__main__":
    show(measure())
