"""A set of photos ready for training: found or fetched, audited, and split."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sagehound import console, targets
from sagehound.config import Data
from sagehound.data import archives, audit, demo, dogimages, splits, table
from sagehound.data.audit import Facts
from sagehound.data.duplicates import MOST_PHOTOS, Fingerprints, Pair, by_hash, components, same
from sagehound.data.folders import SPLITS, LeftOut, Photo, Tree, ignored_files, photos_below, scan
from sagehound.errors import ConfigError, InputError
from sagehound.files import write_csv, write_json


@dataclass(frozen=True)
class PhotoSet:
    """The usable photos of a set."""

    root: Path
    classes: list[str]  # in the order of the model's outputs
    photos: list[Photo]
    audit: dict[str, Any]  # what audit.json will hold
    digests: dict[str, str]  # SHA-256 of each file, in hexadecimal
    fingerprints: dict[str, str] = field(default_factory=dict)  # what near-duplicates are recognised by
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
        """The weight of each photo in the loss, 1 on average; None where all weigh the same.

        Raises:
            InputError: they are all 0.
        """
        given = [p.weight for p in photos]
        if len(set(given)) == 1 and given[0]:
            return None
        mean = sum(given) / len(given)
        if not mean:
            raise InputError("the weights of all train photos are 0: give some of them more (data.columns.weight)")
        return [w / mean for w in given]

    def write(self, folder: Path) -> None:
        """Write audit.json, and splits.csv: file, split, label, group, sha256.

        The photos that a resumed run was trained on before, and that are gone or left out, stay in splits.csv.
        """
        write_json(folder / "audit.json", self.audit)
        rows = [[p.file, p.split, p.label, p.group, self.digests[p.file]] for p in self.photos]
        rows += [[row[name] for name in splits.COLUMNS] for row in self.earlier]
        write_csv(folder / splits.RECORD, list(splits.COLUMNS), rows)

    def scenes(self) -> list[int]:
        """For each photo the number of its scene: copies, near-duplicates and photos of one group have the same."""
        links = [*_same_content(self.photos, self.digests), *((p.a, p.b) for p in self.pairs)]
        return components(len(self.photos), links)

    def independent(self, split: str) -> int:
        """How many different scenes a split shows."""
        return len({scene for scene, p in zip(self.scenes(), self.photos, strict=True) if p.split == split})

    def leaked(self) -> set[str]:
        """The test photos of whose scene train or valid holds a photo too."""
        scenes = self.scenes()
        seen = {scene for scene, p in zip(scenes, self.photos, strict=True) if p.split != "test"}
        return {p.file for scene, p in zip(scenes, self.photos, strict=True) if p.split == "test" and scene in seen}

    def with_pairs(self, pairs: Sequence[Pair]) -> "PhotoSet":
        """The same set with more near-duplicates, and in its audit; prints one line about them."""
        scenes = components(len(self.photos), ((p.a, p.b) for p in self.pairs))
        new = [p for p in pairs if scenes[p.a] != scenes[p.b]]
        found = _of_different_files([*self.pairs, *new], self.photos, self.digests)
        report = self.audit | audit.near_duplicates(self.photos, found)
        told = {self.photos[i].file for p in self.pairs for i in (p.a, p.b)}
        tell_near_duplicates(report, told)
        return replace(self, pairs=found, audit=report)


def fetch(data: Data, cache_dir: Path) -> Path:
    """The folder of the photos; demo photos are drawn, dogImages is downloaded and archives are unpacked if need be."""
    if data.root is None:
        return Path(data.table or "").expanduser().parent
    root = Path(data.root).expanduser()
    if data.name == "dogimages":
        dogimages.fetch(root, data.url)
    elif data.name == "demo":
        demo.draw(root)
    elif archives.is_archive(root):
        return archives.unpacked(root, cache_dir)
    return root


def own_source(data: Data) -> Callable[..., Iterable[Photo]] | None:
    """The user's own function that lists the photos, data.source, if there is one.

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
    """Fetch or draw the photos if need be, read each one once, leave bad ones out, and fill missing splits from train.

    Args:
        data: the config's group.
        cache_dir: where findings and splits are remembered.
        resumed: the rows of the splits.csv of a run that is resumed.
        source: a function that lists the photos, called with root=, instead of the folders or the table; None: the
            one that ``data`` names, if any.

    Raises:
        ConfigError: the function that ``data`` names cannot be used.
        InputError: the photos are missing or cannot be trained on; with on_bad=fail also if any photo is bad.
    """
    source = source or own_source(data)
    root = fetch(data, cache_dir)
    if source:
        tree = table.of_source(source, root)
    else:
        tree = table.read(Path(data.table).expanduser(), root, data.columns) if data.table else scan(root)
    if data.name == "dogimages":
        dogimages.check(tree)
    facts = audit.inspect_all(root, [p.file for p in tree.photos], cache_dir)
    good = [p for p in tree.photos if not facts[p.file].bad]
    _leave_out({f: x for f, x in facts.items() if x.bad}, data.on_bad, len(tree.photos))
    if data.group:
        good = _grouped(good, data.group)
    digests = {p.file: facts[p.file].digest for p in good}
    fingerprints = {p.file: facts[p.file].fingerprint for p in good}
    pairs = _near_duplicates(good, fingerprints, digests)
    missing = [s for s in SPLITS if not any(p.split == s for p in tree.photos)]
    trained = {row["sha256"]: row["split"] for row in resumed or ()}
    memory = _memory(data, cache_dir, missing, good, digests)
    before = trained if resumed is not None else memory.splits
    photos = good
    if missing:
        links = [*_same_content(good, digests), *((p.a, p.b) for p in pairs if data.near_duplicates == "together")]
        photos = splits.fill(good, digests, components(len(good), links), missing, data, before)
    photos = _without_trained(photos, digests, trained)
    place = {p.file: i for i, p in enumerate(photos)}
    named = [p._replace(a=place.get(good[p.a].file, -1), b=place.get(good[p.b].file, -1)) for p in pairs]
    pairs = [p for p in named if p.a >= 0 and p.b >= 0]  # both are used
    taken = {s: sum(p.split == s for p in photos) for s in missing}
    report = audit.report(tree, photos, facts, pairs) | {"taken_from_train": taken}
    if data.table:
        report["not_in_table"] = _not_in_table(tree)
    _refuse_hopeless(tree, photos, missing, pairs)
    _tell(report)
    if missing or resumed is not None:
        _tell_changes(set(digests.values()), set(trained) if resumed is not None else memory.last)
    if missing:
        memory.write({digests[p.file]: p.split for p in photos})
    used = {digests[p.file] for p in photos}
    earlier = [dict(row) for row in resumed or () if row["sha256"] not in used]
    classes = sorted({p.label for p in photos})
    return PhotoSet(root, classes, photos, report, digests, fingerprints, pairs, earlier)


def _not_in_table(tree: Tree) -> list[str]:
    """The photos below the root that the table does not list, after one line about them."""
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


def _same_content(photos: Sequence[Photo], digests: Mapping[str, str]) -> list[tuple[int, int]]:
    """Links between copies and between photos of one group."""
    return [*same(digests[p.file] for p in photos), *same(p.group for p in photos)]


def show_classes(photos: PhotoSet) -> None:
    """Print a table of the photos of each class in each split."""
    rows = [[label, *(f"{counts[s]:,}" for s in SPLITS)] for label, counts in photos.audit["counts"].items()]
    console.table("Photos of each class", ["class", *SPLITS], rows)


def _grouped(photos: list[Photo], pattern: str) -> list[Photo]:
    """Each photo's group: the first group of ``pattern`` in its path, or all that matches; without a match its own."""
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
    return _of_different_files(by_hash(Fingerprints([fingerprints[p.file] for p in photos])), photos, digests)


def _of_different_files(pairs: list[Pair], photos: list[Photo], digests: dict[str, str]) -> list[Pair]:
    """Without exact copies, which the audit lists by themselves."""
    return [p for p in pairs if digests[photos[p.a].file] != digests[photos[p.b].file]]


def _without_trained(photos: list[Photo], digests: dict[str, str], trained: Mapping[str, str]) -> list[Photo]:
    """Without the valid and test photos that the resumed run was trained on."""
    leaking = {p.file for p in photos if p.split != "train" and trained.get(digests[p.file]) == "train"}
    if leaking:
        console.warn(
            f"photos in valid or test that the resumed run was trained on are left out: {len(leaking)}, such as "
            f"{min(leaking)}; start a new run to test with them"
        )
    return [p for p in photos if p.file not in leaking]


def _tell_changes(now: set[str], before: set[str]) -> None:
    if before and before != now:
        console.say(
            f"data: {len(now - before)} photos are new and {len(before - now)} are gone since the last run; "
            "no photo that was trained on is tested"
        )


def _leave_out(bad: dict[str, Facts], on_bad: str, total: int) -> None:
    if not bad:
        return
    few = "; ".join(f"{f} ({x.bad})" for f, x in list(bad.items())[:3]) + ("; ..." if len(bad) > 3 else "")
    message = f"{len(bad)} of {total} photos cannot be used: {few}"
    if on_bad == "fail":
        raise InputError(f"{message}; mend or remove them, or choose data.on_bad=skip")
    console.warn(f"{message}; left out, audit.json lists them all")


def _refuse_hopeless(tree: Tree, photos: list[Photo], missing: list[str], pairs: list[Pair]) -> None:
    for split in SPLITS:
        if not any(p.split == split for p in photos):
            if split in missing:
                groups = len({p.group for p in photos if p.group})
                why = (f"data.group puts them into {groups} groups (choose another)" if groups else "") or (
                    "they are near-duplicates (data.near_duplicates=apart divides them, which flatters the result)"
                    if pairs
                    else "they are too few"
                )
                raise InputError(
                    f"{tree.root}: no photos can be taken from train for {split}: {why}. Ways on: add photos of other "
                    f"scenes, or give a {split} folder"
                )
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
        (report["duplicates_across_splits"], "photos are in more than one split, which flatters the result"),
        (report["groups_across_splits"], "groups (data.group) are in more than one split, which flatters the result"),
        (report["duplicates_with_different_labels"], "photos are in more than one class"),
    ]
    for found, meaning in checks:
        if found:
            console.warn(f"{len(found)} {meaning}: see audit.json")
    if report["ignored_files"]:
        console.warn(f"{ignored_files({s: f['files'] for s, f in report['ignored_files'].items()})}: see audit.json")
    tell_near_duplicates(report)


def tell_near_duplicates(report: dict[str, Any], told: set[str] | None = None) -> None:
    """One line for near-duplicates, a warning where they are in several splits.

    Args:
        report: audit.json.
        told: the files that an earlier line has counted; they are left out.
    """
    across, within = (
        [p["file"] for group in report[f"near_duplicates_{where}"] for p in group if p["file"] not in (told or ())]
        for where in ("across_splits", "within_split")
    )
    more = "" if told is None else " more"
    if across:
        few = ", ".join(across[:2])
        console.warn(
            f"{len(across)}{more} photos are near-duplicates of photos in another split, which flatters the result "
            f"({few}{', ...' if across[2:] else ''}): see audit.json"
        )
    if within:
        console.say(f"data: {len(within)}{more} photos are near-duplicates of others in their split: see audit.json")
