"""Writes docs/configuration.md from the dataclasses of the config and the options in conf/.

Usage: python docs/scripts/configuration.py
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sagehound.config import Train, group_of
from sagehound_launchers.config.schema import LaunchWithStages

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/configuration.md"
HEAD = """# Configuration

<!-- written by docs/scripts/configuration.py -->

A setting is `key=value` on the command line, in any order: `python train.py backbone=resnet34 trainer.max_epochs=5`.
A group such as `backbone` has options: `backbone=resnet34` chooses one, `backbone.name=resnet34` sets a single key.
`python train.py --help` prints the same keys with the values of your command line. A wrong key, type, option or
combination is refused at once, with the choices.

`launch.py` takes the keys of `train.py` and those of the [second part](#only-in-launchpy).
"""
EXPERIMENTS = "Settings of earlier dog-breed projects, as they were published."

Fields = Sequence["dataclasses.Field[Any]"]


def page() -> str:
    """The whole page."""
    base = {f.name: f for f in dataclasses.fields(Train)}
    launch = [f for f in dataclasses.fields(LaunchWithStages) if f.name not in base or f.type != base[f.name].type]
    return "\n".join(
        [
            HEAD,
            *_sections("##", list(base.values()), {}),
            *_section("## experiment", EXPERIMENTS, "experiment", []),
            "## Only in launch.py\n\nStages, searches and SageMaker.\n",
            *_sections("###", launch, base),
        ]
    )


def _sections(heading: str, fields: Fields, base: dict[str, "dataclasses.Field[Any]"]) -> Iterator[str]:
    """A section for each group, then one for the keys that belong to no group."""
    single = []
    for f in fields:
        kind = group_of(f)
        if kind is None and not (ROOT / "conf" / f.name).is_dir():
            single.append(f)
            continue
        known = (
            {field.name for field in dataclasses.fields(group_of(base[f.name]) or Train)} if f.name in base else set()
        )
        keys = [field for field in dataclasses.fields(kind) if field.name not in known] if kind else [f]
        about = (kind.__doc__ or "").splitlines()[0] if kind else f"{f.metadata['help']}."
        yield from _section(
            f"{heading} {f.name}", about, "" if f.name in base else f.name, _rows(f"{f.name}.", keys) if kind else []
        )
    yield from _section(
        f"{heading} keys of no group" if heading == "##" else f"{heading} other keys", "", "", _rows("", single)
    )


def _section(heading: str, about: str, group: str, rows: Sequence[str]) -> Iterator[str]:
    yield f"{heading}\n"
    if about:
        yield about.replace("``", "`") + "\n"
    for folder in (group, f"{group}/space") if group else ():
        if names := sorted(path.stem for path in (ROOT / "conf" / folder).glob("*.yaml")):
            yield f"Options: {', '.join(f'`{folder}={name}`' for name in names)}\n"
    if rows:
        yield "\n".join(["| key | default | meaning |", "|---|---|---|", *rows, ""])


def _rows(prefix: str, fields: Fields) -> list[str]:
    """A line of the table for each key: key, default, meaning with the allowed values."""
    rows = []
    for f in fields:
        if kind := group_of(f):
            rows += _rows(f"{prefix}{f.name}.", dataclasses.fields(kind))
            continue
        cells = [f"`{prefix}{f.name}`", _default(f), _meaning(f)]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return rows


def _meaning(f: "dataclasses.Field[Any]") -> str:
    rule = dict(f.metadata.get("rule", {}))
    choices = rule.pop("choices", ())
    parts = [str(f.metadata.get("help", "")).replace("<", "&lt;")]
    if choices:
        parts.append("one of " + ", ".join(f"`{choice}`" for choice in choices))
    if rule:
        parts.append(" and ".join(f"{bound.replace('_', ' ')} {number:,}" for bound, number in rule.items()))
    return "; ".join(parts)


def _default(f: "dataclasses.Field[Any]") -> str:
    if f.default_factory is not dataclasses.MISSING:
        value = f.default_factory()
    elif f.default is dataclasses.MISSING or f.default == "???":
        return "set by the option"
    else:
        value = f.default
    return f"`{value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
