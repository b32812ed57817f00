"""The usable photos of a set, with their splits and near-duplicates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sagehound.data import audit, splits
from sagehound.data.duplicates import Fingerprints, Pair, components, same
from sagehound.data.folders import Photo
from sagehound.data.photo_report import report_near_duplicates
from sagehound.errors import InputError
from sagehound.storage.atomic import write_csv, write_json


@dataclass(frozen=True)
class PhotoSet:
    """The usable photos of a set."""

    root: Path
    classes: list[str]  # in the order of the model's outputs
    photos: list[Photo]
    audit: dict[str, Any]  # what audit.json will hold
    digests: dict[str, str]  # SHA-256 of each file, in hexadecimal
    fingerprints: dict[str, str] = field(default_factory=dict)  # by which near-duplicates are recognised
    pairs: list[Pair] = field(default_factory=list)  # near-duplicates, by their places in ``photos``
    earlier: list[dict[str, str]] = field(default_factory=list)  # photos of the resumed run that are not used now

    def split(self, name: str) -> list[Photo]:
        """The photos of train, valid or test."""
        return [p for p in self.photos if p.split == name]

    def labels(self, photos: list[Photo]) -> list[int]:
        """The class of each photo, as the index of the model's output."""
        index = {label: i for i, label in enumerate(self.classes)}
        return [index[p.label] for p in photos]

    def weights(self, photos: list[Photo]) -> list[float] | None:
        """The weight of each photo in the loss, 1 on average; None if all have the same weight.

        Raises:
            InputError: all weights are 0.
        """
        weights = [p.weight for p in photos]
        if len(set(weights)) == 1 and weights[0]:
            return None
        mean = sum(weights) / len(weights)
        if not mean:
            raise InputError("the weights of all train photos are 0: give some of them more (data.columns.weight)")
        return [w / mean for w in weights]

    def write(self, folder: Path) -> None:
        """Write audit.json, and splits.csv: file, split, label, group, sha256.

        The photos that a resumed run was trained on before, and that are gone or left out, stay in splits.csv.
        """
        write_json(folder / "audit.json", self.audit)
        rows = [[p.file, p.split, p.label, p.group, self.digests[p.file]] for p in self.photos]
        rows += [[row[name] for name in splits.COLUMNS] for row in self.earlier]
        write_csv(folder / splits.RECORD, list(splits.COLUMNS), rows)

    def prints(self) -> Fingerprints:
        """The photos' fingerprints, in their order."""
        return Fingerprints([self.fingerprints[p.file] for p in self.photos])

    def scenes(self) -> list[int]:
        """The number of each photo's scene. Copies, near-duplicates and photos of one group have the same number."""
        links = [*same_content(self.photos, self.digests), *((p.a, p.b) for p in self.pairs)]
        return components(len(self.photos), links)

    def independent(self, split: str) -> int:
        """The number of different scenes in a split."""
        return len(set(self.scenes_of(split)))

    def scenes_of(self, split: str) -> list[int]:
        """The number of the scene of each photo of a split."""
        return [scene for scene, p in zip(self.scenes(), self.photos, strict=True) if p.split == split]

    def leaked(self) -> set[str]:
        """The test photos whose scene is also in train or valid."""
        scenes = self.scenes()
        seen = {scene for scene, p in zip(scenes, self.photos, strict=True) if p.split != "test"}
        return {p.file for scene, p in zip(scenes, self.photos, strict=True) if p.split == "test" and scene in seen}

    def with_pairs(self, pairs: Sequence[Pair]) -> "PhotoSet":
        """A copy with more near-duplicates, which its audit lists too; prints one line about them."""
        scenes = components(len(self.photos), ((p.a, p.b) for p in self.pairs))
        new = [p for p in pairs if scenes[p.a] != scenes[p.b]]
        all_pairs = of_different_files([*self.pairs, *new], self.photos, self.digests)
        report = self.audit | audit.near_duplicates(self.photos, all_pairs)
        known = {self.photos[i].file for p in self.pairs for i in (p.a, p.b)}
        report_near_duplicates(report, known)
        return replace(self, pairs=all_pairs, audit=report)


def same_content(photos: Sequence[Photo], digests: Mapping[str, str]) -> list[tuple[int, int]]:
    """Links between copies and between photos of one group."""
    return [*same(digests[p.file] for p in photos), *same(p.group for p in photos)]


def of_different_files(pairs: list[Pair], photos: list[Photo], digests: dict[str, str]) -> list[Pair]:
    """Pairs without exact copies, which the audit lists separately."""
    return [p for p in pairs if digests[photos[p.a].file] != digests[photos[p.b].file]]
