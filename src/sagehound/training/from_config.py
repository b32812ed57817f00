"""Builds the model, the data module and the user's own parts from a config."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import get_object

from sagehound.config import Train, extra, targets
from sagehound.data.datamodule import PhotoDataModule
from sagehound.data.photo_set import PhotoSet
from sagehound.errors import ConfigError, InputError
from sagehound.inference.preprocessing import Preprocessing
from sagehound.models import weights_file
from sagehound.models.classifier import Classifier
from sagehound.models.losses import FOCAL_GAMMA
from sagehound.storage import s3_object


def classifier(
    cfg: Train, classes: Sequence[str] | None = None, checkpoint: Mapping[str, Any] | None = None
) -> Classifier:
    """The model that a config describes, with pretrained weights unless a run is resumed.

    Args:
        cfg: the run's config.
        classes: names; None: they are set later.
        checkpoint: of the run that is resumed, whose preprocessing is used.

    Raises:
        ConfigError: timm has no such backbone, or one of the user's classes cannot be used.
        InputError: the weights cannot be fetched or read.
    """
    try:
        return _classifier(cfg, classes, checkpoint)
    except InputError as error:
        if error.instead and cfg.data.name == "dogimages" and not Path(str(cfg.data.root)).expanduser().exists():
            error.instead = [*error.instead, "data=demo"]  # these photos would have to be downloaded too
        raise


def _classifier(cfg: Train, classes: Sequence[str] | None, checkpoint: Mapping[str, Any] | None) -> Classifier:
    f, s, a, o, t = cfg.finetune, cfg.schedule, cfg.augment, cfg.optimizer, cfg.trainer
    optimizer, arguments = _optimizer(cfg)
    return Classifier(
        cfg.backbone.name,
        classes,
        f.name,
        pretrained=cfg.backbone.pretrained,
        weights=_weights(cfg),
        hidden=cfg.head.hidden,
        dropout=cfg.head.dropout,
        head_epochs=f.head_epochs,
        backbone_lr=f.backbone_lr,
        layer_decay=f.layer_decay,
        freeze_norm=f.freeze_norm,
        loss=_loss(cfg),
        class_weights=cfg.loss.class_weights,
        logit_adjustment=cfg.loss.logit_adjustment,
        gamma=FOCAL_GAMMA if cfg.loss.gamma is None else cfg.loss.gamma,
        label_smoothing=a.label_smoothing,
        mixup=a.mixup,
        cutmix=a.cutmix,
        optimizer=optimizer,
        lr=o.lr,
        weight_decay=o.weight_decay,
        optimizer_args=arguments,
        schedule=s.name,
        warmup_epochs=s.warmup_epochs,
        min_lr=s.min_lr,
        plateau_factor=s.factor,
        plateau_patience=s.patience,
        image_size=cfg.data.image_size,
        preprocessing=_preprocessing(checkpoint or {}),
        channels_last=t.channels_last,
        compile=t.compile,
        seed=cfg.seed,
        load_weights=not cfg.resume,
    )


def _preprocessing(checkpoint: Mapping[str, Any]) -> Preprocessing | None:
    """The preprocessing of a checkpoint; None without one, and for checkpoints of earlier versions.

    Raises:
        InputError: it is broken.
    """
    try:
        given = checkpoint.get("hyper_parameters", {}).get("preprocessing")
        return Preprocessing.read(given) if given else None
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
        raise InputError(f"the checkpoint has a broken preprocessing ({error}): give another") from error


def _weights(cfg: Train) -> str | None:
    """``backbone.weights``; the downloaded file of an object in S3."""
    weights = cfg.backbone.weights
    if weights and s3_object.is_s3(weights) and not cfg.resume:
        return str(weights_file.find(weights, cfg.cache.dir))
    return weights


def _optimizer(cfg: Train) -> tuple[Any, dict[str, Any]]:
    """A name or the user's class, and its arguments except the learning rate and the weight decay."""
    o = cfg.optimizer
    known = {"eps": o.eps, "betas": o.betas and tuple(o.betas), "momentum": o.momentum}
    arguments = {key: value for key, value in known.items() if value is not None} | extra(o)
    if not o._target_:
        return o.name, arguments
    common = {"lr": o.lr, "weight_decay": o.weight_decay}
    targets.resolve({"_target_": o._target_} | common | arguments, "optimizer", positional=1)
    return get_object(o._target_), arguments


def _loss(cfg: Train) -> Any:  # noqa: ANN401 - a name, or a module of the user's
    if not cfg.loss._target_:
        return cfg.loss.name
    loss = targets.resolve({"_target_": cfg.loss._target_} | extra(cfg.loss), "loss")()
    if not callable(loss):
        raise ConfigError(f"loss._target_={cfg.loss._target_}: give a torch.nn.Module, called with logits and targets")
    return loss


def transform(cfg: Train) -> Callable[..., Any] | None:
    """The user's transform of train photos; None without one.

    Raises:
        ConfigError: it cannot be used.
    """
    if not cfg.augment.transform:
        return None
    made = targets.resolve(cfg.augment.transform, "augment.transform")()
    if not callable(made):
        raise ConfigError("augment.transform: its _target_ must be a class whose objects are called with a photo")
    return made  # type: ignore[no-any-return]


def data_module(cfg: Train, photos: PhotoSet, model: Classifier) -> PhotoDataModule:
    """The data module of a photo set."""
    return PhotoDataModule.of(
        photos, model.preprocessing, cfg.data, cfg.augment, cfg.cache, transform=transform(cfg), seed=cfg.seed
    )
