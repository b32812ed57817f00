"""Photos that a table lists: a CSV of files and labels, with an optional split, group and weight."""

import csv
import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from omegaconf import DictConfig

from sagehound.data.folders import SPLIT_NAMES, SPLITS, Photo, Tree
from sagehound.errors import InputError


def read(table: Path, root: Path, columns: DictConfig) -> Tree:
    """The photos of a CSV with a line of column names; without a column of splits all count as train.

    Args:
        table: the CSV, UTF-8, fields divided by commas, semicolons or tabs.
        root: the folder that the files are relative to.
        columns: the names of the columns: file and label; split, group and weight may be missing.

    Raises:
        InputError: it cannot be read, lacks a column, or a row is wrong.
    """
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = list(_photos(table, file.read(), columns))
    except OSError as error:
        raise InputError(f"data.table={table} cannot be read ({error.strerror}, from {Path.cwd()})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"data.table={table} is not UTF-8 text: save it as CSV UTF-8") from error
    if not rows:
        raise InputError(f"data.table={table} lists no photos")
    seen: dict[str, int] = {}
    for line, photo in rows:
        if photo.file in seen:
            raise InputError(f"data.table={table}: lines {seen[photo.file]} and {line} both list {photo.file}")
        seen[photo.file] = line
    if not any(p.split == "train" for _, p in rows):
        raise InputError(f"data.table={table}: no photo is in the train split")
    return Tree(root, sorted((p for _, p in rows), key=lambda p: (SPLITS.index(p.split), p.file)), [], {}, [])


def _photos(table: Path, text: str, columns: DictConfig) -> Iterator[tuple[int, Photo]]:
    """Each row's line number and photo."""
    first = text.partition("\n")[0]
    comma = max(",;\t", key=first.count)
    reader = csv.DictReader(text.splitlines(keepends=True), delimiter=comma)
    have = reader.fieldnames or []
    for key in ("file", "label"):
        if columns[key] not in have:
            raise InputError(
                f"data.table={table} has no column {columns[key]!r}, it has {', '.join(have) or 'none'}: "
                f"give data.columns.{key}=NAME"
            )

    def wrong(reason: str) -> InputError:
        return InputError(f"data.table={table}, line {reader.line_num}: {reason}")

    for row in reader:
        value = {key: (row.get(columns[key]) or "").strip() for key in columns}
        if not any(value.values()):
            continue
        file, label, split = value["file"].replace("\\", "/"), value["label"], value["split"].lower()
        path = PurePosixPath(file)
        if not file or not label:
            raise wrong("file or label is empty")
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
            if not (math.isfinite(weight) and weight >= 0):
                raise wrong(f"weight {weight:g}: must be a finite number from 0 on")
        yield reader.line_num, Photo(str(path), SPLIT_NAMES.get(split, "train"), label, value["group"], weight)
