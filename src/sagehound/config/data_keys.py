"""Keys for the photos: where they are, and how they are split, read and augmented."""

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
    """The names of the columns in data.table; split, group and weight are optional."""

    file: str = key("column with the photo's path, relative to data.root", "file")
    label: str = key("column with the photo's class", "label")
    split: str = key("column with the split (train, valid or test); if it is missing, every photo is in train", "split")
    group: str = key("column with the group; photos of one group stay in one split", "group")
    weight: str = key("column with the photo's weight in the training loss, 0 or more; an empty cell is 1", "weight")


@dataclass
class Data:
    """Where the photos are and how they are read."""

    name: str = key("kind of photo source", MISSING, choices=("dogimages", "folder", "demo"))
    root: str | None = key("folder with split/class/photo or class/photo, or a .zip or .tar file of one", None)
    table: str | None = key("CSV file that lists the photos; with data.root=null, paths start at its folder", None)
    columns: Columns = group(Columns)
    source: dict[str, Any] = key(
        "your own function that lists the photos: _target_ and its arguments; it is called with root=data.root", {}
    )
    group: str | None = key(
        "regular expression for paths; photos with the same first capture group stay in one split; null: no groups",
        None,
    )
    exclude: str | None = key(
        "CSV with the columns file, action (keep, relabel or drop) and new_class, such as the suspects.csv of "
        "`sagehound doctor`; dropped photos are left out, relabelled ones get the new class",
        None,
    )
    near_duplicates: str = key(
        "nearly identical photos when a split is taken from train; together: keep them in one split; apart: do not",
        "together",
        choices=("together", "apart"),
    )
    url: str | None = key("address of the zip file to download if data.root is missing; for data=dogimages", None)
    batch_size: int = key("photos per step on each device", 64, at_least=1)
    sampling: str = key(
        "train photos of an epoch; shuffled: each one once; balanced: as many, but the same number of each class: "
        "photos of rare classes are repeated, some of frequent classes are left out",
        "shuffled",
        choices=("shuffled", "balanced"),
    )
    image_size: int | None = key(
        "height and width of the photos that the backbone is given, pixels; null: those of its weights",
        None,
        at_least=32,
        at_most=2048,
    )
    workers: int | None = key("threads that read photos; null: one per CPU core, at most 16", None, at_least=0)
    on_bad: str = key(
        "unreadable photos; skip: leave them out and list them; fail: stop", "skip", choices=("skip", "fail")
    )
    cache: str = key(
        "cache of resized photos; none: no cache; jpeg: JPEG files; memmap: raw pixels",
        "none",
        choices=("none", "jpeg", "memmap"),
    )
    samples: int = key(
        "test photos of which model.tar.gz has a small copy, which everybody who opens the server's page sees and can "
        "try; 0: none, as photos may be private",
        0,
        at_least=0,
        at_most=24,
    )
    valid_fraction: float = key("share of train that becomes valid if there is no valid folder", 0.15, above=0, below=1)
    test_fraction: float = key("share of train that becomes test if there is no test folder", 0.15, above=0, below=1)
    split_seed: int = key(
        "seed of the splits taken from train; independent of seed, so the test photos stay the same", 0
    )

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
            yield f"data.table={self.table} works only with data=folder, not data={self.name}: add data=folder"
        if self.source and (self.table or self.name != "folder"):
            yield "data.source works only with data=folder and without data.table: add data=folder, drop data.table"
        if self.source and "_target_" not in self.source:
            yield "data.source: give data.source._target_=package.function"
        if reason := "" if self.root is None else _unsafe_root(self.root):
            yield f"data.root={self.root}: {reason}; give the path of the photos' folder"
        if reason := _bad_pattern(self.group or ""):
            yield f"data.group={self.group} is not a regular expression: {reason}"
        if self.url and self.name != "dogimages":
            yield f"data.url works only with data=dogimages, not data={self.name}: drop it"

    @property
    def is_remote(self) -> bool:
        """Whether the photos are on another machine, so that this one does not look for them."""
        return False


@dataclass
class Augment:
    """Random changes to training photos; validation and test photos are not changed."""

    crop: float | None = key(
        "smallest share of the photo's area in a random crop; null: centre crop", None, above=0, at_most=1
    )
    flip: bool = key("mirror each photo horizontally with probability 0.5", False)
    randaugment: int = key("strength of two random changes of colour or shape; 0: none", 0, at_least=0, at_most=30)
    transform: dict[str, Any] = key(
        "your own transform: _target_ and its arguments; it is called with each cropped photo, a PIL image", {}
    )
    mixup: float = key("a of the Beta(a, a) distribution that blends two photos; 0: no mixup", 0.0, at_least=0)
    cutmix: float = key("a of the Beta(a, a) distribution that sets the pasted area; 0: no cutmix", 0.0, at_least=0)
    label_smoothing: float = key("share of each label that is spread evenly over all classes", 0.0, at_least=0, below=1)

    def conflicts(self, cfg: "Train") -> Iterator[str]:
        """Yield a message for each setting that contradicts another."""
        if self.transform and "_target_" not in self.transform:
            yield "augment.transform: give augment.transform._target_=package.Class"

    @property
    def changes_photos(self) -> bool:
        """Whether a training photo may look different in each epoch."""
        return bool(self.crop or self.flip or self.randaugment or self.transform)


def refuse_overlap(root: str | None, folder: Path) -> None:
    """Refuse a run's folder inside the photos' folder: its plots would be read as a class.

    Args:
        root: data.root.
        folder: the folder of the run or sweep.

    Raises:
        ConfigError: ``folder`` is the photos' folder, or is inside it.
    """
    if not root:
        return
    try:
        photos, run = Path(root).expanduser().resolve(), folder.resolve()
    except (OSError, RuntimeError):
        return  # reported when it is opened
    if run.is_relative_to(photos):
        raise ConfigError(
            f"the results folder {folder} is inside the photos' folder data.root={root}: give a hydra.run.dir (or a "
            "hydra.sweep.dir for a sweep) outside of it"
        )


def _unsafe_root(text: str) -> str:
    """Why data.root is probably a mistake, such as an unset variable or a home folder; empty if it is fine."""
    if not text.strip():
        return "is empty; perhaps a shell variable is not set"
    try:
        root, home = Path(text).expanduser().resolve(), Path.home().resolve()
    except (OSError, RuntimeError):
        return ""  # reported when it is opened
    checkout = Path(__file__).resolve().parents[3]
    if root == home or root in home.parents:
        return "is a home folder or contains one"
    if (checkout / "pyproject.toml").exists() and (root == checkout or root in checkout.parents):
        return "is Sagehound's own folder or contains it"
    if Path(text) == Path():
        return "is the current folder"
    return ""


def _bad_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        return str(error)
    return ""
