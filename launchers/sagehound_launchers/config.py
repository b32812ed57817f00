"""The schema of `python launch.py`: that of training, and the stages."""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from sagehound import config
from sagehound.config import Train, check, key, meant
from sagehound.metrics import objectives
from sagehound_launchers.reports import MEASURED

_MOST_PARENTS = 5  # of a warm start, by AWS's limits


@dataclass
class Deploy:
    """An endpoint for the model."""

    name: str = key(choices=("local",))
    host: str = "127.0.0.1"  # address to listen on; 0.0.0.0 lets other machines in
    port: int = key(8080, at_least=0, at_most=65535)  # 0: any free one, which is printed
    model_gb: float | None = key(None, above=0)  # memory that open models may hold, 10^9 bytes; null: half of it
    max_requests: int = key(64, at_least=1)  # that are read or answered at a time; more are told to come again
    max_megapixels: float = key(50.0, above=0)  # of one photo


@dataclass
class Transform:
    """Batch predictions over a folder of photos, data.root."""

    name: str = key(choices=("local",))
    format: str = key("csv", choices=("csv", "jsonl"))
    output: str | None = None  # a file; null: outputs/transform/<data.root's name>-<a number>/predictions.<format>
    top_k: int = key(5, at_least=1)  # classes that are written for each photo


@dataclass
class Probe:
    """Test photos sent to an endpoint."""

    name: str = key(choices=("local", "sagemaker"))
    clients: int = key(4, at_least=1)  # that send at a time
    timeout: float = key(60.0, above=0)  # seconds for an answer


@dataclass
class Hpo:
    """A search for the best hyperparameters."""

    name: str = key(choices=("optuna", "sagemaker"))
    study: str = "${now:%Y-%m-%d}/${now:%H-%M-%S}-${backbone.name}"  # its folder below multirun; a name goes on with it
    max_jobs: int = key(20, at_least=1)  # trials in all
    max_parallel_jobs: int = key(1, at_least=1)  # trials that run at a time
    sampler: str = key("tpe", choices=("tpe", "qmc", "random", "grid"))  # optuna
    pruner: str = key("none", choices=("none", "median", "hyperband"))  # optuna: ends trials that others are ahead of
    objective: str = "valid.loss"  # a number of metrics.json
    direction: str = key("minimize", choices=("minimize", "maximize"))
    strategy: str = key("Bayesian", choices=("Bayesian", "Random", "Grid", "Hyperband"))  # sagemaker
    early_stopping: bool = False  # sagemaker: stop a trial that is worse than the median of the others (not Hyperband)
    warm_start: list[str] = field(default_factory=list)  # sagemaker: ended tuning jobs to learn from, 5 at most
    warm_start_type: str = key(
        "TransferLearning", choices=("TransferLearning", "IdenticalDataAndAlgorithm")
    )  # sagemaker
    space: dict[str, Any] = field(default_factory=dict)  # sweeps by key, beside those of the command line


@dataclass
class Aws:
    """The AWS account, and what a job on SageMaker is given."""

    name: str = key(choices=("account", "emulator"))
    folder: str = ".emulator"  # emulator: what it keeps: buckets, jobs, logs
    profile: str | None = None  # of ~/.aws; null: AWS_PROFILE, or the default one
    region: str | None = None  # null: AWS_DEFAULT_REGION, or the profile's
    role: str | None = None  # the execution role's name or ARN; null: this notebook's own on SageMaker
    bucket: str | None = None  # null: SageMaker's own, sagemaker-REGION-ACCOUNT, which is made if it is missing
    prefix: str = "sagehound"  # of everything that is put into the bucket
    image: str | None = None  # with `train` and `serve` on its PATH; null: the account's sagehound:latest
    instance_type: str = "ml.g4dn.xlarge"
    instance_count: int = key(1, at_least=1)  # machines that train one model together (DDP)
    volume_gb: int = key(50, at_least=1)  # 2^30 bytes of disk on each
    max_hours: float = key(24.0, above=0, at_most=28 * 24)  # of a job's training; it is stopped then
    spot: bool = False  # spare capacity at a lower price, which may be taken away; training goes on from a checkpoint
    max_wait_hours: float | None = key(None, above=0)  # spot: training and waiting together; null: twice max_hours
    input_mode: str = key("File", choices=("File", "FastFile"))  # copy the photos first, or read them as they are used
    max_parallel_jobs: int = key(1, at_least=1)  # jobs of a sweep that run at a time
    patience_minutes: float = key(10.0, at_least=0)  # in which AWS need not answer while a job is followed
    stop_on_interrupt: bool = False  # Ctrl-C stops the jobs as well; otherwise they go on
    tags: dict[str, str] = field(default_factory=dict)
    subnets: list[str] = field(default_factory=list)  # of a VPC; with security_groups
    security_groups: list[str] = field(default_factory=list)
    kms_key: str | None = None  # encrypts results in S3 and the machines' disks
    environment: dict[str, str] = field(default_factory=dict)  # variables of the container


@dataclass
class Image:
    """The image that jobs and endpoints run in."""

    name: str = key(choices=("ecr",))
    repository: str = "sagehound"
    tag: str = "latest"


@dataclass
class Launch(Train):
    """Everything that `python launch.py` can be told."""

    hpo: Hpo | None = None
    deploy: Deploy | None = None
    transform: Transform | None = None
    probe: Probe | None = None
    image: Image | None = None
    aws: Aws = field(default_factory=Aws)
    dry_run: bool = False  # write the requests to AWS, checked, and send none
    model: Any = None  # a run, a model.tar.gz, or several as [A,B]; null: train one first
    endpoint: str | None = None  # probe: an address, or a name on SageMaker
    n: str = "30"  # probe: test photos that are sent, chosen by seed, or all

    @staticmethod
    def rules(cfg: DictConfig) -> list[tuple[Any, str]]:
        """Those of training, and those across the stages."""
        return [*Train.rules(cfg), *_rules(cfg)]


def register() -> None:
    """Make this the schema that Hydra composes by."""
    config.register(Launch)


def checked(config: DictConfig) -> DictConfig:
    """A composed config as its task sees it, without hydra, after it was held against the rules.

    Raises:
        ConfigError: it breaks one.
    """
    HydraConfig.instance().set_config(config)  # what ${hydra:...} in a value asks
    cfg = copy.deepcopy(config)
    with read_write(cfg), open_dict(cfg):
        del cfg["hydra"]
    check(cfg)
    return cfg


def models(cfg: DictConfig) -> list[str]:
    """The models that ``model`` names; none where it is null."""
    several = cfg.model if OmegaConf.is_list(cfg.model) else [cfg.model]
    return [str(model) for model in several if model is not None]


def _remote_rules(cfg: DictConfig) -> list[tuple[Any, str]]:
    """The rules of what runs on SageMaker."""
    aws, remote = cfg.aws, cfg.trainer.name == "sagemaker" or (cfg.hpo and cfg.hpo.name == "sagemaker")
    return [
        (
            remote and cfg.data.table,
            "data.table is for training on this machine: a job on SageMaker takes folders, so give data.root=FOLDER",
        ),
        (
            cfg.hpo and cfg.hpo.name == "sagemaker" and cfg.debugger,
            "SageMaker's tuning jobs carry no debugger: drop debugger=..., and train the best with it",
        ),
        (
            cfg.hpo and len(cfg.hpo.warm_start) > _MOST_PARENTS,
            f"hpo.warm_start: a tuning job learns from {_MOST_PARENTS} others at most; give fewer",
        ),
        (
            cfg.hpo and cfg.hpo.name == "sagemaker" and cfg.hpo.pruner != "none",
            "hpo.pruner is Optuna's: with hpo=sagemaker give hpo.early_stopping=true or hpo.strategy=Hyperband",
        ),
        (
            cfg.hpo and cfg.hpo.name == "sagemaker" and cfg.hpo.objective.startswith("seconds."),
            f"hpo.objective={cfg.hpo.objective if cfg.hpo else ''}: a job prints scores alone; choose valid.loss, ...",
        ),
        (
            cfg.hpo
            and cfg.hpo.name == "sagemaker"
            and (cfg.hpo.early_stopping or cfg.hpo.strategy == "Hyperband")
            and cfg.hpo.objective not in MEASURED,
            "hpo.early_stopping and hpo.strategy=Hyperband need an objective that is known after each epoch: choose "
            f"hpo.objective={' or '.join(MEASURED)}",
        ),
        (
            cfg.hpo and cfg.hpo.name == "sagemaker" and cfg.trainer.name == "sagemaker",
            "hpo=sagemaker runs its trials on SageMaker by itself: drop trainer=sagemaker",
        ),
        (
            cfg.hpo and cfg.hpo.name == "sagemaker" and cfg.hpo.strategy == "Hyperband" and cfg.hpo.early_stopping,
            "hpo.strategy=Hyperband stops trials by itself: set hpo.early_stopping=false",
        ),
        (
            remote and (cfg.deploy or cfg.transform or cfg.probe or cfg.image),
            "what runs on SageMaker ends with its results here: drop the other stages, then give model=RUN to them",
        ),
        (cfg.data.s3 and not remote, f"data.s3={cfg.data.s3} is of jobs on SageMaker: choose trainer=sagemaker"),
        (
            bool(aws.subnets) != bool(aws.security_groups),
            "aws.subnets and aws.security_groups belong together: give both, or neither",
        ),
        (
            aws.max_wait_hours and not aws.spot,
            f"aws.max_wait_hours={aws.max_wait_hours:g} is of spot instances: add aws.spot=true"
            if aws.max_wait_hours
            else "",
        ),
        (
            aws.max_wait_hours and aws.max_wait_hours < aws.max_hours,
            f"aws.max_wait_hours holds training as well: it must be {aws.max_hours:g} or more",
        ),
        (cfg.dry_run and not remote, "dry_run=true writes requests to AWS: choose trainer=sagemaker or hpo=sagemaker"),
    ]


def _hpo_rules(hpo: DictConfig) -> list[tuple[Any, str]]:
    """The rules of a search."""
    split, _, score = hpo.objective.partition(".")
    upward = objectives().get(hpo.objective) == "maximize"
    known = [*objectives(), *(f"seconds.{phase}" for phase in ("data", "model", "features", "train", "evaluate"))]
    return [
        (
            split == "test",
            f"hpo.objective={hpo.objective}: what was chosen by the test photos cannot be tested by them: choose "
            f"valid.{score}",
        ),
        (
            hpo.objective not in known,
            f"hpo.objective={hpo.objective}: no such number in metrics.json{meant(hpo.objective, known)}; choose from "
            f"{', '.join(known)}",
        ),
        (
            hpo.direction != ("maximize" if upward else "minimize"),
            f"hpo.objective={hpo.objective} is the better, the {'higher' if upward else 'lower'} it is: give "
            f"hpo.direction={'maximize' if upward else 'minimize'}",
        ),
        (
            hpo.pruner != "none" and hpo.objective not in MEASURED,
            f"hpo.pruner={hpo.pruner} needs an objective that is known after each epoch: choose hpo.objective="
            f"{' or '.join(MEASURED)}",
        ),
    ]


def _rules(cfg: DictConfig) -> list[tuple[Any, str]]:
    given = models(cfg)
    trains = not given and (cfg.deploy or cfg.transform or not (cfg.probe or cfg.image))
    output = cfg.transform.output if cfg.transform else None
    return [
        *_remote_rules(cfg),
        *(_hpo_rules(cfg.hpo) if cfg.hpo else []),
        (
            cfg.hpo and (cfg.deploy or cfg.transform or cfg.probe),
            "hpo searches and does nothing after it: drop the other stages, then train with best=multirun/STUDY",
        ),
        (
            given and not (cfg.deploy or cfg.transform),
            f"model={given[0] if given else ''}: nothing is to be done with it: choose deploy=local or transform=local",
        ),
        (
            trains and (cfg.deploy or cfg.transform) and (cfg.results == "scores" or not cfg.artifact),
            "results=scores and artifact=false leave no model.tar.gz, which deploy and transform need: drop them, or "
            "give model=RUN",
        ),
        (
            output and Path(output).suffix != f".{cfg.transform.format}",
            f"transform.output={output} does not end in .{cfg.transform.format if cfg.transform else ''}: choose "
            "transform.format to fit",
        ),
        (
            cfg.deploy and not cfg.deploy.host,
            "deploy.host= is empty: give 127.0.0.1, or 0.0.0.0 to let other machines in",
        ),
        (
            cfg.probe and not cfg.endpoint,
            "probe needs endpoint=: an address such as http://127.0.0.1:8080, or a name on SageMaker",
        ),
        (
            cfg.probe and cfg.probe.name == "local" and not str(cfg.endpoint).startswith(("http://", "https://")),
            f"endpoint={cfg.endpoint}: with probe=local give an address, such as http://127.0.0.1:8080",
        ),
        (
            cfg.probe and cfg.probe.name == "sagemaker" and "/" in str(cfg.endpoint),
            f"endpoint={cfg.endpoint}: with probe=sagemaker give the endpoint's name; an address is for probe=local",
        ),
        (
            cfg.deploy and cfg.probe,
            "deploy=local keeps this terminal: probe it from another, "
            f"python launch.py probe=local endpoint=http://127.0.0.1:{cfg.deploy.port if cfg.deploy else 8080}",
        ),
        (
            cfg.n != "all" and not (cfg.n.isdecimal() and int(cfg.n)),
            f"n={cfg.n}: give a number of photos from 1 on, or all",
        ),
        (
            cfg.transform and len(given) > 1,
            f"transform takes one model, not {len(given)}: give model=RUN",
        ),
        (
            cfg.endpoint and not cfg.probe,
            f"endpoint={cfg.endpoint} is of probe only: choose probe=local or probe=sagemaker",
        ),
    ]
