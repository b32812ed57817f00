"""Corrections of a set of photos: data.exclude, a CSV that says which photos to drop or to give another class."""

import csv
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sagehound.data.folders import Photo, Tree
from sagehound.errors import InputError
from sagehound.storage.atomic import as_written, read_csv
from sagehound.system import console

COLUMNS = ("file", "action", "new_class")  # that are read; others are ignored
KEEP, RELABEL, DROP = ACTIONS = ("keep", "relabel", "drop")
_SHOWN = 3  # unknown files in an error message


@dataclass(frozen=True)
class Correction:
    """What to do with one photo."""

    file: str  # path below the root, with /
    action: str  # keep, relabel or drop
    new_class: str = ""  # of a relabelled photo


def read(path: Path, files: Collection[str] = (), classes: Collection[str] = ()) -> list[Correction]:
    """The corrections of a CSV with the columns file, action and new_class; an empty action is keep.

    Args:
        path: of the CSV.
        files: the photos' names; one that ends with a space, or is not UTF-8, is recognised only if it is given.
        classes: the names of the classes, likewise.

    Raises:
        InputError: it cannot be read, lacks a column, or a row is wrong.
    """
    try:
        rows = read_csv(path)
        header = path.read_text(encoding="utf-8").partition("\n")[0]
    except OSError as error:
        raise InputError(
            f"data.exclude={path} cannot be read ({error.strerror}, from {Path.cwd()}): give the suspects.csv of "
            "`sagehound doctor`"
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"data.exclude={path} is no CSV in UTF-8 ({error}): save it as CSV UTF-8") from error
    if not rows and not {"file", "action"} <= {name.strip('\ufeff" \r') for name in header.split(",")}:
        raise InputError(f"data.exclude={path} has no rows and no columns file and action: give suspects.csv")
    return _checked(path, rows, {as_written(f): f for f in files}, {as_written(c): c for c in classes})


def _checked(
    path: Path, rows: Iterable[dict[str, str]], files: dict[str, str], classes: dict[str, str]
) -> list[Correction]:
    corrections: dict[str, Correction] = {}
    for number, row in enumerate(rows, 2):
        values = {name.removeprefix("\ufeff").strip(): value for name, value in row.items() if name}
        where = f"data.exclude={path}, line {number}"
        if missing := [name for name in ("file", "action") if name not in values]:
            raise InputError(f"{where}: no column {missing[0]!r}; it needs file, action and, to relabel, new_class")
        action = values["action"].strip().lower() or KEEP
        one = Correction(_named(values["file"], files), action, _named(values.get("new_class", ""), classes))
        if one.action not in ACTIONS:
            raise InputError(f"{where}: action {values['action']!r}: write keep, relabel or drop")
        if one.action == RELABEL and not one.new_class:
            raise InputError(f"{where}: {one.file} has the action relabel but no new_class: write the right class")
        before = corrections.setdefault(one.file, one)
        if before != one and KEEP not in (before.action, one.action):
            raise InputError(f"{where}: {one.file} is listed before with another action or class: remove one line")
        if before.action == KEEP:
            corrections[one.file] = one
    return list(corrections.values())


def _named(text: str, names: dict[str, str]) -> str:
    """The name that a cell means: exactly, or without the spaces around it."""
    return names.get(text) or names.get(text.strip(), text.strip())


def apply(tree: Tree, path: Path) -> tuple[Tree, dict[str, Any]]:
    """Drop and relabel the photos of a tree; returns the tree, and what audit.json says about it.

    Raises:
        InputError: the CSV is wrong, or names a photo or a class that the tree does not have.
    """
    label_of = {p.file: p.label for p in tree.photos}
    classes = set(label_of.values())
    corrections = {one.file: one for one in read(path, label_of, classes)}
    if unknown := [file for file in corrections if file not in label_of]:
        few = ", ".join(unknown[:_SHOWN]) + (", ..." if unknown[_SHOWN:] else "")
        raise InputError(
            f"data.exclude={path}: {len(unknown)} of {len(corrections)} files are not among the photos of {tree.root} "
            f"({few}): give the file of the same photos, or remove these lines"
        )
    for one in corrections.values():
        if one.action == RELABEL and one.new_class not in classes:
            known = ", ".join(sorted(classes)[:8]) + (", ..." if len(classes) > 8 else "")
            raise InputError(f"data.exclude={path}: {one.file}: no class {one.new_class!r}; the photos have {known}")
    left = [p for p in tree.photos if p.file not in corrections or corrections[p.file].action != DROP]
    dropped = [p.file for p in tree.photos if p.file in corrections and corrections[p.file].action == DROP]
    photos = [_corrected(p, corrections.get(p.file)) for p in left]
    relabelled = [
        {"file": old.file, "from": old.label, "to": new.label}
        for old, new in zip(left, photos, strict=True)
        if old.label != new.label
    ]
    console.info(f"data.exclude: photos dropped: {len(dropped)}, relabelled: {len(relabelled)}")
    return replace(tree, photos=photos), {"file": str(path), "dropped": dropped, "relabelled": relabelled}


def _corrected(photo: Photo, correction: Correction | None) -> Photo:
    if correction is None or correction.action != RELABEL:
        return photo
    return replace(photo, label=correction.new_class)
