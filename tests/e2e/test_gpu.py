"""The real command on a GPU; skipped where torch sees none."""

import json
from pathlib import Path

import pytest
import torch
from helpers import Command

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here"),
]


@pytest.mark.parametrize(
    "given",
    [
        ["debugger=local"],
        ["finetune=full", "trainer.max_epochs=2", "debugger=local"],
        ["finetune=full", "trainer.max_epochs=2", "trainer.precision=16-mixed"],
        ["finetune=gradual", "finetune.head_epochs=1", "trainer.max_epochs=2", "trainer.ema=0.9"],
    ],
    ids=["head", "full", "fp16", "gradual"],
)
def test_a_model_of_a_gpu_predicts_the_same_on_a_cpu(
    command: Command, real_data: Path, tmp_path: Path, given: list[str]
) -> None:
    """The artifact is verified in processes without a GPU."""
    weights = real_data / "weights/mobilenetv2_100.safetensors"
    model = ["backbone.name=mobilenetv2_100", f"backbone.weights={weights}"]
    done = command("data=folder", f"data.root={real_data}/woof10", *model, *given, f"hydra.run.dir={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    assert "compute: cuda" in done.stdout
    assert "as the trained model does" in done.stdout
    assert json.loads((tmp_path / "run/metrics.json").read_text())["test"]["top1"] > 0.8


def test_the_parts_of_a_step_on_a_gpu_add_up_to_the_step(command: Command, real_data: Path, tmp_path: Path) -> None:
    """A GPU is asynchronous, so times without waiting for it would be those of Python."""
    weights = real_data / "weights/mobilenetv2_100.safetensors"
    model = ["backbone.name=mobilenetv2_100", f"backbone.weights={weights}", "finetune=full", "trainer.max_epochs=3"]
    given = [*model, "profiler=local", "profiler.num_steps=0", "artifact=false"]
    done = command("data=folder", f"data.root={real_data}/woof10", *given, f"hydra.run.dir={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run/profile/summary.json").read_text())
    parts, median = summary["steps"], summary["step_ms"]["p50"]
    inside = sum(parts[name] for name in ("forward", "backward", "optimizer", "other") if name in parts)
    print(parts, summary["step_ms"])
    assert 0.3 * median < inside < 3 * median
