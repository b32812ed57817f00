"""monitor.html: what has changed, and the most foreign photos."""

from typing import TYPE_CHECKING

import numpy as np

from sagehound.report.images import Tile
from sagehound.report.page import Part, Section, render

if TYPE_CHECKING:
    from sagehound.monitoring.photo_check import DriftCheck

MOST = 24  # photos that are shown


def page(check: "DriftCheck") -> str:
    """The page as HTML, which needs no connection."""
    subtitle = f"{len(check.window.photos)} photos against {_baseline(check)}"
    return render("Photos compared with the baseline", subtitle, [_result(check), _tests(check), _foreign(check)])


def _baseline(check: "DriftCheck") -> str:
    about, photos = check.baseline.about, len(check.baseline.sample)
    if "folder" in about:
        return f"{photos} photos of {about['folder']}"
    return f"{photos} photos of the {about.get('split')} split of the training"


def _result(check: "DriftCheck") -> Section:
    section = Section("Result")
    changes = check.changes
    section.parts.append(Part("answer", text="The photos have changed" if changes else "No change found"))
    if changes:
        section.parts.append(Part("list", items_=changes))
    if check.too_few:
        section.text(f"Note: {check.too_few}.")
    window = check.window
    if window.unreadable or window.repeated:
        section.text(
            f"{len(window.unreadable)} photos could not be read; {window.repeated} came before with the same content "
            "and count once."
        )
    return section


def _tests(check: "DriftCheck") -> Section:
    section = Section("Tests")
    rows = [
        [
            one.name,
            one.test.replace("_", " "),
            _number(one.baseline),
            _number(one.window),
            f"{one.statistic:.3g}",
            f"{one.p:.2g}",
            f"{one.adjusted:.2g}",
            "changed" if one.drift else "",
        ]
        for one in check.comparisons
    ]
    columns = ["property", "test", "median of the baseline", "median now", "statistic", "p", "adjusted p", "result"]
    section.table("One test for each property", columns, rows)
    section.text(
        f"A property has changed if its adjusted p value is at most {check.alpha:g}. If nothing has changed, the "
        f"probability that any test says so is at most {check.alpha:g} (Holm's method)."
    )
    return section


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _foreign(check: "DriftCheck") -> Section:
    section = Section("Most foreign photos")
    apart, window = check.distances, check.window
    order = np.argsort(-apart.window, kind="stable")[:MOST]
    tiles = []
    for i in order:
        photo, p = window.photos[i], window.probabilities[i]
        lines = [
            f"distance {apart.window[i]:.2f}",
            f"{check.classes[int(p.argmax())]}, {p.max():.0%}",
            photo.name,
            *([photo.time] if photo.time else []),
        ]
        tiles.append(Tile(photo.tile, lines, f"photo {photo.name}: {'; '.join(lines[:2])}"))
    section.tiles(tiles)
    section.text(
        "The distance of a photo is that of its features to the fifth nearest photo of the baseline, divided by the "
        f"median of this distance between photos of the baseline, where the largest is {apart.baseline.max():.2f}. "
        "The photos are shown as the model gets them."
    )
    return section
