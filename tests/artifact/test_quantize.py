"""artifact_precision=int8: kept if it predicts the same and is faster; the figures say what the file does."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import Compose, verify_by

from sagehound.artifact import model_card, quantize
from sagehound.artifact.archive import Card, opened
from sagehound.artifact.quantize import Trial
from sagehound.inference.preprocessing import prepare
from sagehound.serving.predictor import Predictor
from sagehound.storage.atomic import read_csv
from sagehound.training.train import train

MADE_UP = Trial(0.995, 200, "test", 0.9, 0.91, 1.3, 128)


def test_int8_is_kept_if_both_figures_are_reached() -> None:
    assert MADE_UP.is_kept
    assert MADE_UP.about()["served"] == "int8"
    assert MADE_UP.describe() == (
        "int8 gives the trained model's class for 99.5 % of 200 test photos, 1.30 times as fast for one photo; "
        "top-1 90.0 % (fp32: 91.0 %)"
    )


@pytest.mark.parametrize(
    ("changed", "figures"),
    [
        ({"agreement": 0.99}, "99 % of 200 test photos, 1.30 times"),
        ({"agreement": 0.9949}, "99.49 % of 200 test photos, 1.30 times"),
        ({"speedup": 1.299}, "99.5 % of 200 test photos, 1.30 times"),
        ({"speedup": 0.8, "split": "valid"}, "99.5 % of 200 valid photos, 0.80 times"),
        ({"agreement": float("nan")}, "nan % of 200"),
    ],
)
def test_fp32_is_kept_otherwise_and_both_figures_are_told(changed: dict[str, Any], figures: str) -> None:
    trial = replace(MADE_UP, **changed)
    assert not trial.is_kept
    assert trial.about()["served"] == "fp32"
    told = trial.describe()
    assert told.startswith("artifact_precision=int8: fp32 is kept, because int8 gives the trained model's class for ")
    assert figures in told
    assert told.endswith("; 99.5 % and 1.3 times are needed")


def test_the_model_card_says_which_network_is_served() -> None:
    kept = dict(model_card._precision(MADE_UP.about()))
    assert kept["precision"].startswith(
        "`model.onnx` is in int8, `model.safetensors` in fp32; int8: 99.5 % of 200 test"
    )
    assert kept["all other figures"] == "of the trained model in fp32"
    refused = dict(model_card._precision(replace(MADE_UP, agreement=0.5).about()))
    assert refused["precision"].startswith("fp32; int8 was not good enough: 50 % of 200 test photos")
    assert list(model_card._precision(None)) == []


@pytest.mark.slow
def test_an_int8_model_is_what_its_figures_say(
    photos: Path, config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime.quantization", exc_type=ImportError)
    verify_by(monkeypatch, "server")  # the other way computes with the weights, which stay in fp32
    monkeypatch.setattr(quantize, "SPEEDUP", 0.0)
    monkeypatch.setattr(quantize, "AGREEMENT", 0.0)
    given = ["artifact=true", "artifact_precision=int8", "finetune=full", "finetune.start=random", "optimizer.lr=0.01"]
    run = train(config(*given, "trainer.max_epochs=4"), tmp_path / "run").folder
    with opened(run) as folder:
        card, files = Card.read(folder), {file.name for file in folder.iterdir()}
        predictor = Predictor(folder)
        rows = [row for row in read_csv(run / "predictions.csv") if row["split"] == "test"]
        pixels = [prepare(photos / row["file"], card.preprocessing) for row in rows]
        predicted = [card.classes[i] for i in predictor(pixels).argmax(1)]
        network = (folder / "model.onnx").read_bytes()
    own = card.about["precision"]["int8"]
    assert card.about["precision"]["served"] == "int8"
    assert "int8.onnx" not in files
    assert b"QuantizeLinear" in network
    assert (own["photos"], own["split"]) == (len(rows), "test")
    same = np.mean([a == row["prediction"] for a, row in zip(predicted, rows, strict=True)])
    right = np.mean([a == row["label"] for a, row in zip(predicted, rows, strict=True)])
    assert own["agreement"] == pytest.approx(same, abs=1e-6)
    assert own["top1"] == pytest.approx(right, abs=1e-6)
    assert own["speedup"] > 0
