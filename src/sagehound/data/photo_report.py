"""What a run prints about its photos, and the sets that it refuses."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sagehound.data.audit import Facts
from sagehound.data.duplicates import Pair
from sagehound.data.folders import SPLITS, Photo, Tree, ignored_files
from sagehound.errors import InputError
from sagehound.system import console

# Microsoft, "Naming Files, Paths, and Namespaces": reserved names, characters, and dots and
# spaces at the end
_NOT_ON_WINDOWS = re.compile(
    r"^(con|prn|aux|nul|(com|lpt)[1-9\u00b9\u00b2\u00b3])\s*(\.|$)|[<>:\"|?*\\\x00-\x1f]|[. ]$", re.IGNORECASE
)


def show_classes(report: dict[str, Any]) -> None:
    """Print a table of the photos per class and split.

    Args:
        report: audit.json.
    """
    rows = [[label, *(f"{counts[s]:,}" for s in SPLITS)] for label, counts in report["counts"].items()]
    console.table("Photos of each class", ["class", *SPLITS], rows)


def report_findings(report: dict[str, Any], photos: Sequence[Photo]) -> None:
    """Print the number of photos, the findings of audit.json, and a warning of names that Windows cannot have."""
    counts = report["photos"]
    console.info(
        f"data: {report['classes']} classes, "
        + " / ".join(f"{counts[s]:,} {s}" for s in SPLITS)
        + f" photos in {report['root']}"
    )
    for split, count in report["taken_from_train"].items():
        console.info(f"data: no {split} folder: {count} photos were taken from train for it")
    checks = [
        (report["empty_classes"], "class folders without photos are ignored"),
        (report["ignored_folders"], "folders beside train, valid and test are ignored"),
        (
            report["duplicates_across_splits"],
            "photos are in more than one split, so the result looks better than it is",
        ),
        (
            report["groups_across_splits"],
            "groups (data.group) are in more than one split, so the result looks better than it is",
        ),
        (report["duplicates_with_different_labels"], "photos are in more than one class"),
    ]
    for findings, meaning in checks:
        if findings:
            console.warn(f"{len(findings)} {meaning}: see audit.json")
    for split in ("valid", "test"):
        if labels := report["missing_in_split"][split]:
            console.warn(f"classes without {split} photos: {len(labels)} ({', '.join(labels[:5])}): see audit.json")
    if report["ignored_files"]:
        console.warn(f"{ignored_files({s: f['files'] for s, f in report['ignored_files'].items()})}: see audit.json")
    report_near_duplicates(report)
    report_names(photos)


def report_names(photos: Sequence[Photo]) -> None:
    """Warn of names that Windows cannot have: feedback and copies of the set would break there."""
    parts = {part for photo in photos for part in (photo.label, *photo.file.split("/"))}
    if names := sorted(part for part in parts if _NOT_ON_WINDOWS.search(part)):
        few = ", ".join(map(repr, names[:5])) + (", ..." if names[5:] else "")
        console.warn(
            f"{len(names)} names of folders or photos cannot exist on Windows: {few}; rename them if photos or a "
            "server's feedback will be copied there"
        )


def report_near_duplicates(report: dict[str, Any], known: set[str] | None = None) -> None:
    """Print a line about near-duplicates; a warning if they are in several splits.

    Args:
        report: audit.json.
        known: files that an earlier line has counted; they are not counted again.
    """
    across, within = (
        [p["file"] for group in report[f"near_duplicates_{where}"] for p in group if p["file"] not in (known or ())]
        for where in ("across_splits", "within_split")
    )
    more = "" if known is None else " more"
    if across:
        few = ", ".join(across[:2])
        console.warn(
            f"{len(across)}{more} photos are near-duplicates of photos in another split, so the result looks better "
            f"than it is ({few}{', ...' if across[2:] else ''}): see audit.json"
        )
    if within:
        console.info(f"data: {len(within)}{more} photos are near-duplicates of others in their split: see audit.json")


def report_changes(now: set[str], before: set[str]) -> None:
    """Print how many photos are new and how many are gone since the last run, by their SHA-256."""
    if before and before != now:
        console.info(
            f"data: {len(now - before)} photos are new and {len(before - now)} are gone since the last run; "
            "no photo that was trained on is tested"
        )


def report_bad(bad: dict[str, Facts], on_bad: str, total: int) -> None:
    """Warn of photos that cannot be used.

    Raises:
        InputError: ``on_bad`` is fail.
    """
    if not bad:
        return
    few = "; ".join(f"{f} ({x.bad})" for f, x in list(bad.items())[:3]) + ("; ..." if len(bad) > 3 else "")
    message = f"{len(bad)} of {total} photos cannot be used: {few}"
    if on_bad == "fail":
        raise InputError(f"{message}; fix or remove them, or choose data.on_bad=skip")
    console.warn(f"{message}; left out, audit.json lists them all")


def refuse_unusable(tree: Tree, photos: list[Photo], missing: list[str], pairs: list[Pair]) -> None:
    """Check that every split has photos, and that train has all classes.

    Raises:
        InputError: a split is empty, a class has no train photos, or there is only one class.
    """
    for split in SPLITS:
        if not any(p.split == split for p in photos):
            if split in missing:
                groups = len({p.group for p in photos if p.group})
                why = (f"data.group puts them into {groups} groups (choose another)" if groups else "") or (
                    "they are near-duplicates (data.near_duplicates=apart divides them; the result then looks too good)"
                    if pairs
                    else "they are too few"
                )
                raise InputError(
                    f"{tree.root}: no photos can be taken from train for {split}: {why}. Either add photos of other "
                    f"scenes, or give a {split} folder"
                )
            raise InputError(f"{tree.root}: no usable photo is left for {split}; audit the folder, or add photos")
    trained = {p.label for p in photos if p.split == "train"}
    unknown = sorted({p.label for p in photos} - trained)
    if unknown:
        raise InputError(
            f"{tree.root}: {', '.join(unknown[:5])}: photos in valid or test but none in train, so the model could "
            "never name it; add photos to train or remove the class"
        )
    if len(trained) < 2:
        raise InputError(
            f"{tree.root}: only one class, {trained.pop()}: a classifier needs two folders of photos or more"
            f"{_more_classes(tree, photos)}"
        )


def _more_classes(tree: Tree, photos: list[Photo]) -> str:
    """Where the other classes of a set with one class may be: in folders below it, or in folders without photos."""
    folders = {Path(p.file).parent for p in photos}
    common = Path(os.path.commonpath(folders))
    if common != Path() and common not in folders:
        return f"; did you mean data.root={tree.root / common}?"
    return f"; folders without photos: {', '.join(tree.empty[:5])}" if tree.empty else ""
