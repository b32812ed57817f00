"""Keys of a search for hyperparameters."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from sagehound.config import did_you_mean, key
from sagehound.metrics import objectives, of_epoch

if TYPE_CHECKING:
    from sagehound_launchers.config.launch_keys import Launch

MEASURED = tuple(of_epoch(("valid",)))  # valid.loss, valid.top1, ...: scores that are known after each epoch
_MOST_PARENTS = 5  # parents of a warm start: AWS's limit


@dataclass
class Hpo:
    """A search for the best hyperparameters."""

    name: str = key("what proposes the trials", MISSING, choices=("optuna", "sagemaker"))
    study: str = key(
        "the search's folder below multirun; the name of an earlier search continues it",
        "${now:%Y-%m-%d}/${now:%H-%M-%S}-${backbone.name}",
    )
    max_jobs: int = key("trials in all", 20, at_least=1)
    max_parallel_jobs: int = key("trials that run at a time", 1, at_least=1)
    sampler: str = key("optuna: how it proposes", "tpe", choices=("tpe", "qmc", "random", "grid"))
    pruner: str = key(
        "optuna: ends trials that are worse than others; diagnosis: whose debugger says that they cannot become good",
        "none",
        choices=("none", "median", "hyperband", "diagnosis"),
    )
    objective: str = key("a number of metrics.json", "valid.loss")
    direction: str = key("minimize: a lower objective is better", "minimize", choices=("minimize", "maximize"))
    strategy: str = key("sagemaker: how it proposes", "Bayesian", choices=("Bayesian", "Random", "Grid", "Hyperband"))
    early_stopping: bool = key(
        "sagemaker: stop a trial that is worse than the median of the others (not Hyperband)", False
    )
    warm_start: list[str] = key("sagemaker: ended tuning jobs to learn from, 5 at most", [])
    warm_start_type: str = key(
        "sagemaker: whether those jobs trained the same model on the same photos",
        "TransferLearning",
        choices=("TransferLearning", "IdenticalDataAndAlgorithm"),
    )
    space: dict[str, Any] = key("sweeps by key, beside those of the command line", {})

    def conflicts(self, cfg: "Launch") -> Iterator[str]:
        """Yield a message for each setting that contradicts another."""
        if self.name == "sagemaker":
            yield from self._of_sagemaker(cfg)
        if len(self.warm_start) > _MOST_PARENTS:
            yield f"hpo.warm_start: a tuning job learns from {_MOST_PARENTS} others at most; give fewer"
        yield from self._of_objective()
        if cfg.stages:
            yield ("hpo searches and does nothing after it: drop the other stages, then train with best=multirun/STUDY")

    def _of_sagemaker(self, cfg: "Launch") -> Iterator[str]:
        if cfg.debugger and cfg.debugger.name == "sagemaker":
            yield "SageMaker's tuning jobs carry no debugger: drop debugger=..., and train the best with it"
        if self.pruner != "none":
            yield "hpo.pruner is Optuna's: with hpo=sagemaker give hpo.early_stopping=true or hpo.strategy=Hyperband"
        if self.objective.startswith("seconds."):
            yield f"hpo.objective={self.objective}: a job prints scores alone; choose valid.loss, ..."
        if (self.early_stopping or self.strategy == "Hyperband") and self.objective not in MEASURED:
            yield (
                "hpo.early_stopping and hpo.strategy=Hyperband need an objective that is known after each epoch: "
                f"choose hpo.objective={' or '.join(MEASURED)}"
            )
        if cfg.trainer.name == "sagemaker":
            yield "hpo=sagemaker runs its trials on SageMaker by itself: drop trainer=sagemaker"
        if self.strategy == "Hyperband" and self.early_stopping:
            yield "hpo.strategy=Hyperband stops trials by itself: set hpo.early_stopping=false"

    def _of_objective(self) -> Iterator[str]:
        split, _, score = self.objective.partition(".")
        upward = objectives().get(self.objective) == "maximize"
        known = [*objectives(), *(f"seconds.{phase}" for phase in ("data", "model", "features", "train", "evaluate"))]
        if split == "test":
            yield (
                f"hpo.objective={self.objective}: a model that was chosen by its test score has no fair test score: "
                f"choose valid.{score}"
            )
        if self.objective not in known:
            yield (
                f"hpo.objective={self.objective}: no such number in metrics.json{did_you_mean(self.objective, known)}; "
                f"choose from {', '.join(known)}"
            )
        if self.direction != ("maximize" if upward else "minimize"):
            yield (
                f"hpo.objective={self.objective} is better if it is {'higher' if upward else 'lower'}: give "
                f"hpo.direction={'maximize' if upward else 'minimize'}"
            )
        if self.pruner != "none" and self.objective not in MEASURED:
            yield (
                f"hpo.pruner={self.pruner} needs an objective that is known after each epoch: choose hpo.objective="
                f"{' or '.join(MEASURED)}"
            )
