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

from sagehound import console
from sagehound.config import Data
from sagehound.data.folders import Photo
from sagehound.errors import SagehoundError
from sagehound.files import read_csv, write_json

RECORD = "splits.csv"  # in a run's folder: the split of every photo, by content
COLUMNS = ("file", "split", "label", "group", "sha256")  # of the record
_ROOM = 1.5  # a large group may fill a split up to so many times the wanted number of photos

Remembered = Mapping[str, str]  # the split that a photo was in before, by its SHA-256


def fill(
    photos: Sequence[Photo],
    digests: Mapping[str, str],
    groups: Sequence[int],
    missing: Sequence[str],
    data: Data,
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
    quotas = {s: _Quota(left, number, getattr(data, f"{s}_fraction"), len(missing) + 1) for s in missing}
    split_of: dict[int, str] = {}

    def put(group: int, split: str) -> None:
        split_of[group] = split
        if split in quotas:
            quotas[split].take(labels[group])
            left.subtract(labels[group])

    def release(group: int) -> None:
        if (split := split_of.pop(group, "train")) in quotas:
            quotas[split].take(Counter({label: -n for label, n in labels[group].items()}), -1)
            left.update(labels[group])

    for group, some in members.items():
        before = {remembered.get(digests[p.file]) for p in some}
        if known := [s for s in ("train", *missing) if s in before]:
            put(group, known[0])
    for group, of in labels.items():  # a class whose train photos are gone is split anew
        if any(left[label] <= 0 for label in of):
            release(group)
    queue = sorted(members, key=lambda g: _order(data.split_seed, [digests[p.file] for p in members[g]]))
    # first so that every other split can still get a group, then one large group for a split that has none of a class
    for room, spare in ((1.0, True), (_ROOM, True), (math.inf, False)):
        for split, quota in quotas.items():
            others = [q for s, q in quotas.items() if s != split]
            for group in queue if spare else sorted(queue, key=lambda g: sum(labels[g].values())):
                of = labels[group]
                needed = {c: n + sum(q.lacks(c) for q in others) * spare for c, n in of.items()}
                if group not in split_of and quota.wants(of, room) and all(left[c] > n for c, n in needed.items()):
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

    def take(self, group: Counter[str], number: int = 1) -> None:
        """Count a group in (or out, with negative numbers); given are its photos of each class."""
        self._got.update(group)
        self._taken.update(dict.fromkeys(group, number))

    def lacks(self, label: str) -> bool:
        """Whether the split has no photo of a class."""
        return self._got[label] <= 0

    def wants(self, group: Counter[str], room: float) -> bool:
        """Whether photos of one of its classes are wanted and all fit into ``room`` times what is wanted.

        With endless room, only a split that has none of its classes takes it.
        """
        if room == math.inf:
            return all(self.lacks(label) for label in group)
        needed = [c for c in group if self._got[c] < self._photos[c] and self._taken[c] < self._groups[c]]
        return bool(needed) and all(self._got[c] + n <= room * self._photos[c] for c, n in group.items())


def _order(seed: int, digests: Iterable[str]) -> str:
    """A group's place in the order in which groups are taken; large groups come neither earlier nor later."""
    return hashlib.sha256(f"{seed}:{min(digests)}".encode()).hexdigest()


class Memory:
    """The splits that earlier runs made of a set, in ``cache.dir``.

    Args:
        place: the folder, archive or table that the photos come from.
        cache_dir: where it is kept.
        about: what the splits depend on besides the photos; another content is another memory.
        groups: the group of each photo by its SHA-256. If a known photo's has changed, all is forgotten.
    """

    def __init__(self, place: Path, cache_dir: Path, about: Mapping[str, Any], groups: Mapping[str, str]) -> None:
        known = json.dumps([str(place.resolve()), about], sort_keys=True)
        name = hashlib.sha256(known.encode(errors="surrogateescape")).hexdigest()[:16]
        self._path, self._groups = cache_dir / "splits" / f"{name}.json", groups
        self._known = _read_memory(self._path)
        if any(groups.get(digest, group) != group for digest, (_, group, _) in self._known.items()):
            console.say("data: the groups have changed since the last run: the photos are split anew")
            self._known = {}

    @property
    def splits(self) -> dict[str, str]:
        """The remembered split of each photo, by its SHA-256."""
        return {digest: split for digest, (split, _, _) in self._known.items()}

    @property
    def last(self) -> set[str]:
        """The photos of the last run, by their SHA-256."""
        return {digest for digest, (_, _, present) in self._known.items() if present}

    def write(self, splits: Remembered) -> None:
        """Remember the splits of this run; photos that are gone stay known."""
        known = {digest: (split, group, False) for digest, (split, group, _) in self._known.items()}
        known |= {digest: (split, self._groups[digest], True) for digest, split in splits.items()}
        if known != self._known:
            try:
                write_json(self._path, known)
            except SagehoundError as error:
                console.warn(f"{error} (cache.dir); the split cannot be remembered")


def _read_memory(path: Path) -> dict[str, tuple[str, str, bool]]:
    """Split, group and whether the last run had it, of each photo; nothing if the file is missing or not ours."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {
            str(digest): (str(split), str(group), bool(present)) for digest, (split, group, present) in found.items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def of_run(checkpoint: Path) -> list[dict[str, str]] | None:
    """The rows of the splits.csv that the run of a checkpoint left; None if there is none."""
    for folder in (checkpoint.parent.parent, checkpoint.parent):
        with suppress(OSError, ValueError, csv.Error):
            rows = read_csv(folder / RECORD)
            if all(row.keys() >= set(COLUMNS) for row in rows):
                return rows
    return None
