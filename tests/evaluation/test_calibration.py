"""Probabilities that mean what they say: temperature scaling."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Compose

import sagehound
from sagehound.artifact.archive import Card, opened
from sagehound.evaluation.calibration import fit_temperature
from sagehound.training.train import train

# needs only what AWS's containers have: the artifact's own code
PLAIN_HANDLER = """
import json, sys
sys.path.insert(0, sys.argv[1] + "/code")
import inference
model = inference.model_fn(sys.argv[1])
photos = inference.input_fn(open(sys.argv[2], "rb").read(), "image/jpeg")
print(inference.output_fn(inference.predict_fn(photos, model), "application/json;probabilities=all").decode())
"""


def sampled(photos: int, classes: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels that are drawn from softmax(logits / temperature)."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 4, (photos, classes))
    noise = random.gumbel(size=logits.shape)
    return logits.astype(np.float32), (logits / temperature + noise).argmax(1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_is_found(temperature: float) -> None:
    assert fit_temperature(*sampled(20_000, 5, temperature)) == pytest.approx(temperature, rel=0.05)


def test_few_photos_do_not_make_a_model_certain() -> None:
    logits = np.float32([[4, 0, 0], [0, 4, 0], [0, 0, 4]])
    assert 0.7 < fit_temperature(logits, np.arange(3)) <= 1, "all are right, so the loss alone would make it 0"
    assert fit_temperature(np.empty((0, 3), np.float32), np.empty(0, np.int64)) == 1


@pytest.mark.slow
def test_every_way_to_use_a_run_gives_the_same_calibrated_probabilities(run: Path, run_photos: Path) -> None:
    photo = next((run_photos / "test/002.Slate").iterdir())
    metrics = json.loads((run / "metrics.json").read_text())
    of_run = sagehound.load(run).predict(photo)
    of_checkpoint = sagehound.load(run / "checkpoints/best.ckpt").predict(photo)
    with opened(run) as folder:
        about = Card.read(folder).about
        answered = subprocess.run(
            [sys.executable, "-P", "-c", PLAIN_HANDLER, str(folder), str(photo)],
            capture_output=True,
            text=True,
            check=True,
            env={"PATH": ""},
        )
    of_handler = json.loads(answered.stdout)["probabilities"]

    model = sagehound.Classifier.load_from_checkpoint(run / "checkpoints/best.ckpt", weights_only=True).eval()
    temperature = metrics["temperature"]
    assert (about["temperature"], model.temperature) == (temperature, temperature)
    assert temperature != 1
    pixels = torch.from_numpy(np.array(sagehound.load(run)._pixels(photo, ""))).permute(2, 0, 1)[None]
    with torch.inference_mode():
        expected = (model(pixels) / temperature).softmax(1)[0].numpy()
    for name, found in {"run": of_run.probabilities, "ckpt": of_checkpoint.probabilities, "code": of_handler}.items():
        assert list(found.values()) == pytest.approx(expected, abs=1e-4), name


@pytest.mark.slow
def test_calibration_can_be_turned_off(config: Compose, tmp_path: Path) -> None:
    runs = {on: train(config(f"calibrate={on}"), tmp_path / on) for on in ("true", "false")}
    scaled, plain = runs["true"].metrics, runs["false"].metrics
    assert (scaled["temperature"] != 1, plain["temperature"]) == (True, 1)
    assert scaled["test"]["ece_uncalibrated"] == plain["test"]["ece"]
    assert plain["test"]["ece_uncalibrated"] == plain["test"]["ece"]
    for name in ("top1", "top5", "loss", "macro_f1"):
        assert scaled["test"][name] == plain["test"][name], name
    checkpoints = [torch.load(runs[on].folder / "checkpoints/best.ckpt", weights_only=True) for on in runs]
    assert [c.get("temperature", 1) for c in checkpoints] == [scaled["temperature"], 1]
