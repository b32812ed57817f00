"""Training in processes that torchrun or SLURM has started."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, Compose, small_all

from sagehound.errors import ConfigError
from sagehound.system import hardware, process_group

SRUN = {"SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}


def results(folder: Path) -> dict[str, float]:
    metrics = json.loads((folder / "metrics.json").read_text())
    return {split: metrics[split]["photos"] for split in ("train", "valid", "test")}


def test_a_process_knows_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    assert process_group.started() is None
    for name, value in SRUN.items():
        monkeypatch.setenv(name, value)
    assert process_group.started() == process_group.Group("srun", 4, 2, 3, 1)
    assert process_group.is_follower()
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert process_group.started() is None, "a job of one task starts its processes itself"


def test_the_config_follows_torchrun(config: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    cfg = config("finetune=gradual", "finetune.head_epochs=1")
    assert hardware.choose(cfg.trainer, cfg.finetune, 9).strategy == "ddp_find_unused_parameters_true"
    assert hardware.choose(cfg.trainer, cfg.finetune, 9).devices == 2
    cfg = config("trainer.devices=3")
    with pytest.raises(ConfigError, match=r"torchrun has started 2 processes, .* give trainer\.devices=2"):
        hardware.choose(cfg.trainer, cfg.finetune, 9)


@pytest.mark.slow
def test_two_processes_of_torchrun_train_one_model(photos: Path, weights: Path, tmp_path: Path) -> None:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    given = [*small_all(photos, weights), "trainer.devices=2", "finetune=full", "trainer.max_epochs=1"]
    done = subprocess.run(
        [*start, str(ROOT / "train.py"), *given], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "cpu x 2 (ddp)" in done.stdout
    assert done.stdout.count("test accuracy:") == 1, "only the first process tests"
    (folder,) = tmp_path.glob("outputs/*/*")
    assert results(folder) == {"train": 24, "valid": 9, "test": 12}
    assert (folder / "checkpoints/best.ckpt").is_file()
    choice = json.loads((folder / "metrics.json").read_text())["finetune_choice"]
    assert [one["alpha"] for one in choice["candidates"]] == [0, 0.25, 0.5, 0.75, 1], "one process chooses, for both"


@pytest.mark.slow
def test_two_tasks_of_srun_train_one_model(photos: Path, weights: Path, tmp_path: Path) -> None:
    """Without SLURM; the test sets the variables of srun."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    shared = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1", "SLURM_NODEID": "0"}
    shared |= {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "sagehound", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    given = [*small_all(photos, weights), "finetune=full", "trainer.max_epochs=1", "hydra.run.dir=run"]
    tasks = [
        subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *given],
            cwd=tmp_path,
            env=os.environ | shared | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [task.communicate(timeout=300) for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], outputs
    assert "cpu x 2 (ddp)" in outputs[0][0]
    assert outputs[1][0] == "", "only the first process prints"
    assert results(tmp_path / "run") == {"train": 24, "valid": 9, "test": 12}
