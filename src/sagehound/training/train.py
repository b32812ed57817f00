"""One run from photos to results. It calls the steps of the library in order."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sagehound import config, debugger, report
from sagehound.artifact import archive, export, quantize
from sagehound.artifact.fresh_processes import FreshProcesses
from sagehound.config import Train
from sagehound.data import splits
from sagehound.data.datamodule import PhotoDataModule, reading_threads
from sagehound.data.photo_set import PhotoSet
from sagehound.data.photos import find_photos, own_source
from sagehound.debugger import monitor
from sagehound.errors import ConfigError
from sagehound.evaluation import evaluate, history, loggers, thresholds_fit
from sagehound.evaluation.tables import Predictions
from sagehound.models import features
from sagehound.models.classifier import Classifier
from sagehound.profiler.times import Times
from sagehound.runs import run_folder
from sagehound.runs.run import Run
from sagehound.system import console, hardware, process_group
from sagehound.system.machine import tune_allocator
from sagehound.training import (
    checkpoint,
    drift_baseline,
    extensions,
    from_config,
    interpolation,
    results,
    solved_head,
)
from sagehound.training.callbacks import EpochEnd
from sagehound.training.stop import signals_stop
from sagehound.training.trainer import fit


def train(
    cfg: Train,
    folder: Path,
    each_epoch: EpochEnd | None = None,
    overrides: Sequence[str] | None = None,
    fresh: FreshProcesses | None = None,
) -> Run:
    """Find the photos, train, test the best weights and write the results into ``folder``.

    A run that is refused (ConfigError, InputError) changes no file of a run in ``folder``.

    Args:
        cfg: the composed config.
        folder: of the run.
        each_epoch: called with the number of finished epochs and the scores of the valid photos, on one device. If it
            raises, the run ends.
        overrides: the command line's, for overrides.yaml.
        fresh: the processes that verify the artifact, if the caller has started them.

    Raises:
        ConfigError: the config breaks a rule, this machine lacks something it needs, or the folder holds another run.
        InputError: the photos, the weights or the checkpoint cannot be used.
        Stopped: a signal came; a checkpoint was written.
        SagehoundError: the loss is no longer finite, or the disk is full.
    """
    if process_group.is_follower():
        console.terminal().quiet = True
        with tempfile.TemporaryDirectory(prefix="sagehound-") as scratch:
            return _train(cfg, Path(scratch), each_epoch, None, fresh)
    return _train(cfg, folder, each_epoch, overrides, fresh)


def _train(
    cfg: Train,
    folder: Path,
    each_epoch: EpochEnd | None,
    overrides: Sequence[str] | None,
    fresh: FreshProcesses | None,
) -> Run:
    _check(cfg)
    checkpoints = folder / "checkpoints"
    with (
        run_folder.opened(folder, cfg) as opened,
        signals_stop(checkpoints / "last.ckpt"),
        _removing(checkpoints, lambda: opened.begun and cfg.results == "scores"),
        nullcontext(fresh) if fresh else FreshProcesses() as fresh,
        Times(cfg.profiler, folder) as times,
        hardware.threads(cfg.trainer.threads),
    ):
        tune_allocator()
        makers, given = loggers.check(cfg), extensions.of(cfg, folder)  # refuse a wrong config before reading photos
        ready = _prepare(cfg, times)
        opened.begin(overrides)
        ready.photos.write(folder)
        console.info(f"model: {cfg.backbone.name}, finetune={cfg.finetune.name}\ncompute: {ready.machine}")
        with times.phase("features"):
            data = _with_features(ready, cfg, folder)
        with_tables = cfg.results != "scores" and hardware.writes_results()
        with_artifact = cfg.artifact and with_tables
        if with_tables:
            history.write(folder / history.NAME, history.of_checkpoint(ready.stopped_at))
        if with_artifact and data.head_alone:
            fresh.start()  # a head trains in seconds; longer trainings start them afterwards, to save memory
        with loggers.opened(cfg, folder, makers, is_dry=given.is_dev_run) as log:
            _fit(ready, data, log, cfg, folder, each_epoch, given, times)
            if given.is_dev_run or not hardware.writes_results():
                return Run(folder, {})
            if with_artifact:
                fresh.start()
            with times.phase("evaluate"), hardware.threads(_threads(ready, data, cfg)):
                predictions, scores, about = _evaluate(ready, data, log, cfg, opened, times)
        try:
            if with_artifact:
                with times.phase("artifact"), report.insights_beside(cfg, folder, data):
                    measured = scores | {"best_epoch": about["best_epoch"]}
                    _write_artifact(ready.model, data, cfg, measured, predictions, folder / archive.NAME, fresh)
        finally:  # whether the artifact is kept or not
            metrics = results.write_metrics(folder, cfg, data.photos, predictions, scores, about, times.seconds)
        _write_profile_and_report(times, cfg, ready, data, folder)
    results.tell(metrics, scores, folder, is_trial=cfg.results == "scores")
    return Run(folder, metrics)


def _write_artifact(
    model: Classifier,
    data: PhotoDataModule,
    cfg: Train,
    about: dict[str, Any],
    predictions: dict[str, Predictions],
    path: Path,
    fresh: FreshProcesses,
) -> None:
    more = drift_baseline.files(model, data, predictions["valid"])
    thresholds, test = thresholds_fit.fit(predictions["valid"]), predictions["test"]
    judged = test if test.photos else predictions["valid"]
    export.make(model, data.preprocessing, cfg, data.photos, about, test, path, fresh, more, thresholds, judged)


def _write_profile_and_report(times: Times, cfg: Train, ready: "_Ready", data: PhotoDataModule, folder: Path) -> None:
    if not hardware.writes_results():
        return
    if cfg.profiler:
        times.write(
            batch_size=cfg.data.batch_size,
            workers=reading_threads(cfg.data),
            reads_photos=not data.head_alone,
            own_transform=bool(cfg.augment.transform),
        )
    if report.is_wanted(cfg):
        report.of_training(cfg, folder, ready.model, data)


def _check(cfg: Train) -> None:
    """Check the config, before any photo is read."""
    config.check(cfg)
    if cfg.artifact and cfg.artifact_precision == "int8":
        quantize.check()
    if cfg.debugger:
        debugger.check(cfg.debugger)


def _fit(
    ready: "_Ready",
    data: PhotoDataModule,
    log: loggers.Loggers,
    cfg: Train,
    folder: Path,
    each_epoch: EpochEnd | None,
    given: extensions.Extensions,
    times: Times,
) -> None:
    """Train, unless the run that is resumed had ended early."""
    with times.phase("train"), hardware.threads(_threads(ready, data, cfg)):
        cfg = solved_head.solve(ready.model, data, cfg, ready.stopped_at, folder / "checkpoints")
        if ready.stopped_at is None or not checkpoint.ended_early(ready.stopped_at, cfg.trainer.patience):
            evaluator = monitor.prepare(cfg, ready.model, data) if cfg.debugger else None
            fit(ready.model, data, ready.machine, log.all, cfg, folder, each_epoch, given, evaluator, times)
    hardware.leave_group()
    if given.is_dev_run and hardware.writes_results():
        given.tell_dev_run(folder)


def _threads(ready: "_Ready", data: PhotoDataModule, cfg: Train) -> int | None:
    """Threads of an operator; one for a small head, whose operators gain nothing from several."""
    return 1 if data.head_alone and _is_small(ready.model.head, cfg) else None


@dataclass(frozen=True)
class _Ready:
    """The parts of a run, checked."""

    photos: PhotoSet
    model: Classifier
    machine: hardware.Compute
    stopped_at: dict[str, Any] | None  # the checkpoint of a run that is resumed
    epoch: int  # from 0: where training starts


def _prepare(cfg: Train, times: Times) -> _Ready:
    """Read the checkpoint, the weights and the photos. Everything is checked here, and nothing is written."""
    with times.phase("model"):  # check before any photo is read or downloaded
        hardware.choose(cfg.trainer, cfg.finetune)
        stopped_at = checkpoint.read(cfg) if cfg.resume else None
        source, _ = own_source(cfg.data), from_config.transform(cfg)
        model = from_config.classifier(cfg, checkpoint=stopped_at)
    with times.phase("data"):
        before = splits.of_run(Path(cfg.resume)) if cfg.resume else None
        photos = find_photos(cfg.data, Path(cfg.cache.dir).expanduser(), before, source)
        if photos.weights(photos.split("train")) and (cfg.augment.mixup or cfg.augment.cutmix):
            raise ConfigError("photos with weights cannot be blended: give augment.mixup=0 augment.cutmix=0")
    with times.phase("model"):
        machine = hardware.choose(cfg.trainer, cfg.finetune, len(photos.split("valid")))
        if stopped_at:
            checkpoint.check_classes(cfg, stopped_at, photos.classes)
        model.set_classes(photos.classes)
        epoch = checkpoint.restore(model, stopped_at) if stopped_at else 0
    return _Ready(photos, model, machine, stopped_at, epoch)


def _with_features(ready: _Ready, cfg: Train, folder: Path) -> PhotoDataModule:
    """The data module, with cached features if the backbone is frozen. Features show more near-duplicates."""
    photos, cached, model = ready.photos, None, ready.model
    is_frozen = model.is_frozen(ready.epoch) or (not ready.stopped_at and solved_head.starts(cfg))
    if is_frozen and features.usable(cfg):
        cached = features.prepare(model.backbone, photos, model.preprocessing, ready.machine, cfg)
    if cached:
        photos = features.near_duplicates(photos, cached)
    elif model.has_solved_head:
        photos = interpolation.restore(photos, folder / "checkpoints", Path(str(cfg.resume)).parent)
    if photos is not ready.photos:
        photos.write(folder)
    data = from_config.data_module(cfg, photos, model)
    data.features = cached
    return data


def _evaluate(
    ready: _Ready, data: PhotoDataModule, log: loggers.Loggers, cfg: Train, opened: run_folder.RunFolder, times: Times
) -> tuple[dict[str, Predictions], dict[str, dict[str, Any]], dict[str, Any]]:
    """Predict all photos with the best weights and write the results.

    Returns predictions, scores, and for metrics.json best_epoch (0: the solved head was kept) and finetune_choice.
    """
    checkpoints, device = opened.path / "checkpoints", torch.device(ready.machine.accelerator)
    choice = interpolation.choose(ready.model, data, cfg, checkpoints, device) if ready.model.has_solved_head else None
    best_epoch = checkpoint.load_best(ready.model, best := checkpoints / "best.ckpt")
    predictions = evaluate.predict(ready.model, data, device)
    if cfg.calibrate:
        predictions = evaluate.calibrated(predictions)
    ready.model.temperature = predictions["valid"].temperature
    if cfg.results != "scores":
        checkpoint.set_temperature(best, ready.model.temperature)
    scores = {split: evaluate.score(p, data.photos.scenes_of(split), split) for split, p in predictions.items()}
    opened.remove_stale()
    if times.parts:
        log.profile(times.seconds, times.parts)
    log.scores(cfg, scores, best_epoch)
    if cfg.results != "scores":
        results.write_tables(opened.path, data.photos, predictions)
    if cfg.results not in ("tables", "scores"):
        log.figures(results.draw(opened.path, data.photos, predictions, best_epoch), cfg)
    return predictions, scores, {"best_epoch": best_epoch} | ({"finetune_choice": choice} if choice else {})


def _is_small(head: nn.Module, cfg: Train) -> bool:
    """Whether the forward pass of a batch's features takes about a millisecond: 2^24 multiplications."""
    return int(cfg.data.batch_size) * sum(p.numel() for p in head.parameters()) < 2**24


@contextmanager
def _removing(checkpoints: Path, unwanted: Callable[[], bool]) -> Iterator[None]:
    """Remove the checkpoints at the end if they are unwanted, also after an error."""
    try:
        yield
    finally:
        if unwanted():
            shutil.rmtree(checkpoints, ignore_errors=True)
