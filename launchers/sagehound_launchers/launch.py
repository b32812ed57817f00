"""One command: the stages before training, training, and the stages after it."""

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sagehound import command, interrupts, run_folder
from sagehound.config import typed
from sagehound.errors import ConfigError
from sagehound_launchers import reports, schema
from sagehound_launchers.config import Launch
from sagehound_launchers.extras import needs
from sagehound_launchers.stages.stage import BEFORE_TRAINING

schema.register()


def launch(composed: DictConfig) -> dict[str, Any]:
    """Run the stages that the config chooses; without ``model``, and without a stage, a model is trained first.

    Returns:
        metrics.json of what was trained; empty if nothing was.
    """
    if composed.hpo:
        return trial(composed)
    metrics: dict[str, Any] = {}
    with command.job_errors():
        cfg: Launch = typed(composed)
        if cfg.stages:
            interrupts.raise_from_now_on()
        for stage, own in cfg.stages:
            if extra := stage.extra.get(own.name):
                needs(f"{stage.name}={own.name}", *extra)
        folder, models = Path(HydraConfig.get().runtime.output_dir), cfg.models
        for stage, own in cfg.stages:
            if stage.order <= BEFORE_TRAINING:
                stage.run(cfg, own, models, folder)
        if cfg.trains_first:
            metrics = command.train_typed(cfg)
            models = [str(folder)]
        for stage, own in cfg.stages:
            if stage.order > BEFORE_TRAINING:
                stage.run(cfg, own, models, folder)
    return metrics


def trial(composed: DictConfig) -> dict[str, Any]:
    """Train one trial of a search; the sweeper reports its errors."""
    cfg: Launch = typed(composed)
    cfg.results = cfg.results or "scores"
    folder = Path(HydraConfig.get().runtime.output_dir)
    cfg.overwrite = run_folder.holds_trial(folder)  # a search uses each number once, so it is of an older search
    from sagehound.compute import choose
    from sagehound.training import train

    tell = reports.each_epoch(cfg.search.objective)
    if tell and choose(cfg.trainer, cfg.finetune).devices > 1:
        raise ConfigError(f"hpo.pruner={cfg.search.pruner} needs trials of one device: give trainer.devices=1")
    return train(cfg, folder, tell, command.given_overrides()).metrics
