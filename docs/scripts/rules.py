"""Writes docs/rules.md from the rules and the checks before the first epoch.

Usage: python docs/scripts/rules.py
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

from sagehound.debugger.preflight import CHECKS
from sagehound.debugger.rules import registry
from sagehound.debugger.rules.rule import Rule

PAGE = Path(__file__).parents[1] / "rules.md"
HEAD = """# Rules of the debugger

<!-- written by docs/scripts/rules.py -->

`debugger=local` evaluates these rules while a model is trained; see [Debugger](debugger.md).
`+debugger.rules.NAME.PARAMETER=VALUE` changes a parameter, `+debugger.rules.NAME.action=stop` what happens, and
`~debugger.rules.NAME` removes a rule.
"""
CHECKS_HEAD = """## Before the first epoch

These checks take some seconds and change nothing of the training. `debugger.preflight=false` leaves them out.

| check | what must be true |
|---|---|"""


def page() -> str:
    """The whole page."""
    checks = [f"| {check.__name__.replace('_', ' ')} | {_first(check.__doc__)} |" for check in CHECKS]
    return "\n".join([HEAD, CHECKS_HEAD, *checks, "", *(_rule(name, rule) for name, rule in registry().items())])


def _rule(name: str, rule: type[Rule]) -> str:
    text = "\n".join(line.strip() for line in (rule.__doc__ or "").strip().splitlines()).replace("``", "`")
    rows = [
        f"| `{f.name}` | {_value(f.default)} | {_value(f.metadata['aws'])} | {f.metadata['unit']} |"
        for f in dataclasses.fields(rule)
        if "aws" in f.metadata
    ]
    table = ["| parameter | `profile=calibrated` | `profile=aws` | unit |", "|---|---|---|---|", *rows]
    needs = ", ".join(f"`{collection}`" for collection in rule.needs)
    return "\n".join([f"## `{name}`: {rule.name}", "", text, "", f"Needs {needs}.", "", *table, ""])


def _value(value: Any) -> str:  # noqa: ANN401 - a number or a truth value
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if math.isinf(value) else f"{value:g}"


def _first(text: str | None) -> str:
    return (text or "").strip().splitlines()[0]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
