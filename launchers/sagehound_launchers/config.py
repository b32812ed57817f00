"""The schema of `python launch.py`: that of training, and the stages."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sagehound import config
from sagehound.config import Train, key


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

    name: str = key(choices=("optuna",))
    study: str = "${now:%Y-%m-%d}/${now:%H-%M-%S}-${backbone.name}"  # its folder below multirun; a name goes on with it
    max_jobs: int = key(20, at_least=1)  # trials in all
    sampler: str = key("tpe", choices=("tpe", "random", "grid"))
    objective: str = "valid.loss"  # a number of metrics.json
    direction: str = key("minimize", choices=("minimize", "maximize"))
    space: dict[str, Any] = field(default_factory=dict)  # sweeps by key, beside those of the command line


@dataclass
class Launch(Train):
    """Everything that `python launch.py` can be told."""

    hpo: Hpo | None = None
    deploy: Deploy | None = None
    transform: Transform | None = None
    probe: Probe | None = None
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


def models(cfg: DictConfig) -> list[str]:
    """The models that ``model`` names; none where it is null."""
    several = cfg.model if OmegaConf.is_list(cfg.model) else [cfg.model]
    return [str(model) for model in several if model is not None]


def _rules(cfg: DictConfig) -> list[tuple[Any, str]]:
    given = models(cfg)
    trains = not given and (cfg.deploy or cfg.transform or not cfg.probe)
    output = cfg.transform.output if cfg.transform else None
    return [
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
