"""Lines of CSV that a spreadsheet opens safely; copied into model.tar.gz."""

import csv
import io
import re
from collections.abc import Sequence

# the start of a formula in a spreadsheet: OWASP, "CSV Injection". Names that look marked are marked too, so that
# removing one ' always gives the name
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


def csv_line(row: Sequence[object]) -> bytes:
    r"""A line of CSV in UTF-8; bytes that are not UTF-8 are written as \udcXX.

    Text that begins with = + - @, a tab or a line end gets a ' in front, unless it is a number. A cell with a tab, a
    semicolon or a line end is quoted.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator=";\t\r\n").writerow([_marked(cell) for cell in row])  # it quotes these characters
    return text.getvalue().removesuffix(";\t\r\n").encode(errors="backslashreplace") + b"\n"


def unmarked(text: str) -> str:
    """The text of a cell that ``csv_line`` wrote, without its '."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def _marked(cell: object) -> object:
    formula = isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell)
    return f"'{cell}" if formula else cell
