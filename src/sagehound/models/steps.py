"""The forward pass, and the steps of training, validation, test and prediction with their scores."""

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import MetricCollection

from sagehound import metrics
from sagehound.config import Finetune, Optimizer
from sagehound.data.loader import Batch, seed_of
from sagehound.errors import ConfigError, SagehoundError
from sagehound.inference.network import Normalise, Unknown
from sagehound.models import backbone as backbones
from sagehound.models import finetune as finetuning
from sagehound.system.hardware import reseed


class Steps(pl.LightningModule):
    """What a classifier does with a batch. ``Classifier`` adds the network, the optimizer and the checkpoints."""

    backbone: nn.Module
    head: nn.Sequential
    normalise: Normalise
    unknown: Unknown | None  # the score of unknown photos, once the run has been evaluated
    temperature = 1.0  # by which logits are divided for probabilities
    frozen = False  # whether the backbone is frozen now
    seed: int
    finetune: Finetune
    optimizer: Optimizer
    loss: nn.Module  # logits, b x c, and targets to losses, b
    mix: Any  # mixup and CutMix: photos and labels to photos and targets; None without them
    plateau: ReduceLROnPlateau | None = None
    train_scores: MetricCollection
    valid_scores: MetricCollection
    test_scores: MetricCollection

    def forward(self, x: Tensor) -> Tensor:
        """Logits, b x c, of photos or of their features."""
        return self.classify(self._normalised(x))

    def _normalised(self, x: Tensor) -> Tensor:
        """Photos normalised; features unchanged."""
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

    def embed(self, x: Tensor) -> Tensor:
        """Features, b x f, of photos; those of features are themselves."""
        return x if x.ndim == 2 else self.features(self._normalised(x))

    def features(self, photos: Tensor) -> Tensor:
        """Features, b x f; without gradients no graph is kept."""
        if torch.is_grad_enabled() and not self.frozen:
            features: Tensor = self.backbone(photos)
            return features
        return backbones.in_chunks(self.backbone, photos)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch. Random numbers in it depend on the seed, the epoch and the step only."""
        images, labels, *weights = self._checked(batch)
        reseed(seed_of(self.seed, self.current_epoch, batch_idx, self.global_rank), images.device)
        x, targets = self._normalised(images), labels
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
        """Add one batch to the scores of the valid photos. Their loss is always the cross entropy."""
        self._evaluate(self.valid_scores, batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Add one batch to the scores of the test photos."""
        self._evaluate(self.test_scores, batch)

    def predict_step(self, batch: Batch | Tensor, batch_idx: int = 0) -> Tensor:
        """Probabilities, b x c, of a batch of photos, with or without labels."""
        return self.probabilities(self(batch if isinstance(batch, Tensor) else batch[0]))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Calibrated probabilities of logits, b x c: their softmax after division by the temperature."""
        return (logits / self.temperature).softmax(1)

    def _evaluate(self, scores: MetricCollection, batch: Batch) -> None:
        x, labels, *_ = self._checked(batch)
        logits = self(x)
        metrics.update(scores, F.cross_entropy(logits, labels), logits, labels)

    def _checked(self, batch: Batch) -> Batch:
        """Check that a batch of any loader is photos and labels, with or without weights."""
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
        """Log the scores of the train photos, and update a plateau schedule before the checkpoint is written."""
        self._log(self.train_scores)
        if self.plateau is not None:
            if "valid/loss" not in self.trainer.callback_metrics:
                raise ConfigError("schedule=plateau needs valid photos: choose schedule=cosine, or validate each epoch")
            self.plateau.step(float(self.trainer.callback_metrics["valid/loss"]))

    def _log(self, scores: MetricCollection) -> None:
        self.log_dict(scores.compute(), prog_bar=True)
        scores.reset()

    def _not_finite(self, loss: Tensor) -> str:
        lr = self.trainer.optimizers[0].param_groups[0]["lr"]
        return (
            f"the loss became {float(loss.detach())} at step {self.global_step} (epoch {self.current_epoch + 1}), "
            f"learning rate {lr:.3g}: try optimizer.lr={self.optimizer.lr / 10:.3g}, trainer.gradient_clip=1 or "
            "trainer.precision=32-true"
        )
