"""Callbacks and trainer.extra: what the config adds to Lightning's Trainer."""

import json
from pathlib import Path

import pytest
from helpers import Command, Compose, small

from sagehound.errors import ConfigError, InputError
from sagehound.training import train

MONITOR = "lightning.pytorch.callbacks.LearningRateMonitor"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("callbacks.lr._target_=lightning.pytorch.callbacks.LearningRateMonitr", "(did you mean LearningRateMonitor?)"),
        (f"callbacks.lr={{_target_: {MONITOR}, interval: step}}", "callbacks.lr.interval: LearningRateMonitor has no"),
        ("callbacks.x._target_=builtins.dict", "callbacks.x: dict is not a lightning.pytorch.callbacks.Callback"),
        ("callbacks.bar._target_=lightning.pytorch.callbacks.TQDMProgressBar", "which Lightning refuses"),
        (
            "callbacks.x={_target_: lightning.pytorch.callbacks.ModelCheckpoint, dirpath: FOLDER/checkpoints}",
            "best.ckpt and last.ckpt of the run are there",
        ),
        (
            "callbacks.x={_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: valid/loss}",
            "callbacks.x: trainer.patience=3 does the same",
        ),
        (
            "logger.tensorboard.nme=x",
            "logger.tensorboard.nme: TensorBoardLogger has no such argument (did you mean name?)",
        ),
        ("logger.x._target_=sagehound.evaluation.csv_logger.CSVLoger", "(did you mean CSVLogger?)"),
        ("logger.x._target_=builtins.dict", "logger.x: dict is not a subclass of lightning.pytorch.loggers.Logger"),
        ("trainer.extra.max_epochs=3", "trainer.extra.max_epochs: Sagehound sets it: use trainer.max_epochs"),
        ("trainer.extra.max_epoch=3", "did you mean max_epochs? Sagehound sets it: use trainer.max_epochs"),
        ("trainer.extra.logger=false", "use the group logger"),
        ("trainer.extra.check_val_every_n_epoch=2", "every epoch is validated"),
        ("trainer.extra.limit_train_batchs=1", "(did you mean limit_train_batches?)"),
        ("trainer.extra.limit_val_batches=0", "the best epoch is found by the valid photos"),
        ("trainer.extra.limit_train_batches=0", "nothing would be trained"),
        ("trainer.extra.limit_train_batches=some", "which Lightning refuses: TypeError"),
        ("trainer.extra.profiler=simpl", "it can only be one of"),
    ],
)
def test_what_cannot_work_is_one_line_before_any_photo_is_read(
    config: Compose, tmp_path: Path, given: str, message: str
) -> None:
    (tmp_path / "no-photos").mkdir()
    cfg = config("trainer.patience=3", f"data.root={tmp_path / 'no-photos'}", given.replace("FOLDER", str(tmp_path)))
    with pytest.raises(ConfigError) as caught:
        train.train(cfg, tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    cfg.callbacks, cfg.logger, cfg.trainer.extra = {}, {}, {}
    with pytest.raises(InputError):
        train.train(cfg, tmp_path)


@pytest.mark.parametrize(
    "given",
    [
        "limit_train_batches=2",
        "limit_val_batches=1",
        "deterministic=true",
        "profiler=simple",
        "overfit_batches=1",
        "val_check_interval=0.5",
        "num_sanity_val_steps=2",
        "profiler={_target_: lightning.pytorch.profilers.SimpleProfiler, dirpath: FOLDER, filename: mine}",
    ],
)
def test_switches_of_lightning_work_through_the_whole_run(config: Compose, tmp_path: Path, given: str) -> None:
    run = train.train(config(f"trainer.extra.{given.replace('FOLDER', str(tmp_path))}"), tmp_path / "run")
    assert set(run.metrics) > {"train", "valid", "test", "best_epoch"}
    assert json.loads((tmp_path / "run/metrics.json").read_text()) == run.metrics
    assert (tmp_path / "run/predictions.csv").exists()
    if given == "profiler=simple":
        assert "Profiler Report" in (tmp_path / "run/fit-profile.txt").read_text()
    if "mine" in given:
        assert (tmp_path / "fit-mine.txt").exists()


def test_what_lightning_finds_out_later_is_one_line_too(config: Compose, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"which Lightning refuses: .* `val_check_interval` \(77\)"):
        train.train(config("trainer.extra.val_check_interval=77"), tmp_path / "a")
    with pytest.raises(ConfigError, match=r"which Lightning refuses: .*that has no logger"):
        train.train(config(f"callbacks.lr._target_={MONITOR}", "logger=none"), tmp_path / "b")


def test_a_dev_run_ends_cleanly_and_says_what_it_left(
    config: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train.train(config("trainer.extra.fast_dev_run=true", "logger=[tensorboard,csv]"), tmp_path / "run")
    assert run.metrics == {}
    assert "there is no checkpoint, so nothing is tested, logged or packed" in capsys.readouterr().out
    left = {p.name for p in (tmp_path / "run").iterdir()} - {".lock"}
    assert left == {"audit.json", "config.yaml", "history.csv", "overrides.yaml", "splits.csv"} - {"overrides.yaml"}


@pytest.mark.slow
def test_own_checkpoints_and_early_stopping_stand_beside_ours(config: Compose, tmp_path: Path) -> None:
    keep = "{_target_: lightning.pytorch.callbacks.ModelCheckpoint, save_top_k: -1, monitor: valid/top1, mode: max}"
    stop = "{_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: train/loss, stopping_threshold: 99.0}"
    cfg = config(f"callbacks.keep={keep}", f"callbacks.stop={stop}", "trainer.patience=3", "trainer.max_epochs=5")
    train.train(cfg, tmp_path / "run")
    assert len(list((tmp_path / "run/checkpoints/keep").glob("*.ckpt"))) == 1, "the threshold ends it after one epoch"
    assert {p.name for p in (tmp_path / "run/checkpoints").glob("*.ckpt")} == {"best.ckpt", "last.ckpt"}
    cfg.overwrite = True
    cfg.callbacks = {}
    train.train(cfg, tmp_path / "run")
    assert not list((tmp_path / "run/checkpoints").glob("keep/*.ckpt"))


@pytest.mark.slow
def test_shipped_callbacks_log_to_every_logger(command: Command, photos: Path, weights: Path, tmp_path: Path) -> None:
    given = [*small(photos, weights), "callbacks=[lr_monitor,device_stats]", "logger=csv", "hydra.run.dir=run"]
    done = command(*given)
    assert (done.returncode, done.stderr) == (0, "")
    header = (tmp_path / "run/csv/metrics.csv").read_text().splitlines()[0].split(",")
    assert {"lr", "lr-AdamW/pg1", "step", "train/loss", "valid/top1", "final/test/top1"} <= set(header)
    assert any("DeviceStatsMonitor" in name for name in header)
