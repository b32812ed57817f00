"""Lines of CSV that a spreadsheet opens without running anything; travels in the artifact."""

import csv
import io
import re
from collections.abc import Sequence

# what a spreadsheet takes for a formula: OWASP, "CSV Injection". Names that look as if this module had marked them are
# marked as well, so that taking one ' off always gives the name back
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


def csv_line(row: Sequence[object]) -> bytes:
    r"""A line of CSV in UTF-8; bytes of a name that are no UTF-8 are written as \udcXX.

    Text that begins with = + - @, a tab or the end of a line gets a ' in front, unless it is a number. A cell that
    holds a tab, a semicolon or the end of a line of any system is quoted.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator=";\t\r\n").writerow([_marked(cell) for cell in row])  # it quotes these characters
    return text.getvalue().removesuffix(";\t\r\n").encode(errors="backslashreplace") + b"\n"


def unmarked(text: str) -> str:
    """The text of a cell that ``csv_line`` wrote, without the ' that it put in front."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def _marked(cell: object) -> object:
    formula = isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell)
    return f"'{cell}" if formula else cell
