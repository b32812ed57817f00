"""The LightningModule and the LightningDataModule in the user's own Trainer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from helpers import COLOURS, make_photos, save_photo
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.tuner import Tuner
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import sagehound
from sagehound import Classifier, Photo, PhotoDataModule
from sagehound.config import typed
from sagehound.errors import ConfigError
from sagehound.inference.preprocessing import Preprocessing

CLASSES = ["Amber", "Moss", "Slate"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_photos(tmp_path / "photos", train=8, valid=3, test=4)


def trainer(folder: Path, **changes: object) -> L.Trainer:
    settings = {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False, "logger": False}
    return L.Trainer(default_root_dir=folder, **(settings | changes))  # type: ignore[arg-type]


def classifier(weights: Path, classes: list[str] | None = None, **changes: object) -> Classifier:
    return Classifier("test_resnet", classes, weights=str(weights), lr=0.01, **changes)  # type: ignore[arg-type]


@pytest.mark.slow
def test_fit_validate_test_predict_and_load(photos: Path, weights: Path, tmp_path: Path) -> None:
    data, best = PhotoDataModule(photos, batch_size=5), ModelCheckpoint(monitor="valid/loss", filename="best")
    model = classifier(weights)
    mine = trainer(tmp_path, callbacks=[best])
    mine.fit(model, data)
    assert model.classes == CLASSES, "they come from the data module"
    (valid,), (test,) = mine.validate(model, data, verbose=False), mine.test(model, data, verbose=False)
    assert set(valid) >= {"valid/loss", "valid/top1"}
    probabilities = torch.cat(mine.predict(model, data))  # type: ignore[arg-type]
    assert probabilities.shape == (12, 3)
    assert torch.allclose(probabilities.sum(1), torch.ones(12), atol=1e-5)
    labels = torch.tensor(data.photos.labels(data.photos.split("test")))
    assert test["test/top1"] == pytest.approx(float((probabilities.argmax(1) == labels).float().mean()))

    weights.with_name("gone").touch()
    loaded = Classifier.load_from_checkpoint(best.best_model_path, weights_only=True, map_location="cpu")
    assert loaded.classes == CLASSES
    assert (loaded.hparams["lr"], loaded.optimizer.lr) == (0.01, 0.01)
    (scores,) = trainer(tmp_path).test(loaded, PhotoDataModule(photos, batch_size=5), verbose=False)
    (expected,) = mine.test(model, data, ckpt_path=best.best_model_path, verbose=False)
    assert scores == pytest.approx(expected)


def test_a_checkpoint_loads_without_the_pretrained_weights(photos: Path, weights: Path, tmp_path: Path) -> None:
    copy = tmp_path / "weights.safetensors"
    copy.write_bytes(weights.read_bytes())
    mine = trainer(tmp_path, max_epochs=1)
    mine.fit(classifier(copy), PhotoDataModule(photos))
    mine.save_checkpoint(tmp_path / "mine.ckpt")
    copy.unlink()
    assert Classifier.load_from_checkpoint(tmp_path / "mine.ckpt", weights_only=True).classes == CLASSES


def test_an_own_preprocessing_is_saved_in_the_checkpoint(photos: Path, weights: Path, tmp_path: Path) -> None:
    own = Preprocessing((48, 32), 60, "bilinear", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    mine = trainer(tmp_path, max_epochs=1)
    mine.fit(classifier(weights, preprocessing=own), PhotoDataModule(photos))
    mine.save_checkpoint(tmp_path / "mine.ckpt")
    loaded = Classifier.load_from_checkpoint(tmp_path / "mine.ckpt", weights_only=True)
    assert loaded.preprocessing == own
    assert sagehound.load(tmp_path / "mine.ckpt").preprocessing == own


class StopAfterTwo(L.Callback):
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch == 1


@pytest.mark.slow
def test_training_resumes_from_a_checkpoint(photos: Path, weights: Path, tmp_path: Path) -> None:
    whole = classifier(weights, CLASSES)
    trainer(tmp_path, max_epochs=3).fit(whole, PhotoDataModule(photos, batch_size=5))
    first = trainer(tmp_path, max_epochs=3, callbacks=[StopAfterTwo()])
    first.fit(classifier(weights, CLASSES), PhotoDataModule(photos, batch_size=5))
    first.save_checkpoint(tmp_path / "part.ckpt")
    resumed = classifier(weights)  # the classes come from the checkpoint
    trainer(tmp_path, max_epochs=3).fit(
        resumed, PhotoDataModule(photos, batch_size=5), ckpt_path=tmp_path / "part.ckpt", weights_only=True
    )
    assert resumed.classes == CLASSES
    for name, tensor in whole.head.state_dict().items():
        assert torch.allclose(tensor, resumed.head.state_dict()[name], atol=1e-5), name


def test_command_and_classes_have_the_same_defaults() -> None:
    """The default config of `python train.py` equals the default arguments of the classes."""
    import inspect

    from helpers import ROOT
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = typed(compose("train", overrides=["data=folder", "data.root=photos"]))
    given = {k: p.default for k, p in inspect.signature(Classifier).parameters.items()}
    of_config = {
        **{"backbone": cfg.backbone.name, "finetune": cfg.finetune.name, "pretrained": cfg.backbone.pretrained},
        **{"hidden": tuple(cfg.head.hidden), "dropout": cfg.head.dropout, "weights": cfg.backbone.weights},
        **{k: getattr(cfg.finetune, k) for k in ("head_epochs", "backbone_lr", "layer_decay", "freeze_norm")},
        **{"loss": cfg.loss.name, "class_weights": cfg.loss.class_weights, "optimizer": cfg.optimizer.name},
        "logit_adjustment": cfg.loss.logit_adjustment,
        **{k: getattr(cfg.augment, k) for k in ("label_smoothing", "mixup", "cutmix")},
        **{"lr": cfg.optimizer.lr, "weight_decay": cfg.optimizer.weight_decay, "schedule": cfg.schedule.name},
        **{"warmup_epochs": cfg.schedule.warmup_epochs, "min_lr": cfg.schedule.min_lr, "seed": cfg.seed},
        **{"plateau_factor": cfg.schedule.factor, "plateau_patience": cfg.schedule.patience},
        **{"channels_last": cfg.trainer.channels_last, "compile": cfg.trainer.compile},
    }
    assert {key: given[key] for key in of_config} == of_config
    data = {k: p.default for k, p in inspect.signature(PhotoDataModule).parameters.items()}
    same = ("near_duplicates", "valid_fraction", "test_fraction", "split_seed", "on_bad", "batch_size", "workers")
    same += ("sampling",)
    assert {k: data[k] for k in same} == {k: getattr(cfg.data, k) for k in same}
    assert (data["cache"], data["cache_gb"]) == (cfg.data.cache, cfg.cache.max_gb)
    assert {k: data[k] for k in ("crop", "flip", "randaugment")} == {
        k: getattr(cfg.augment, k) for k in ("crop", "flip", "randaugment")
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"finetune": "hed"}, "finetune.name=hed: choose from head, gradual, full (did you mean head?)"),
        ({"optimizer": "adamv"}, "neither torch.optim nor timm.optim has it (did you mean adam?)"),
        ({"optimizer_args": {"amsgrd": True}}, "optimizer.amsgrd: AdamW has no such argument (did you mean amsgrad?)"),
        ({"optimizer_args": {"betas": (2, 0.9)}}, "optimizer=adamw: Invalid beta parameter"),
        ({"schedule": "cosin"}, "did you mean cosine?"),
        ({"loss": "focl"}, "loss=focl: choose from cross_entropy, focal"),
        ({"class_weights": [1.0, 2.0]}, "2 weights for 3 classes"),
        ({"loss": nn.CrossEntropyLoss(), "label_smoothing": 0.1}, "weights classes and smooths labels itself"),
        ({"loss": nn.CrossEntropyLoss(), "logit_adjustment": 1.0}, "weights classes and smooths labels itself"),
        ({"logit_adjustment": -1.0}, "logit_adjustment=-1.0: give a number of at least 0"),
        ({"logit_adjustment": 1.0, "class_weights": "balanced"}, "both balance the classes"),
        ({"lr": 0.0}, "optimizer.lr=0.0: must be above 0"),
        ({"classes": 3}, "classes=3: give the names of the classes as a list"),
        ({"classes": "abc"}, "classes='abc': give the names of the classes as a list"),
        ({"classes": ["one"]}, "a classifier needs two or more"),
    ],
)
def test_wrong_arguments_are_refused(weights: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Classifier("test_resnet", **({"classes": CLASSES, "weights": str(weights)} | arguments))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_size_of_a_module_of_ones_own_is_not_changed() -> None:
    with pytest.raises(ConfigError, match="image_size works with a backbone's name"):
        Classifier(nn.Identity(), CLASSES, image_size=96)


@pytest.mark.parametrize("name", ["adamax", "rmsprop", "lion", "lamb", "nadamw", "rprop"])
def test_optimizers_of_torch_and_timm_by_name(photos: Path, weights: Path, tmp_path: Path, name: str) -> None:
    model = classifier(weights, optimizer=name, weight_decay=0.0, finetune="full")
    mine = trainer(tmp_path, max_epochs=1)
    mine.fit(model, PhotoDataModule(photos))
    assert name in type(mine.optimizers[0]).__name__.lower()
    assert len(mine.optimizers[0].param_groups) > 2, "layer decay makes groups for every optimizer"


def rare(root: Path) -> Path:
    """Save 12 noisy photos of one class and 2 of another."""
    for label, n in (("common", 12), ("rare", 2)):
        for split, count in (("train", n), ("valid", 2), ("test", 2)):
            for i in range(count):
                save_photo(root / split / label / f"{i}.jpg", (128, 128, 128), seed=hash((label, split, i)) % 2**31)
    return root


def test_balanced_class_weights(weights: Path, tmp_path: Path) -> None:
    data = PhotoDataModule(rare(tmp_path / "photos"), batch_size=14)
    model = classifier(weights, class_weights="balanced")
    trainer(tmp_path, max_epochs=1).fit(model, data)
    assert model.loss.weight.tolist() == pytest.approx([14 / (2 * 12), 14 / (2 * 2)])


def test_logit_adjustment_is_a_part_of_the_loss_only(weights: Path, tmp_path: Path) -> None:
    data = PhotoDataModule(rare(tmp_path / "photos"), batch_size=14)
    model = classifier(weights, logit_adjustment=2.0)
    trainer(tmp_path, max_epochs=1).fit(model, data)
    logits, labels = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1, 0, 1])
    shares = torch.tensor([12 / 14, 2 / 14])
    expected = nn.functional.cross_entropy(logits + 2 * shares.log(), labels, reduction="none")
    assert torch.allclose(model.loss(logits, labels), expected)
    assert not [name for name in model.state_dict() if name.startswith("loss.")], "a checkpoint has no trace of it"


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_loss_has_a_finite_gradient_at_probability_one(gamma: float) -> None:
    from sagehound.models.losses import Focal

    logits = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    Focal(gamma)(logits, torch.tensor([0])).sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_focal_loss_is_cross_entropy_times_one_minus_p_to_the_gamma() -> None:
    from sagehound.models.losses import CrossEntropy, Focal

    logits, labels = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 0, 1])
    p = logits.softmax(1)[range(6), labels]
    weight = torch.tensor([1.0, 2.0, 0.5, 1.0])
    assert torch.allclose(Focal(3.0, weight)(logits, labels), -weight[labels] * (1 - p) ** 3 * p.log(), atol=1e-6)
    soft = torch.full((6, 4), 0.25)
    for targets, smoothing in ((labels, 0.1), (soft, 0.0)):
        expected = CrossEntropy(weight, smoothing)(logits, targets)
        assert torch.allclose(Focal(0.0, weight, smoothing)(logits, targets), expected, atol=1e-5)


class MeanLoss(nn.Module):
    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, targets) * 3


class Plain(torch.optim.SGD):
    """An optimizer of the user's own."""


def darker(photo: Image.Image) -> Image.Image:
    return photo.point(lambda value: value // 2)


def listed(root: Path) -> list[Photo]:
    return [Photo(f.relative_to(root).as_posix(), f.parts[-3], f.parts[-2]) for f in sorted(root.rglob("*.jpg"))]


@pytest.mark.slow
def test_own_parts_are_plain_python_objects(photos: Path, weights: Path, tmp_path: Path) -> None:
    data = PhotoDataModule(photos, transform=darker, source=listed)
    model = classifier(weights, loss=MeanLoss(), optimizer=Plain, finetune="full")
    mine = trainer(tmp_path, max_epochs=1)
    mine.fit(model, data)
    assert isinstance(mine.optimizers[0], Plain)
    assert data.classes == sorted(COLOURS)
    mine.save_checkpoint(tmp_path / "own.ckpt")
    with pytest.raises(ConfigError, match=r"trained with the optimizer .*Plain: give it as optimizer="):
        trainer(tmp_path, max_epochs=1).fit(Classifier.load_from_checkpoint(tmp_path / "own.ckpt"), data)
    loaded = Classifier.load_from_checkpoint(tmp_path / "own.ckpt", weights_only=True, optimizer=Plain)
    assert torch.equal(loaded.head[0].weight, model.head[0].weight)
    with pytest.raises(ConfigError, match=r"trained with the loss .*MeanLoss: give it as loss="):
        trainer(tmp_path, max_epochs=1).fit(loaded, data)


def test_an_own_transform_changes_only_training_photos(photos: Path, weights: Path) -> None:
    model = classifier(weights, CLASSES)
    plain, dark = (
        PhotoDataModule(photos, transform=t, preprocessing=model.preprocessing, batch_size=24) for t in (None, darker)
    )
    both = [next(iter(m.augmented(m.photos.split("train"), [[(0, i) for i in range(24)]])))[0] for m in (plain, dark)]
    assert np.allclose(both[0].float() / 2, both[1].float(), atol=1)
    assert torch.equal(*(next(iter(m.evaluation_dataloader("test")))[0] for m in (plain, dark)))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda root: [("a.jpg", "train", "x")], "item 1 is"),
        (lambda root: [Photo("../a.jpg", "train", "x")], "must lie below"),
        (lambda root: [Photo("a.jpg", "learn", "x")], "needs a label, and train, valid or test"),
        (lambda root: [], "lists no photos"),
        (lambda root: [Photo("a.jpg", "train", "x")] * 2, "items 1 and 2 both list a.jpg"),
    ],
)
def test_a_source_with_invalid_items_is_refused(photos: Path, source: Callable[..., list[Photo]], message: str) -> None:
    from sagehound.errors import InputError

    with pytest.raises(InputError, match=message):
        PhotoDataModule(photos, source=source).setup("fit")


def test_without_a_data_module_a_classifier_needs_classes(weights: Path, tmp_path: Path) -> None:
    photos = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    batches = DataLoader(TensorDataset(photos, torch.tensor([0, 1])), batch_size=2)
    with pytest.raises(ConfigError, match="no classes"):
        trainer(tmp_path).fit(classifier(weights), batches)
    trainer(tmp_path, max_epochs=1).fit(classifier(weights, CLASSES), batches)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            (torch.rand(2, 3, 64, 64), torch.tensor([0, 1])),
            "photos of float32, 2 x 3 x 64 x 64: Classifier",
        ),
        ((torch.zeros(2, 64, 64, 3, dtype=torch.uint8), torch.tensor([0, 1])), "photos of uint8, 2 x 64 x 64 x 3"),
        (torch.zeros(2, 3, 64, 64, dtype=torch.uint8), "a batch is a Tensor: Classifier takes (photos, labels)"),
        ({"image": torch.zeros(2), "label": torch.zeros(2)}, "a batch is a dict: Classifier takes (photos, labels)"),
    ],
)
def test_batches_of_another_type_are_refused(weights: Path, tmp_path: Path, batch: object, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        trainer(tmp_path).fit(classifier(weights, CLASSES), DataLoader([batch], batch_size=None))
    assert message in str(error.value)


def test_classes_in_another_order_than_the_photos_are_refused(photos: Path, weights: Path, tmp_path: Path) -> None:
    """Otherwise, the accuracy would be computed with wrong labels."""
    with pytest.raises(ConfigError, match="the data module's classes are not the model's"):
        trainer(tmp_path).test(classifier(weights, CLASSES[::-1]), PhotoDataModule(photos))


def test_training_may_end_by_max_steps(photos: Path, weights: Path, tmp_path: Path) -> None:
    mine = trainer(tmp_path, max_epochs=-1, max_steps=3)
    mine.fit(classifier(weights), PhotoDataModule(photos, batch_size=8))
    assert mine.global_step == 3


@pytest.mark.slow
def test_a_tuner_may_set_learning_rate_and_batch_size(photos: Path, weights: Path, tmp_path: Path) -> None:
    model, data = classifier(weights), PhotoDataModule(photos, batch_size=2)
    Tuner(trainer(tmp_path, max_epochs=1)).scale_batch_size(model, datamodule=data, max_trials=2, steps_per_trial=1)
    assert data.batch_size == 4
    model.lr = 0.5
    mine = trainer(tmp_path, max_epochs=1)
    mine.fit(model, data)
    assert mine.optimizers[0].defaults["lr"] == model.hparams["lr"] == 0.5


def test_dataloaders_work_without_a_trainer(photos: Path, weights: Path) -> None:
    data = PhotoDataModule(photos, batch_size=5, preprocessing=classifier(weights).preprocessing)
    data.setup("fit")
    batches = data.train_dataloader()
    first, second = (torch.cat([labels for _, labels in batches]) for _ in range(2))
    assert len(first) == len(data.photos.split("train"))
    assert not torch.equal(first, second), "each epoch has its own order"
    assert sum(len(labels) for _, labels in data.val_dataloader()) == len(data.photos.split("valid"))


CLI = """
from lightning.pytorch.cli import LightningCLI
from sagehound import Classifier, PhotoDataModule
LightningCLI(Classifier, PhotoDataModule)
"""


@pytest.mark.slow
def test_lightning_cli_accepts_both_classes(photos: Path, weights: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    pytest.importorskip("jsonargparse", reason="LightningCLI needs jsonargparse")
    (tmp_path / "cli.py").write_text(CLI)
    given = [f"--data.root={photos}", "--data.batch_size=5", "--model.backbone=test_resnet"]
    given += [f"--model.weights={weights}", "--model.lr=0.01", "--trainer.accelerator=cpu", "--trainer.max_epochs=1"]
    done = subprocess.run(
        [sys.executable, "cli.py", "fit", *given], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    assert Classifier.load_from_checkpoint(checkpoint, weights_only=True).classes == CLASSES
    (config,) = tmp_path.rglob("config.yaml")
    done = subprocess.run(
        [sys.executable, "cli.py", "test", f"--config={config}", f"--ckpt_path={checkpoint}"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "test/top1" in done.stdout, done.stderr[-2000:]
