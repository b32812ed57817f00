"""Takes missing splits from train in whole groups, by content, and remembers them for later runs."""

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

from sagehound.config import Data
from sagehound.data.folders import Photo
from sagehound.errors import SagehoundError
from sagehound.storage.atomic import read_csv, write_json
from sagehound.system import console

RECORD = "splits.csv"  # in a run's folder: the split of every photo, by content
COLUMNS = ("file", "split", "label", "group", "sha256")  # of the record
_ROOM = 1.5  # a large group may fill a split up to this multiple of the wanted number of photos

Remembered = Mapping[str, str]  # earlier split of each photo, by its SHA-256


def fill(
    photos: Sequence[Photo],
    digests: Mapping[str, str],
    groups: Sequence[int],
    missing: Sequence[str],
    data: Data,
    remembered: Remembered,
) -> list[Photo]:
    """Take the missing splits from train: the same share of each class, in whole groups.

    The choice depends only on the photos' content and ``data.split_seed``. A group with a remembered photo gets that
    photo's split. If its photos were in several splits, all get the first of train, valid and test, so that no photo
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
    assignment = _Assignment(members, missing, data)
    for group, some in members.items():
        before = {remembered.get(digests[p.file]) for p in some}
        if known := [s for s in ("train", *missing) if s in before]:
            assignment.put(group, known[0])
    assignment.release_empty_classes()
    assignment.fill(sorted(members, key=lambda g: _order(data.split_seed, [digests[p.file] for p in members[g]])))
    place = {p.file: assignment.split_of.get(group, "train") for group, some in members.items() for p in some}
    return [replace(p, split=place.get(p.file, p.split)) for p in photos]


class _Assignment:
    """Which group goes to which split.

    Args:
        members: the train photos of each group.
        missing: the splits to fill.
        data: valid_fraction and test_fraction.
    """

    def __init__(self, members: Mapping[int, Sequence[Photo]], missing: Sequence[str], data: Data) -> None:
        self.split_of: dict[int, str] = {}
        self._labels = {g: Counter(p.label for p in some) for g, some in members.items()}
        self._left = sum(self._labels.values(), Counter())  # photos of each class that are in no other split
        number = Counter(label for labels in self._labels.values() for label in labels)
        self._quotas = {
            s: _Quota(self._left, number, getattr(data, f"{s}_fraction"), len(missing) + 1) for s in missing
        }

    def put(self, group: int, split: str) -> None:
        """Assign a group to a split."""
        self.split_of[group] = split
        if split in self._quotas:
            self._quotas[split].take(self._labels[group])
            self._left.subtract(self._labels[group])

    def release_empty_classes(self) -> None:
        """Divide a class anew if none of its photos is left in train."""
        for group, labels in self._labels.items():
            if any(self._left[label] <= 0 for label in labels):
                self._release(group)

    def _release(self, group: int) -> None:
        if (split := self.split_of.pop(group, "train")) in self._quotas:
            self._quotas[split].take(Counter({label: -n for label, n in self._labels[group].items()}), -1)
            self._left.update(self._labels[group])

    def fill(self, queue: Sequence[int]) -> None:
        """Take groups from the queue until every split has its share.

        At first a group is taken only if every other split can still get one of its classes. At the end, a split that
        has no photo of a class gets a large group.
        """
        for room, spare in ((1.0, True), (_ROOM, True), (math.inf, False)):
            for split, quota in self._quotas.items():
                others = [q for s, q in self._quotas.items() if s != split]
                for group in queue if spare else sorted(queue, key=lambda g: sum(self._labels[g].values())):
                    labels = self._labels[group]
                    needed = {c: n + sum(q.lacks(c) for q in others) * spare for c, n in labels.items()}
                    is_free = group not in self.split_of and quota.wants(labels, room)
                    if is_free and all(self._left[c] > n for c, n in needed.items()):
                        self.put(group, split)


class _Quota:
    """How many photos of each class one split still needs."""

    def __init__(self, photos: Counter[str], groups: Counter[str], share: float, splits: int) -> None:
        self._photos = {label: max(round(n * share), 1) for label, n in photos.items()}
        # if one group holds most photos of a class, all splits share the small groups
        self._groups = {label: max(round(n * share), n // splits, 1) for label, n in groups.items()}
        self._got, self._taken = Counter[str](), Counter[str]()

    def take(self, group: Counter[str], number: int = 1) -> None:
        """Add a group, given its photos per class; negative numbers remove one."""
        self._got.update(group)
        self._taken.update(dict.fromkeys(group, number))

    def lacks(self, label: str) -> bool:
        """Whether the split has no photo of a class."""
        return self._got[label] <= 0

    def wants(self, group: Counter[str], room: float) -> bool:
        """Whether the split needs a class of the group, and has room for the whole group.

        The split may take ``room`` times the wanted photos of each class. With infinite room, the split must have no
        photo of any of the group's classes.
        """
        if room == math.inf:
            return all(self.lacks(label) for label in group)
        needed = [c for c in group if self._got[c] < self._photos[c] and self._taken[c] < self._groups[c]]
        return bool(needed) and all(self._got[c] + n <= room * self._photos[c] for c, n in group.items())


def _order(seed: int, digests: Iterable[str]) -> str:
    """A group's sort key. It does not depend on the group's size."""
    return hashlib.sha256(f"{seed}:{min(digests)}".encode()).hexdigest()


class Memory:
    """The splits of a set in earlier runs, stored in ``cache.dir``.

    Args:
        place: the folder, archive or table of the photos.
        cache_dir: where it is kept.
        about: settings that the splits depend on; runs with other settings have their own memory.
        groups: the group of each photo by its SHA-256. If a known photo has another group, the memory is cleared.
    """

    def __init__(self, place: Path, cache_dir: Path, about: Mapping[str, Any], groups: Mapping[str, str]) -> None:
        known = json.dumps([str(place.resolve()), about], sort_keys=True)
        name = hashlib.sha256(known.encode(errors="surrogateescape")).hexdigest()[:16]
        self._path, self._groups = cache_dir / "splits" / f"{name}.json", groups
        self._known = _read_memory(self._path)
        if any(groups.get(digest, group) != group for digest, (_, group, _) in self._known.items()):
            console.info("data: the groups have changed since the last run: the photos are split anew")
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
        """Store the splits of this run. Photos that are gone are remembered too."""
        known = {digest: (split, group, False) for digest, (split, group, _) in self._known.items()}
        known |= {digest: (split, self._groups[digest], True) for digest, split in splits.items()}
        if known != self._known:
            try:
                write_json(self._path, known)
            except SagehoundError as error:
                console.warn(f"{error} (cache.dir); the split cannot be remembered")


def _read_memory(path: Path) -> dict[str, tuple[str, str, bool]]:
    """For each photo its split, its group, and whether the last run had it; empty if the file is missing or broken."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {
            str(digest): (str(split), str(group), bool(present)) for digest, (split, group, present) in content.items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def of_run(checkpoint: Path) -> list[dict[str, str]] | None:
    """The rows of splits.csv of a checkpoint's run; None if there is none."""
    for folder in (checkpoint.parent.parent, checkpoint.parent):
        with suppress(OSError, ValueError, csv.Error):
            rows = read_csv(folder / RECORD)
            if all(row.keys() >= set(COLUMNS) for row in rows):
                return rows
    return None
