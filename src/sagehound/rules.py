"""The rules across keys: settings that contradict each other, and values that cannot be meant."""

import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from sagehound.errors import ConfigError


def across_keys(cfg: DictConfig) -> list[tuple[Any, str]]:
    """Whether each rule is broken, and the message that says so."""
    optimizer, schedule, data, epochs = cfg.optimizer, cfg.schedule, cfg.data, cfg.trainer.max_epochs
    augment, views = cfg.augment, cfg.features.views
    unsafe = "" if data.root is None else _unsafe_root(data.root)
    unreadable = _bad_pattern(data.group or "")
    return [
        (
            cfg.trainer.name == "sagemaker" and "aws" not in cfg,
            "trainer=sagemaker is of launch.py: python launch.py trainer=sagemaker ...",
        ),
        (cfg.data.s3 and "aws" not in cfg, f"data.s3={cfg.data.s3} is of launch.py trainer=sagemaker: give data.root"),
        (
            cfg.backbone.weights and not cfg.backbone.pretrained,
            f"backbone.weights={cfg.backbone.weights} contradicts backbone.pretrained=false: drop one of them",
        ),
        (
            cfg.finetune.name == "head" and not cfg.backbone.pretrained,
            "finetune=head contradicts backbone.pretrained=false: a frozen random backbone learns nothing; "
            "choose finetune=full, or give weights",
        ),
        (
            cfg.finetune.name == "gradual" and not 0 < cfg.finetune.head_epochs < epochs,
            f"finetune.head_epochs={cfg.finetune.head_epochs}: with finetune=gradual it must lie between 1 and "
            f"trainer.max_epochs - 1 = {epochs - 1}",
        ),
        (
            cfg.finetune.name != "gradual" and cfg.finetune.head_epochs,
            f"finetune.head_epochs is of finetune=gradual only, not of finetune={cfg.finetune.name}: drop it",
        ),
        (
            views and cfg.finetune.name == "full",
            f"features.views={views}: under finetune=full no features are kept: set features.views=0",
        ),
        (
            views and not cfg.features.cache,
            f"features.views={views} contradicts features.cache=false: set features.views=0",
        ),
        (
            views and not (augment.crop or augment.flip or augment.randaugment),
            f"features.views={views} needs an augmentation: choose augment=light, or features.views=0",
        ),
        (
            views and cfg.finetune.name == "head" and (augment.mixup or augment.cutmix),
            f"features.views={views} keeps views of single photos, augment.mixup and augment.cutmix blend two: set "
            "both to 0, or features.views=0",
        ),
        (
            schedule.name != "cosine" and schedule.min_lr,
            f"schedule.min_lr is of schedule=cosine only, not of schedule={schedule.name}: drop it",
        ),
        (
            optimizer.name == "sgd" and (optimizer.eps is not None or optimizer.betas is not None),
            "optimizer=sgd has no eps and no betas: drop them, or choose optimizer=adamw or optimizer=adam",
        ),
        (
            optimizer.name != "sgd" and optimizer.momentum is not None,
            f"optimizer={optimizer.name} has no momentum: drop it (betas is what it has), or choose optimizer=sgd",
        ),
        (
            optimizer.betas is not None and len(optimizer.betas) != 2,
            f"optimizer.betas={optimizer.betas}: give two numbers, such as [0.9,0.999]",
        ),
        (
            schedule.name == "plateau" and schedule.warmup_epochs,
            "schedule=plateau has no warm-up: drop schedule.warmup_epochs, or choose schedule=cosine",
        ),
        (
            schedule.warmup_epochs >= epochs,
            f"schedule.warmup_epochs={schedule.warmup_epochs:g} must be below trainer.max_epochs={epochs}",
        ),
        (
            data.valid_fraction + data.test_fraction >= 1,
            f"data.valid_fraction={data.valid_fraction} and data.test_fraction={data.test_fraction} leave no photo to "
            "train on: their sum must be below 1",
        ),
        (
            data.root is None and not data.table and not data.s3,
            "data.root is missing: give data.root=PATH of your photos",
        ),
        (
            data.table and data.name != "folder",
            f"data.table={data.table} is of data=folder only, not of data={data.name}: add data=folder",
        ),
        (
            unsafe,
            f"data.root={data.root}: {unsafe}; give the folder of the photos by its own path",
        ),
        (
            unreadable,
            f"data.group={data.group} is not a regular expression: {unreadable}",
        ),
        (
            data.url and data.name != "dogimages",
            f"data.url is of data=dogimages only, not of data={data.name}: drop it",
        ),
        (
            cfg.trainer.precision == "16-mixed" and cfg.trainer.accelerator == "cpu",
            "trainer.precision=16-mixed needs a GPU: choose trainer.precision=bf16-mixed, 32-true or auto",
        ),
        (
            cfg.debugger and str(cfg.debugger.folder).startswith("s3:"),
            f"debugger.folder={cfg.debugger and cfg.debugger.folder}: give a folder of this machine; a job on "
            "SageMaker has its own, which AWS puts into S3",
        ),
        (
            cfg.trainer.compile and cfg.debugger and {"relu_input", "relu_output"} & set(cfg.debugger.collections),
            "trainer.compile=true: debugger.collections=[relu_input,relu_output] look between the layers, which "
            "compiled code does not allow: drop them, or set trainer.compile=false",
        ),
        (
            cfg.resume and not Path(cfg.resume).exists(),
            f"resume={cfg.resume}: no such run or checkpoint; give last, a run's folder, or a .ckpt file",
        ),
        (
            cfg.resume and cfg.audit_only,
            "audit_only=true trains nothing, so there is nothing to resume: drop audit_only or resume",
        ),
    ]


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
        return  # what is wrong with it is said when it is opened
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
        return ""  # what is wrong with it is said when it is opened
    checkout = Path(__file__).resolve().parents[2]
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
