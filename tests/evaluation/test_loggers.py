"""Loggers: the files that the real command leaves, read back by what MLflow, W&B and others offer for that."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, Command, Compose, small_all

from sagehound.errors import ConfigError
from sagehound.storage.atomic import read_csv
from sagehound.training import train

FIGURES = {"curves", "confusion", "accuracy_by_class_size", "worst_mistakes", "reliability"}
OWN = '''
import json
import re
import shlex
import sys
from pathlib import Path

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only


class JsonLines(Logger):
    """Everything that a logger is told, as lines of JSON."""

    name, version = "json-lines", 0

    def __init__(self, file, save_dir):
        super().__init__()
        self.file = Path(save_dir, file)

    @rank_zero_only
    def log_hyperparams(self, params):
        self._write({"hyperparameters": dict(params)})

    @rank_zero_only
    def log_metrics(self, metrics, step=None):
        self._write({"step": step, **metrics})

    @rank_zero_only
    def log_image(self, key, images):
        self._write({"image": key, "bytes": [len(Path(i).read_bytes()) for i in images]})

    @rank_zero_only
    def finalize(self, status):
        self._write({"status": status})

    def _write(self, what):
        with self.file.open("a") as file:
            print(json.dumps(what), file=file)


class CountSteps(Callback):
    def __init__(self, file):
        self.file, self.steps = Path(file), 0

    def on_train_batch_end(self, *args):
        self.steps += 1

    def on_train_end(self, trainer, pl_module):
        self.file.write_text(str(self.steps))
        Path("wandb.txt").write_text(str("wandb" in sys.modules))
'''


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_a_users_own_logger_and_callback(
    command: Command, photos: Path, weights: Path, tmp_path: Path, devices: int
) -> None:
    (tmp_path / "my_extensions.py").write_text(OWN)
    options = tmp_path / "options"
    for group, text in {
        "logger": "mine:\n  _target_: my_extensions.JsonLines\n  file: log.jsonl\n",
        "callbacks": "count:\n  _target_: my_extensions.CountSteps\n  file: steps.txt\n",
    }.items():
        (options / group).mkdir(parents=True)
        (options / group / "mine.yaml").write_text(text)
    done = command(
        *("--config-dir", "options", *small_all(photos, weights), "logger=[mine,csv]", "callbacks=mine"),
        *("hydra.run.dir=run", "profiler=local", "trainer.extra.limit_train_batches=2", f"trainer.devices={devices}"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "steps.txt").read_text() == "4"
    assert (tmp_path / "wandb.txt").read_text() == "False", "no process imports what it does not use"
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    hyperparameters = lines[0]["hyperparameters"]
    assert hyperparameters["finetune.name"] == "head"
    assert hyperparameters["run_folder"] == str(tmp_path / "run")
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    history = read_csv(tmp_path / "run/history.csv")
    found = [line["valid/loss"] for line in lines if "valid/loss" in line]
    assert found == pytest.approx([float(epoch["valid_loss"]) for epoch in history], rel=1e-5)
    assert [line["train/top1"] for line in lines if "train/top1" in line]
    assert [line["lr"] for line in lines if "lr" in line]
    (final,) = [line for line in lines if "final/test/top1" in line]
    for split in ("train", "valid", "test"):
        assert final[f"final/{split}/loss"] == metrics[split]["loss"]
    assert final["final/best_epoch"] == metrics["best_epoch"]
    steps = [line["profile/step_ms/forward"] for line in lines if "profile/step_ms/forward" in line]
    assert steps[-1] > 0 if devices == 1 else not steps, "the parts of steps are measured in one process"
    assert {line["image"] for line in lines if "image" in line} == FIGURES
    assert lines[-1] == {"status": "success"}
    rows = read_csv(tmp_path / "run/csv/metrics.csv")
    assert len([row for row in rows if row["valid/loss"]]) == 2, "what DDP's process wrote is kept"
    assert rows[-1]["final/test/top1"] == str(metrics["test"]["top1"])
    assert "finetune.name: head" in (tmp_path / "run/csv/hparams.yaml").read_text()


def scanned(folder: Path) -> Iterator[Any]:
    """The records of an offline run of W&B."""
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    (file,) = folder.glob("*.wandb")
    store = DataStore()
    store.open_for_scan(str(file))
    while data := store.scan_data():
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        yield record


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_mlflow_and_wandb(
    command: Command, photos: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, devices: int
) -> None:
    pytest.importorskip("mlflow", reason="needs the extra mlflow")
    pytest.importorskip("wandb", reason="needs the extra wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    done = command(
        *(*small_all(photos, weights), "logger=[tensorboard,mlflow,wandb]", "profiler=local", "hydra.run.dir=run"),
        *(f"trainer.devices={devices}", f"trainer.max_epochs={2 if devices == 1 else 3}"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "wandb: nothing was sent; `wandb sync " in done.stdout
    if devices == 1:  # a resume does not depend on their number, and takes half of the time
        resumed = command("resume=run", "trainer.max_epochs=3")
        assert (resumed.returncode, resumed.stderr) == (0, "")
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    history = [float(epoch["valid_loss"]) for epoch in read_csv(tmp_path / "run/history.csv")]
    assert len(history) == 3
    assert list((tmp_path / "run/tensorboard").glob("events*"))
    _check_mlflow(tmp_path, metrics, history, devices)
    _check_wandb(tmp_path, metrics, history, devices)


def _check_mlflow(folder: Path, metrics: dict[str, Any], history: list[float], devices: int) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("sagehound")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])  # the resume went on with the same
    assert run.info.status == "FINISHED"
    assert run.data.tags["run_folder"] == str(folder / "run")
    assert devices > 1 or run.data.tags["resumed_with"] == "trainer.max_epochs=3"
    assert run.data.params["finetune.name"] == "head"
    found = [m.value for m in client.get_metric_history(run.info.run_id, "valid/loss")]
    assert found == pytest.approx(history, rel=1e-5)
    assert {"train/loss", "train/top1", "valid/top1", "train/loss_step", "lr"} <= set(run.data.metrics)
    assert run.data.metrics["final/test/top1"] == metrics["test"]["top1"]
    if devices == 1:
        assert run.data.metrics["profile/step_ms/forward"] > 0
        assert run.data.metrics["profile/seconds/train"] > 0
    images = {a.path for a in client.list_artifacts(run.info.run_id, "plots")}
    assert images == {f"plots/{name}.png" for name in FIGURES}


def _check_wandb(folder: Path, metrics: dict[str, Any], history: list[float], devices: int) -> None:
    runs = sorted((folder / "run/wandb").glob("offline-run-*"))
    assert len({run.name.rpartition("-")[2] for run in runs}) == 1, "one run, in two parts"
    rows, config = [], {}
    for record in (record for run in runs for record in scanned(run)):
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items})
        for update in [*record.run.config.update, *record.config.update]:
            config["/".join(update.nested_key) or update.key] = json.loads(update.value_json)
    assert config["run_folder"] == str(folder / "run")
    assert config["finetune.name"] == "head"
    assert config["trainer.max_epochs"] == 3
    assert [row["valid/loss"] for row in rows if "valid/loss" in row] == pytest.approx(history, rel=1e-5)
    assert [row["lr"] for row in rows if "lr" in row]
    assert [row["final/test/top1"] for row in rows if "final/test/top1" in row][-1] == metrics["test"]["top1"]
    if devices == 1:
        assert [row["profile/step_ms/forward"] for row in rows if "profile/step_ms/forward" in row][-1] > 0
    assert {key.partition("/")[0] for row in rows for key in row if key.endswith("/_type")} == FIGURES


@pytest.mark.slow
def test_wandb_never_asks(config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="needs the extra wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"logger.wandb: W&B would ask for an API key: set WANDB_API_KEY"):
        train.train(config("logger=wandb", "logger.wandb.mode=online"), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"logger\.wandb\.jobtype: WandbLogger has no such argument .*job_type"):
        train.train(config("logger=wandb", "logger.wandb.jobtype=x"), tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("module", ["mlflow", "wandb"])
def test_a_missing_extra_is_named(module: str) -> None:
    code = f"""
import sys
sys.modules[{module!r}] = None  # as if it were not installed
from sagehound.evaluation import loggers
from sagehound.config import Train
from sagehound.errors import ConfigError
import types
kind = {{"mlflow": "MLFlowLogger", "wandb": "WandbLogger"}}[{module!r}]
cfg = types.SimpleNamespace(logger={{"x": {{"_target_": "lightning.pytorch.loggers." + kind}}}})
try:
    loggers.check(cfg)
except ConfigError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == f"logger.x needs {module}, which is not installed: pip install 'sagehound[{module}]'\n"


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_one_line(
    config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="needs the extra mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # mlflow sets it, and the next test must not see that
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    cfg = config("logger=mlflow", "logger.mlflow.tracking_uri=http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"^logger\.mlflow cannot start: ") as caught:
        train.train(cfg, tmp_path / "run")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("given", ["none", "[]"])
def test_no_logger(config: Compose, tmp_path: Path, given: str) -> None:
    run = train.train(config(f"logger={given}", "results=all"), tmp_path / "run")
    assert run.metrics["test"]
    assert not (tmp_path / "run/tensorboard").exists()
    assert (tmp_path / "run/plots/confusion.png").exists()


SECTION = (ROOT / "docs/extending.md").read_text()
COMMANDS = re.findall(
    r"^python train\.py data=folder data\.root=PATH ((?:callbacks|logger|trainer).*)$", SECTION, flags=re.MULTILINE
)


@pytest.mark.slow
@pytest.mark.parametrize("given", COMMANDS)
def test_the_examples_of_the_documentation(
    command: Command, photos: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    if "mlflow" in given:
        pytest.importorskip("mlflow", reason="needs the extra mlflow")
        pytest.importorskip("wandb", reason="needs the extra wandb")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    code = re.findall(r"```python\n(.*?)```", SECTION, flags=re.DOTALL)[0]
    (tmp_path / "my_extensions.py").write_text(code)
    done = command(*small_all(photos, weights), *shlex.split(given), "hydra.run.dir=run", "optimizer.lr=0.01")
    assert (done.returncode, done.stderr) == (0, "")
    if "PrintLogger" in given:
        assert "log backbone test_resnet" in done.stdout
        assert "'valid/top1'" in done.stdout
    assert (tmp_path / "run/metrics.json").exists() == ("fast_dev_run" not in given)


def test_the_documentation_has_examples() -> None:
    assert len(COMMANDS) >= 5
