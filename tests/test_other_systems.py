"""Simulates macOS and Windows on Linux: removes the Python modules and functions that they lack."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, small

# missing on Windows, and partly on macOS; Lightning needs SIGKILL and SIGUSR1 on Linux
HIDE = """
import os, runpy, signal, sys
for module in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[module] = None
for name in ("sched_getaffinity", "pread", "sysconf", "getuid", "geteuid", "getgid", "getegid", "killpg", "setsid",
             "getpgid", "set_blocking", "fork", "mkfifo", "posix_fadvise", "sync", "getloadavg"):
    delattr(os, name)
for name in ("pthread_sigmask", "SIGHUP", "SIGPIPE", "alarm", "setitimer"):
    delattr(signal, name)
os.environ.pop("HOME", None)
"""
THIRD_PARTY = """
import asyncio, filelock, multiprocessing.popen_spawn_posix  # need fcntl or fork on Linux
import psutil, torch, lightning.pytorch, tensorboard, matplotlib.pyplot, onnxruntime, timm, torchvision
"""
TRAIN = """
import importlib, pkgutil, sagehound
for module in pkgutil.walk_packages(sagehound.__path__, "sagehound."):
    importlib.import_module(module.name)
import sagehound_launchers.search.trial_worker
"""


def python(code: str, folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    run = (
        f"sys.argv = [{str(ROOT / 'train.py')!r}, *{list(argv)!r}]\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    return subprocess.run([sys.executable, "-c", code + run], cwd=folder, capture_output=True, text=True, check=False)


def test_the_command_line_needs_no_posix(tmp_path: Path) -> None:
    helped = python(HIDE, tmp_path, "--help")
    assert (helped.returncode, helped.stderr) == (0, "")
    refused = python(HIDE, tmp_path, "lr=1")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)


@pytest.mark.slow
def test_a_run_needs_no_posix(photos: Path, weights: Path, tmp_path: Path) -> None:
    argv = [*small(photos, weights), "artifact=true", "data.cache=memmap", "hydra.run.dir=run"]
    done = python(THIRD_PARTY + HIDE + TRAIN, tmp_path, *argv)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run/metrics.json").read_text())["test"]["photos"] == 12
    assert (tmp_path / "run/model.tar.gz").exists()
