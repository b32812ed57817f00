"""Lists the photos of a folder: split/class/photo or class/photo, and the names of the classes."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sagehound.errors import InputError

SPLITS = ("train", "valid", "test")
SPLIT_NAMES = {  # names of the folders of each split
    "train": "train",
    "training": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "test": "test",
    "testing": "test",
}
# of the formats that decode.py reads; the content decides the format
_SUFFIXES = {
    *(".jpg", ".jpeg", ".jfif", ".jpe", ".jif", ".mpo", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".heic", ".heif", ".hif", ".avif", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
}
_NUMBER = re.compile(r"^\d+\.")  # dogImages numbers its folders: 001.Affenpinscher


def is_photo(name: str) -> bool:
    """Whether a file's name has a suffix of photos."""
    return Path(name).suffix.lower() in _SUFFIXES


@dataclass(frozen=True)
class Photo:
    """One photo of a set."""

    file: str  # path below the root, with /
    split: str  # train, valid or test
    label: str  # the class
    group: str = ""  # photos of one group are never divided between splits
    weight: float = 1.0  # of the photo in the training loss


@dataclass(frozen=True)
class Tree:
    """The photos under a root, and what else is there."""

    root: Path
    photos: list[Photo]
    empty: list[str]  # class folders without photos
    ignored: dict[str, list[str]]  # other files, by suffix
    beside: list[str]  # folders beside those of the splits; they are ignored


def require_folder(root: Path) -> None:
    """Make sure that ``root`` is a folder.

    Raises:
        InputError: it is not.
    """
    if not root.is_dir():
        raise InputError(
            f"data.root={root} is not a folder (from {Path.cwd()}): give one of split/class/photo or class/photo"
        )


def scan(root: Path) -> Tree:
    """List the photos under ``root`` without opening them; a tree of class/photo is train.

    Raises:
        InputError: no such folder, no photos, an empty split, two folders for one class or for one split.
    """
    require_folder(root)
    splits = _split_folders(root)
    folders = [(split, d) for split, s in splits.items() for d in _subfolders(s)]
    if not folders:
        raise InputError(
            f"data.root={root} holds no class folders: photos must lie in split/class/photo or class/photo"
        )
    files = {folder: _files(folder) for _, folder in folders}
    # empty folders are not sent to jobs on other machines, so they must not change the labels
    numbered = all(_NUMBER.match(folder.name) for folder, (photo_files, _) in files.items() if photo_files)
    photos: list[Photo] = []
    labels: dict[tuple[str, str], Path] = {}
    ignored: defaultdict[str, list[str]] = defaultdict(list)
    for split, folder in folders:
        label = _NUMBER.sub("", folder.name) if numbered else folder.name
        other = labels.setdefault((split, label.casefold()), folder)
        if other != folder:
            raise InputError(f"two folders for one class {label!r}: {other} and {folder}; merge them or rename one")
        photo_files, others = files[folder]
        for file in others:
            ignored[_suffix(file)].append(file.relative_to(root).as_posix())
        photos += [Photo(f.relative_to(root).as_posix(), split, label) for f in photo_files]
    for split, folder in splits.items():
        if not any(p.split == split for p in photos):
            hint = "" if split == "train" else f", or remove the folder and {split} photos are taken from train"
            raise InputError(f"{folder} holds no photos in class folders: add some{hint}")
    spelling = one_spelling(photos)
    filled = {p.label.casefold() for p in photos}
    empty = sorted({_NUMBER.sub("", d.name) if numbered else d.name for _, d in folders})
    photos = [Photo(p.file, p.split, spelling[p.label.casefold()]) for p in photos]
    return Tree(
        root, photos, [label for label in empty if label.casefold() not in filled], dict(ignored), _beside(root, splits)
    )


def _split_folders(root: Path) -> dict[str, Path]:
    """The folder of each split. The root is train if no subfolder has the name of a split."""
    splits: dict[str, Path] = {}
    for folder in _subfolders(root):
        split = SPLIT_NAMES.get(folder.name.lower())
        if split is None:
            continue
        if split in splits:
            raise InputError(f"two folders for the split {split}: {splits[split]} and {folder}; merge them")
        splits[split] = folder
    if splits and "train" not in splits:
        raise InputError(f"data.root={root} has {', '.join(d.name for d in splits.values())} but no train folder")
    inner = [d for d in _subfolders(root) if any(s.name.lower() in SPLIT_NAMES for s in _subfolders(d))]
    if not splits and inner:
        raise InputError(f"data.root={root} holds no photos itself; did you mean data.root={inner[0]}?")
    return {split: splits[split] for split in SPLITS if split in splits} or {"train": root}


def _beside(root: Path, splits: dict[str, Path]) -> list[str]:
    return [d.name for d in _subfolders(root) if d not in splits.values()] if root not in splits.values() else []


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(d for d in folder.iterdir() if d.is_dir() and not d.name.startswith("."))
    except OSError as error:
        raise _unreadable(error) from error


def _unreadable(error: OSError) -> InputError:
    return InputError(f"{error.filename} cannot be read ({error.strerror}); make it readable or remove it")


@dataclass(frozen=True)
class LeftOut:
    """What is in a folder besides photos."""

    folders: list[InputError] = field(default_factory=list)  # that cannot be read
    ignored: Counter[str] = field(default_factory=Counter)  # other files, by suffix


def ignored_files(counts: Mapping[str, int]) -> str:
    """One line about the other files: how many of each suffix."""
    each = ", ".join(f"{suffix} {count:,}" for suffix, count in sorted(counts.items(), key=lambda c: (-c[1], c[0])))
    total = sum(counts.values())
    what = "1 file is no photo and was ignored" if total == 1 else f"{total:,} files are no photos and were ignored"
    return f"{what} ({each})"


def photos_below(root: Path, left_out: LeftOut) -> Iterator[str]:
    """Every photo in a folder and below, as a path with /, in a fixed order.

    The names of one folder at a time are in memory. Other files are added to ``left_out``. If ``root`` is a file,
    its name is the only one.
    """
    if not root.is_dir():
        yield root.name
        return
    for file in _walk(root, left_out.folders.append):
        if is_photo(file.name):
            yield file.relative_to(root).as_posix()
        else:
            left_out.ignored[_suffix(file)] += 1


def _suffix(file: Path) -> str:
    return file.suffix.lower() or "no suffix"


def _files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The photos below a class folder in order, and the other files; hidden files are skipped.

    Raises:
        InputError: a folder cannot be read.
    """
    photo_files: list[Path] = []
    others: list[Path] = []
    for file in _walk(folder, _raise):
        (photo_files if is_photo(file.name) else others).append(file)
    return sorted(photo_files), others


def _raise(error: InputError) -> None:
    raise error


def _walk(folder: Path, unreadable: Callable[[InputError], object]) -> Iterator[Path]:
    """Every file that is not hidden. Links to folders are followed once, and never upwards."""
    seen = {str(above) for above in Path(os.path.realpath(folder)).parents}

    def refused(error: OSError) -> None:
        unreadable(_unreadable(error))

    for place, folders, names in os.walk(folder, onerror=refused, followlinks=True):
        if os.path.realpath(place) in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(os.path.realpath(place))
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        yield from (Path(place, name) for name in sorted(names) if not name.startswith("."))


def one_spelling(photos: list[Photo]) -> dict[str, str]:
    """Use train's spelling for a class whose folders differ in case between splits."""
    spelling: dict[str, str] = {}
    for photo in sorted(photos, key=lambda p: SPLITS.index(p.split)):
        spelling.setdefault(photo.label.casefold(), photo.label)
    return spelling
