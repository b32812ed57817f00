"""Intervals of scores by the bootstrap."""

import numpy as np
import pytest
from prediction_helpers import drawn

from sagehound.evaluation.bootstrap import intervals
from sagehound.evaluation.evaluate import score
from sagehound.evaluation.tables import Predictions


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_intervals_cover_the_score_of_many_photos(temperature: float) -> None:
    of_many = score(drawn(100_000, 1000, temperature), split="train")
    hits = {"macro_f1": 0, "loss": 0, "ece": 0}
    for seed in range(40):
        for name, (low, high) in intervals(drawn(300, seed, temperature)).items():
            hits[name] += low <= of_many[name] <= high
    assert min(hits.values()) >= 34, hits  # a share of 95 % gives less once in 100 times


def test_each_score_lies_in_its_interval() -> None:
    scores = score(drawn(500, 0, 0.5))
    for name in ("top1", "top5", "macro_f1", "loss", "ece"):
        low, high = scores[f"{name}_interval"]
        assert low <= scores[name] <= high, name


def test_whole_scenes_are_drawn() -> None:
    p = drawn(300, 0)
    (low, high), (wide_low, wide_high) = (intervals(p, s)["loss"] for s in (None, np.arange(300) // 30))
    assert wide_high - wide_low != pytest.approx(high - low, rel=0.05)
    copies = Predictions(p.photos * 4, np.tile(p.labels, 4), np.tile(p.logits, (4, 1)))
    assert intervals(copies, np.tile(np.arange(300), 4))["loss"] == pytest.approx([low, high], rel=1e-5)
