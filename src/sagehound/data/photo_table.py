"""Photos that a table lists: a CSV of files and labels, with an optional split, group and weight."""

import csv
import io
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from sagehound.config import Columns, as_dict
from sagehound.data.folders import SPLIT_NAMES, SPLITS, Photo, Tree, one_spelling
from sagehound.errors import InputError

_HEAVIEST = 1_000_000  # weight of a photo


def read(table: Path, root: Path, columns: Columns) -> Tree:
    """The photos of a CSV with a header. Without a column of splits all are train.

    Args:
        table: the CSV, UTF-8, fields divided by commas, semicolons or tabs.
        root: the folder that the files are relative to.
        columns: the names of the columns: file and label; split, group and weight may be missing.

    Raises:
        InputError: it cannot be read, lacks a column, or a row is wrong.
    """
    try:
        content = table.read_bytes()
    except OSError as error:
        raise InputError(f"data.table={table} cannot be read ({error.strerror}, from {Path.cwd()})") from error
    if content.startswith(b"PK"):
        raise InputError(f"data.table={table} is a spreadsheet or an archive: export it as CSV")
    try:
        rows = list(_photos(table, content.decode("utf-8-sig"), columns))
    except UnicodeDecodeError as error:
        raise InputError(f"data.table={table} is not UTF-8 text: save it as CSV UTF-8") from error
    except csv.Error as error:
        raise InputError(f"data.table={table} is no CSV ({error})") from error
    return _tree(root, rows, f"data.table={table}", "lines")


def of_source(source: Callable[..., Iterable[Photo]], root: Path) -> Tree:
    """The photos that the user's function lists; it is called with root=.

    Raises:
        InputError: its result cannot be used.
    """
    name = "data.source"
    rows: list[tuple[int, Photo]] = []
    for number, photo in enumerate(source(root=root), 1):
        if not isinstance(photo, Photo):
            raise InputError(f"{name}: item {number} is {photo!r}; return sagehound.Photo(file, split, label) objects")
        path = PurePosixPath(photo.file)
        if not photo.file or path.is_absolute() or ".." in path.parts or "\0" in photo.file:
            raise InputError(f"{name}: {photo.file!r} must lie below {root}: give a path relative to that folder")
        if photo.split not in SPLITS or not photo.label:
            raise InputError(f"{name}: {photo.file} needs a label, and train, valid or test as its split")
        if not 0 <= photo.weight <= _HEAVIEST:  # NaN too
            raise InputError(f"{name}: {photo.file}: its weight must be a number from 0 to {_HEAVIEST:,}")
        label = unicodedata.normalize("NFC", photo.label)
        rows.append((number, replace(photo, file=str(path), label=label)))
    return _tree(root, rows, name, "items")


def _tree(root: Path, rows: Sequence[tuple[int, Photo]], name: str, what: str) -> Tree:
    """The photos in order, each file once. ``name`` and ``what`` are for error messages."""
    if not rows:
        raise InputError(f"{name} lists no photos")
    seen: dict[str, int] = {}
    for number, photo in rows:
        if photo.file in seen:
            raise InputError(f"{name}: {what} {seen[photo.file]} and {number} both list {photo.file}")
        seen[photo.file] = number
    if not any(p.split == "train" for _, p in rows):
        raise InputError(f"{name}: no photo is in the train split")
    photos = sorted((p for _, p in rows), key=lambda p: (SPLITS.index(p.split), p.file))
    spelling = one_spelling(photos)
    photos = [replace(p, label=spelling[p.label.casefold()]) for p in photos]
    return Tree(root, photos, [], {}, [])


def _photos(table: Path, text: str, columns: Columns) -> Iterator[tuple[int, Photo]]:
    """Each row's line number and photo."""
    text = text.lstrip("\r\n")
    first = text.splitlines()[:1]
    comma = max(",;\t", key=lambda c: len(next(csv.reader(first, delimiter=c), [])))
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=comma)
    have = [name.strip() for name in reader.fieldnames or []]
    reader.fieldnames = have
    names: dict[str, str] = as_dict(columns)
    for name in names.values():
        if have.count(name) > 1:
            raise InputError(f"data.table={table} has several columns {name!r}: rename all but one")
    for key in ("file", "label"):
        if names[key] not in have:
            raise InputError(
                f"data.table={table} has no column {names[key]!r}, it has {', '.join(have) or 'none'}: "
                f"give data.columns.{key}=NAME"
            )

    def wrong(reason: str) -> InputError:
        return InputError(f"data.table={table}, line {reader.line_num}: {reason}")

    for row in reader:
        value = {key: (row.get(name) or "").strip() for key, name in names.items()}
        if not any(value.values()):
            continue
        file, split = value["file"].replace("\\", "/"), value["split"].lower()
        label = unicodedata.normalize("NFC", value["label"])
        path = PurePosixPath(file)
        if not file or not label:
            raise wrong("file or label is empty")
        if "\0" in file:
            raise wrong("the file's name holds a NUL byte")
        if path.is_absolute() or ".." in path.parts or path.drive:
            raise wrong(f"{file} must lie below data.root: write it relative to that folder")
        if split and split not in SPLIT_NAMES:
            raise wrong(f"split {split!r}: write train, valid or test, or leave it empty for train")
        weight = 1.0
        if value["weight"]:
            try:
                weight = float(value["weight"])
            except ValueError as error:
                raise wrong(f"weight {value['weight']!r} is not a number") from error
            if not 0 <= weight <= _HEAVIEST:  # NaN too
                raise wrong(f"weight {weight:g}: must be a number from 0 to {_HEAVIEST:,}")
        yield reader.line_num, Photo(str(path), SPLIT_NAMES.get(split, "train"), label, value["group"], weight)
