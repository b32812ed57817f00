"""Keys for the machine and the training loop: trainer, cached features, debugger and cache."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING, OmegaConf

from sagehound.config.fields import key
from sagehound.metrics import of_epoch

if TYPE_CHECKING:
    from sagehound.config.schema import Train


_CACHE = "${oc.env:SAGEHOUND_CACHE,${oc.env:HOME,${oc.env:USERPROFILE,/tmp}}/.cache/sagehound}"


@dataclass
class Trainer:
    """The machine and the training loop."""

    name: str = key("where training runs", MISSING, choices=("local",))
    max_epochs: int = key("number of epochs", 10, at_least=1)
    accelerator: str = key(
        "hardware for training; auto: a GPU if there is one, else the CPU", "auto", choices=("auto", "cpu", "gpu")
    )
    devices: int | None = key(
        "processes per machine, one for each device (DDP); null: one per GPU, or a single one on the CPU",
        None,
        at_least=1,
    )
    num_nodes: int = key(
        "machines that train together; NODE_RANK is the number of this one, MASTER_ADDR the address of the first",
        1,
        at_least=1,
    )
    precision: str = key(
        "numeric precision; auto: 16-bit mixed precision if the hardware supports it, else 32 bits",
        "auto",
        choices=("auto", "32-true", "bf16-mixed", "16-mixed"),
    )
    threads: int | None = key(
        "threads that compute an operator on the CPU; null: torch's number, one per core unless OMP_NUM_THREADS is set",
        None,
        at_least=1,
    )
    channels_last: bool = key("use the channels-last memory format, in which convolutions are faster", True)
    compile: bool = key("use torch.compile: starting takes minutes, each step is faster; for long runs on a GPU", False)
    gradient_clip: float | None = key("largest gradient norm of a step; null: no clipping", 1.0, above=0)
    accumulate: int = key("batches whose gradients are averaged for one optimizer step", 1, at_least=1)
    ema: float | None = key(
        "decay per step of the moving average of the weights (EMA); null: no average", None, above=0, below=1
    )
    monitor: str = key(
        "metric of the valid photos by which the best epoch is chosen, and for trainer.patience",
        "valid.loss",
        choices=tuple(of_epoch(("valid",))),
    )
    patience: int | None = key(
        "epochs without a better trainer.monitor after which training stops; null: never", None, at_least=1
    )
    extra: dict[str, Any] = key("other arguments of lightning.pytorch.Trainer, such as fast_dev_run or profiler", {})

    def conflicts(self, cfg: "Train") -> Iterator[str]:
        """Yield a message for each setting that contradicts another."""
        if self.precision == "16-mixed" and self.accelerator == "cpu":
            yield "trainer.precision=16-mixed needs a GPU: choose trainer.precision=bf16-mixed, 32-true or auto"


@dataclass
class Features:
    """Cached features: a frozen backbone runs once on each photo, and the head trains on its features."""

    cache: bool = key("cache the features in cache.dir; false: run the backbone on every photo in every epoch", True)
    views: int = key(
        "augmented views of each training photo whose features are cached, besides its centre crop", 0, at_least=0
    )

    def conflicts(self, cfg: "Train") -> Iterator[str]:
        """Yield a message for each setting that contradicts another."""
        views, augment = self.views, cfg.augment
        if not views:
            return
        if cfg.finetune.name == "full":
            yield f"features.views={views}: finetune=full caches no features: set features.views=0"
        if not self.cache:
            yield f"features.views={views} contradicts features.cache=false: set features.views=0"
        if augment.transform:
            yield (
                f"features.views={views}: cached features would not follow changes in the code of "
                "augment.transform: set features.views=0"
            )
        if not augment.changes_photos:
            yield f"features.views={views} needs an augmentation: choose augment=light, or features.views=0"
        if cfg.finetune.name == "head" and (augment.mixup or augment.cutmix):
            yield (
                f"features.views={views} caches views of single photos, but augment.mixup and augment.cutmix combine "
                "two: set both to 0, or features.views=0"
            )


CHECKS = (  # before the first epoch; functions of debugger.preflight
    *("loss_function", "first_loss", "backbone_weights", "normalisation", "photos_seen", "own_transform"),
    *("labels", "leaks", "batches", "head_weights", "one_batch"),
)
COLLECTIONS = (
    "losses",
    "gradients",
    "weights",
    "biases",
    "relu_input",
    "relu_output",
    "saturating_input",
    "labels",
    "predictions",
)


@dataclass
class Debugger:
    """Rules that find faults of a training, and tensors that smdebug writes."""

    name: str = key(
        "who evaluates rules; local: this program, during training; sagemaker: AWS, beside a job",
        MISSING,
        choices=("local", "sagemaker"),
    )
    preflight: bool = key("before the first epoch, check photos, labels, weights and loss; for debugger=local", True)
    checks: list[str] | None = key("the checks before the first epoch; null: all", None, choices=CHECKS)
    profile: str = key(
        "parameters of the rules; aws: AWS's documented defaults, which fire on nearly every small fine-tuning",
        "calibrated",
        choices=("calibrated", "aws"),
    )
    action: str = key(
        "what to do when a rule has found a fault; stop: end training, keep the best checkpoint; fail: exit code 1",
        "report",
        choices=("report", "stop", "fail"),
    )
    save: bool = key("write the tensors with smdebug", True)
    folder: str | None = key(
        "folder of the tensors; null: debugger/tensors in the run's folder, or in a job SageMaker's own",
        None,
    )
    collections: list[str] = key(
        "collections of tensors to observe and to write",
        ["losses", "gradients", "relu_input", "labels", "predictions"],
        choices=COLLECTIONS,
    )
    train_interval: int = key("optimizer steps between two observed steps", 100, at_least=1)
    eval_interval: int = key("batches of valid photos between two observed batches", 100, at_least=1)
    loss_interval: int = key(
        "train_interval and eval_interval of losses, labels and predictions, which are small", 5, at_least=1
    )
    photos: int = key("photos per batch whose activations are observed", 8, at_least=1)
    positions: int | None = key(
        "largest height and width of observed activations, at evenly spaced positions; null: every position",
        None,
        at_least=1,
    )
    reductions: bool = key(
        "write statistics of each tensor instead of its values, except for losses, labels and predictions", False
    )
    histograms: bool = key(
        "with debugger=local, log a histogram of each observed tensor once an epoch, to the loggers that have them",
        True,
    )
    workers: str = key("DDP processes that write tensors", "one", choices=("one", "all"))
    rules: dict[str, dict[str, Any]] | None = key(
        "rules with their parameters, and with action= or _target_=; null: no AWS rules, or all local ones", None
    )

    def conflicts(self, cfg: "Train") -> Iterator[str]:
        """Yield a message for each setting that contradicts another."""
        if self.name == "sagemaker" and not self.save:
            yield "debugger.save=false: AWS's rules read saved tensors: set debugger.save=true, or debugger=local"
        actions = {str(rule.get("action", "report")) for rule in (self.rules or {}).values()}
        if wrong := sorted(actions - {"report", "stop", "fail"}):
            yield f"debugger.rules: action={wrong[0]}: choose from report, stop, fail"


AWS_INTERVALS = (0.1, 0.2, 0.5, 1.0, 5.0, 60.0)  # seconds: CreateTrainingJob, ProfilingIntervalInMilliseconds


@dataclass
class Profiler:
    """Where the time of a run goes, and how the machine is used."""

    name: str = key(
        "who measures; local: this program; sagemaker: AWS's agent beside a job",
        MISSING,
        choices=("local", "sagemaker"),
    )
    interval: float = key("seconds between two samples of CPU, memory, disk, network and GPUs", 0.5, above=0)
    num_steps: int = key("train steps whose operators are recorded by torch's profiler; 0: none", 10, at_least=0)

    def conflicts(self, cfg: "Train") -> Iterator[str]:
        """Yield a message for each setting that contradicts another."""
        if self.name == "sagemaker" and self.interval not in AWS_INTERVALS:
            choices = ", ".join(f"{s:g}" for s in AWS_INTERVALS)
            yield f"profiler.interval={self.interval:g}: AWS's agent samples every {choices} seconds"


@dataclass
class Cache:
    """Files that later runs reuse; safe to delete at any time."""

    dir: str = key(
        "folder of the cache; the environment variable SAGEHOUND_CACHE sets the default",
        _CACHE,
    )
    max_gb: float = key(
        "largest size of the cache in GB (10^9 bytes); the least recently used files are removed first", 20.0, above=0
    )


def default_cache() -> str:
    """The default folder of the cache."""
    return str(OmegaConf.create({"dir": _CACHE}).dir)
