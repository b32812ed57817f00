"""The baseline of a model: what the training stores is what model.onnx gives for the same photos."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from sagehound.artifact.archive import opened
from sagehound.errors import InputError
from sagehound.monitoring.baseline import NAME, Baseline, chosen, make
from sagehound.monitoring.feature_network import FeatureNetwork
from sagehound.monitoring.photo_check import of_photos
from sagehound.monitoring.sample import MEASURES, Sample


@pytest.fixture
def unpacked(run: Path, tmp_path: Path) -> Path:
    with opened(run) as folder:
        shutil.copytree(folder, tmp_path / "model")
    return tmp_path / "model"


def test_it_is_that_of_the_valid_photos_through_the_exported_network(unpacked: Path, run_photos: Path) -> None:
    stored = Baseline.read(unpacked)
    computed = of_photos(FeatureNetwork(unpacked), run_photos / "valid")
    order = [np.argsort(b.sample.measures["brightness"]) for b in (stored, computed)]
    assert (stored.projection.signs == computed.projection.signs).all()
    assert stored.scale == pytest.approx(computed.scale, rel=1e-4)
    np.testing.assert_allclose(stored.sample.features[order[0]], computed.sample.features[order[1]], atol=5e-3)
    assert (stored.sample.predicted[order[0]] == computed.sample.predicted[order[1]]).all()
    for name, values in stored.sample.measures.items():
        np.testing.assert_allclose(values[order[0]], computed.sample.measures[name][order[1]], rtol=1e-3)
    assert (unpacked / NAME).stat().st_size < 1e6


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "huge", "nan"])
def test_a_broken_one_is_one_clear_error(unpacked: Path, damage: str) -> None:
    path = unpacked / NAME
    content = path.read_bytes()
    baseline = Baseline.read(unpacked)
    baseline.sample.measures["brightness"][0] = np.nan
    path.write_bytes(
        {
            "cut": content[:-1],
            "empty": b"",
            "text": b"not a safetensors file",
            "huge": content + bytes(9 * 2**20),
            "nan": baseline.content(),
        }[damage]
    )
    with pytest.raises(InputError, match=r"the model's baseline.safetensors is broken \(.*monitor.baseline=FOLDER"):
        Baseline.read(unpacked)


def test_the_same_baseline_has_the_same_bytes() -> None:
    made = make(
        np.ones((3, 8), np.float32),
        lambda features: Sample(features, np.zeros(3, np.int32), {name: np.ones(3, np.float32) for name in MEASURES}),
        {"split": "valid", "photos": 3},
    )
    assert len({made.content() for _ in range(32)}) == 1


def test_a_sample_is_chosen_at_random_and_in_order() -> None:
    assert chosen(5, 10) == [0, 1, 2, 3, 4]
    some = chosen(10_000, 300)
    assert some == sorted(set(some))
    assert len(some) == 300
    assert 4000 < np.mean(some) < 6000
