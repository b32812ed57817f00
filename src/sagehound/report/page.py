"""The parts of a report's page, and how they become one HTML file without outside addresses."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from sagehound.report.charts import Picture
from sagehound.report.choices import Download
from sagehound.report.images import Tile

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Part:
    """One part of a section.

    Attributes:
        kind: answer, text, list, actions, picture, tiles, choices, download, code or table.
        text: of an answer, a text or code.
        items_: of a list, of actions, of tiles or of choices.
        download: of a download.
        picture: of a picture.
        caption, columns, rows, sortable: of a table.
    """

    kind: str
    text: str = ""
    items_: Sequence[Any] = ()
    download: Download | None = None
    picture: Picture | None = None
    caption: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[object]] = ()
    sortable: bool = False


@dataclass
class Section:
    """A section with a heading; it is left out without parts."""

    title: str
    parts: list[Part] = field(default_factory=list)

    @property
    def id(self) -> str:
        """The heading's anchor."""
        return "-".join(self.title.lower().split())

    def text(self, text: str) -> None:
        """Add a paragraph."""
        self.parts.append(Part("text", text))

    def picture(self, picture: Picture) -> None:
        """Add a chart."""
        self.parts.append(Part("picture", picture=picture))

    def tiles(self, tiles: Sequence[Tile]) -> None:
        """Add photos."""
        self.parts.append(Part("tiles", items_=tiles))

    def table(
        self, caption: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *, sortable: bool = False
    ) -> None:
        """Add a table; the first cell of each row is its heading."""
        self.parts.append(Part("table", caption=caption, columns=columns, rows=rows, sortable=sortable))


def render(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The page as HTML; every text is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((_HERE / "page.html").read_text(encoding="utf-8"))
    shown = [section for section in sections if section.parts]
    names = ["page"]
    if any(part.kind == "choices" for section in shown for part in section.parts):
        names.append("choices")
    style, script = (_joined([f"{name}.{kind}" for name in names]) for kind in ("css", "js"))
    page = template.render(title=title, subtitle=subtitle, sections=shown, style=style, script=script)
    return page.encode("utf-8", "backslashreplace").decode()


def _joined(names: Sequence[str]) -> Markup:
    return Markup("".join((_HERE / name).read_text(encoding="utf-8") for name in names))
