"""Audits a set of photos: reads each file once and caches the findings."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from importlib.util import find_spec
from json import loads
from pathlib import Path
from typing import Any

from sagehound.data.duplicates import Pair, components, fingerprint, is_fingerprint
from sagehound.data.folders import SPLITS, Photo, Tree
from sagehound.errors import SagehoundError
from sagehound.inference.decode import BadPhoto, file_bytes, open_photo, orientation, to_rgb
from sagehound.storage.atomic import write_json
from sagehound.system import console
from sagehound.system.machine import cores

_VERSION = 5  # of the cached findings; raise it when inspect() finds something new

_EXAMPLES = 5  # of ignored files, by name


@dataclass(frozen=True)
class Facts:
    """Facts about one photo."""

    digest: str  # SHA-256 of the file; empty if it could not be read
    mode: str  # Pillow's mode: RGB, L, CMYK, I;16, ...; followed by ;16 if colours have 16 bits
    orientation: int  # EXIF, 1 is upright
    bad: str  # why the photo cannot be used; empty if it can
    truncated: bool  # whether the file ends too early
    fingerprint: str = ""  # by which near-duplicates are recognised


def inspect(path: Path) -> Facts:
    """Read and decode one photo whole."""
    digest = ""
    try:
        content = file_bytes(path)
        digest = hashlib.sha256(content).hexdigest()
        image = open_photo(content)
        rgb = to_rgb(image)
    except BadPhoto as bad:
        return Facts(digest, "", 1, str(bad), bad.truncated)
    mode = f"{image.mode};16" if image.info["sixteen_bit"] else image.mode
    return Facts(digest, mode, orientation(image), "", False, fingerprint(rgb))


def inspect_all(root: Path, files: list[str], cache_dir: Path) -> dict[str, Facts]:
    """The facts of every file. Only files whose size or time has changed since the last call are read."""
    place = str(root.resolve()).encode(errors="surrogateescape")
    stored_at = cache_dir / "audit" / f"{hashlib.sha256(place).hexdigest()[:16]}.json"
    stored = _stored(stored_at)
    stamps = {file: _stamp(root / file) for file in files}
    facts = {f: stored[f][1] for f in files if f in stored and stored[f][0] == stamps[f]}
    new = [f for f in files if f not in facts]
    if new:
        with ThreadPoolExecutor(cores()) as pool:
            inspected = pool.map(inspect, [root / f for f in new])
            facts |= dict(zip(new, console.track(inspected, "Reading photos", len(new)), strict=True))
        rows = {f: [*stamps[f], *astuple(facts[f])] for f in files if facts[f].digest}  # files that could be opened
        try:
            write_json(stored_at, {"version": _version(), "root": str(root.resolve()), "files": rows})
        except SagehoundError as error:
            console.warn(f"{error} (cache.dir); the photos will be read again by the next run")
    return facts


def report(tree: Tree, photos: list[Photo], facts: dict[str, Facts], pairs: list[Pair]) -> dict[str, Any]:
    """audit.json: counts, bad and odd photos, duplicates and imbalance of a set.

    Args:
        tree: the files on disk.
        photos: the photos that are used, with their splits.
        facts: of every photo in ``tree``.
        pairs: near-duplicates among ``photos``.
    """
    counts = {label: dict.fromkeys(SPLITS, 0) for label in sorted({p.label for p in tree.photos})}
    for p in photos:
        counts[p.label][p.split] += 1
    per_class = [c["train"] for c in counts.values() if c["train"]]
    good = {f: x for f, x in facts.items() if not x.bad}
    within, across, conflicting = _duplicates(photos, facts)
    return {
        "root": str(tree.root.resolve()),
        "classes": len(counts),
        "photos": dict(Counter(p.split for p in photos)),
        "counts": counts,
        "imbalance_ratio": round(max(per_class) / min(per_class), 3) if per_class else None,
        "empty_classes": tree.empty,
        "missing_in_split": {s: [label for label, c in counts.items() if not c[s]] for s in SPLITS},
        "unreadable": [{"file": f, "reason": x.bad} for f, x in facts.items() if x.bad and not x.truncated],
        "truncated": [{"file": f, "reason": x.bad} for f, x in facts.items() if x.truncated],
        "skipped": sorted(f for f, x in facts.items() if x.bad),
        "cmyk": [f for f, x in good.items() if x.mode in ("CMYK", "YCCK")],
        "greyscale": [f for f, x in good.items() if x.mode in ("1", "L", "LA", "La")],
        "sixteen_bit": [f for f, x in good.items() if x.mode.startswith("I") or x.mode.endswith(";16")],
        "exif_rotated": [f for f, x in good.items() if 2 <= x.orientation <= 8],
        "duplicates_within_split": within,
        "duplicates_across_splits": across,
        "duplicates_with_different_labels": conflicting,
        **near_duplicates(photos, pairs),
        "groups_across_splits": _groups_across_splits(photos),
        "ignored_files": {s: {"files": len(f), "examples": f[:_EXAMPLES]} for s, f in sorted(tree.ignored.items())},
        "ignored_folders": tree.beside,
    }


def _duplicates(photos: Iterable[Photo], facts: dict[str, Facts]) -> tuple[list[list[str]], ...]:
    """Groups of files with the same content: in one split, in several, and under different labels."""
    same: defaultdict[str, list[Photo]] = defaultdict(list)
    for p in photos:
        same[facts[p.file].digest].append(p)
    groups = [group for group in same.values() if len(group) > 1]
    across = [g for g in groups if len({p.split for p in g}) > 1]
    within = [g for g in groups if len({p.split for p in g}) == 1]
    conflicting = [g for g in groups if len({p.label for p in g}) > 1]
    return tuple([[p.file for p in g] for g in kind] for kind in (within, across, conflicting))


def near_duplicates(photos: Sequence[Photo], pairs: Iterable[Pair]) -> dict[str, list[list[dict[str, Any]]]]:
    """Groups of near-duplicates within one split, and across splits.

    A near-duplicate across splits makes the test scores too high.


    Each photo has its distance to the nearest of its group: bits of 256 that differ (``by`` hash), or 1 - cosine of
    the features (``by`` features).
    """
    nearest: dict[int, Pair] = {}
    for pair in sorted(pairs, key=lambda p: (p.by == "features", p.distance)):
        nearest.setdefault(pair.a, pair)
        nearest.setdefault(pair.b, pair)
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for i, group in enumerate(components(len(photos), ((p.a, p.b) for p in pairs))):
        if i in nearest:
            groups[group].append(i)
    groups_by_kind: dict[str, list[list[dict[str, Any]]]] = {
        "near_duplicates_within_split": [],
        "near_duplicates_across_splits": [],
    }
    for members in groups.values():
        kind = "across_splits" if len({photos[i].split for i in members}) > 1 else "within_split"
        rows = [
            {
                "file": photos[i].file,
                "split": photos[i].split,
                "label": photos[i].label,
                "distance": round(nearest[i].distance, 3),
                "by": nearest[i].by,
            }
            for i in members
        ]
        groups_by_kind[f"near_duplicates_{kind}"].append(rows)
    return groups_by_kind


def _groups_across_splits(photos: Iterable[Photo]) -> list[str]:
    splits: defaultdict[str, set[str]] = defaultdict(set)
    for p in photos:
        if p.group:
            splits[p.group].add(p.split)
    return sorted(group for group, splits_of_group in splits.items() if len(splits_of_group) > 1)


def _stamp(path: Path) -> list[int]:
    try:
        status = path.stat()
    except OSError:
        return [0, 0]
    return [status.st_size, status.st_mtime_ns]


def _version() -> str:
    """The version of the cached findings. After pillow-heif is installed, refused HEIC files are read again."""
    return f"{_VERSION}{', HEIC' if find_spec('pillow_heif') else ''}"


def _stored(path: Path) -> dict[str, tuple[list[int], Facts]]:
    try:
        content = loads(path.read_text(encoding="utf-8"))
        if content["version"] != _version():
            return {}
        return {f: (row[:2], Facts(*row[2:])) for f, row in content["files"].items() if is_fingerprint(row[-1])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # missing, or written by another program: every file is read again
