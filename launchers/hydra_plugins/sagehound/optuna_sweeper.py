"""Hydra's sweeper for `hpo=optuna`; the work is in sagehound_launchers/tuning.py."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


@dataclass
class OptunaSweeperConfig:
    """What Hydra is told of the sweeper; its settings are the config's own, under hpo."""

    _target_: str = "hydra_plugins.sagehound.optuna_sweeper.OptunaSweeper"
    hpo: Any = "${hpo}"
    seed: Any = "${seed}"
    params: dict[str, Any] = field(default_factory=dict)  # Hydra's own name for sweeps in a config; hpo.space is ours


ConfigStore.instance().store("sagehound_optuna", OptunaSweeperConfig, group="hydra/sweeper", provider="sagehound")


class OptunaSweeper(Sweeper):
    """Lets Optuna propose and any Hydra launcher run."""

    def __init__(self, hpo: DictConfig, seed: int, params: dict[str, Any]) -> None:
        self.hpo, self.seed = hpo, seed
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's hook: make the launcher that runs the trials."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:  # noqa: ANN401 - Hydra's signature
        """Run the trials; ``arguments`` are the command line's overrides."""
        from sagehound_launchers.launch import needs

        needs("hpo=optuna", "hpo", "optuna")
        from sagehound_launchers.tuning import tune

        assert self.launcher is not None
        assert self.config is not None
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        return tune(arguments, self.hpo, self.seed, folder, self.launcher.launch, self._check)

    def _check(self, overrides: list[str]) -> None:
        """Compose and check a trial's config as it would run."""
        from sagehound.config import check

        assert self.hydra_context is not None
        assert self.config is not None
        check(self.hydra_context.config_loader.load_sweep_config(self.config, overrides))
