"""The classifier: a timm backbone and a head, as a LightningModule."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from sagehound import metrics
from sagehound.config import Backbone, Finetune, Head, Schedule, check_values
from sagehound.data.augmentation import make_mix
from sagehound.errors import ConfigError
from sagehound.inference.network import Normalise, features_of, make_head
from sagehound.inference.preprocessing import Preprocessing
from sagehound.models import backbone as backbones
from sagehound.models import finetune as finetuning
from sagehound.models import losses, optimizers, schedules
from sagehound.models.optimization import Optimization
from sagehound.models.relu6 import use_small
from sagehound.models.steps import Steps
from sagehound.system.hardware import seeded
from sagehound.system.machine import tune_allocator


class Classifier(Steps, Optimization):
    """Photos, uint8, b x 3 x h x w, or their features, float, b x f, to logits, b x c.

    Args:
        backbone: a name of ``timm.list_models()``, or a module that returns features, b x f, and has f as
            ``head_hidden_size``.
        classes: c names; None: those of the data module, when training begins.
        finetune: head (the backbone stays frozen), gradual (head first, then all) or full.
        pretrained: start from ImageNet weights.
        weights: a file of backbone weights instead of timm's download.
        hidden: widths of the head's hidden layers; none is one linear layer.
        dropout: share of inputs that are dropped before each layer of the head.
        head_epochs: gradual: epochs before the backbone is unfrozen.
        backbone_lr: learning rate of the backbone's last layer, as a share of ``lr``.
        layer_decay: learning rate of each layer, as a share of that of the next layer towards the head.
        freeze_norm: keep the pretrained BatchNorm statistics while the backbone is trained.
        loss: cross_entropy, focal, or a module of your own: logits, b x c, and targets to losses, b, or to their mean.
            Targets are labels, b, or with mixup or CutMix probabilities, b x c.
        class_weights: balanced, or one weight per class.
        logit_adjustment: tau: tau x ln(share of the train photos) is added to the logits in the loss; None: nothing.
        gamma: of the focal loss.
        label_smoothing: share of each label that is spread over all classes.
        mixup: Beta(a, a) of blended pairs (Zhang et al. 2018); 0: none.
        cutmix: Beta(a, a) of pasted pairs (Yun et al. 2019); 0: none.
        optimizer: a name of torch.optim or timm.optim in lower case, or a class of your own.
        lr: learning rate of the head, at the schedule's peak.
        weight_decay: not applied to biases and normalisation layers.
        optimizer_args: other arguments of the optimizer's class.
        schedule: cosine, constant or plateau.
        warmup_epochs: epochs of linear rise from zero; cosine, constant.
        min_lr: cosine: the last learning rate, as a share of ``lr``.
        plateau_factor: plateau: what the learning rate is multiplied by.
        plateau_patience: plateau: epochs without a lower validation loss before that.
        image_size: height and width of the photos, pixels; None: those of the weights.
        preprocessing: what the backbone expects, or its fields by name; None: timm's settings of the weights.
        channels_last: memory order in which convolutions are faster.
        compile: compile the backbone (torch.compile) when training begins.
        seed: of the initial weights and of random numbers in a step.
        load_weights: False if the backbone's weights come from a checkpoint; none are read or downloaded now.

    Raises:
        ConfigError: an argument is out of range, timm has no such backbone, or the optimizer takes no such argument.
        InputError: the pretrained weights cannot be read or fetched.
    """

    def __init__(
        self,
        backbone: str | nn.Module = "resnet34",
        classes: Sequence[str] | None = None,
        finetune: str = "head",
        *,
        pretrained: bool = True,
        weights: str | None = None,
        hidden: Sequence[int] = (),
        dropout: float = 0.0,
        head_epochs: int = 0,
        backbone_lr: float = 0.1,
        layer_decay: float = 0.8,
        freeze_norm: bool = True,
        loss: str | nn.Module = "cross_entropy",
        class_weights: str | Sequence[float] | None = None,
        logit_adjustment: float | None = None,
        gamma: float = losses.FOCAL_GAMMA,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        optimizer: str | Callable[..., torch.optim.Optimizer] = "adamw",
        lr: float = 0.002,
        weight_decay: float = 0.01,
        optimizer_args: dict[str, Any] | None = None,
        schedule: str = "cosine",
        warmup_epochs: float = 0.5,
        min_lr: float = 0.0,
        plateau_factor: float = 0.1,
        plateau_patience: int = 3,
        image_size: int | None = None,
        preprocessing: Preprocessing | dict[str, Any] | None = None,
        channels_last: bool = True,
        compile: bool = False,
        seed: int = 0,
        load_weights: bool = True,
    ) -> None:
        super().__init__()
        self._keep_arguments(locals())
        self.finetune = Finetune(finetune, head_epochs, backbone_lr, layer_decay, freeze_norm)
        self.head_settings = Head(list(hidden), dropout)
        self.schedule = Schedule(schedule, warmup_epochs, min_lr, plateau_factor, plateau_patience)
        self.pretrained, self.seed, self.given_loss, self.gamma, self.unknown = pretrained, seed, loss, gamma, None
        self.class_weights, self.logit_adjustment, self.compile_backbone = class_weights, logit_adjustment, compile
        self.label_smoothing, self.mixup, self.cutmix = label_smoothing, mixup, cutmix
        self._set_optimizer(optimizer, lr, weight_decay, optimizer_args or {})
        self._check_settings(with_classes=load_weights)
        self._make_backbone(backbone, weights, preprocessing, channels_last, load_weights, image_size)
        self._set_first_classes(classes)
        self.set_frozen(0)

    def _check_settings(self, *, with_classes: bool) -> None:
        """Check the arguments. Without ``with_classes`` those of the optimizer and the loss may be wrong.

        A checkpoint can be used without its optimizer and loss.
        """
        for group in (self.finetune, self.head_settings, self.optimizer, self.schedule):
            check_values(group, type(group).__name__.lower() + ".")
        if with_classes:
            optimizers.check(self.optimizer.name, self._optimizer_class(), self._optimizer_arguments())
            losses.check(self.given_loss, self.class_weights, self.label_smoothing, self.logit_adjustment)

    def _make_backbone(
        self,
        backbone: str | nn.Module,
        weights: str | None,
        preprocessing: Preprocessing | dict[str, Any] | None,
        channels_last: bool,
        load_weights: bool,
        image_size: int | None,
    ) -> None:
        """Build the backbone, and the normalisation that its weights expect."""
        if isinstance(backbone, str):
            with seeded(self.seed):
                settings = Backbone(backbone, self.pretrained, weights)
                self.backbone = backbones.build(settings, with_weights=load_weights, image_size=image_size)
            use_small(self.backbone)
        elif image_size:
            raise ConfigError("image_size works with a backbone's name: make a module of your own for this size")
        else:
            self.backbone = backbone
        if isinstance(preprocessing, dict):  # of a checkpoint
            preprocessing = Preprocessing.read(preprocessing)
        self.preprocessing = preprocessing or Preprocessing.of_weights(backbones.data_config(self.backbone))
        self.hparams["preprocessing"] = asdict(self.preprocessing)  # a checkpoint is opened without the weights' file
        self.normalise = Normalise(self.preprocessing, channels_last=channels_last)
        if channels_last:
            backbones.to_channels_last(self.backbone)
        if self.finetune.name == "head":
            self.backbone.requires_grad_(False)

    def _set_first_classes(self, classes: Sequence[str] | None) -> None:
        self.classes: list[str] = []
        if isinstance(classes, str | int):
            raise ConfigError(f"classes={classes!r}: give the names of the classes as a list, or leave it out")
        if classes:
            self.set_classes(classes)

    def _keep_arguments(self, given: dict[str, Any]) -> None:
        """Save the arguments for the checkpoint as plain values, so that loading runs no code."""
        plain = {k: v for k, v in given.items() if k not in ("self", "__class__")}
        plain |= {k: list(v) for k, v in plain.items() if isinstance(v, tuple)}
        for key in ("backbone", "loss", "optimizer"):
            plain[key] = plain[key] if isinstance(plain[key], str) else optimizers.qualified_name(plain[key])
        if isinstance(plain["preprocessing"], Preprocessing):
            plain["preprocessing"] = asdict(plain["preprocessing"])
        self.save_hyperparameters(plain | {"load_weights": False}, logger=False)

    def set_classes(self, classes: Sequence[str]) -> None:
        """Make the head, and the metrics, for these classes.

        Raises:
            ConfigError: they are fewer than two, or not as many as the class weights.
        """
        self.classes = list(classes)
        if len(self.classes) < 2:
            raise ConfigError(f"classes={self.classes}: a classifier needs two or more")
        self.hparams["classes"] = self.classes
        with seeded(self.seed):  # the head's first weights depend on the seed alone
            self.head = make_head(
                features_of(self.backbone), self.head_settings.hidden, len(self.classes), self.head_settings.dropout
            )
        self.mix = make_mix(self.mixup, self.cutmix, len(self.classes))
        self.loss = losses.make(self.given_loss, self.class_weights, self.gamma, self.label_smoothing, self.classes)
        self.train_scores = metrics.collection(len(self.classes), "train")
        self.train_scores.persistent(True)  # a run that is stopped in an epoch reports the whole epoch after a resume
        self.valid_scores = metrics.collection(len(self.classes), "valid")
        self.test_scores = metrics.collection(len(self.classes), "test")

    def configure_model(self) -> None:
        """Use the data module's classes if none were given.

        Raises:
            ConfigError: it has none.
        """
        if not self.classes:
            classes = self._of_data("classes")
            if not classes:
                raise ConfigError("Classifier has no classes: give classes=[...], or train with a PhotoDataModule")
            self.set_classes(classes)
            self.head.to(self.device)

    def _of_data(self, name: str) -> Any:  # noqa: ANN401 - whatever the user's data module has
        """An attribute of the trainer's data module; None without one."""
        return getattr(getattr(self._trainer, "datamodule", None), name, None)

    def setup(self, stage: str) -> None:
        """Prepare the process that trains; with several devices it is a new one.

        Raises:
            ConfigError: the data module's classes are not the model's.
        """
        classes = self._of_data("classes")
        if self.classes and classes and self.classes != list(classes) and stage != "predict":
            raise ConfigError(
                f"the data module's classes are not the model's, or in another order: {_some(classes)}; "
                f"{_some(self.classes)}. Give Classifier(classes=datamodule.classes)"
            )
        tune_allocator()
        if self.compile_backbone:
            self.backbone.compile()

    def on_fit_start(self) -> None:
        """Set balanced class weights and the logit adjustment, which depend on the train photos.

        Raises:
            ConfigError: the number of photos of each class is unknown.
        """
        if self.class_weights != "balanced" and self.logit_adjustment is None:
            return
        counts = self._of_data("class_counts")
        if counts is None:
            raise ConfigError(
                "loss.class_weights=balanced and loss.logit_adjustment need a PhotoDataModule: give one weight a class "
                "instead"
            )
        if self.class_weights == "balanced":
            self.loss.weight = losses.balanced(counts()).to(self.device)
        if self.logit_adjustment is not None:
            self.loss.offset = losses.adjustment(counts(), self.logit_adjustment).to(self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the classes."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["classes"] = list(self.classes)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the head, so that its weights can be loaded, and set the temperature."""
        super().on_load_checkpoint(checkpoint)
        self.temperature = float(checkpoint.get("temperature", 1))
        if not self.classes:
            self.set_classes(checkpoint["classes"])

    def on_train_start(self) -> None:
        """After a resume: freeze as the epoch needs (its hook is not called), and set the schedule's learning rates."""
        self.set_frozen(self.current_epoch)
        schedules.adjust(self.lr_schedulers())

    def on_train_epoch_start(self) -> None:
        """Freeze or unfreeze the backbone."""
        self.set_frozen(self.current_epoch)

    def is_frozen(self, epoch: int) -> bool:
        """Whether the backbone is frozen in this epoch (from 0)."""
        return finetuning.is_frozen(self.finetune, epoch)

    def set_frozen(self, epoch: int) -> None:
        """Freeze or unfreeze the backbone for this epoch (from 0).

        A backbone that is frozen for some epochs keeps requires_grad, because the optimizer and DDP need its parameters
        from the start. It runs without a graph, so it gets no gradients.
        """
        self.frozen = self.is_frozen(epoch)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Classifier":
        """As in torch, but a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if hasattr(self, "backbone"):
            finetuning.set_modes(self.backbone, self.frozen, self.finetune.freeze_norm and self.pretrained)
        return self


def _some(classes: Sequence[str]) -> str:
    return f"{len(classes)} ({', '.join(classes[:3])}{', ...' if len(classes) > 3 else ''})"
