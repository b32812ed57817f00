"""A set of photos ready for training: found or fetched, audited, and split."""

import hashlib
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from sagehound import console
from sagehound.data import audit, demo, dogimages
from sagehound.data.audit import Facts
from sagehound.data.folders import SPLITS, Photo, Tree, ignored_files, scan
from sagehound.errors import InputError


@dataclass(frozen=True)
class PhotoSet:
    """The usable photos of a set."""

    root: Path
    classes: list[str]  # in the order of the model's outputs
    photos: list[Photo]
    audit: dict[str, Any]  # what audit.json will hold
    digests: dict[str, str]  # SHA-256 of each file, in hexadecimal

    def split(self, name: str) -> list[Photo]:
        """The photos of train, valid or test."""
        return [p for p in self.photos if p.split == name]

    def labels(self, photos: list[Photo]) -> list[int]:
        """The class of each photo, as the index of the model's output."""
        index = {label: i for i, label in enumerate(self.classes)}
        return [index[p.label] for p in photos]


def fetch(data: DictConfig) -> Path:
    """The folder of the photos; demo photos are drawn and dogImages is downloaded if it is missing."""
    root = Path(data.root).expanduser()
    if data.name == "dogimages":
        dogimages.fetch(root, data.url)
    elif data.name == "demo":
        demo.draw(root)
    return root


def find_photos(data: DictConfig, cache_dir: Path) -> PhotoSet:
    """Fetch or draw the photos if need be, read each one once, leave bad ones out, and fill missing splits from train.

    Raises:
        InputError: the photos are missing or cannot be trained on; with on_bad=fail also if any photo is bad.
    """
    root = fetch(data)
    tree = scan(root)
    if data.name == "dogimages":
        dogimages.check(tree)
    facts = audit.inspect_all(root, [p.file for p in tree.photos], cache_dir)
    good = [p for p in tree.photos if not facts[p.file].bad]
    _leave_out({f: x for f, x in facts.items() if x.bad}, data.on_bad, len(tree.photos))
    missing = [s for s in SPLITS if not any(p.split == s for p in tree.photos)]
    photos, taken = _fill_splits(good, missing, facts, data)
    report = audit.report(tree, photos, facts) | {"taken_from_train": taken}
    _refuse_hopeless(tree, photos)
    _tell(report)
    digests = {p.file: facts[p.file].digest for p in photos}
    return PhotoSet(root, sorted({p.label for p in photos}), photos, report, digests)


def _leave_out(bad: dict[str, Facts], on_bad: str, total: int) -> None:
    if not bad:
        return
    few = "; ".join(f"{f} ({x.bad})" for f, x in list(bad.items())[:3]) + ("; ..." if len(bad) > 3 else "")
    message = f"{len(bad)} of {total} photos cannot be used: {few}"
    if on_bad == "fail":
        raise InputError(f"{message}; mend or remove them, or choose data.on_bad=skip")
    console.warn(f"{message}; left out, audit.json lists them all")


def _fill_splits(
    photos: list[Photo], missing: list[str], facts: dict[str, Facts], data: DictConfig
) -> tuple[list[Photo], dict[str, int]]:
    """Take the splits that have no folder from train: the same share of each class, by content.

    Which photos are taken depends on their content and ``data.split_seed`` alone, so photos of the same content stay
    together, and one that is added or removed moves no other from split to split but at the margin.
    """
    wanted = {s: data[f"{s}_fraction"] for s in missing}
    if not wanted:
        return photos, {}
    by_label: defaultdict[str, defaultdict[str, list[Photo]]] = defaultdict(lambda: defaultdict(list))
    for p in photos:
        if p.split == "train":
            digest = facts[p.file].digest
            by_label[p.label][hashlib.sha256(f"{data.split_seed}:{digest}".encode()).hexdigest()].append(p)
    moved: dict[str, str] = {}
    for groups in by_label.values():
        queue = [group for _, group in sorted(groups.items())]
        total = sum(len(g) for g in queue)
        for split, share in wanted.items():
            want, got = max(round(total * share), 1), 0
            while got < want and len(queue) > 1:
                group = queue.pop(0)
                moved |= {p.file: split for p in group}
                got += len(group)
    filled = [replace(p, split=moved.get(p.file, p.split)) for p in photos]
    return filled, {s: sum(1 for v in moved.values() if v == s) for s in wanted}


def _refuse_hopeless(tree: Tree, photos: list[Photo]) -> None:
    for split in SPLITS:
        if not any(p.split == split for p in photos):
            raise InputError(f"{tree.root}: no usable photo is left for {split}; audit the folder, or add photos")
    learned = {p.label for p in photos if p.split == "train"}
    unknown = sorted({p.label for p in photos} - learned)
    if unknown:
        raise InputError(
            f"{tree.root}: {', '.join(unknown[:5])}: photos in valid or test but none in train, so the model could "
            "never name it; add photos to train or remove the class"
        )
    if len(learned) < 2:
        raise InputError(
            f"{tree.root}: only one class, {learned.pop()}: a classifier needs two folders of photos or more"
        )


def _tell(report: dict[str, Any]) -> None:
    photos = report["photos"]
    console.say(
        f"data: {report['classes']} classes, "
        + " / ".join(f"{photos[s]:,} {s}" for s in SPLITS)
        + f" photos in {report['root']}"
    )
    for split, count in report["taken_from_train"].items():
        console.say(f"data: no {split} folder: {count} photos were taken from train for it")
    checks = [
        (report["empty_classes"], "class folders without photos are ignored"),
        (report["ignored_folders"], "folders beside train, valid and test are ignored"),
        (report["missing_in_split"]["valid"], "classes have no valid photo"),
        (report["missing_in_split"]["test"], "classes have no test photo"),
        (report["duplicates_across_splits"], "photos stand in more than one split, which flatters the result"),
        (report["duplicates_with_different_labels"], "photos stand under more than one class"),
    ]
    for found, meaning in checks:
        if found:
            console.warn(f"{len(found)} {meaning}: see audit.json")
    if report["ignored_files"]:
        console.warn(f"{ignored_files({s: f['files'] for s, f in report['ignored_files'].items()})}: see audit.json")
