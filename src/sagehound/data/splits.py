"""Splits that have no folder are taken from train: by whole groups, by content, and remembered from run to run."""

import csv
import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from sagehound import console
from sagehound.data.folders import Photo
from sagehound.errors import SagehoundError
from sagehound.files import read_csv, write_json

RECORD = "splits.csv"  # in a run's folder: the split of every photo, by content
_ROOM = 1.5  # a large group may fill a split up to so many times the wanted number of photos

Remembered = Mapping[str, str]  # the split that a photo was in before, by its SHA-256


def fill(
    photos: Sequence[Photo],
    digests: Mapping[str, str],
    groups: Sequence[int],
    missing: Sequence[str],
    data: DictConfig,
    remembered: Remembered,
) -> list[Photo]:
    """Take the missing splits from train: the same share of each class, in whole groups.

    Which groups are taken depends on the photos' content and ``data.split_seed`` alone. A group with a remembered photo
    follows it; where its photos were in several splits, all go to the first of train, valid and test, so that no photo
    that was trained on is tested.

    Args:
        photos: of the set.
        digests: SHA-256 of each file.
        groups: for each photo the number of its group; a group is never divided.
        missing: the splits that have no folder.
        data: split_seed, valid_fraction, test_fraction.
        remembered: the splits of an earlier run.
    """
    members: defaultdict[int, list[Photo]] = defaultdict(list)
    for photo, group in zip(photos, groups, strict=True):
        if photo.split == "train":
            members[group].append(photo)
    labels = {g: Counter(p.label for p in some) for g, some in members.items()}
    left = sum(labels.values(), Counter())  # photos of each class that are in no other split
    number = Counter(label for group in labels.values() for label in group)
    quotas = {s: _Quota(left, number, data[f"{s}_fraction"], len(missing) + 1) for s in missing}
    split_of: dict[int, str] = {}

    def put(group: int, split: str) -> None:
        split_of[group] = split
        if split in quotas:
            quotas[split].take(labels[group])
            left.subtract(labels[group])

    for group, some in members.items():
        before = {remembered.get(digests[p.file]) for p in some}
        if known := [s for s in ("train", *missing) if s in before]:
            put(group, known[0])
    queue = sorted(members, key=lambda g: _order(data.split_seed, [digests[p.file] for p in members[g]]))
    for room in (1.0, _ROOM, math.inf):  # a class of large groups alone gives one of them
        for split, quota in quotas.items():
            for group in queue:
                of = labels[group]
                if group not in split_of and quota.wants(of, room) and all(left[c] > n for c, n in of.items()):
                    put(group, split)
    place = {p.file: split_of.get(group, "train") for group, some in members.items() for p in some}
    return [replace(p, split=place.get(p.file, p.split)) for p in photos]


class _Quota:
    """What one split still takes of each class."""

    def __init__(self, photos: Counter[str], groups: Counter[str], share: float, splits: int) -> None:
        self._photos = {label: max(round(n * share), 1) for label, n in photos.items()}
        # where one group holds most photos of a class, all splits share the small ones
        self._groups = {label: max(round(n * share), n // splits, 1) for label, n in groups.items()}
        self._got, self._taken = Counter[str](), Counter[str]()

    def take(self, group: Counter[str]) -> None:
        """Count a group in; given are its photos of each class."""
        self._got.update(group)
        self._taken.update(group.keys())

    def wants(self, group: Counter[str], room: float) -> bool:
        """Whether photos of one of its classes are wanted and all fit into ``room`` times what is wanted.

        With endless room, only a split that has none of its classes takes it.
        """
        if room == math.inf:
            return not any(self._got[label] for label in group)
        needed = [c for c in group if self._got[c] < self._photos[c] and self._taken[c] < self._groups[c]]
        return bool(needed) and all(self._got[c] + n <= room * self._photos[c] for c, n in group.items())


def _order(seed: int, digests: Iterable[str]) -> str:
    """A group's place in the order in which groups are taken."""
    return min(hashlib.sha256(f"{seed}:{digest}".encode()).hexdigest() for digest in digests)


class Memory:
    """The splits that earlier runs made of the photos under one root, in ``cache.dir``.

    Args:
        root: of the photos.
        cache_dir: where it is kept.
        about: what the splits depend on besides the photos; another content is another memory.
    """

    def __init__(self, root: Path, cache_dir: Path, about: Mapping[str, Any]) -> None:
        name = hashlib.sha256(json.dumps([str(root.resolve()), about], sort_keys=True).encode()).hexdigest()[:16]
        self._path = cache_dir / "splits" / f"{name}.json"
        self._known: dict[str, list[Any]] = {}  # SHA-256: split, whether the last run had the photo
        with suppress(OSError, ValueError, TypeError):  # no earlier run, or not our file
            self._known = dict(json.loads(self._path.read_text(encoding="utf-8")))

    @property
    def splits(self) -> dict[str, str]:
        """The remembered split of each photo, by its SHA-256."""
        return {digest: str(split) for digest, (split, _) in self._known.items()}

    @property
    def last(self) -> set[str]:
        """The photos of the last run, by their SHA-256."""
        return {digest for digest, (_, present) in self._known.items() if present}

    def write(self, splits: Remembered) -> None:
        """Remember the splits of this run; photos that are gone stay known."""
        known = {digest: [split, 0] for digest, (split, _) in self._known.items()}
        known |= {digest: [split, 1] for digest, split in splits.items()}
        if known != self._known:
            try:
                write_json(self._path, known)
            except SagehoundError as error:
                console.warn(f"{error} (cache.dir); the split cannot be remembered")


def of_run(checkpoint: Path) -> dict[str, str]:
    """The splits that the run of a checkpoint was trained with, by SHA-256; empty where it left no record."""
    for folder in (checkpoint.parent.parent, checkpoint.parent):
        try:
            return {row["sha256"]: row["split"] for row in read_csv(folder / RECORD)}
        except (OSError, KeyError, ValueError, csv.Error):
            continue
    return {}
