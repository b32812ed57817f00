"""The keys of `python launch.py`: those of training, of searches and of SageMaker."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from sagehound.config import Train, group, key
from sagehound_launchers.config.aws_keys import Aws, LaunchData, LaunchTrainer
from sagehound_launchers.config.search_keys import Hpo

if TYPE_CHECKING:
    from sagehound_launchers.config.stage import Stage


@dataclass
class Launch(Train):
    """Every setting of `python launch.py` except the groups of the stages, which ``schema.LaunchWithStages`` adds."""

    trainer: LaunchTrainer = group(LaunchTrainer)
    data: LaunchData = group(LaunchData)
    hpo: Hpo | None = None
    aws: Aws = group(Aws)
    dry_run: bool = key("write the requests to AWS, checked, and send none", False)
    show: str | None = key(
        "list: what is on SageMaker, with its cost; permissions: what its roles need", None,
        choices=("list", "permissions"),
    )  # fmt: skip
    approve: str | None = key("NAME@VERSION, or sagemaker/NAME@VERSION, which is marked as approved", None)
    registry_dir: str = key("folder of registry=local and of model=registry:NAME", "outputs/registry")
    delete: str | None = key("an endpoint of Sagehound, ENDPOINT/MODEL, idle, or all", None)
    idle_hours: float = key("list, delete=idle: hours without a call until an endpoint is idle", 24.0, at_least=0.001)
    model: Any = key("a run, a model.tar.gz, registry:NAME, or several as [A,B]; null: train one first", None)
    endpoint: str | None = key("probe: an address, or a name on SageMaker", None)
    n: str = key("probe: test photos that are sent, chosen by seed, or all", "30")

    @property
    def stages(self) -> list[tuple["Stage[Any]", Any]]:
        """The chosen stages in order, each with its group."""
        return [(stage, own) for stage in self._known if (own := getattr(self, stage.name)) is not None]

    @property
    def with_model(self) -> list["Stage[Any]"]:
        """All stages that need a model, sorted by name."""
        return sorted((stage for stage in self._known if stage.needs_model), key=lambda stage: stage.name)

    @property
    def _known(self) -> list["Stage[Any]"]:
        return [f.metadata["stage"] for f in fields(self) if "stage" in f.metadata]

    @property
    def search(self) -> Hpo:
        """``hpo``, in a search."""
        assert self.hpo is not None
        return self.hpo

    @property
    def models(self) -> list[str]:
        """The models that ``model`` names; none if it is null."""
        several = self.model if isinstance(self.model, list) else [self.model]
        return [str(model) for model in several if model is not None]

    @property
    def manages(self) -> str:
        """The override that lists, approves or deletes; empty if none is given."""
        given = {"show": self.show, "delete": self.delete, "approve": self.approve}
        return next((f"{key}={value}" for key, value in given.items() if value), "")

    @property
    def is_remote(self) -> bool:
        """Whether training runs on SageMaker."""
        return self.trainer.name == "sagemaker" or (self.hpo is not None and self.hpo.name == "sagemaker")

    @property
    def trains_first(self) -> bool:
        """Whether a model is trained: none is given, and a stage needs one, or there is no stage."""
        if self.manages:
            return False
        return not self.models and (not self.stages or any(stage.needs_model for stage, _ in self.stages))

    def conflicts(self, cfg: Train) -> Iterator[str]:
        """Yield a message for each setting that contradicts another."""
        yield from super().conflicts(cfg)
        need = [stage for stage, _ in self.stages if stage.needs_model]
        if self.models and not need:
            names = ", ".join(stage.name for stage in self.with_model)
            yield f"model={self.models[0]}: no stage uses it: choose one of {names}"
        if self.trains_first and need and (self.results == "scores" or not self.artifact):
            yield (
                "results=scores and artifact=false leave no model.tar.gz, which "
                f"{' and '.join(stage.name for stage in need)} needs: drop them, or give model=RUN"
            )
        if self.n != "all" and not (self.n.isdecimal() and int(self.n)):
            yield f"n={self.n}: give a number of photos from 1 on, or all"
        if self.manages and self.show != "permissions" and (self.stages or self.is_remote or self.models):
            yield f"{self.manages} is a command of its own: drop the stages, model and trainer=sagemaker"
        if self.endpoint and "probe" not in {stage.name for stage, _ in self.stages}:
            yield f"endpoint={self.endpoint} is of probe only: choose probe=local or probe=sagemaker"
