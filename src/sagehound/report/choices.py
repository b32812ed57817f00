"""Photos of a page for which a person chooses to keep, relabel or drop them, and the CSV with the choices."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Choice:
    """A photo with its three buttons.

    Attributes:
        row: its place in the rows of the download, from 0.
        file: below the photos' folder.
        source: the photo as a data URI; empty if it cannot be read.
        lines: what is written under it.
        new_class: the class that is proposed for it; may be empty.
        beside: another photo as a data URI, with which it is compared; empty without one.
    """

    row: int
    file: str
    source: str
    lines: list[str]
    new_class: str = ""
    beside: str = ""


@dataclass(frozen=True)
class Download:
    """The CSV that the page's button downloads.

    Attributes:
        name: of the file.
        header: its first line.
        rows: for each photo the start of its line, and its new class; the page adds the action.
        classes: the names that a new class can have.
    """

    name: str
    header: str
    rows: Sequence[tuple[str, str]]
    classes: Sequence[str]

    @property
    def content(self) -> dict[str, Any]:
        """What the page's script reads."""
        return {"name": self.name, "header": self.header, "rows": self.rows, "classes": self.classes}
