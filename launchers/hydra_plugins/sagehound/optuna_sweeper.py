"""Hydra's sweeper for `hpo=optuna`; the work is in sagehound_launchers/tuning.py."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

if TYPE_CHECKING:
    from sagehound_launchers.runners import Report, Runner


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
        from sagehound.errors import ConfigError
        from sagehound_launchers.extras import needs

        needs("hpo=optuna", "hpo", "optuna", *(["scipy"] if self.hpo.sampler == "qmc" else []))
        from sagehound.rules import refuse_overlap
        from sagehound_launchers.spaces import claim_study, refuse_others
        from sagehound_launchers.tuning import tune

        assert self.config is not None
        if self.hpo.pruner != "none" and not self._here:
            chosen = self.config.hydra.runtime.choices["hydra/launcher"]
            raise ConfigError(
                f"hpo.pruner={self.hpo.pruner} needs trials on this machine, hydra/launcher={chosen} runs them "
                "elsewhere: drop it"
            )
        arguments = claim_study(self.config, arguments)
        folder = Path(self.config.hydra.sweep.dir)
        refuse_overlap(self.config.data.root, folder)
        refuse_others(folder, "study.journal", overwrite=self.config.overwrite)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        return tune(arguments, self.hpo, self.seed, folder, self._compose, self._runner)

    @property
    def _here(self) -> bool:
        """Whether trials would run in this process, one after the other."""
        return isinstance(self.launcher, BasicLauncher)

    def _runner(self, report: "Report | None", ordered: bool) -> "Runner":
        from sagehound_launchers.runners import Batches, Processes

        assert self.launcher is not None
        assert self.hydra_context is not None
        most = min(int(self.hpo.max_parallel_jobs), int(self.hpo.max_jobs))
        if self._here and most > 1:
            return Processes(most, self.hydra_context, self._of_trial, report, ordered=ordered)
        return Batches(self.launcher.launch, most, report)

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        """Compose and check a trial's config as it would run."""
        from sagehound_launchers.config import checked

        return checked(self._load(overrides))

    def _of_trial(self, overrides: Sequence[str], number: int) -> DictConfig:
        """A trial's config with its number, as Hydra's launchers make it; the trial checks it."""
        cfg = self._load(overrides)
        with open_dict(cfg):
            cfg.hydra.job.id = cfg.hydra.job.num = number
        return cfg

    def _load(self, overrides: Sequence[str]) -> DictConfig:
        assert self.hydra_context is not None
        assert self.config is not None
        return self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
