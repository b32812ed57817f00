"""Keys for the loss, the optimizer and the schedule."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from sagehound.config.fields import did_you_mean, extra, key, unknown_key

if TYPE_CHECKING:
    from sagehound.config.schema import Train


@dataclass
class Loss:
    """The training loss. Other keys of this group are arguments of the class that ``_target_`` names."""

    name: str = key("loss; ignored if _target_ is given", "cross_entropy", choices=("cross_entropy", "focal"))
    class_weights: Any = key(
        "null, balanced (n / (classes x photos of the class)), or a list with one weight per class",
        None,
    )
    logit_adjustment: float | None = key(
        "tau; adds tau x ln(share of the train photos) to the logits in the training loss, so that rare classes are "
        "predicted more often (Menon et al. 2021; 1 is usual); null: no adjustment",
        None,
        at_least=0,
    )
    gamma: float | None = key("exponent of (1 - p) in the focal loss; null: 2", None, at_least=0)
    _target_: str | None = key("your own torch.nn.Module: package.Class; it is called with logits and labels", None)

    def conflicts(self, cfg: "Train") -> Iterator[str]:
        """Yield a message for each setting that contradicts another."""
        weights = self.class_weights
        if extra(self) and not self._target_:
            known = [f"loss.{name}" for name in ("name", "class_weights", "logit_adjustment", "gamma", "_target_")]
            yield unknown_key(f"loss.{next(iter(extra(self)))}", known)
        if isinstance(weights, str) and weights != "balanced":
            yield f"loss.class_weights={weights}: give balanced, or a list with one number per class"
        if isinstance(weights, list) and not all(isinstance(w, int | float) and w >= 0 for w in weights):
            yield f"loss.class_weights={weights}: must be numbers of at least 0, one per class"
        if weights is not None and not isinstance(weights, str | list):
            yield f"loss.class_weights={weights}: give balanced, or a list with one number per class"
        if self.gamma is not None and (self.name != "focal" or self._target_):
            yield "loss.gamma works only with loss=focal: drop it, or choose loss=focal"
        if self._target_ and (weights is not None or self.logit_adjustment is not None or cfg.augment.label_smoothing):
            yield (
                f"loss._target_={self._target_}: your own loss weights classes and smooths labels itself: drop "
                "loss.class_weights, loss.logit_adjustment and augment.label_smoothing"
            )
        yield from self._twice_balanced(cfg)

    def _twice_balanced(self, cfg: "Train") -> Iterator[str]:
        """Yield a message if two settings balance the classes, which favours rare classes too much."""
        settings = {
            "loss.class_weights=balanced": self.class_weights == "balanced",
            f"loss.logit_adjustment={self.logit_adjustment}": bool(self.logit_adjustment),
            "data.sampling=balanced": cfg.data.sampling == "balanced",
        }
        if len(both := [name for name, is_set in settings.items() if is_set]) > 1:
            yield f"{' and '.join(both)} each balance the classes, and together favour rare ones: keep one of them"


_COMMON = ("name", "lr", "weight_decay", "eps", "betas", "momentum", "_target_")


@dataclass
class Optimizer:
    """The optimizer. Other keys of this group are arguments of the optimizer's class."""

    name: str = key("optimizer of torch.optim or timm.optim, in lower case; ignored if _target_ is given", MISSING)
    lr: float = key("learning rate of the head at the peak of the schedule", MISSING, above=0)
    weight_decay: float = key("weight decay; not applied to biases and normalisation layers", 0.0, at_least=0)
    eps: float | None = key("term in the denominator (adamw, adam, ...); null: the class's default", None, above=0)
    betas: list[float] | None = key(
        "two decay rates of the moment estimates (adamw, adam, ...); null: the class's default",
        None,
        at_least=0,
        below=1,
    )
    momentum: float | None = key("momentum factor (sgd, ...); null: the class's default", None, at_least=0, below=1)
    _target_: str | None = key("your own torch.optim.Optimizer: package.Class", None)

    def conflicts(self, cfg: "Train") -> Iterator[str]:
        """Yield a message for each setting that contradicts another."""
        if self.name == "sgd" and not self._target_ and (self.eps is not None or self.betas is not None):
            yield "optimizer=sgd has no eps and no betas: drop them, or choose optimizer=adamw or optimizer=adam"
        if self.name in ("adam", "adamw") and not self._target_ and self.momentum is not None:
            yield f"optimizer={self.name} has no momentum: drop it (it has betas), or choose optimizer=sgd"
        near = [(k, did_you_mean(k, _COMMON)) for k in extra(self)] if self.name in ("adamw", "adam", "sgd") else []
        for wrong, hint in near if not self._target_ else []:
            if hint:  # other keys may be arguments of the optimizer's class, which is checked when torch is imported
                yield unknown_key(f"optimizer.{wrong}", [f"optimizer.{name}" for name in _COMMON])
        if self.betas is not None and len(self.betas) != 2:
            yield f"optimizer.betas={self.betas}: give two numbers, such as [0.9,0.999]"


@dataclass
class Schedule:
    """How the learning rate changes during training."""

    name: str = key("shape of the learning-rate curve", MISSING, choices=("constant", "cosine", "plateau"))
    warmup_epochs: float = key("epochs of linear warm-up from zero; for constant and cosine", 0.0, at_least=0)
    min_lr: float = key("final learning rate, as a share of optimizer.lr; for cosine", 0.0, at_least=0, below=1)
    factor: float = key("factor that reduces the learning rate; for plateau", 0.1, above=0, below=1)
    patience: int = key("epochs without a lower validation loss before each reduction; for plateau", 3, at_least=0)

    def conflicts(self, cfg: "Train") -> Iterator[str]:
        """Yield a message for each setting that contradicts another."""
        if self.name != "cosine" and self.min_lr:
            yield f"schedule.min_lr works only with schedule=cosine, not schedule={self.name}: drop it"
        if self.name == "plateau" and self.warmup_epochs:
            yield "schedule=plateau has no warm-up: drop schedule.warmup_epochs, or choose schedule=cosine"
        if self.warmup_epochs >= cfg.trainer.max_epochs:
            yield (
                f"schedule.warmup_epochs={self.warmup_epochs:g} must be below trainer.max_epochs="
                f"{cfg.trainer.max_epochs}"
            )
