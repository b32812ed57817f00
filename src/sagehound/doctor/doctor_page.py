"""doctor.html: the suspicious photos with buttons to keep, relabel or drop them."""

from collections.abc import Mapping, Sequence
from typing import Any

from sagehound.data.photo_set import PhotoSet
from sagehound.doctor.suspects import COLUMNS, DUPLICATE, LABEL, NAME, OUTLIER, Suspect
from sagehound.inference.spreadsheet import csv_line
from sagehound.report import charts
from sagehound.report.choices import Choice, Download
from sagehound.report.images import thumbnail
from sagehound.report.page import Part, Section, render

MOST = 200  # photos of a section that are shown; suspects.csv has all

_TITLES = {
    LABEL: "Suspicious labels",
    DUPLICATE: "Copies and near-duplicates",
    OUTLIER: "Photos unlike all others",
}
_OTHER = "Blurred, dark, plain or small photos"
_ABOUT = {
    _TITLES[LABEL]: "The other photos support another class, the most suspicious first. Some labels may be right.",
    _TITLES[DUPLICATE]: "Each is beside a photo that stays. Copies in two splits make the test accuracy too high.",
    _TITLES[OUTLIER]: "Their features are far from those of all other photos: another subject, a drawing.",
    _OTHER: "Measured on the pixels that the model gets.",
}


def page(photos: PhotoSet, listed: Sequence[Suspect], results: Mapping[str, Any]) -> str:
    """The page as HTML, without outside addresses.

    Args:
        photos: the set.
        listed: the suspects in the order of suspects.csv.
        results: doctor.json.
    """
    sections = {title: Section(title) for title in (*_TITLES.values(), _OTHER)}
    choices: dict[str, list[Choice]] = {title: [] for title in sections}
    for row, one in enumerate(listed):
        title = _TITLES.get(next(iter(one.problems)), _OTHER)
        if len(choices[title]) < MOST:
            choices[title].append(_choice(photos, row, one))
    for title, some in choices.items():
        total = sum(_TITLES.get(next(iter(one.problems)), _OTHER) == title for one in listed)
        if some:
            more = f" The first {len(some)} of {total} are shown; {NAME} lists all." if total > len(some) else ""
            sections[title].text(_ABOUT[title] + more)
            sections[title].parts.append(Part("choices", items_=some))
    subtitle = f"{results['photos']:,} photos of {len(photos.classes)} classes in {photos.root.resolve()}"
    return render("Doctor", subtitle, [_summary(photos, listed, results), *sections.values(), _set(results)])


def _choice(photos: PhotoSet, row: int, one: Suspect) -> Choice:
    lines = [f"{one.photo.label}, {one.photo.split}", *one.problems.values(), one.photo.file]
    beside = thumbnail(photos.root / one.like) if one.like else ""
    return Choice(row, one.photo.file, thumbnail(photos.root / one.photo.file), lines, one.suggested, beside)


def _summary(photos: PhotoSet, listed: Sequence[Suspect], results: Mapping[str, Any]) -> Section:
    section = Section("Summary")
    section.parts.append(Part("answer", f"{len(listed):,} of {results['photos']:,} photos are suspicious"))
    each = [f"{problem}: {number}" for problem, number in results["problems"].items()]
    each += [f"{' and '.join(pair['classes'])} cannot be told apart" for pair in results["inseparable_classes"]]
    each += [results["more_photos"]["sentence"]] if results["more_photos"]["sentence"] else []
    if each:
        section.parts.append(Part("list", items_=each))
    if listed:
        section.text(
            f"Choose keep, relabel or drop below each photo, download {NAME}, and train with data.exclude={NAME}. Your "
            "photos are not changed."
        )
        rows = [(csv_line(one.row[:-2]).decode().rstrip("\n"), one.suggested) for one in listed]
        section.parts.append(Part("download", download=Download(NAME, ",".join(COLUMNS), rows, photos.classes)))
    return section


def _set(results: Mapping[str, Any]) -> Section:
    """What concerns the whole set: classes and the number of photos."""
    section = Section("Classes and number of photos")
    for pair in results["inseparable_classes"]:
        section.text(
            f"{' and '.join(pair['classes'])}: {pair['error']:.0%} of their {pair['photos']} photos resemble the "
            "other. Merge them, or check what distinguishes them."
        )
    curve = results["learning_curve"]
    if len(curve) > 1:
        text = "; ".join(f"{p['photos']} photos {p['top1']:.1%}" for p in curve)
        section.picture(charts.vector(charts.learning_curve(curve), f"Accuracy by number of photos: {text}"))
        section.text(f"{results['more_photos']['sentence']}, if the learning curve continues.")
    return section
