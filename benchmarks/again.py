"""The second run of a head, whole commands with and without model.tar.gz, beside another checkout if there is one.

python benchmarks/again.py [--before CHECKOUT] [--rounds 5]

Every command trains on features that a first run left in the cache. Wall time depends on what else the cores do, so the
processor time (user + system) of the command and of the processes that it starts is measured too.
"""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from common import ROOT, Row, against, metrics, parser, scratch, show


def measure(arguments: list[str] | None = None) -> list[Row]:
    """The rows of one backbone and one folder of photos."""
    p = parser(__doc__)
    p.add_argument("--before", type=Path, help="an older checkout, which is run in turn")
    p.set_defaults(rounds=5)
    a = p.parse_args(arguments)
    model = [f"backbone.name={a.backbone}", f"backbone.weights={a.weights}", "data=folder", f"data.root={a.data}"]
    kinds = {"with": (ROOT, "artifact=true"), "without": (ROOT, "artifact=false")}
    kinds |= {"before": (a.before, "artifact=true")} if a.before else {}
    wall: dict[str, list[float]] = {kind: [] for kind in kinds}
    cpu: dict[str, list[float]] = {kind: [] for kind in kinds}
    proof: dict[str, list[float]] = {kind: [] for kind in kinds}
    with scratch() as folder:
        for turn in range(-1, a.rounds):  # the first fills the caches
            for kind, (root, artifact) in kinds.items():
                run = folder / f"{kind}{turn}"
                times = timed(root, folder / "cache", *model, artifact, f"hydra.run.dir={run}")
                if turn >= 0:
                    wall[kind].append(times[0])
                    cpu[kind].append(times[1])
                    proof[kind].append(metrics(run)["seconds"].get("artifact", 0.0))
                    load = os.getloadavg()[0]
                    print(f"{kind}: {times[0]:.1f} s, processor {times[1]:.1f} s, load {load:.1f}", flush=True)
    rows = []
    for kind, note in (("before", "before"), ("without", "artifact=false")):
        if kind in kinds:
            rows += [
                against(f"the second run, beside {note}", wall["with"], wall[kind], "s", 1),
                against("its processor time", cpu["with"], cpu[kind], "s", 1),
            ]
    if a.before:
        rows.append(against("its phase `artifact`", proof["with"], proof["before"], "s", 1))
    for row in rows:
        row.promised = "-"
    return rows


def timed(root: Path, cache: Path, *overrides: str) -> tuple[float, float]:
    """Wall and processor seconds of `python train.py` of a checkout."""
    paths = os.pathsep.join(str(root / name) for name in ("src", "launchers"))
    environment = os.environ | {"SAGEHOUND_CACHE": str(cache), "PYTHONPATH": paths}
    start, used = time.perf_counter(), _used()
    done = subprocess.run(
        [sys.executable, str(root / "train.py"), *overrides],
        env=environment,
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(overrides)} failed:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - start, _used() - used


def _used() -> float:
    of_children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return of_children.ru_utime + of_children.ru_stime


if __name__ == "__main__":
    show(measure())
