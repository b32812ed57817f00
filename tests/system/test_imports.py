"""How the large packages are imported: quickly, and without the optional packages that they import in turn."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# packages that import what the real ones do
_STAND_INS = {
    "timm.py": "try:\n    import wandb\n    logs = True\nexcept ImportError:\n    logs = False\n",
    "wandb.py": "init = 'wandb'\n",
    "torchmetrics.py": "import scipy.signal\nif not hasattr(scipy.signal, 'hamming'):\n    scipy.signal.hamming = 1\n",
    "scipy/__init__.py": "import importlib\ndef __getattr__(name): return importlib.import_module(f'scipy.{name}')\n",
    "scipy/signal.py": "convolve = 'signal'\n",
}
_IMPORT = """
import gc, os, sys
from sagehound.system.imports import importing
with importing():
    import timm, torchmetrics
    print(timm.logs, gc.isenabled(), os.environ["GOMP_SPINCOUNT"])
print({"wandb", "scipy.signal"} & sys.modules.keys(), gc.isenabled())
import scipy.signal, wandb
print(wandb.init, scipy.signal.convolve)
"""


def _printed(code: str, *folders: Path, **variables: str) -> list[str]:
    paths = os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")])
    environment = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | {"PYTHONPATH": paths} | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def stand_ins(tmp_path: Path) -> Path:
    """A folder of small packages named as the large ones."""
    for name, content in _STAND_INS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


def test_wandb_and_scipy_signal_are_imported_only_by_who_uses_them(stand_ins: Path) -> None:
    assert _printed(_IMPORT, stand_ins) == ["False False 1000", "set() True", "wandb signal"]


def test_what_is_imported_already_stays(stand_ins: Path) -> None:
    printed = _printed("import wandb, scipy.signal" + _IMPORT, stand_ins)
    assert printed[0] == "True False 1000"
    assert printed[2] == "wandb signal"


def test_a_torchmetrics_that_reads_more_of_scipy_signal_gets_it(stand_ins: Path) -> None:
    (stand_ins / "torchmetrics.py").write_text("import scipy.signal\nread = scipy.signal.convolve\n")
    assert _printed(_IMPORT + "print(torchmetrics.read)", stand_ins)[-2:] == ["wandb signal", "signal"]


def test_the_users_choice_of_how_threads_wait_stays(stand_ins: Path) -> None:
    assert _printed(_IMPORT, stand_ins, GOMP_SPINCOUNT="7")[0] == "False False 7"
    code = "import os\nfrom sagehound.system.imports import importing\nwith importing(): pass\nprint(*os.environ)"
    assert "GOMP_SPINCOUNT" not in _printed(code, stand_ins, OMP_WAIT_POLICY="active")[0].split()


@pytest.mark.slow
def test_a_training_imports_neither() -> None:
    code = """
import sys
from sagehound.system.imports import importing
with importing():
    import sagehound.training.train
print({"wandb", "scipy.signal", "scipy.stats", "pandas", "onnxruntime"} & sys.modules.keys())
"""
    assert _printed(code) == ["set()"]


def test_launch_starts_without_numpy() -> None:
    code = "import sys, sagehound.cli.launch_command; print({'numpy', 'torch', 'boto3'} & sys.modules.keys())"
    assert _printed(code) == ["set()"]
