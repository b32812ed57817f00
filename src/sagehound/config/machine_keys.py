"""Keys of the machine and the training loop: trainer, cached features, debugger, cache."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING, OmegaConf

from sagehound.config.fields import key

if TYPE_CHECKING:
    from sagehound.config.schema import Train


_CACHE = "${oc.env:SAGEHOUND_CACHE,${oc.env:HOME,${oc.env:USERPROFILE,/tmp}}/.cache/sagehound}"


@dataclass
class Trainer:
    """The machine and the training loop."""

    name: str = key("where training runs", MISSING, choices=("local",))
    max_epochs: int = key("epochs", 10, at_least=1)
    accelerator: str = key("auto: a GPU if there is one", "auto", choices=("auto", "cpu", "gpu"))
    devices: int | None = key(
        "processes, each with its own device (DDP); null: every GPU, or one CPU", None, at_least=1
    )
    num_nodes: int = key("machines; NODE_RANK is each one's number, MASTER_ADDR the first", 1, at_least=1)
    precision: str = key(
        "auto: 16 bits where the hardware supports them",
        "auto",
        choices=("auto", "32-true", "bf16-mixed", "16-mixed"),
    )
    channels_last: bool = key("memory order in which convolutions are faster", True)
    compile: bool = key("torch.compile: minutes to start, then a faster step; for long runs on a GPU", False)
    gradient_clip: float | None = key("largest gradient norm of a step; null: no clipping", 1.0, above=0)
    accumulate: int = key("steps whose gradients are averaged before the optimizer's step", 1, at_least=1)
    ema: float | None = key("decay per step of averaged weights (EMA); null: none", None, above=0, below=1)
    patience: int | None = key(
        "stop after so many epochs without a lower validation loss; null: never", None, at_least=1
    )
    extra: dict[str, Any] = key("other arguments of lightning.pytorch.Trainer: fast_dev_run, profiler, ...", {})

    def conflicts(self, cfg: "Train") -> Iterator[str]:
        """Yield a message for each setting that contradicts another."""
        if self.precision == "16-mixed" and self.accelerator == "cpu":
            yield "trainer.precision=16-mixed needs a GPU: choose trainer.precision=bf16-mixed, 32-true or auto"


@dataclass
class Features:
    """A frozen backbone runs once on each photo; the head trains on the cached features."""

    cache: bool = key("cache the features in cache.dir; false: the backbone runs on every photo in every epoch", True)
    views: int = key("augmented views of each train photo whose features are cached beside its centre", 0, at_least=0)

    def conflicts(self, cfg: "Train") -> Iterator[str]:
        """Yield a message for each setting that contradicts another."""
        views, augment = self.views, cfg.augment
        if not views:
            return
        if cfg.finetune.name == "full":
            yield f"features.views={views}: under finetune=full no features are cached: set features.views=0"
        if not self.cache:
            yield f"features.views={views} contradicts features.cache=false: set features.views=0"
        if augment.transform:
            yield (
                f"features.views={views}: a change in the code of augment.transform would go unnoticed in cached "
                "features: set features.views=0"
            )
        if not augment.changes_photos:
            yield f"features.views={views} needs an augmentation: choose augment=light, or features.views=0"
        if cfg.finetune.name == "head" and (augment.mixup or augment.cutmix):
            yield (
                f"features.views={views} caches views of single photos, augment.mixup and augment.cutmix blend two: "
                "set both to 0, or features.views=0"
            )


@dataclass
class Debugger:
    """Tensors of the training, written by smdebug for its rules; of photos whose batch is a step."""

    name: str = key("who reads the tensors", MISSING, choices=("sagemaker",))
    folder: str | None = key(
        "folder of the tensors; null: debugger/tensors of the run; in a job, the one that SageMaker reads", None
    )
    collections: list[str] = key(
        "tensors that are written",
        ["losses", "gradients", "relu_input", "labels", "predictions"],
        choices=("losses", "gradients", "weights", "biases", "relu_input", "relu_output", "labels", "predictions"),
    )
    train_interval: int = key("optimizer steps from one written step to the next", 100, at_least=1)
    eval_interval: int = key("batches of valid photos from one written batch to the next", 100, at_least=1)
    loss_interval: int = key("both intervals for losses, labels and predictions, which are small", 5, at_least=1)
    photos: int = key("photos of a batch whose activations are written", 8, at_least=1)
    reductions: bool = key("write statistics of a tensor, not its values; not of losses, labels, predictions", False)
    workers: str = key("DDP processes that write", "one", choices=("one", "all"))
    rules: dict[str, dict[str, str]] | None = key(
        "rules of AWS with their parameters; they run beside a job on SageMaker", None
    )


@dataclass
class Cache:
    """Files that later runs use again; safe to delete at any time."""

    dir: str = key(
        "folder of the cache; the variable SAGEHOUND_CACHE sets it too",
        _CACHE,
    )
    max_gb: float = key(
        "largest size in GB (10^9 bytes); the least recently used files are removed first", 20.0, above=0
    )


def default_cache() -> str:
    """The cache's folder where none is named."""
    return str(OmegaConf.create({"dir": _CACHE}).dir)
