"""The schema: every key, its default, its unit, and the rules that a value must keep.

YAML under ``conf/`` holds only what differs from one option to the next.
"""

import dataclasses
import difflib
import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from sagehound import rules
from sagehound.errors import ConfigError

_BOUNDS = {"above": operator.gt, "at_least": operator.ge, "below": operator.lt, "at_most": operator.le}


def key(default: Any = MISSING, **rule: Any) -> Any:  # noqa: ANN401 - a dataclass field takes the type beside it
    """A field whose value keeps ``rule``: choices=(...), or above, at_least, below, at_most a number."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=rule)
    return field(default=default, metadata=rule)


@dataclass
class Backbone:
    """The pretrained part of the model."""

    name: str = MISSING  # any name of timm.list_models(), with or without a weights tag: resnet34, resnet34.tv_in1k
    pretrained: bool = True  # start from ImageNet weights (timm fetches and keeps them), not from random ones
    weights: str | None = (
        None  # a file instead of the download: PATH.safetensors, PATH.pth, or pkg://package/path in it
    )


@dataclass
class Head:
    """The layers that are trained from nothing."""

    hidden: list[int] = key([], at_least=1)  # widths of hidden layers; [] is one linear layer, [512,256] three
    dropout: float = key(0.0, at_least=0, below=1)  # share of inputs dropped before every layer


@dataclass
class Finetune:
    """What is trained, and how fast beside the head."""

    name: str = key(choices=("head", "gradual", "full"))
    head_epochs: int = key(0, at_least=0)  # gradual: epochs before the backbone is unfrozen
    backbone_lr: float = key(0.1, above=0)  # learning rate of the backbone's last layer, as a share of optimizer.lr
    layer_decay: float = key(
        0.8, above=0, at_most=1
    )  # each layer further from the head learns at this share of the next
    freeze_norm: bool = (
        True  # keep the pretrained BatchNorm statistics while the backbone trains: better for few photos
    )


@dataclass
class Optimizer:
    """torch.optim's optimizer of that name; null: it has no such setting."""

    name: str = key(choices=("adamw", "adam", "sgd"))
    lr: float = key(above=0)  # of the head, at the schedule's peak
    weight_decay: float = key(0.0, at_least=0)  # not applied to biases and normalisation layers
    eps: float | None = key(None, above=0)  # adamw, adam
    betas: list[float] | None = key(None, at_least=0, below=1)  # adamw, adam: two numbers
    momentum: float | None = key(None, at_least=0, below=1)  # sgd


@dataclass
class Schedule:
    """How the learning rate moves."""

    name: str = key(choices=("constant", "cosine", "plateau"))
    warmup_epochs: float = key(0.0, at_least=0)  # epochs of linear rise from zero; constant, cosine
    min_lr: float = key(0.0, at_least=0, below=1)  # cosine: the end, as a share of optimizer.lr
    factor: float = key(0.1, above=0, below=1)  # plateau: what the rate is multiplied by
    patience: int = key(3, at_least=0)  # plateau: epochs without a lower validation loss before that


@dataclass
class Columns:
    """What the columns of data.table are called; split, group and weight may be missing."""

    file: str = "file"  # path below data.root
    label: str = "label"
    split: str = "split"  # train, valid or test; without it, all photos are train
    group: str = "group"  # photos of one group are never divided between splits
    weight: str = "weight"  # of the photo in the training loss, from 0 on; 1 if empty


@dataclass
class Data:
    """Where the photos are and how they are read."""

    name: str = key(choices=("dogimages", "folder", "demo"))
    root: str | None = None  # a folder of split/class/photo, or of class/photo; or a .zip or .tar of one
    table: str | None = None  # a CSV that lists the photos instead of folders; data.root=null: beside the CSV
    columns: Columns = field(default_factory=Columns)
    group: str | None = None  # a regular expression; photos whose paths match with the same first group stay together
    near_duplicates: str = key(
        "together", choices=("together", "apart")
    )  # together: photos that show nearly the same are never divided when a split is taken from train
    s3: str | None = None  # s3://BUCKET/PREFIX with the photos; jobs on SageMaker then take those, not root
    url: str | None = None  # dogimages: where the zip is fetched from when root is missing
    batch_size: int = key(64, at_least=1)  # photos a step, on each device
    workers: int | None = key(None, at_least=0)  # threads that read photos; null: one a core, 16 at most
    on_bad: str = key("skip", choices=("skip", "fail"))  # an unreadable photo: leave it out and list it, or stop
    cache: str = key("none", choices=("none", "jpeg", "memmap"))  # keep photos shrunk: as JPEGs, or as raw pixels
    valid_fraction: float = key(0.15, above=0, below=1)  # share taken from train when there is no valid folder
    test_fraction: float = key(0.15, above=0, below=1)  # the same for test
    split_seed: int = 0  # which photos those are; apart from `seed`, so that runs of all seeds are tested alike


@dataclass
class Augment:
    """What training photos go through; validation and test photos never do."""

    crop: float | None = key(None, above=0, at_most=1)  # random crop's smallest share of the photo; null: centre crop
    flip: bool = False  # mirror half of the photos
    randaugment: int = key(0, at_least=0, at_most=30)  # strength of two random colour or shape changes; 0: none
    mixup: float = key(0.0, at_least=0)  # Beta(a, a) of blended pairs; 0: none
    cutmix: float = key(0.0, at_least=0)  # Beta(a, a) of pasted pairs; 0: none
    label_smoothing: float = key(0.0, at_least=0, below=1)  # share of each label spread over all classes


@dataclass
class Trainer:
    """The machine and the loop."""

    name: str = key(choices=("local", "sagemaker"))
    max_epochs: int = key(10, at_least=1)
    accelerator: str = key("auto", choices=("auto", "cpu", "gpu"))
    devices: int | None = key(
        None, at_least=1
    )  # processes, each with its own device (DDP); null: every GPU, or one CPU
    num_nodes: int = key(1, at_least=1)  # machines; NODE_RANK is each one's number, MASTER_ADDR the first
    precision: str = key("auto", choices=("auto", "32-true", "bf16-mixed", "16-mixed"))
    channels_last: bool = True  # memory order in which convolutions are faster
    compile: bool = False  # torch.compile: minutes to start, then a faster step; worth it for long runs on a GPU
    gradient_clip: float | None = key(1.0, above=0)  # largest norm of the gradients of a step; null: none
    accumulate: int = key(1, at_least=1)  # steps whose gradients are averaged before the optimizer moves
    ema: float | None = key(None, above=0, below=1)  # decay a step of averaged weights (EMA); null: none
    patience: int | None = key(
        None, at_least=1
    )  # stop after so many epochs without a lower validation loss; null: never


@dataclass
class Features:
    """While the backbone rests it sees each photo once; the head trains on what it made of it."""

    cache: bool = True  # keep the features in cache.dir; false: every photo passes the backbone in every epoch
    views: int = key(0, at_least=0)  # augmented views of each train photo that are kept beside its centre


@dataclass
class Debugger:
    """Tensors of the training, written by smdebug for rules to read; of photos whose batch is a step."""

    name: str = key(choices=("sagemaker",))
    folder: str | None = None  # where they go; null: debugger/tensors of the run, or where SageMaker takes them from
    collections: list[str] = key(
        ["losses", "gradients", "relu_input", "labels", "predictions"],
        choices=("losses", "gradients", "weights", "biases", "relu_input", "relu_output", "labels", "predictions"),
    )  # what is written
    train_interval: int = key(100, at_least=1)  # steps of the optimizer between two that are written
    eval_interval: int = key(100, at_least=1)  # batches of valid photos between two that are written
    loss_interval: int = key(5, at_least=1)  # both of these, but for losses, labels and predictions, which are small
    photos: int = key(8, at_least=1)  # of a batch, whose activations are written
    reductions: bool = False  # seven numbers of a tensor, not its values; losses, labels, predictions stay whole
    workers: str = key("one", choices=("one", "all"))  # which of DDP's processes write
    rules: dict[str, dict[str, str]] | None = (
        None  # of AWS's, with their parameters: they run beside a job on SageMaker
    )


@dataclass
class Cache:
    """What is kept from run to run; safe to delete at any time."""

    dir: str = "${oc.env:SAGEHOUND_CACHE,${oc.env:HOME,${oc.env:USERPROFILE,/tmp}}/.cache/sagehound}"
    max_gb: float = key(20.0, above=0)  # what was used longest ago goes first; 10^9 bytes


@dataclass
class Train:
    """Everything that `python train.py` can be told."""

    backbone: Backbone = field(default_factory=Backbone)
    head: Head = field(default_factory=Head)
    finetune: Finetune = field(default_factory=Finetune)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
    trainer: Trainer = field(default_factory=Trainer)
    features: Features = field(default_factory=Features)
    cache: Cache = field(default_factory=Cache)
    debugger: Debugger | None = None
    results: str | None = key(
        None, choices=("all", "scores")
    )  # scores: metrics, curves and config alone; null: all of a run's, the scores of a sweep's (-m)
    artifact: bool = True  # write model.tar.gz, which takes some seconds; what is served. results=scores leaves none
    audit_only: bool = False  # look at the photos, write audit.json and splits.csv, and train nothing
    seed: int = key(0, at_least=0, below=2**32)  # the same seed gives the same numbers on a CPU
    overwrite: bool = False  # first remove the files of an earlier run from hydra.run.dir, which is refused otherwise
    best: str | None = None  # a finished search's folder: take its best hyperparameters, but for those given beside it
    resume: str | None = None  # last (the newest run), a run's folder, or a checkpoint: go on where it stopped

    @staticmethod
    def rules(cfg: DictConfig) -> list[tuple[Any, str]]:
        """The rules across keys: whether each is broken, and what to say then."""
        return rules.across_keys(cfg)


def register(schema: type[Train] = Train) -> None:
    """Make the schema known to Hydra, under the name that conf/train.yaml starts from."""
    ConfigStore.instance().store("schema", schema)


def is_registered() -> bool:
    """Whether Hydra knows a schema, of `train.py` or of a program that does more."""
    return "schema.yaml" in ConfigStore.instance().repo


def registered() -> type:
    """The schema that Hydra composes by; that of `train.py` where none was named."""
    if not is_registered():
        return Train
    return OmegaConf.get_type(ConfigStore.instance().load("schema.yaml").node) or Train


def check(cfg: DictConfig) -> None:
    """Hold a composed config against the schema's rules and the rules across keys.

    Raises:
        ConfigError: names the first wrong key, its value, and what to choose instead.
    """
    schema = OmegaConf.get_type(cfg)
    schema = schema if schema and issubclass(schema, Train) else Train
    for name, value, rule in _keys(schema, cfg):
        _check_value(name, value, rule)
    for broken, message in schema.rules(cfg):
        if broken:
            raise ConfigError(message)


def group_of(field: dataclasses.Field[Any]) -> type | None:
    """The dataclass of a field that is a group of keys, or may be none; None for a single key."""
    kinds = [kind for kind in (field.type, *get_args(field.type)) if dataclasses.is_dataclass(kind)]
    return kinds[0] if kinds and isinstance(kinds[0], type) else None


def _keys(schema: type, cfg: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Every leaf of the schema: its dotted key, the config's value and the field's rule."""
    known = [f.name for f in dataclasses.fields(schema)]
    for name in map(str, cfg):
        if name not in [*known, "hydra"]:  # added by +key=value, which Hydra lets pass
            raise ConfigError(unknown_key(f"{prefix}{name}", [prefix + k for k in known]))
    for f in dataclasses.fields(schema):
        key = prefix + f.name
        if f.name not in cfg and not OmegaConf.is_missing(cfg, f.name):  # by ~key
            raise ConfigError(f"{key} cannot be removed: give {key}=...")
        if OmegaConf.is_missing(cfg, f.name):
            raise ConfigError(f"{key} is missing: give {key}=...")
        value = cfg[f.name]
        group = group_of(f)
        if group and value is not None:
            yield from _keys(group, value, key + ".")
        else:
            yield key, value, dict(f.metadata)


def _check_value(key: str, value: Any, rule: dict[str, Any]) -> None:  # noqa: ANN401 - whatever the user gave
    if value is None:
        return
    choices = rule.pop("choices", None)
    values = value if OmegaConf.is_list(value) else [value]
    for one in values:
        if choices and one not in choices:
            raise ConfigError(f"{key}={value}: choose from {', '.join(choices)}{meant(str(one), choices)}")
    for number in values:
        if isinstance(number, float) and not math.isfinite(number):
            raise ConfigError(f"{key}={value}: must be a finite number")
        if not all(_BOUNDS[name](number, bound) for name, bound in rule.items()):
            wanted = " and ".join(f"{name.replace('_', ' ')} {bound}" for name, bound in rule.items())
            raise ConfigError(f"{key}={value}: must be {wanted}")


def unknown_key(key: str, known: list[str]) -> str:
    """The message for a key that the schema does not have."""
    choices = f"; choose from {', '.join(known)}" if known else ""
    return f"{key}: no such key{meant(key, known)}{choices}"


def meant(given: str, choices: Sequence[str]) -> str:
    """A hint at the choice that looks most like what was given, or nothing."""
    close = difflib.get_close_matches(given, choices, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
