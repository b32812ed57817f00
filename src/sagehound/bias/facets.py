"""Columns of a CSV that put photos into groups, such as camera or place: Clarify's facets."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from sagehound.bias.photo_rows import CLASS
from sagehound.errors import InputError
from sagehound.system import console

MOST_VALUES = 20  # of a column; groups that are smaller than a twentieth say little


def read(
    path: Path, files: Sequence[str], file_column: str, columns: Sequence[str], ignored: Sequence[str] = ()
) -> dict[str, list[str]]:
    """Each photo's values in a CSV with a header; empty where the CSV has no line for it.

    Args:
        path: the CSV, UTF-8, fields divided by commas, semicolons or tabs.
        files: of the photos, n.
        file_column: the column with the photos' paths, relative to data.root.
        columns: that are wanted; empty: all with 2 to 20 values.
        ignored: columns that are no groups.

    Returns:
        n values by column.

    Raises:
        InputError: the file or a wanted column cannot be used, or no line is about one of the photos.
    """
    header, rows = _table(path)
    if file_column not in header:
        raise InputError(f"{path} has no column {file_column!r}, it has {', '.join(header) or 'none'}; rename it")
    if missing := [name for name in columns if name not in header]:
        raise InputError(f"bias.columns: {path} has no column {missing[0]!r}, it has {', '.join(header)}")
    by_file = {str(PurePosixPath(row[file_column].replace("\\", "/"))): row for row in rows}
    if not rows:
        raise InputError(f"{path} has no lines below its header")
    matched = sum(file in by_file for file in files)
    if not matched:
        raise InputError(
            f"{path} lists none of the photos: it has {next(iter(by_file))}, and the photos are like {files[0]}"
        )
    if matched < len(files):
        console.warn(f"{path} has no line for {len(files) - matched:,} of {len(files):,} photos; they are left out")
    wanted = columns or [name for name in header if name not in (file_column, *ignored)]
    facets = {name: [by_file.get(file, {}).get(name, "") for file in files] for name in wanted}
    return _usable(path, facets, is_chosen=bool(columns))


def _usable(path: Path, facets: dict[str, list[str]], *, is_chosen: bool) -> dict[str, list[str]]:
    """The columns with 2 to 20 values."""
    usable, others = {}, []
    for name, values in facets.items():
        count = len({*values} - {""})
        if 2 <= count <= MOST_VALUES and name != CLASS:
            usable[name] = values
            continue
        others.append(f"{name} ({count})")
        if is_chosen:
            raise InputError(
                f"bias.columns: {name} of {path} has {count} different values: it needs 2 to {MOST_VALUES}, and "
                f"another name than {CLASS!r}; put its values into groups"
            )
    if others:
        console.warn(f"{path}: no groups, which have 2 to {MOST_VALUES} different values: {', '.join(others)}")
    return usable


def _table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The header and the rows of a CSV."""
    try:
        text = path.read_bytes().decode("utf-8-sig").lstrip("\r\n")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}, from {Path.cwd()})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: save it as CSV UTF-8") from error
    first = text.splitlines()[:1]
    comma = max(",;\t", key=lambda c: len(next(csv.reader(first, delimiter=c), [])))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=comma)
    try:
        header = [name.strip() for name in next(reader, [])]
        rows = [dict.fromkeys(header, "") | dict(zip(header, map(str.strip, row), strict=False)) for row in reader]
    except csv.Error as error:
        raise InputError(f"{path} is no CSV ({error})") from error
    if twice := [name for name in header if header.count(name) > 1]:
        raise InputError(f"{path} has several columns {twice[0]!r}: rename all but one")
    return header, [row for row in rows if any(row.values())]
