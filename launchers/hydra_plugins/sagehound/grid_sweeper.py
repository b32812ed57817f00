"""Hydra's sweeper for `-m key=a,b`; see sagehound_launchers/search/grid.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

if TYPE_CHECKING:
    from sagehound.config import Train


@dataclass
class GridSweeperConfig:
    """The sweeper's options; the keys are those of Hydra's own sweeper."""

    _target_: str = "hydra_plugins.sagehound.grid_sweeper.GridSweeper"
    max_batch_size: int | None = None  # points that a launcher is given at a time; null: all
    params: dict[str, str] | None = None  # sweeps in a config; those of the command line win


ConfigStore.instance().store("sagehound_grid", GridSweeperConfig, group="hydra/sweeper", provider="sagehound")


class GridSweeper(BasicSweeper):
    """Hydra's sweeper, which also checks all points first and writes the results."""

    def sweep(self, arguments: list[str]) -> Any:  # noqa: ANN401 - Hydra's signature
        """Run every point; ``arguments`` are the command line's overrides."""
        from sagehound.cli.command import claim_default
        from sagehound.config import refuse_overlap
        from sagehound.config.overrides import override
        from sagehound_launchers.search import grid
        from sagehound_launchers.search.resolve_space import same_command
        from sagehound_launchers.search.runners import reported

        assert self.config is not None
        assert self.launcher is not None
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        points = grid.parse(parser.parse_overrides([*self._parse_config(), *arguments]))
        grid.check(points, self._compose)
        if getattr(self.launcher, "single", False):  # one job on SageMaker without -m: a run
            return [job.return_value for job in self.launcher.launch(points.jobs, 0)]
        refuse_overlap(self.config.data.root, Path(self.config.hydra.sweep.dir))
        claim_default(self.config, "sweep")
        name = self.config.hydra.runtime.choices["hydra/launcher"]
        folder, here = Path(self.config.hydra.sweep.dir), isinstance(self.launcher, BasicLauncher)
        follows = getattr(self.launcher, "follows_jobs", False)  # it resumes jobs in the same folder
        if not follows or self.config.overwrite:
            grid.prepare(folder, len(points.jobs), overwrite=self.config.overwrite)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        most = 1 if here else self.max_batch_size or len(points.jobs)
        hpo = self.config.hpo if "hpo" in self.config else None
        chosen = {"objective": hpo.objective, "maximize": hpo.direction == "maximize"} if hpo else {}
        again = "" if follows else same_command(override("hydra.sweep.dir", str(folder)), "overwrite=true")
        if not (follows or here):
            again += f"; first cancel the jobs of hydra/launcher={name} that still run"
        launch = reported(self.launcher.launch, name)
        return grid.run(points, folder, launch, most, again=again, **chosen)

    def _compose(self, overrides: Sequence[str]) -> "Train":
        """Compose and check a point's config as it would run."""
        from sagehound_launchers.config.schema import checked

        assert self.hydra_context is not None
        assert self.config is not None
        return checked(self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides)))
