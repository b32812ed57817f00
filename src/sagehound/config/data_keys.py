"""Keys of the photos: where they are, how they are split, read and augmented."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from sagehound.config.fields import group, key
from sagehound.errors import ConfigError

if TYPE_CHECKING:
    from sagehound.config.schema import Train


@dataclass
class Columns:
    """What the columns of data.table are called; split, group and weight may be missing."""

    file: str = key("path below data.root", "file")
    label: str = key("the class", "label")
    split: str = key("train, valid or test; without it, all photos are train", "split")
    group: str = key("photos of one group are never divided between splits", "group")
    weight: str = key("of the photo in the training loss, from 0 on; 1 if empty", "weight")


@dataclass
class Data:
    """Where the photos are and how they are read."""

    name: str = key("the kind of source", MISSING, choices=("dogimages", "folder", "demo"))
    root: str | None = key("a folder of split/class/photo, or of class/photo; or a .zip or .tar of one", None)
    table: str | None = key("a CSV that lists the photos; data.root=null: they lie beside it", None)
    columns: Columns = group(Columns)
    source: dict[str, Any] = key(
        "your own function that lists the photos: _target_ and its arguments; called with root=data.root", {}
    )
    group: str | None = key("a regular expression; photos whose paths match with one first group stay together", None)
    near_duplicates: str = key(
        "together: photos that show nearly the same are never divided when a split is taken from train",
        "together",
        choices=("together", "apart"),
    )
    url: str | None = key("dogimages: where the zip is fetched from when root is missing", None)
    batch_size: int = key("photos a step, on each device", 64, at_least=1)
    workers: int | None = key("threads that read photos; null: one a core, 16 at most", None, at_least=0)
    on_bad: str = key("an unreadable photo: leave it out and list it, or stop", "skip", choices=("skip", "fail"))
    cache: str = key("cache shrunken photos as JPEGs or as raw pixels", "none", choices=("none", "jpeg", "memmap"))
    valid_fraction: float = key("share taken from train when there is no valid folder", 0.15, above=0, below=1)
    test_fraction: float = key("share taken from train when there is no test folder", 0.15, above=0, below=1)
    split_seed: int = key("seed of these choices; not seed, so that runs of any seed have the same test photos", 0)

    def conflicts(self, cfg: "Train") -> Iterator[str]:
        """Yield a message for each setting that contradicts another."""
        if self.valid_fraction + self.test_fraction >= 1:
            yield (
                f"data.valid_fraction={self.valid_fraction} and data.test_fraction={self.test_fraction} leave no photo "
                "to train on: their sum must be below 1"
            )
        if self.root is None and not self.table and not self.is_remote:
            yield "data.root is missing: give data.root=PATH of your photos"
        if self.table and self.name != "folder":
            yield f"data.table={self.table} is of data=folder only, not of data={self.name}: add data=folder"
        if self.source and (self.table or self.name != "folder"):
            yield "data.source is of data=folder without data.table: add data=folder, drop data.table"
        if self.source and "_target_" not in self.source:
            yield "data.source: give data.source._target_=package.function"
        if reason := "" if self.root is None else _unsafe_root(self.root):
            yield f"data.root={self.root}: {reason}; give the folder of the photos by its own path"
        if reason := _bad_pattern(self.group or ""):
            yield f"data.group={self.group} is not a regular expression: {reason}"
        if self.url and self.name != "dogimages":
            yield f"data.url is of data=dogimages only, not of data={self.name}: drop it"

    @property
    def is_remote(self) -> bool:
        """Whether the photos are on another machine, where this one does not look for them."""
        return False


@dataclass
class Augment:
    """Random changes of training photos; validation and test photos are not changed."""

    crop: float | None = key(
        "smallest share of a photo's area in a random crop; null: centre", None, above=0, at_most=1
    )
    flip: bool = key("mirror half of the photos", False)
    randaugment: int = key("strength of two random colour or shape changes; 0: none", 0, at_least=0, at_most=30)
    transform: dict[str, Any] = key(
        "your own transform: _target_ and its arguments; called with each cropped photo, a PIL image", {}
    )
    mixup: float = key("Beta(a, a) of blended pairs; 0: none", 0.0, at_least=0)
    cutmix: float = key("Beta(a, a) of pasted pairs; 0: none", 0.0, at_least=0)
    label_smoothing: float = key("share of each label that is spread over all classes", 0.0, at_least=0, below=1)

    def conflicts(self, cfg: "Train") -> Iterator[str]:
        """Yield a message for each setting that contradicts another."""
        if self.transform and "_target_" not in self.transform:
            yield "augment.transform: give augment.transform._target_=package.Class"

    @property
    def changes_photos(self) -> bool:
        """Whether a train photo may look different in each epoch."""
        return bool(self.crop or self.flip or self.randaugment or self.transform)


def refuse_overlap(root: str | None, folder: Path) -> None:
    """Refuse a run's folder inside the photos' folder, where its plots would become a class.

    Args:
        root: data.root.
        folder: of the run or sweep.

    Raises:
        ConfigError: it is the photos' folder, or lies in it.
    """
    if not root:
        return
    try:
        photos, run = Path(root).expanduser().resolve(), folder.resolve()
    except (OSError, RuntimeError):
        return  # reported when it is opened
    if run.is_relative_to(photos):
        raise ConfigError(
            f"results in {folder} and photos in data.root={root} would mix: give a hydra.run.dir (hydra.sweep.dir of a "
            "sweep) outside of the photos' folder"
        )


def _unsafe_root(given: str) -> str:
    """Why a folder is hardly one of photos: a variable that is not set, or everything that the user has."""
    if not given.strip():
        return "is empty, as where a shell variable is not set"
    try:
        root, home = Path(given).expanduser().resolve(), Path.home().resolve()
    except (OSError, RuntimeError):
        return ""  # reported when it is opened
    checkout = Path(__file__).resolve().parents[3]
    if root == home or root in home.parents:
        return "is a home folder or holds all of them"
    if (checkout / "pyproject.toml").exists() and (root == checkout or root in checkout.parents):
        return "is Sagehound's own folder or lies above it"
    if Path(given) == Path():
        return "is the current folder"
    return ""


def _bad_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        return str(error)
    return ""
