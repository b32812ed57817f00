"""The model that is trained: a timm backbone and a head, as a LightningModule."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import MetricCollection

from sagehound import backbone as backbones
from sagehound import finetune as finetuning
from sagehound import losses, metrics, optimizers, schedules
from sagehound.compute import reseed, seeded
from sagehound.config import Backbone, Finetune, Head, Optimizer, Schedule, check_values
from sagehound.data.augmentation import make_mix
from sagehound.data.loader import Batch, seed_of
from sagehound.errors import ConfigError, SagehoundError
from sagehound.inference.network import Normalise, features_of, make_head
from sagehound.inference.preprocessing import Preprocessing
from sagehound.machine import tune_allocator


class Classifier(pl.LightningModule):
    """Photos, uint8, b x 3 x h x w, or their features, float, b x f, to logits, b x c.

    Args:
        backbone: a name of ``timm.list_models()``; or a module that makes f features of a photo, with f as its
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
        class_weights: balanced, or one weight a class.
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
        preprocessing: what the backbone expects of a photo, or its fields by name; None: what timm says of its weights.
        channels_last: memory order in which convolutions are faster.
        compile: compile the backbone (torch.compile) when training begins.
        seed: of the random weights and of what is random in a step.
        load_weights: False: the backbone's weights come from a checkpoint, so none are read or fetched now.

    Raises:
        ConfigError: an argument is out of range, timm has no such backbone, or the optimizer takes no such argument.
        InputError: the pretrained weights cannot be read or fetched.
    """

    frozen = False
    head: nn.Sequential
    plateau: ReduceLROnPlateau | None = None

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
        preprocessing: Preprocessing | dict[str, Any] | None = None,
        channels_last: bool = True,
        compile: bool = False,
        seed: int = 0,
        load_weights: bool = True,
    ) -> None:
        super().__init__()
        self._keep_arguments(locals())
        name = backbone if isinstance(backbone, str) else type(backbone).__name__
        self.finetune = Finetune(finetune, head_epochs, backbone_lr, layer_decay, freeze_norm)
        self.head_settings = Head(list(hidden), dropout)
        self.optimizer = Optimizer(optimizer if isinstance(optimizer, str) else _name(optimizer), lr, weight_decay)
        self.schedule = Schedule(schedule, warmup_epochs, min_lr, plateau_factor, plateau_patience)
        for group in (self.finetune, self.head_settings, self.optimizer, self.schedule):
            check_values(group, type(group).__name__.lower() + ".")
        self.make_optimizer = optimizer if callable(optimizer) else None
        self.optimizer_args = dict(optimizer_args or {})
        self.pretrained, self.compile_backbone, self.seed = pretrained, compile, seed
        self.given_loss, self.class_weights, self.gamma = loss, class_weights, gamma
        self.label_smoothing, self.mixup, self.cutmix = label_smoothing, mixup, cutmix
        if load_weights:  # refused now; a checkpoint can be used without its optimizer and loss
            optimizers.check(self.optimizer.name, self._optimizer_class(), self._optimizer_arguments())
            losses.check(loss, class_weights, label_smoothing)
        with seeded(seed):
            self.backbone = (
                backbones.build(Backbone(name, pretrained, weights), with_weights=load_weights)
                if isinstance(backbone, str)
                else backbone
            )
        if isinstance(preprocessing, dict):  # of a checkpoint
            preprocessing = Preprocessing.read(preprocessing)
        self.preprocessing = preprocessing or Preprocessing.of_weights(backbones.data_config(self.backbone))
        self.normalise = Normalise(self.preprocessing, channels_last=channels_last)
        if channels_last:
            backbones.to_channels_last(self.backbone)
        if finetune == "head":
            self.backbone.requires_grad_(False)
        self.classes: list[str] = []
        if isinstance(classes, str | int):
            raise ConfigError(f"classes={classes!r}: give the names of the classes as a list, or leave it out")
        if classes:
            self.set_classes(classes)
        self.set_frozen(0)

    @property
    def lr(self) -> float:
        """Learning rate of the head; Lightning's Tuner may set it."""
        return self.optimizer.lr

    @lr.setter
    def lr(self, rate: float) -> None:
        self.optimizer.lr = self.hparams["lr"] = rate

    def _keep_arguments(self, given: dict[str, Any]) -> None:
        """Keep the arguments for the checkpoint, as plain values: it is read without running code."""
        plain = {k: v for k, v in given.items() if k not in ("self", "__class__")}
        plain |= {k: list(v) for k, v in plain.items() if isinstance(v, tuple)}
        for key in ("backbone", "loss", "optimizer"):
            plain[key] = plain[key] if isinstance(plain[key], str) else _name(plain[key])
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
        self.train_scores.persistent(True)  # a run that is stopped inside an epoch still reports the whole epoch
        self.valid_scores = metrics.collection(len(self.classes), "valid")
        self.test_scores = metrics.collection(len(self.classes), "test", metrics.METRICS)

    def configure_model(self) -> None:
        """Take the classes of the data module where none were given.

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

    def forward(self, x: Tensor) -> Tensor:
        """Logits, b x c, of photos or of their features."""
        return self.classify(self._normalised(x))

    def _normalised(self, x: Tensor) -> Tensor:
        """Photos normalised; features as they are."""
        if x.ndim == 2:
            return x
        if x.ndim != 4 or x.shape[1] != 3 or x.is_floating_point():
            shape = " x ".join(map(str, x.shape))
            kind = str(x.dtype).removeprefix("torch.")
            raise ConfigError(
                f"a batch has photos of {kind}, {shape}: Classifier takes uint8 (0 to 255), b x 3 x height x width, "
                "and normalises them itself"
            )
        normalised: Tensor = self.normalise(x)
        return normalised

    def classify(self, x: Tensor) -> Tensor:
        """Logits, b x c, of normalised photos or of their features."""
        logits: Tensor = self.head(x if x.ndim == 2 else self.features(x))
        return logits

    def features(self, photos: Tensor) -> Tensor:
        """Features, b x f; without gradients no graph is kept."""
        if torch.is_grad_enabled() and not self.frozen:
            features: Tensor = self.backbone(photos)
            return features
        return backbones.in_chunks(self.backbone, photos)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch; what is random in it follows from the seed and the step."""
        given, labels, *weights = self._checked(batch)
        reseed(seed_of(self.seed, self.current_epoch, batch_idx, self.global_rank), given.device)
        x, targets = self._normalised(given), labels
        if self.mix is not None and finetuning.augments(self.finetune, self.current_epoch):
            x, targets = self.mix(x, labels)
        logits = self.classify(x)
        losses: Tensor = self.loss(logits, targets)
        if weights and losses.ndim == 0:
            raise ConfigError("a loss of your own must return one number a photo where photos have weights")
        loss = (losses * weights[0]).mean() if weights else losses.mean()
        if not torch.isfinite(loss):
            raise SagehoundError(self._not_finite(loss))
        metrics.update(self.train_scores, loss, logits, labels)
        self.log("train/loss_step", loss)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add one batch to the epoch's scores; their loss is the plain cross entropy, whatever is trained with."""
        self._evaluate(self.valid_scores, batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Add one batch to the scores of the test photos."""
        self._evaluate(self.test_scores, batch)

    def predict_step(self, batch: Batch | Tensor, batch_idx: int = 0) -> Tensor:
        """Probabilities, b x c, of a batch of photos, with or without labels."""
        return self(batch if isinstance(batch, Tensor) else batch[0]).softmax(1)  # type: ignore[no-any-return]

    def _evaluate(self, scores: MetricCollection, batch: Batch) -> None:
        x, labels, *_ = self._checked(batch)
        logits = self(x)
        metrics.update(scores, F.cross_entropy(logits, labels), logits, labels)

    def _checked(self, batch: Batch) -> Batch:
        """The batch of any loader, if it is photos and labels."""
        is_tuple = isinstance(batch, tuple | list) and len(batch) in (2, 3)
        if not is_tuple or not all(isinstance(one, Tensor) and len(one) == len(batch[0]) for one in batch):
            raise ConfigError(f"a batch is a {type(batch).__name__}: Classifier takes (photos, labels) as two tensors")
        return batch

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the valid photos."""
        self._log(self.valid_scores)

    def on_test_epoch_end(self) -> None:
        """Log the scores of the test photos."""
        self._log(self.test_scores)

    def on_train_epoch_end(self) -> None:
        """Log the scores of the epoch, and move a plateau schedule before the checkpoint is written."""
        self._log(self.train_scores)
        if self.plateau is not None:
            if "valid/loss" not in self.trainer.callback_metrics:
                raise ConfigError("schedule=plateau needs valid photos: choose schedule=cosine, or validate each epoch")
            self.plateau.step(float(self.trainer.callback_metrics["valid/loss"]))

    def _log(self, scores: MetricCollection) -> None:
        self.log_dict(scores.compute(), prog_bar=True)
        scores.reset()

    def setup(self, stage: str) -> None:
        """Prepare the process that will train; with several devices it is another than the one that was started.

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
        """Weight the classes by the photos of each.

        Raises:
            ConfigError: the number of photos of each class is unknown.
        """
        if self.class_weights != "balanced":
            return
        counts = self._of_data("class_counts")
        if counts is None:
            raise ConfigError("loss.class_weights=balanced needs a PhotoDataModule: give one weight a class instead")
        self.loss.weight = losses.balanced(counts()).to(self.device)

    def _optimizer_class(self) -> optimizers.Make:
        return self.make_optimizer or optimizers.find(self.optimizer.name)

    def _optimizer_arguments(self) -> dict[str, Any]:
        return {"lr": self.optimizer.lr, "weight_decay": self.optimizer.weight_decay} | self.optimizer_args

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer, and a schedule for every step.

        Raises:
            ConfigError: the schedule needs a number of epochs, and the trainer has none.
        """
        groups = finetuning.parameter_groups(
            self.backbone, self.head, self.finetune, self.optimizer, pretrained=self.pretrained
        )
        optimizer = optimizers.build(self.optimizer.name, self._optimizer_class(), groups, self._optimizer_arguments())
        if self.schedule.name == "plateau":
            self.plateau = schedules.plateau(optimizer, self.schedule, self._plateau_state)
            return optimizer
        scheduler = schedules.each_step(optimizer, self.schedule, self.trainer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the classes, and the plateau's state, which Lightning would write too early."""
        checkpoint["classes"] = list(self.classes)
        if self.plateau is not None:
            checkpoint["plateau"] = self.plateau.state_dict()

    _plateau_state: dict[str, Any] | None = None

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the plateau's state; the schedule is made later."""
        self._plateau_state = checkpoint.get("plateau")
        if not self.classes:  # the head must be there before its weights are loaded
            self.set_classes(checkpoint["classes"])

    def on_train_start(self) -> None:
        """After a resume the epoch's own hook is not called, and the learning rates are the old schedule's."""
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

    def _not_finite(self, loss: Tensor) -> str:
        lr = self.trainer.optimizers[0].param_groups[0]["lr"]
        return (
            f"the loss became {float(loss.detach())} at step {self.global_step} (epoch {self.current_epoch + 1}), "
            f"learning rate {lr:.3g}: try optimizer.lr={self.optimizer.lr / 10:.3g}, trainer.gradient_clip=1 or "
            "trainer.precision=32-true"
        )


def _some(classes: Sequence[str]) -> str:
    return f"{len(classes)} ({', '.join(classes[:3])}{', ...' if len(classes) > 3 else ''})"


def _name(given: object) -> str:
    kind = given if isinstance(given, type) or (callable(given) and hasattr(given, "__qualname__")) else type(given)
    return f"{kind.__module__}.{kind.__qualname__}"
