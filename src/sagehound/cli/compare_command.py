"""The command `sagehound compare`: whether two runs differ on the same photos. Imports no torch."""

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from sagehound.cli.command import clear_errors
from sagehound.errors import ConfigError, InputError
from sagehound.evaluation import paired
from sagehound.evaluation.paired import Difference
from sagehound.metrics import METRICS
from sagehound.storage.atomic import read_csv
from sagehound.system import console, interrupts

_CLASSES = 10  # classes that are printed; --json has all
_SURE = 0.05  # p value, below which a difference is called one
_COLUMNS = {"file", "split", "label", "prediction"}

ByClass = dict[str, tuple[Difference, float]]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; {self.prog} RUN RUN [--split valid] [--json]")


@dataclass(frozen=True)
class _Scored:
    """A run's predictions of one split, and its scores."""

    name: str
    rows: list[dict[str, str]]
    scores: dict[str, Any]


def compare(program: str, argv: Sequence[str]) -> None:
    """Print the difference of two runs on the same photos, with its interval and McNemar's exact test.

    Args:
        program: the program's name, as the user types it.
        argv: the rest of the command line.

    Raises:
        SystemExit: with exit code 2 (wrong command) or 3 (no finished run, or other photos).
    """
    parser = _Parser(prog=program, description="Test whether two runs differ on the same photos.")
    parser.add_argument("runs", metavar="RUN", nargs=2, help="a run's folder")
    parser.add_argument("--split", choices=("test", "valid"), default="test", help="the photos; default: test")
    parser.add_argument("--json", action="store_true", help="print all numbers as JSON, with every class")
    with clear_errors():
        arguments = parser.parse_args(argv)
        interrupts.restore_keyboard_interrupt()
        first, second = (_read(run, arguments.split) for run in arguments.runs)
        try:
            whole = paired.compare(first.rows, second.rows)
        except InputError as error:
            raise InputError(
                f"{first.name} and {second.name}: {error}. Train both with the same photos, data settings and seed"
            ) from error
        by_class = paired.by_class(first.rows, second.rows)
        if arguments.json:
            about = {"runs": [first.name, second.name], "split": arguments.split}
            console.info(json.dumps(about | _numbers(whole, by_class), indent=1, ensure_ascii=False))
        else:
            _print(first, second, arguments.split, whole, by_class)
        sys.stdout.flush()


def _read(run: str, split: str) -> _Scored:
    """The rows and scores of a split.

    Raises:
        ConfigError: there is no such folder.
        InputError: its predictions cannot be read.
    """
    folder = Path(run).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"{run}: no such folder; give a run's folder")
    path = folder / "predictions.csv"
    try:
        rows = read_csv(path)
        scores = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))[split]
        if not all(row.keys() >= _COLUMNS for row in rows) or not isinstance(scores, dict):
            raise ValueError("a row is not complete")
    except FileNotFoundError as error:
        raise InputError(
            f"{error.filename}: no such file; give a run that was trained to its end, without results=scores"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise InputError(f"{path} or metrics.json beside it is broken ({error}); train the run again") from error
    return _Scored(run, [row for row in rows if row["split"] == split], scores)


def _numbers(whole: Difference, by_class: ByClass) -> dict[str, Any]:
    return _as_json(whole) | {
        "classes": [{"class": name, **_as_json(d), "p_adjusted": p} for name, (d, p) in by_class.items()]
    }


def _as_json(d: Difference) -> dict[str, Any]:
    return {
        "photos": d.photos,
        "top1": list(d.accuracies),
        "difference": d.difference,
        "interval": list(d.interval),
        "only_right": list(d.only),
        "p": d.p,
    }


def _print(first: _Scored, second: _Scored, split: str, whole: Difference, by_class: ByClass) -> None:
    console.info(f"A: {first.name}\nB: {second.name}")
    rows = [[m.label, _score(first, m.name), _score(second, m.name)] for m in METRICS if m.name in first.scores]
    console.table(f"{whole.photos:,} {split} photos, with 95 % intervals", ["score", "A", "B"], rows)
    low, high = whole.interval
    console.info(
        f"difference of top-1, B - A: {100 * whole.difference:+.1f} points (95 % interval {100 * low:+.1f} to "
        f"{100 * high:+.1f})\nonly A right: {whole.only[0]:,}, only B right: {whole.only[1]:,}; McNemar's exact test: "
        f"p = {whole.p:.3g}, {_verdict(whole)}"
    )
    differing = sorted(by_class.items(), key=lambda one: (-abs(one[1][0].difference), one[0]))
    shown = [(name, d, p) for name, (d, p) in differing[:_CLASSES] if sum(d.only)]
    if shown:
        rows = [
            [name, f"{d.photos:,}", *(f"{a:.1%}" for a in d.accuracies), _points(d), f"{p:.3g}"] for name, d, p in shown
        ]
        title = "Classes that differ most; p by McNemar, adjusted for all classes by Holm"
        console.table(title, ["class", "photos", "A", "B", "B - A", "p"], rows)


def _score(run: _Scored, name: str) -> str:
    if name not in run.scores:
        return ""
    interval = run.scores.get(f"{name}_interval")
    ends = f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
    return f"{run.scores[name]:.3f}{ends}"


def _points(d: Difference) -> str:
    return f"{100 * d.difference:+.1f}"


def _verdict(d: Difference) -> str:
    if d.p >= _SURE:
        return "no difference shown"
    return f"{'B' if d.difference > 0 else 'A'} is better"
