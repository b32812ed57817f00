"""Sets of classes and unknown photos: thresholds that are chosen on valid photos and hold for others."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from prediction_helpers import drawn

import sagehound
from sagehound.artifact.archive import Card, opened
from sagehound.errors import InputError
from sagehound.evaluation import thresholds_fit
from sagehound.inference.preprocessing import prepare
from sagehound.inference.thresholds import Thresholds
from sagehound.serving.predictor import Predictor


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95, 0.99])
def test_sets_hold_the_label_as_often_as_promised(coverage: float) -> None:
    found = []
    for seed in range(20):
        given = Thresholds.read(thresholds_fit.fit(drawn(300, seed)))
        test = drawn(1000, 100 + seed)
        found.append(thresholds_fit.coverage_and_size(test.probabilities, test.labels, given, coverage))
    holds, size = np.mean(found, axis=0)
    assert holds == pytest.approx(coverage, abs=0.015)
    assert 1 < size < 5


def test_a_set_is_never_empty_and_holds_every_class_if_photos_are_few() -> None:
    given = Thresholds.read(thresholds_fit.fit(drawn(20, 0)))
    assert given.set_of(np.float32([0.1, 0.2, 0.3, 0.25, 0.15]), 0.99) == [2, 3, 1, 4, 0]
    assert given.set_of(np.float32([0.2] * 5), 0.8)[:1] == [0]
    assert thresholds_fit.fit(drawn(0, 0)) == {}


def test_a_share_of_photos_is_called_known() -> None:
    random = np.random.default_rng(0)
    shares = [
        (random.normal(size=500) <= thresholds_fit.unknown_threshold(random.normal(size=150))).mean() for _ in range(20)
    ]
    assert np.mean(shares) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("card", [{"unknown": {}}, {"unknown": 1}, {"sets": {"x": 1}}, {"sets": {"0.9": float("nan")}}])
def test_broken_thresholds_are_refused(card: dict[str, object]) -> None:
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
        Thresholds.read(card)


def test_a_model_of_an_older_sagehound_has_none() -> None:
    old = Thresholds.read({})
    with pytest.raises(InputError, match="no score of unknown photos"):
        old.check(unknown=True, coverage=None)
    with pytest.raises(InputError, match="this model has no sets"):
        old.check(unknown=False, coverage=0.9)


PLAIN_HANDLER = """
import sys
sys.path.insert(0, sys.argv[1] + "/code")
import inference
photos = inference.input_fn(open(sys.argv[2], "rb").read(), "image/jpeg")
prediction = inference.predict_fn(photos, inference.model_fn(sys.argv[1]))
print(inference.output_fn(prediction, "application/json; unknown=1; coverage=0.99").decode())
"""


@pytest.mark.slow
def test_the_plain_handler_gives_the_scores_of_the_server(run: Path, run_photos: Path) -> None:
    photo = next((run_photos / "test/002.Slate").iterdir())
    metrics = json.loads((run / "metrics.json").read_text())
    with opened(run) as folder:
        predictor = Predictor(folder)
        row = predictor.scored([prepare(photo, predictor.card.preprocessing)])[0]
        about, thresholds = Card.read(folder).about, predictor.card.thresholds
        done = subprocess.run(
            [sys.executable, "-P", "-c", PLAIN_HANDLER, str(folder), str(photo)],
            capture_output=True,
            text=True,
            check=True,
            env={"PATH": ""},
        )
    answer = json.loads(done.stdout)
    assert answer["unknown_score"] == pytest.approx(row[-1], abs=1e-4)
    assert answer["unknown"] == (row[-1] > thresholds.unknown)
    assert answer["set"] == [about["classes"][i] for i in thresholds.set_of(row[:-1], 0.99)]
    of_python = sagehound.load(run).predict(photo, coverage=0.99)
    assert of_python.unknown_score == pytest.approx(row[-1], abs=1e-6)
    assert (of_python.unknown, of_python.set) == (answer["unknown"], answer["set"])
    assert sagehound.load(run).predict(photo).set is None
    with pytest.raises(InputError, match=r"coverage=0.5: choose from 0.8, 0.9, 0.95, 0.99"):
        sagehound.load(run).predict(photo, coverage=0.5)
    assert metrics["unknown"]["threshold"] == about["unknown"]["threshold"]
    assert metrics["sets"]["0.99"] == {"coverage": 1.0, "size": 3.0}, "nine valid photos are too few for 99 %"
