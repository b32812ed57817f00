"""The config is typed everywhere: mypy finds a key that the schema does not have."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

pytest.importorskip("mypy", reason="mypy is in the extra dev")


PLANTED = [
    ("src/sagehound/training/train.py", "cfg.trainer.patience", "cfg.trainer.max_epoks"),
    ("src/sagehound/training/from_config.py", "o.weight_decay", "o.weight_decey"),
    ("launchers/sagehound_launchers/sagemaker/requests.py", "aws.spot", "aws.spott"),
]
# a key's type depends on none of them, and `make check` reads them: they take three quarters of the time
UNREAD = """
[[tool.mypy.overrides]]
module = [
    "torch.*", "torchvision.*", "timm.*", "lightning.*", "torchmetrics.*", "numpy.*", "scipy.*", "pandas.*",
    "matplotlib.*", "onnx.*", "PIL.*",
]
follow_imports = "skip"
"""


@pytest.mark.slow
def test_a_key_that_does_not_exist_is_a_type_error(tmp_path: Path) -> None:
    shadows = []
    for number, (file, right, wrong) in enumerate(PLANTED):
        source = (ROOT / file).read_text()
        assert right in source
        planted = tmp_path / f"{number}.py"
        planted.write_text(source.replace(right, wrong, 1))
        shadows += ["--shadow-file", str(ROOT / file), str(planted)]
    settings = tmp_path / "pyproject.toml"
    settings.write_text((ROOT / "pyproject.toml").read_text() + UNREAD)
    options = ["--config-file", str(settings), "--cache-dir", os.devnull]
    options += ["--disable-error-code=no-any-return", "--disable-error-code=unused-ignore"]  # both follow from UNREAD
    files = [file for file, _, _ in PLANTED]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *shadows, *files],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    for _, _, wrong in PLANTED:
        assert f'has no attribute "{wrong.rpartition(".")[2]}"' in done.stdout
    assert f"Found {len(PLANTED)} errors" in done.stdout
