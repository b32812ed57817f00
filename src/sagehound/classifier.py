"""The model that is trained: a timm backbone and a head."""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from torchmetrics import MetricCollection
from torchvision.transforms import v2

from sagehound import finetune, metrics
from sagehound.backbone import in_chunks
from sagehound.config import Train, as_dict
from sagehound.data.loader import Batch, seed_of
from sagehound.errors import SagehoundError
from sagehound.inference.network import Normalise, features_of, make_head
from sagehound.inference.preprocessing import Preprocessing
from sagehound.machine import tune_allocator


class Classifier(pl.LightningModule):
    """Photos, uint8, b x 3 x h x w, or their features, float, b x f, to logits, b x c.

    Args:
        backbone: photos, float and normalised, to features, b x f; ``head_hidden_size`` is f.
        classes: c names.
        to: what the backbone expects; its mean and std are applied here, on the device.
        cfg: the run's config.
    """

    frozen = False

    def __init__(self, backbone: nn.Module, classes: list[str], to: Preprocessing, cfg: Train) -> None:
        super().__init__()
        self.cfg, self.classes = cfg, classes
        self.backbone = backbone
        self.head = make_head(features_of(backbone), list(cfg.head.hidden), len(classes), cfg.head.dropout)
        self.normalise = Normalise(to, channels_last=cfg.trainer.channels_last)
        self.mix = make_mix(cfg.augment.mixup, cfg.augment.cutmix, len(classes))
        self.train_scores = metrics.collection(len(classes), "train")
        self.train_scores.persistent(True)  # a run that is stopped inside an epoch still reports the whole epoch
        self.valid_scores = metrics.collection(len(classes), "valid")
        if cfg.finetune.name == "head":
            self.backbone.requires_grad_(False)
        self.set_frozen(0)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, b x c, of photos or of their features."""
        return self.classify(x if x.ndim == 2 else self.normalise(x))

    def classify(self, x: Tensor) -> Tensor:
        """Logits, b x c, of normalised photos or of their features."""
        logits: Tensor = self.head(x if x.ndim == 2 else self.features(x))
        return logits

    def features(self, photos: Tensor) -> Tensor:
        """Features, b x f; without gradients no graph is kept."""
        if torch.is_grad_enabled() and not self.frozen:
            features: Tensor = self.backbone(photos)
            return features
        return in_chunks(self.backbone, photos)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch; what is random in it follows from the seed and the step."""
        given, labels, *weights = batch
        reseed(seed_of(self.cfg.seed, self.current_epoch, batch_idx, self.global_rank), given.device)
        x, targets = given if given.ndim == 2 else self.normalise(given), labels
        if self.mix is not None and finetune.augments(self.cfg.finetune, self.current_epoch):
            x, targets = self.mix(x, labels)
        logits = self.classify(x)
        smoothing = self.cfg.augment.label_smoothing
        if weights:
            loss = (weights[0] * F.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)).mean()
        else:
            loss = F.cross_entropy(logits, targets, label_smoothing=smoothing)
        if not torch.isfinite(loss):
            raise SagehoundError(self._not_finite(loss))
        metrics.update(self.train_scores, loss, logits, labels)
        self.log("train/loss_step", loss)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add one batch to the epoch's scores."""
        x, labels = batch
        logits = self(x)
        metrics.update(self.valid_scores, F.cross_entropy(logits, labels), logits, labels)

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the valid photos."""
        self._log(self.valid_scores)

    def on_train_epoch_end(self) -> None:
        """Log the scores of the epoch, and move a plateau schedule before the checkpoint is written."""
        self._log(self.train_scores)
        if self.plateau is not None:
            self.plateau.step(float(self.trainer.callback_metrics["valid/loss"]))

    def _log(self, scores: MetricCollection) -> None:
        self.log_dict(scores.compute(), prog_bar=True)
        scores.reset()

    def setup(self, stage: str) -> None:
        """Prepare the process that will train; with several devices it is another than the one that was started."""
        tune_allocator()
        if self.cfg.trainer.compile:
            self.backbone.compile()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """torch.optim's optimizer and a schedule for every step."""
        s = self.cfg.schedule
        optimizer = finetune.make_optimizer(self.backbone, self.head, self.cfg)
        self.plateau: ReduceLROnPlateau | None = None
        if s.name == "plateau":
            self.plateau = ReduceLROnPlateau(optimizer, factor=s.factor, patience=s.patience)
            if self._plateau_state is not None:
                self.plateau.load_state_dict(self._plateau_state)
            return optimizer
        total = int(self.trainer.estimated_stepping_batches)
        warmup = round(s.warmup_epochs * total / self.cfg.trainer.max_epochs)
        end = s.min_lr if s.name == "cosine" else 1.0
        scheduler = LambdaLR(optimizer, lambda step: finetune.rate(step, total, warmup, end))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what a resume must agree with, and the plateau's memory, which Lightning would write too early."""
        checkpoint["config"] = as_dict(self.cfg)
        checkpoint["classes"] = list(self.classes)
        if self.plateau is not None:
            checkpoint["plateau"] = self.plateau.state_dict()

    _plateau_state: dict[str, Any] | None = None

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the plateau's memory up again; the schedule is made later."""
        self._plateau_state = checkpoint.get("plateau")

    def on_train_start(self) -> None:
        """After a resume the epoch's own hook is not called, and the learning rates are the old schedule's."""
        self.set_frozen(self.current_epoch)
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, LambdaLR):  # with more epochs than before, the restored rates would be the end's
            groups = zip(scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
            for group, peak, rate in groups:
                group["lr"] = peak * rate(scheduler.last_epoch)

    def on_train_epoch_start(self) -> None:
        """Freeze or unfreeze the backbone."""
        self.set_frozen(self.current_epoch)

    def set_frozen(self, epoch: int) -> None:
        """Let the backbone rest or learn, as the epoch (from 0) wants it.

        What rests for a while still asks for gradients, which the optimizer and DDP must know of from the start; it is
        run without a graph and so gets none.
        """
        self.frozen = finetune.is_frozen(self.cfg.finetune, epoch)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Classifier":
        """As in torch, but what rests stays in evaluation mode."""
        super().train(mode)
        freeze_norm = self.cfg.finetune.freeze_norm and self.cfg.backbone.pretrained
        finetune.set_modes(self.backbone, self.frozen, freeze_norm)
        return self

    def _not_finite(self, loss: Tensor) -> str:
        lr = self.trainer.optimizers[0].param_groups[0]["lr"]
        return (
            f"the loss became {float(loss.detach())} at step {self.global_step} (epoch {self.current_epoch + 1}), "
            f"learning rate {lr:.3g}: try optimizer.lr={self.cfg.optimizer.lr / 10:.3g}, trainer.gradient_clip=1 or "
            "trainer.precision=32-true"
        )


def reseed(seed: int, device: torch.device) -> None:
    """Seed what draws on the CPU and on this device; torch.manual_seed would ask every device there might be."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def make_mix(mixup: float, cutmix: float, classes: int) -> v2.Transform | None:
    """Mixup (Zhang et al. 2018), CutMix (Yun et al. 2019), or one of both at random for each batch."""
    ways: list[v2.Transform] = []
    if mixup:
        ways.append(v2.MixUp(alpha=mixup, num_classes=classes))
    if cutmix:
        ways.append(v2.CutMix(alpha=cutmix, num_classes=classes))
    return v2.RandomChoice(ways) if ways else None
