"""Hydra's sweeper for `hpo=sagemaker`; see sagehound_launchers/sagemaker/tuning.py."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from sagehound_launchers.config import Hpo, Launch


@dataclass
class SageMakerSweeperConfig:
    """Hydra's config of the sweeper. Its settings are in the groups hpo and aws."""

    _target_: str = "hydra_plugins.sagehound.sagemaker_sweeper.SageMakerSweeper"
    params: dict[str, Any] = field(default_factory=dict)  # Hydra's key for sweeps in a config; hpo.space is Sagehound's


ConfigStore.instance().store("sagehound_sagemaker", SageMakerSweeperConfig, group="hydra/sweeper", provider="sagehound")


class SageMakerSweeper(Sweeper):
    """Runs the whole search as one tuning job."""

    def __init__(self, params: dict[str, Any]) -> None:
        pass

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's hook."""
        self.hydra_context, self.config = hydra_context, config

    def sweep(self, arguments: list[str]) -> Any:  # noqa: ANN401 - Hydra's signature
        """Run the tuning job; ``arguments`` are the command line's overrides."""
        from sagehound.system import interrupts
        from sagehound_launchers.sagemaker.tuning import tune
        from sagehound_launchers.search.resolve_space import claim_study, refuse_others

        interrupts.restore_keyboard_interrupt()
        assert self.config is not None
        arguments = claim_study(self.config, arguments)
        hpo: Hpo = OmegaConf.to_object(self.config.hpo)  # type: ignore[assignment]
        folder = Path(self.config.hydra.sweep.dir)
        refuse_others(folder, "tuning_job.json", overwrite=self.config.overwrite)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        return tune(arguments, hpo, folder, self._compose)

    def _compose(self, overrides: Sequence[str]) -> "Launch":
        """Compose and check a trial's config as it would run."""
        from sagehound_launchers.config import Launch
        from sagehound_launchers.config.schema import checked

        assert self.hydra_context is not None
        assert self.config is not None
        cfg = checked(self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides)))
        assert isinstance(cfg, Launch)
        return cfg
