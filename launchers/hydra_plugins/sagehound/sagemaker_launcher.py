"""Hydra's launcher for `trainer=sagemaker`; see sagehound_launchers/sagemaker/training.py."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict, read_write

if TYPE_CHECKING:
    from sagehound.config import Train
    from sagehound_launchers.sagemaker.training import Outcome


@dataclass
class SageMakerLauncherConfig:
    """Hydra's config of the launcher. Its settings are in the group aws."""

    _target_: str = "hydra_plugins.sagehound.sagemaker_launcher.SageMakerLauncher"
    remote: bool = True  # false: run the jobs in this process, to test a sweep


ConfigStore.instance().store(
    "sagehound_sagemaker", SageMakerLauncherConfig, group="hydra/launcher", provider="sagehound"
)


class SageMakerLauncher(Launcher):
    """Runs a sweep's jobs on SageMaker, and writes the same folders as a local sweep."""

    follows_jobs = True

    def __init__(self, remote: bool) -> None:
        self.remote = remote

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's hook. One job without -m is a run, in the folder of a run."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config
        self.single = self.remote and not {"-m", "--multirun"} & set(sys.argv) and config.get("hpo") is None
        if self.single:
            self._as_a_run(config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs and return metrics.json of each.

        Raises:
            ConfigError: several jobs without -m.
        """
        from sagehound.system import interrupts

        interrupts.restore_keyboard_interrupt()
        if self.single and len(job_overrides) > 1:
            from sagehound.errors import ConfigError

            raise ConfigError("several values are a sweep: add -m; or write key=[a,b] for a list")
        if self.single:
            from sagehound.cli.command import claim_default

            claim_default(self.config, "run")
            self._as_a_run(self.config)
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        configs = [self._config(overrides, initial_job_idx + i) for i, overrides in enumerate(job_overrides)]
        return [
            run_job(
                hydra_context=self.hydra_context,
                task_function=task,
                config=config,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
            )
            for config, task in zip(configs, self._tasks(configs, job_overrides), strict=True)
        ]

    def _config(self, overrides: Sequence[str], number: int) -> DictConfig:
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        if self.single:
            self._as_a_run(config)
        return config

    @staticmethod
    def _as_a_run(config: DictConfig) -> None:
        with read_write(config), open_dict(config):
            config.hydra.sweep.dir, config.hydra.sweep.subdir = config.hydra.run.dir, "."

    def _tasks(self, configs: list[DictConfig], job_overrides: Sequence[Sequence[str]]) -> list[TaskFunction]:
        """The tasks of the jobs' folders; jobs on SageMaker have ended when this returns."""
        if not self.remote:
            return [self.task_function] * len(configs)
        from sagehound_launchers.config import Launch
        from sagehound_launchers.config.schema import checked

        plain = [cfg for config in configs if isinstance(cfg := checked(config), Launch)]
        for cfg in plain:
            cfg.results = cfg.results or ("all" if self.single else "scores")
        folders = [Path(c.hydra.sweep.dir, str(c.hydra.sweep.subdir)) for c in configs]
        from sagehound_launchers.sagemaker.training import launch

        outcomes = launch(plain, job_overrides, folders)
        return [partial(_finish, cfg, outcome) for cfg, outcome in zip(plain, outcomes, strict=True)]


def _finish(cfg: "Train", outcome: "Outcome", _: DictConfig) -> dict[str, Any]:
    """Write config.yaml and overrides.yaml to the run's folder, as a local training does."""
    from sagehound.cli.command import given_overrides
    from sagehound.runs.run_folder import write_config

    write_config(Path(HydraConfig.get().runtime.output_dir), cfg, given_overrides())
    if isinstance(outcome, Exception):
        raise outcome
    return outcome
