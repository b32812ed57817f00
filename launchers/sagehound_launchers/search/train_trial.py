"""One trial of a search, trained in this process."""

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sagehound.cli import command
from sagehound.config import typed
from sagehound.errors import ConfigError
from sagehound.runs import run_folder
from sagehound.system.imports import importing
from sagehound_launchers.config import Launch, schema
from sagehound_launchers.search import diagnosis, pruning

schema.register()


def train_trial(composed: DictConfig) -> dict[str, Any]:
    """Train one trial of a search; the sweeper reports its errors."""
    cfg: Launch = typed(composed)
    cfg.results = cfg.results or "scores"
    folder = Path(HydraConfig.get().runtime.output_dir)
    cfg.overwrite = run_folder.holds_trial(folder)  # numbers are used once: it is an older search
    with importing():
        from sagehound.system.hardware import choose
        from sagehound.training.train import train

    tell = pruning.each_epoch(cfg.search.objective)
    if tell and choose(cfg.trainer, cfg.finetune).devices > 1:
        raise ConfigError(f"hpo.pruner={cfg.search.pruner} needs trials of one device: give trainer.devices=1")
    if cfg.search.pruner == "diagnosis":
        diagnosis.prepare(cfg)
    with diagnosis.pruned():
        return train(cfg, folder, tell, command.given_overrides()).metrics
