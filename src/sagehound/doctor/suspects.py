"""The photos that a person should look at, each with its problems."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sagehound.data.corrections import KEEP
from sagehound.data.duplicates import components, same
from sagehound.data.folders import SPLITS, Photo
from sagehound.data.photo_set import PhotoSet

NAME = "suspects.csv"
COLUMNS = ["file", "split", "label", "problems", "reason", "action", "new_class"]
LABEL, DUPLICATE, OUTLIER = "label", "duplicate", "outlier"


@dataclass
class Suspect:
    """A photo with what is probably wrong with it.

    Attributes:
        photo: of the set.
        problems: label, duplicate, outlier, blurred, dark, bright, plain or small, each with its reason.
        suggested: the class that it looks like, if its label is suspicious.
        like: the file of the photo that it nearly duplicates.
    """

    photo: Photo
    problems: dict[str, str] = field(default_factory=dict)
    suggested: str = ""
    like: str = ""

    @property
    def row(self) -> list[str]:
        """The line of suspects.csv; the doctor itself always keeps the photo."""
        p = self.photo
        return [
            p.file, p.split, p.label, " ".join(self.problems), "; ".join(self.problems.values()), KEEP, self.suggested
        ]  # fmt: skip


def suspects(photos: PhotoSet, insights: Mapping[str, Any], quality: Mapping[str, Mapping[str, str]]) -> list[Suspect]:
    """Every photo with a problem: suspicious labels first, then near-duplicates, outliers, and poor photos.

    Args:
        photos: the set.
        insights: see ``report.insights.of_features``.
        quality: for each kind of problem the files that have it, each with its measure.
    """
    by_file = {p.file: Suspect(p) for p in photos.photos}
    listed: dict[str, Suspect] = {}

    def add(file: str, problem: str, reason: str) -> Suspect:
        one = listed.setdefault(file, by_file[file])
        one.problems[problem] = reason
        return one

    for row in insights["suspicious_labels"]:
        add(row["file"], LABEL, f"looks like {row['suggested']}").suggested = row["suggested"]
    for photo, like in duplicates(photos):
        about = [f"in {like.split}" if like.split != photo.split else "", f"labelled {like.label}"]
        where = ", ".join(part for part in about[: 1 + (like.label != photo.label)] if part)
        add(photo.file, DUPLICATE, f"like {like.file}" + (f" ({where})" if where else "")).like = like.file
    for row in insights["outliers"]:
        add(row["file"], OUTLIER, "unlike all other photos")
    for problem, files in quality.items():
        for file, measure in files.items():
            add(file, problem, f"{problem}: {measure}")
    return list(listed.values())


def duplicates(photos: PhotoSet) -> list[tuple[Photo, Photo]]:
    """Photos that are copies or near-duplicates of another one, each with that photo, which is not listed itself.

    Of each group, a photo of the test split is left unlisted, then one of valid, then one of train: dropping the listed
    ones leaves no copy in two splits.
    """
    links: Iterable[tuple[int, int]] = [
        *same(photos.digests[p.file] for p in photos.photos),
        *((p.a, p.b) for p in photos.pairs),
    ]
    groups: defaultdict[int, list[Photo]] = defaultdict(list)
    for photo, group in zip(photos.photos, components(len(photos.photos), links), strict=True):
        groups[group].append(photo)
    copies = []
    for members in groups.values():
        original, *others = sorted(members, key=lambda p: (-SPLITS.index(p.split), p.file))
        copies += [(photo, original) for photo in others]
    return copies


def counts(listed: Sequence[Suspect]) -> dict[str, int]:
    """The number of photos with each problem."""
    number: defaultdict[str, int] = defaultdict(int)
    for one in listed:
        for problem in one.problems:
            number[problem] += 1
    return dict(number)
