"""Prepares a set of photos for training: downloads or finds, audits and splits it."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sagehound.config import Data, targets
from sagehound.data import audit, corrections, demo, dogimages, photo_archives, photo_table, splits
from sagehound.data.duplicates import MOST_PHOTOS, Fingerprints, Pair, by_hash, components
from sagehound.data.folders import SPLITS, LeftOut, Photo, Tree, photos_below, scan
from sagehound.data.photo_report import refuse_unusable, report_bad, report_changes, report_findings
from sagehound.data.photo_set import PhotoSet, of_different_files, same_content
from sagehound.errors import ConfigError
from sagehound.system import console


def fetch(data: Data, cache_dir: Path) -> Path:
    """The folder of the photos. Draws demo photos, downloads dogImages and unpacks archives if needed."""
    if data.root is None:
        return Path(data.table or "").expanduser().parent
    root = Path(data.root).expanduser()
    if data.name == "dogimages":
        dogimages.fetch(root, data.url)
    elif data.name == "demo":
        demo.draw(root)
    elif photo_archives.is_archive(root):
        return photo_archives.unpacked(root, cache_dir)
    return root


def own_source(data: Data) -> Callable[..., Iterable[Photo]] | None:
    """The user's function that lists the photos (data.source); None without one.

    Raises:
        ConfigError: it cannot be used.
    """
    return targets.resolve(data.source, "data.source", named=["root"]) if data.source else None


def find_photos(
    data: Data,
    cache_dir: Path,
    resumed: Sequence[Mapping[str, str]] | None = None,
    source: Callable[..., Iterable[Photo]] | None = None,
) -> PhotoSet:
    """Find or download the photos, read each once, leave bad ones out, and fill missing splits from train.

    Args:
        data: the config's group.
        cache_dir: folder of cached findings and splits.
        resumed: the rows of the splits.csv of a run that is resumed.
        source: a function that lists the photos, called with root=; None: the one that ``data`` names, the folders
            or the table.

    Raises:
        ConfigError: the function that ``data`` names cannot be used.
        InputError: the photos are missing or cannot be trained on; with on_bad=fail also if any photo is bad.
    """
    root = fetch(data, cache_dir)
    tree, corrected = _tree(data, root, source or own_source(data))
    facts = audit.inspect_all(root, [p.file for p in tree.photos], cache_dir)
    good = [p for p in tree.photos if not facts[p.file].bad]
    report_bad({f: x for f, x in facts.items() if x.bad}, data.on_bad, len(tree.photos))
    if data.group:
        good = _grouped(good, data.group)
    digests = {p.file: facts[p.file].digest for p in good}
    fingerprints = {p.file: facts[p.file].fingerprint for p in good}
    pairs = _near_duplicates(good, fingerprints, digests)
    missing = [s for s in SPLITS if not any(p.split == s for p in tree.photos)]
    trained = {row["sha256"]: row["split"] for row in resumed or ()}
    memory = _memory(data, cache_dir, missing, good, digests)
    photos = good
    if missing:
        links = [*same_content(good, digests), *((p.a, p.b) for p in pairs if data.near_duplicates == "together")]
        before = trained if resumed is not None else memory.splits
        photos = splits.fill(good, digests, components(len(good), links), missing, data, before)
    photos = _without_trained(photos, digests, trained)
    pairs = _renumbered(pairs, good, photos)
    report = audit.report(tree, photos, facts, pairs) | _more_findings(data, tree, photos, missing) | corrected
    refuse_unusable(tree, photos, missing, pairs)
    report_findings(report, photos)
    if missing or resumed is not None:
        report_changes(set(digests.values()), set(trained) if resumed is not None else memory.last)
    if missing:
        memory.write({digests[p.file]: p.split for p in photos})
    used = {digests[p.file] for p in photos}
    earlier = [dict(row) for row in resumed or () if row["sha256"] not in used]
    classes = sorted({p.label for p in photos})
    return PhotoSet(root, classes, photos, report, digests, fingerprints, pairs, earlier)


def _tree(data: Data, root: Path, source: Callable[..., Iterable[Photo]] | None) -> tuple[Tree, dict[str, Any]]:
    """All photos that a function, a table or the folders list, after data.exclude; and what audit.json says of it."""
    if source:
        tree = photo_table.of_source(source, root)
    elif data.table:
        tree = photo_table.read(Path(data.table).expanduser(), root, data.columns)
    else:
        tree = scan(root)
    if data.name == "dogimages":
        dogimages.check(tree)
    if not data.exclude:
        return tree, {}
    tree, corrected = corrections.apply(tree, Path(data.exclude).expanduser())
    return tree, {"excluded": corrected}


def _renumbered(pairs: list[Pair], before: list[Photo], after: list[Photo]) -> list[Pair]:
    """Change the indices of pairs from ``before`` to ``after``; pairs with a removed photo are left out."""
    place = {p.file: i for i, p in enumerate(after)}
    moved = [p._replace(a=place.get(before[p.a].file, -1), b=place.get(before[p.b].file, -1)) for p in pairs]
    return [p for p in moved if p.a >= 0 and p.b >= 0]


def _more_findings(data: Data, tree: Tree, photos: list[Photo], missing: list[str]) -> dict[str, Any]:
    taken = {split: sum(p.split == split for p in photos) for split in missing}
    return {"taken_from_train": taken} | ({"not_in_table": _not_in_table(tree)} if data.table else {})


def _not_in_table(tree: Tree) -> list[str]:
    """Warn of photos below the root that the table does not list; returns them."""
    listed = {p.file for p in tree.photos}
    others = [file for file in photos_below(tree.root, LeftOut()) if file not in listed]
    if others:
        console.warn(f"photos in {tree.root} that the table does not list: {len(others)}, such as {others[0]}")
    return others


def _memory(
    data: Data, cache_dir: Path, missing: list[str], photos: list[Photo], digests: dict[str, str]
) -> splits.Memory:
    keys = ("split_seed", "valid_fraction", "test_fraction", "near_duplicates", "table")
    about = {key: getattr(data, key) for key in keys} | {"missing": missing}
    groups = {digests[p.file]: p.group for p in photos}
    return splits.Memory(Path(data.root or data.table or "").expanduser(), cache_dir, about, groups if missing else {})


def _grouped(photos: list[Photo], pattern: str) -> list[Photo]:
    """Set each photo's group: the first group of ``pattern`` in its path, or the match. Without a match it has none."""
    matches = [re.search(pattern, p.file) for p in photos]
    alone = sum(m is None for m in matches)
    if alone == len(photos):
        raise ConfigError(f"data.group={pattern}: matches no photo, such as {photos[0].file}; fix the pattern")
    if alone:
        console.warn(f"data.group={pattern}: {alone} of {len(photos)} photos do not match; each is a group by itself")
    return [
        p if m is None else replace(p, group=str(m.group(1 if m.re.groups else 0) or ""))
        for p, m in zip(photos, matches, strict=True)
    ]


def _near_duplicates(photos: list[Photo], fingerprints: dict[str, str], digests: dict[str, str]) -> list[Pair]:
    if len(photos) > MOST_PHOTOS:
        console.warn(
            f"more than {MOST_PHOTOS:,} photos: near-duplicates are not looked for; data.group=REGEX groups them"
        )
        return []
    return of_different_files(by_hash(Fingerprints([fingerprints[p.file] for p in photos])), photos, digests)


def _without_trained(photos: list[Photo], digests: dict[str, str], trained: Mapping[str, str]) -> list[Photo]:
    """Remove valid and test photos that the resumed run was trained on."""
    leaking = {p.file for p in photos if p.split != "train" and trained.get(digests[p.file]) == "train"}
    if leaking:
        console.warn(
            f"photos in valid or test that the resumed run was trained on are left out: {len(leaking)}, such as "
            f"{min(leaking)}; start a new run to test with them"
        )
    return [p for p in photos if p.file not in leaking]
