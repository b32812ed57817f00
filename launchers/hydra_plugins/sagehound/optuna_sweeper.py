"""Hydra's sweeper for `hpo=optuna`; see sagehound_launchers/search/loop.py."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
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
    from sagehound_launchers.config import Hpo, Launch
    from sagehound_launchers.search.runners import Report, Runner


@dataclass
class OptunaSweeperConfig:
    """Hydra's config of the sweeper. Its settings are in the group hpo."""

    _target_: str = "hydra_plugins.sagehound.optuna_sweeper.OptunaSweeper"
    params: dict[str, Any] = field(default_factory=dict)  # Hydra's key for sweeps in a config; hpo.space is Sagehound's


ConfigStore.instance().store("sagehound_optuna", OptunaSweeperConfig, group="hydra/sweeper", provider="sagehound")


class OptunaSweeper(Sweeper):
    """Lets Optuna propose and any Hydra launcher run."""

    def __init__(self, params: dict[str, Any]) -> None:
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
        from sagehound_launchers.config.extras import needs

        assert self.config is not None
        hpo: Hpo = OmegaConf.to_object(self.config.hpo)  # type: ignore[assignment]
        if self.config.dry_run:
            raise ConfigError(
                "dry_run=true cannot show the requests of hpo=optuna, which chooses values by the results before: "
                "drop hpo=optuna to see the request of one trial"
            )
        needs("hpo=optuna", "hpo", "optuna", *(["scipy"] if hpo.sampler == "qmc" else []))
        from sagehound.config import refuse_overlap
        from sagehound_launchers.search.loop import tune
        from sagehound_launchers.search.resolve_space import claim_study, refuse_others

        if hpo.pruner != "none" and not self._here:
            chosen = self.config.hydra.runtime.choices["hydra/launcher"]
            raise ConfigError(
                f"hpo.pruner={hpo.pruner} needs trials on this machine, hydra/launcher={chosen} runs them "
                "elsewhere: drop it"
            )
        arguments = claim_study(self.config, arguments)
        folder = Path(self.config.hydra.sweep.dir)
        refuse_overlap(self.config.data.root, folder)
        refuse_others(folder, "study.journal", overwrite=self.config.overwrite)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        return tune(arguments, hpo, self.config.seed, folder, self._compose, partial(self._runner, hpo))

    @property
    def _here(self) -> bool:
        """Whether trials run in this process, one after the other."""
        return isinstance(self.launcher, BasicLauncher)

    def _runner(self, hpo: "Hpo", report: "Report | None", ordered: bool) -> "Runner":
        from sagehound_launchers.search.runners import Batches, Processes, reported

        assert self.launcher is not None
        assert self.hydra_context is not None
        assert self.config is not None
        most = min(int(hpo.max_parallel_jobs), int(hpo.max_jobs))
        if self._here and most > 1:
            return Processes(most, self.hydra_context, self._of_trial, report, ordered=ordered)
        name = self.config.hydra.runtime.choices["hydra/launcher"]
        return Batches(reported(self.launcher.launch, name), most, report)

    def _compose(self, overrides: Sequence[str]) -> "Launch":
        """Compose and check a trial's config as it would run."""
        from sagehound_launchers.config import Launch
        from sagehound_launchers.config.schema import checked

        cfg = checked(self._load(overrides))
        assert isinstance(cfg, Launch)
        return cfg

    def _of_trial(self, overrides: Sequence[str], number: int) -> DictConfig:
        """A trial's config with its number, as Hydra's launchers compose it."""
        cfg = self._load(overrides)
        with open_dict(cfg):
            cfg.hydra.job.id = cfg.hydra.job.num = number
        return cfg

    def _load(self, overrides: Sequence[str]) -> DictConfig:
        assert self.hydra_context is not None
        assert self.config is not None
        return self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
