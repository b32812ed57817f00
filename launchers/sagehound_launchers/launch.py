"""Runs the stages before training, the training, and the stages after it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sagehound.cli import command
from sagehound.config import typed
from sagehound.config.overrides import override_key
from sagehound.system import console, interrupts
from sagehound_launchers.config import Launch, schema
from sagehound_launchers.config.extras import needs
from sagehound_launchers.config.stage import BEFORE_TRAINING

schema.register()


def launch(composed: DictConfig) -> dict[str, Any]:
    """Run the chosen stages. Without ``model``, or without a stage, train a model first.

    Returns:
        metrics.json of the training; empty without one.
    """
    if composed.hpo:
        from sagehound_launchers.search.train_trial import train_trial

        return train_trial(composed)
    from sagehound_launchers.packages import find  # imported here, as it needs numpy, a sixth of the start

    metrics: dict[str, Any] = {}
    with command.job_errors():
        cfg: Launch = typed(composed)
        if cfg.stages:
            interrupts.restore_keyboard_interrupt()
        for stage, own in cfg.stages:
            if extra := stage.extra.get(own.name):
                needs(f"{stage.name}={own.name}", *extra)
        folder, models = Path(HydraConfig.get().runtime.output_dir), [find.model(m, cfg) for m in cfg.models]
        for stage, own in cfg.stages:
            if stage.order <= BEFORE_TRAINING:
                stage.run(cfg, own, models, folder)
        if cfg.trains_first:
            metrics = {} if cfg.dry_run else command.train_typed(cfg)
            models = [str(folder / "not-trained" if cfg.dry_run else folder)]
        for stage, own in cfg.stages:
            if cfg.dry_run and not stage.sends(own):
                console.info(f"dry_run: {stage.name}={own.name} runs on this machine, and is left out")
            elif stage.order > BEFORE_TRAINING:
                stage.run(cfg, own, models, folder)
    return metrics


def manage(argv: Sequence[str]) -> bool:
    """Do what needs no run's folder: list, delete, approve, print permissions, export a pipeline.

    Returns:
        False if the command is none of these.

    Raises:
        ConfigError: a setting is wrong, or nothing has the given name.
    """
    keys = {override_key(word) for word in argv}
    if not {"show", "delete", "approve", "pipeline"} & keys or {"-h", "--help"} & set(argv):
        return False
    words = [word for word in argv if "=" in word and not word.startswith("-")]
    cfg = schema.composed(words, argv)
    if cfg.manages:
        _manage(cfg)
    else:
        _export(cfg, words)
    return True


def _export(cfg: Launch, words: Sequence[str]) -> None:
    """Export the command as a pipeline."""
    from sagehound_launchers import pipeline_export

    own = next(own for stage, own in cfg.stages if stage.name == "pipeline")
    folder = next((w.partition("=")[2].strip("'\"") for w in words if override_key(w) == "hydra.run.dir"), None)
    pipeline_export.export(cfg, own, words, Path(folder or f"outputs/pipelines/{own.pipeline}"))


def _manage(cfg: Launch) -> None:
    from sagehound_launchers.packages import find
    from sagehound_launchers.sagemaker import inventory, permissions

    if cfg.approve:
        find.approve(cfg.approve, cfg)
    elif cfg.delete:
        inventory.delete(cfg.aws, cfg.delete, cfg.idle_hours)
    elif cfg.show == "permissions":
        permissions.show(cfg)
    else:
        inventory.show(cfg.aws, cfg.idle_hours)
