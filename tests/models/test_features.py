"""A frozen backbone sees each photo once, and the numbers are those of one that sees it again and again."""

import json
import os
import signal
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pillow_heif
import pytest
import timm
import torch
from helpers import COLOURS, Compose, save_photo
from run_helpers import curves, same_weights
from safetensors.torch import load_file, save_file

from sagehound.config import Train
from sagehound.data import sources
from sagehound.data.loader import Batch, PhotoLoader
from sagehound.errors import ConfigError, InputError, SagehoundError, Stopped
from sagehound.models import backbone
from sagehound.models.backbone import CPU_CHUNK
from sagehound.training import train as train_module
from sagehound.training import trainer
from sagehound.training.train import Run, train

EXACT = "trainer.precision=32-true"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The photos that were decoded for the backbone, in order."""
    names: list[str] = []
    original = sources.Files.__call__

    def counted(self: sources.Files, index: int) -> Any:  # noqa: ANN401 - as Files returns
        names.append(self.paths[index].parent.name + "/" + self.paths[index].name)
        return original(self, index)

    monkeypatch.setattr(sources.Files, "__call__", counted)
    return names  # type: ignore[return-value]


def evaluated_again_without_features(cfg: Train, run: Run) -> dict[str, Any]:
    """The same weights, every photo through the backbone: a finished run that is resumed is only evaluated."""
    before = dict(run.metrics)
    cfg.resume = str(run.folder / "checkpoints" / "last.ckpt")
    cfg.features.cache = False
    again = train(cfg, run.folder).metrics
    assert again["best_epoch"] == before["best_epoch"]
    return again


def numbers(scores: dict[str, Any]) -> dict[str, float]:
    """A split's scores without the intervals; pytest.approx takes no lists in a dict."""
    return {name: value for name, value in scores.items() if not name.endswith("_interval")}


@pytest.mark.slow
def test_a_cached_run_reports_what_an_uncached_evaluation_finds(config: Compose, tmp_path: Path) -> None:
    run = train(config(EXACT, "head.hidden=[8]"), tmp_path / "run")
    again = evaluated_again_without_features(config(EXACT, "head.hidden=[8]"), run)
    for split in ("train", "valid", "test"):
        assert numbers(again[split]) == pytest.approx(numbers(run.metrics[split]), abs=2e-5)


@pytest.mark.slow
def test_in_half_precision_valid_and_test_are_still_evaluated_in_32_bits(config: Compose, tmp_path: Path) -> None:
    half = "trainer.precision=bf16-mixed"
    run = train(config(half), tmp_path / "run")
    again = evaluated_again_without_features(config(half), run)
    for split in ("valid", "test"):
        assert numbers(again[split]) == pytest.approx(numbers(run.metrics[split]), abs=2e-5)
    assert again["train"]["loss"] == pytest.approx(run.metrics["train"]["loss"], abs=0.02)
    assert again["train"]["loss"] != run.metrics["train"]["loss"], "or the train photos were not passed in half"


@pytest.mark.slow
def test_a_cached_run_learns_what_an_uncached_one_learns(config: Compose, tmp_path: Path) -> None:
    kept = curves(train(config(EXACT), tmp_path / "a").folder)
    passed = curves(train(config(EXACT, "features.cache=false"), tmp_path / "b").folder)
    for tag in ("train/loss", "valid/loss", "valid/top1"):
        assert [v for _, v in kept[tag]] == pytest.approx([v for _, v in passed[tag]], rel=1e-4)


@pytest.mark.slow
def test_each_photo_is_read_once_whatever_the_number_of_epochs_and_runs(
    config: Compose, tmp_path: Path, read: list[str]
) -> None:
    first = train(config("trainer.max_epochs=3"), tmp_path / "a")
    assert len(read) == 45
    again = train(config("trainer.max_epochs=3"), tmp_path / "b")
    train(config("optimizer.lr=0.01", "seed=5", "head.hidden=[4]"), tmp_path / "c")
    assert len(read) == 45
    assert same_weights(first.folder, again.folder)


@pytest.mark.slow
def test_only_what_changed_is_computed_again(config: Compose, photos: Path, tmp_path: Path, read: list[str]) -> None:
    train(config(EXACT), tmp_path / "a")
    read.clear()
    save_photo(photos / "train" / "001.Amber" / "003.jpg", COLOURS["001.Amber"], seed=77)
    (photos / "test" / "002.Slate" / "000.jpg").rename(photos / "valid" / "002.Slate" / "moved.jpg")
    train(config(EXACT), tmp_path / "b")
    assert read == ["001.Amber/003.jpg"], "a photo that moves to another split is the same photo"


@pytest.mark.slow
@pytest.mark.parametrize("change", ["weights", "backbone", "precision", "preprocessing"])
def test_another_backbone_weight_precision_or_size_is_computed_anew(
    config: Compose, weights: Path, tmp_path: Path, read: list[str], change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config(EXACT), tmp_path / "a")
    read.clear()
    overrides = [EXACT]
    if change == "weights":
        state = load_file(weights)
        state["conv1.0.weight"][0, 0, 0, 0] += 1e-3
        save_file(state, tmp_path / "other.safetensors")
        overrides.append(f"backbone.weights={tmp_path / 'other.safetensors'}")
    elif change == "backbone":
        save_file(timm.create_model("test_vit").state_dict(), tmp_path / "vit.safetensors")
        overrides += ["backbone.name=test_vit", f"backbone.weights={tmp_path / 'vit.safetensors'}"]
    elif change == "precision":
        overrides = ["trainer.precision=bf16-mixed"]
    else:
        original = backbone.data_config
        monkeypatch.setattr(backbone, "data_config", lambda net: original(net) | {"crop_pct": 0.5})
    train(config(*overrides), tmp_path / "b")
    assert len(read) == (24 if change == "precision" else 45), "valid and test are evaluated in 32 bits anyway"


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "computed"), [(".jpg", 0), (".heic", 46)])
def test_another_pillow_heif_computes_sets_with_heic_photos_anew(
    config: Compose,
    photos: Path,
    tmp_path: Path,
    read: list[str],
    suffix: str,
    computed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pillow_heif.register_heif_opener()
    save_photo(photos / f"train/001.Amber/phone{suffix}", COLOURS["001.Amber"], seed=99)
    train(config(EXACT, "results=scores"), tmp_path / "a")
    read.clear()
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "99" if name == "pillow-heif" else version(name))
    train(config(EXACT, "results=scores"), tmp_path / "b")
    assert len(read) == computed


@pytest.mark.slow
def test_a_damaged_entry_is_computed_again(config: Compose, tmp_path: Path, read: list[str]) -> None:
    cfg = config(EXACT)
    first = train(cfg, tmp_path / "a")
    (shard,) = Path(cfg.cache.dir).glob("features/*/*.shard")
    content = bytearray(shard.read_bytes())
    content[100] ^= 255
    shard.write_bytes(content)
    read.clear()
    again = train(config(EXACT), tmp_path / "b")
    assert len(read) == 1
    assert numbers(again.metrics["test"]) == pytest.approx(numbers(first.metrics["test"]), abs=1e-5)


@pytest.mark.slow
def test_views_are_kept_beside_the_centre_and_shared_by_runs_of_any_seed(
    config: Compose, tmp_path: Path, read: list[str]
) -> None:
    views = ("augment=light", "features.views=2")
    run = train(config(*views), tmp_path / "a")
    assert len(read) == 45 + 2 * 24
    other = train(config(*views, "seed=3"), tmp_path / "b")
    assert len(read) == 45 + 2 * 24
    centre = train(config(), tmp_path / "c")
    assert len({run.metrics["test"]["loss"], other.metrics["test"]["loss"], centre.metrics["test"]["loss"]}) == 3
    train(config("augment=light", "augment.crop=0.9", "features.views=2"), tmp_path / "d")
    assert len(read) == 45 + 4 * 24, "another augmentation is another view"


def test_random_augmentation_without_views_is_new_in_every_epoch(
    config: Compose, tmp_path: Path, read: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    train(config("augment=light"), tmp_path / "run")
    assert len(read) == 2 * (24 + 9) + 45
    assert "features.views" in capsys.readouterr().out, "the way to a faster run is named"


@pytest.mark.slow
def test_gradual_fine_tuning_uses_features_until_the_backbone_learns(
    config: Compose, tmp_path: Path, read: list[str]
) -> None:
    gradual = ("finetune=gradual", "finetune.start=random", "finetune.head_epochs=2", "trainer.max_epochs=3", EXACT)
    kept = curves(train(config(*gradual), tmp_path / "a").folder)
    assert len(read) == 45 + (24 + 9) + 45, "one pass, one epoch, one evaluation"
    passed = curves(train(config(*gradual, "features.cache=false"), tmp_path / "b").folder)
    for tag in ("train/loss", "valid/loss"):
        assert [v for _, v in kept[tag]] == pytest.approx([v for _, v in passed[tag]], rel=1e-3)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["features.views=2"], "needs an augmentation"),
        (["features.views=2", "finetune=full"], "finetune=full"),
        (["features.views=2", "augment=strong"], "mixup"),
        (["features.views=2", "augment=light", "features.cache=false"], "contradicts"),
        (["cache.max_gb=0.00001"], "raise it, or choose features.cache=false"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    config: Compose, tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(config(*overrides), tmp_path / "run")


def test_a_photo_that_changes_during_the_run_is_not_kept_under_its_old_name(
    config: Compose, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = train_module.find_photos

    def find_photos(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as find_photos
        found = original(*args, **kwargs)
        save_photo(photos / "train" / "001.Amber" / "003.jpg", (0, 0, 0), seed=1)
        return found

    monkeypatch.setattr(train_module, "find_photos", find_photos)
    with pytest.raises(InputError, match=r"003.jpg: changed.*run again"):
        train(config(), tmp_path / "run")


@pytest.mark.slow
def test_a_pass_that_is_stopped_goes_on_where_it_was(
    config: Compose, tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = PhotoLoader.batch

    def stopped_in_the_third_batch(self: PhotoLoader, keys: list[tuple[int, int]]) -> Batch:
        if keys[0][1] >= 2 * CPU_CHUNK:
            raise KeyboardInterrupt
        return original(self, keys)

    monkeypatch.setattr(PhotoLoader, "batch", stopped_in_the_third_batch)
    with pytest.raises(KeyboardInterrupt):
        train(config(EXACT), tmp_path / "a")
    monkeypatch.setattr(PhotoLoader, "batch", original)
    read.clear()
    train(config(EXACT), tmp_path / "b")
    assert len(read) == 45 - 2 * CPU_CHUNK


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_costs_time_and_nothing_else(
    config: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").write_text("in the way")
    run = train(config(EXACT, f"cache.dir={tmp_path / 'cache'}"), tmp_path / "run")
    kept = train(config(EXACT), tmp_path / "kept").metrics["test"]
    assert numbers(run.metrics["test"]) == pytest.approx(numbers(kept), abs=1e-4)
    assert "the backbone runs on every photo in every epoch instead" in capsys.readouterr().out


@pytest.mark.slow
def test_a_resume_beside_averaged_weights_finds_its_features(config: Compose, tmp_path: Path, read: list[str]) -> None:
    overrides = (EXACT, "trainer.ema=0.9", "schedule=constant")
    run = train(config(*overrides), tmp_path / "run")
    read.clear()
    train(config(*overrides, "trainer.max_epochs=4", f"resume={run.folder}/checkpoints/last.ckpt"), run.folder)
    assert not read


@pytest.mark.slow
def test_a_resume_at_the_end_of_the_head_phase_learns_what_an_uninterrupted_run_learns(
    config: Compose, tmp_path: Path
) -> None:
    gradual = ("finetune=gradual", "finetune.start=random", "finetune.head_epochs=1", "schedule=constant", EXACT)
    whole = train(config(*gradual, "trainer.max_epochs=3"), tmp_path / "whole")
    first = stopped_after_the_first_epoch(config(*gradual, "trainer.max_epochs=3"), tmp_path / "stopped")
    train(config(*gradual, "trainer.max_epochs=3", f"resume={first}/checkpoints/last.ckpt"), first)
    assert same_weights(whole.folder, first)


def stopped_after_the_first_epoch(cfg: Train, folder: Path) -> Path:
    """A run that hears SIGTERM in the last step of its first epoch."""

    class Hear(pl.Callback):
        def on_validation_end(self, *_: object) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    original = trainer.make_callbacks
    trainer.make_callbacks = lambda *a, **k: [Hear(), *original(*a, **k)]  # type: ignore[assignment]
    try:
        with pytest.raises(Stopped):
            train(cfg, folder)
    finally:
        trainer.make_callbacks = original
    return folder


def test_features_that_overflow_16_bits_are_refused(config: Compose, weights: Path, tmp_path: Path) -> None:
    state = load_file(weights)
    state["layer4.0.downsample.2.weight"] += 1e7
    save_file(state, tmp_path / "huge.safetensors")
    with pytest.raises(SagehoundError, match=r"not finite in bf16-mixed: choose trainer.precision=32-true"):
        train(
            config("trainer.precision=bf16-mixed", f"backbone.weights={tmp_path / 'huge.safetensors'}"), tmp_path / "r"
        )


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit", "test_convnext", "mobilenetv2_035"])
def test_a_folded_backbone_computes_the_same(name: str) -> None:
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=0).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    size = tuple(backbone.data_config(net)["input_size"][1:])
    before = {k: v.clone() for k, v in net.state_dict().items()}
    folded = backbone.for_inference(net, size, torch.float32)
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = net(x)
        assert torch.allclose(folded(x), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items()), "the trained weights stay as they are"
    if name != "test_vit":
        norms = [m for m in folded.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert all("forward" in m.__dict__ for m in norms), "every BatchNorm was folded away"


@pytest.mark.slow
def test_a_sweep_leaves_scores_and_computes_features_once(config: Compose, tmp_path: Path, read: list[str]) -> None:
    for number in range(3):
        run = train(config("results=scores", f"optimizer.lr={10**-number}"), tmp_path / str(number))
        left = {p.name for p in run.folder.rglob("*") if p.is_file() and not p.name.startswith("events")}
        assert left == {".lock", "audit.json", "splits.csv", "config.yaml", "metrics.json", "hparams.yaml"}
        assert len(curves(run.folder)["valid/loss"]) == 2
        assert json.loads((run.folder / "metrics.json").read_text())["test"]["photos"] == 12
    assert len(read) == 45


def test_the_numbers_are_rows_of_the_right_photos(config: Compose, tmp_path: Path) -> None:
    """Each photo's cached features against the backbone's own, one photo at a time."""
    from sagehound.data.photos import find_photos
    from sagehound.inference.decode import read_photo
    from sagehound.inference.preprocessing import centre, to_pixels
    from sagehound.models import features
    from sagehound.system import hardware
    from sagehound.training import from_config

    cfg = config(EXACT, "data.batch_size=4")
    found = find_photos(cfg.data, Path(cfg.cache.dir))
    model = from_config.classifier(cfg, found.classes)
    preprocessing = model.preprocessing
    machine = hardware.choose(cfg.trainer, cfg.finetune, 9)
    rows = features.prepare(model.backbone, found, preprocessing, machine, cfg)
    for split in ("train", "valid", "test"):
        for i, photo in enumerate(found.split(split)):
            pixels = to_pixels(centre(read_photo(found.root / photo.file, preprocessing.short_side), preprocessing))
            x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
            with torch.no_grad():
                expected = model.eval().features(model.normalise(x))[0].numpy()
            assert np.allclose(rows.centre[split]([(0, i)])[0], expected, rtol=1e-3, atol=1e-4)
