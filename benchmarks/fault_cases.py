"""Faulty and healthy trainings for ``faults.py``."""

import csv
import random
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps


@dataclass(frozen=True)
class Base:
    """Photos and a backbone. ``held_out``: no threshold was chosen with it."""

    name: str
    root: Path  # split/class/photo
    overrides: tuple[str, ...]
    architecture: str  # timm's name
    weights: str
    held_out: bool


@dataclass(frozen=True)
class Case:
    """One training.

    Attributes:
        name: of the fault; empty: healthy.
        overrides: what is wrong.
        causes: rules that name the fault rightly; of the first finding.
        table: how the labels or splits are wrong, a function of this module by its name.
        early: whether it can be seen before the first epoch.
        weights: what is wrong with the file of weights, not_loaded or in_part.
    """

    name: str
    overrides: tuple[str, ...] = ()
    causes: tuple[str, ...] = ()
    table: str = ""
    early: bool = True
    weights: str = ""


LOSS, OPTIMIZER, TRANSFORM, CALLBACK = (
    f"{key}._target_=fault_parts." for key in ("loss", "optimizer", "augment.transform", "callbacks.fault")
)
SHORT = ("trainer.max_epochs=2", "features.cache=true")
HIDDEN = "head.hidden=[64]"

FAULTS = (
    Case("learning rate x 1000", ("optimizer.lr=2",), ("LearningRateTooHigh",)),
    Case("learning rate x 1000, hidden layer", ("optimizer.lr=2", HIDDEN), ("LearningRateTooHigh",)),
    Case("learning rate / 1000", ("optimizer.lr=2e-6",), ("LearningRateTooLow",)),
    Case("learning rate / 1000, SGD", ("optimizer=sgd", "optimizer.lr=2e-5"), ("LearningRateTooLow",)),
    Case("shuffled labels", (), ("LabelNoise",), "shuffled"),
    Case("20 % flipped labels", (), ("LabelNoise",), "flipped"),
    Case("train labels shifted by one", (), ("TrainEvalGap",), "shifted_train"),
    Case("valid labels shuffled", (), ("TrainEvalGap",), "shuffled_valid"),
    Case("50:1 classes", (), ("ClassImbalance",), "imbalanced", early=False),
    Case("test photos are train photos", (), ("DataLeak",), "leaked"),
    Case("test photos are mirrored train photos", (), ("DataLeak",), "leaked_mirrored"),
    Case("test photos are recompressed train photos", (), ("DataLeak",), "leaked_recompressed"),
    Case("a third of the photos is black", (), ("BlankPhotos",), "blackened"),
    Case("BGR", (f"{TRANSFORM}Bgr", "trainer.max_epochs=1"), ("SwappedChannels",), "few"),
    Case("photos scaled to 0..1", (f"{TRANSFORM}Black", "trainer.max_epochs=1"), ("BlankPhotos",), "few"),
    Case("photos normalised twice", (f"{TRANSFORM}Dark", "trainer.max_epochs=1"), ("WrongNormalisation",), "few"),
    Case("weights not loaded", (), ("RandomBackbone",), weights="not_loaded"),
    Case("weights loaded in part", (), ("RandomBackbone",), weights="in_part"),
    Case("loss with the wrong sign", (f"{LOSS}WrongSign",), ("WrongLoss",)),
    Case("softmax twice", (f"{LOSS}SoftmaxTwice",), ("WrongLoss",)),
    Case("loss is detached", (f"{LOSS}Detached",), ("WrongLoss", "FrozenParameters")),
    Case("loss with shifted labels", (f"{LOSS}NextLabel",), ("WrongLoss",)),
    Case("optimizer has biases alone", (f"{OPTIMIZER}OnlyBiases",), ("FrozenParameters",)),
    Case("learning rate zero at once", (f"{OPTIMIZER}ZeroRate",), ("FrozenParameters", "LearningRateTooLow")),
    Case("gradient ascent", (f"{OPTIMIZER}Ascent", "optimizer.lr=0.1"), ("WrongDirection",)),
    Case("head of zeros", (f"{CALLBACK}Initialise", "callbacks.fault.how=zeros", HIDDEN), ("AllZero",)),
    Case("head x 100", (f"{CALLBACK}Initialise", "callbacks.fault.how=large", HIDDEN), ("PoorWeightInitialization",)),
    Case("dead ReLUs", (f"{CALLBACK}Initialise", "callbacks.fault.how=dead", HIDDEN), ("DeadRelu", "FrozenParameters")),
    Case("NaN in the head", (f"{CALLBACK}Initialise", "callbacks.fault.how=not_finite"), ("ExplodingTensor",)),
    Case("everything frozen", (f"{CALLBACK}Freeze", HIDDEN), ("FrozenParameters",)),
    Case(
        "clipped to nothing",
        ("optimizer=sgd", "optimizer.lr=0.1", "trainer.gradient_clip=1e-9"),
        ("GradientClipping",),
    ),
    Case(
        "40 photos, 60 epochs",
        ("trainer.max_epochs=60", "head.hidden=[512]", "optimizer.lr=0.01"),
        ("Overfit", "Overtraining"),
        "forty",
        early=False,
    ),
)

FULL = (
    *("finetune=full", "trainer.max_epochs=2", "data.batch_size=16", "trainer.precision=32-true"),
    "finetune.start=random",  # as measured
)
FULL_FAULTS = (
    Case("full, learning rate x 1000", (*FULL, "optimizer.lr=2"), ("LearningRateTooHigh", "ExplodingTensor"), "tiny"),
    Case("full, learning rate / 1000", (*FULL, "optimizer.lr=2e-6"), ("LearningRateTooLow",), "tiny"),
    Case(
        "full, backbone at a rate x 100",
        (*FULL, "optimizer.lr=0.2", "finetune.backbone_lr=1", "finetune.layer_decay=1"),
        ("LearningRateTooHigh",),
        "tiny",
    ),
    Case("full, loss with the wrong sign", (*FULL, f"{LOSS}WrongSign"), ("WrongLoss",), "tiny"),
    Case("full, weights not loaded", FULL, ("RandomBackbone",), "tiny", weights="not_loaded"),
    Case("full, optimizer has biases alone", (*FULL, f"{OPTIMIZER}OnlyBiases"), ("FrozenParameters",), "tiny"),
)

HEALTHY = (
    *(Case("", (f"seed={seed}",)) for seed in range(3)),
    Case("", (HIDDEN,)),
    Case("", ("head.hidden=[256]", "head.dropout=0.3")),
    Case("", ("optimizer.lr=0.01",)),
    Case("", ("optimizer.lr=0.0005",)),
    Case("", ("optimizer=sgd", "optimizer.lr=0.1")),
    Case("", ("data.batch_size=16",)),
    Case("", ("data.batch_size=256",)),
    Case("", ("augment.label_smoothing=0.1",)),
    Case("", ("loss.class_weights=balanced",)),
    Case("", ("loss=focal",)),
    Case("", ("trainer.ema=0.9",)),
    Case("", ("trainer.max_epochs=20",)),
    Case("", ("trainer.accumulate=2",)),
    Case("", (), (), "few"),
    Case("", ("seed=1",), (), "few"),
    Case("", ("schedule=constant", "optimizer.weight_decay=0")),
)
FULL_HEALTHY = (
    Case("", FULL, (), "tiny"),
    Case("", (*FULL, "seed=1"), (), "tiny"),
    Case("", ("finetune=gradual", "finetune.head_epochs=1", *FULL[1:]), (), "tiny"),
)

Row = dict[str, str]


def write_weights(kind: str, base: Base, path: Path) -> tuple[str, ...]:
    """Write a file of weights that were not loaded, or only half of them; returns the override that uses it."""
    if not kind:
        return ()
    import timm
    import torch
    from safetensors.torch import save_file

    from sagehound.config import Backbone
    from sagehound.models.backbone import build

    torch.manual_seed(0)
    state = timm.create_model(base.architecture).state_dict()
    if kind == "in_part":
        good = build(Backbone(base.architecture, True, base.weights)).state_dict()
        state |= {name: good[name] for name in list(good)[: len(good) // 2]}
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    return (f"backbone.weights='{path}'",)


def write_table(name: str, base: Base, root: Path, case: str) -> tuple[str, ...]:
    """Write the photos of a base as a table that ``name`` has changed; returns the overrides that use it.

    Args:
        name: of the function that changes it; empty: none.
        base: its photos lie below ``root``.
        root: of all photos.
        case: name of a new folder for the table and for changed photos.
    """
    rows = [
        {"file": str(p), "label": p.parent.name, "split": p.parent.parent.name}
        for p in sorted(base.root.glob("*/*/*"))
        if p.is_file()
    ]
    (root / case).mkdir()
    rows = globals()[name](rows, root / case) if name else rows
    table = root / case / "photos.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["file", "label", "split"])
        writer.writeheader()
        writer.writerows(row | {"file": str(Path(row["file"]).relative_to(root))} for row in rows)
    return (f"data.table='{table}'", f"data.root='{root}'")


def shuffled(rows: list[Row], folder: Path) -> list[Row]:
    """Labels in another order than the photos."""
    labels = [row["label"] for row in rows]
    random.Random(0).shuffle(labels)
    return [row | {"label": label} for row, label in zip(rows, labels, strict=True)]


def flipped(rows: list[Row], folder: Path) -> list[Row]:
    """A fifth of the labels of each split is another one."""
    rng, labels = random.Random(0), sorted({row["label"] for row in rows})
    return [
        row | {"label": rng.choice([one for one in labels if one != row["label"]])} if rng.random() < 0.2 else row
        for row in rows
    ]


def shifted_train(rows: list[Row], folder: Path) -> list[Row]:
    """Each train label is the next one."""
    labels = sorted({row["label"] for row in rows})
    following = dict(zip(labels, [*labels[1:], labels[0]], strict=True))
    return [row | {"label": following[row["label"]]} if row["split"] == "train" else row for row in rows]


def shuffled_valid(rows: list[Row], folder: Path) -> list[Row]:
    """The valid labels in another order than the valid photos."""
    mixed = shuffled([row for row in rows if row["split"] == "valid"], folder)
    return [row for row in rows if row["split"] != "valid"] + mixed


def imbalanced(rows: list[Row], folder: Path) -> list[Row]:
    """All train photos of the first classes, one of each of the others."""
    labels, seen, kept = sorted({row["label"] for row in rows}), set(), []
    for row in rows:
        is_rare = row["split"] == "train" and row["label"] in labels[len(labels) // 2 :]
        if is_rare and row["label"] in seen:
            continue
        seen.add(row["label"] if is_rare else "")
        kept.append(row)
    return kept


def _leaked(rows: list[Row], folder: Path, quality: int, mirrored: bool) -> list[Row]:
    """Half of the test photos are changed copies of train photos."""
    train = [row for row in rows if row["split"] == "train"]
    half = sum(row["split"] == "test" for row in rows) // 2
    copies = []
    for i, row in enumerate(train[:: max(len(train) // half, 1)][:half]):
        with Image.open(row["file"]) as image:
            photo = ImageOps.mirror(image.convert("RGB")) if mirrored else image.convert("RGB")
            photo.save(folder / f"copy{i}.jpg", quality=quality)
        copies.append({"file": str(folder / f"copy{i}.jpg"), "label": row["label"], "split": "test"})
    return [*rows, *copies]


def leaked(rows: list[Row], folder: Path) -> list[Row]:
    """Copies of train photos in test."""
    return _leaked(rows, folder, 100, mirrored=False)


def leaked_recompressed(rows: list[Row], folder: Path) -> list[Row]:
    """Recompressed train photos in test."""
    return _leaked(rows, folder, 60, mirrored=False)


def leaked_mirrored(rows: list[Row], folder: Path) -> list[Row]:
    """Mirrored train photos in test."""
    return _leaked(rows, folder, 95, mirrored=True)


def blackened(rows: list[Row], folder: Path) -> list[Row]:
    """A third of the train photos is black."""
    changed = []
    for i, row in enumerate(rows):
        if i % 3 or row["split"] != "train":
            changed.append(row)
            continue
        Image.new("RGB", (240 + i % 7, 240), (i % 4, i % 3, i % 2)).save(folder / f"black{i}.png")
        changed.append(row | {"file": str(folder / f"black{i}.png")})
    return changed


def _at_most(rows: list[Row], train: int, other: int) -> list[Row]:
    counts: dict[tuple[str, str], int] = {}
    kept = []
    for row in rows:
        key = row["label"], row["split"]
        counts[key] = counts.get(key, 0) + 1
        if counts[key] <= (train if row["split"] == "train" else other):
            kept.append(row)
    return kept


def few(rows: list[Row], folder: Path) -> list[Row]:
    """Twelve train photos a class, and four of each other split."""
    return _at_most(rows, 12, 4)


def tiny(rows: list[Row], folder: Path) -> list[Row]:
    """Six train photos a class, and three of each other split."""
    return _at_most(rows, 6, 3)


def forty(rows: list[Row], folder: Path) -> list[Row]:
    """About forty train photos."""
    classes = len({row["label"] for row in rows})
    return _at_most(rows, max(40 // classes, 1), 8)
