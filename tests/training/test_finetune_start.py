"""gradual and full start from the solved head, and at the end keep what is best on the valid photos."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Compose
from run_helpers import weights_of

from sagehound.data.folders import Photo
from sagehound.errors import InputError
from sagehound.evaluation.tables import Predictions
from sagehound.models.classifier import Classifier
from sagehound.training import interpolation
from sagehound.training.train import train

HARMFUL = ["optimizer.lr=0.05", "finetune.backbone_lr=1", "finetune.layer_decay=1", "schedule=constant"]


def epochs_of(folder: Path) -> list[str]:
    with (folder / "history.csv").open() as file:
        return [row["epoch"] for row in csv.DictReader(file)]


@pytest.mark.slow
def test_harmful_training_leaves_the_solved_head(
    config: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = train(config("finetune.solver=auto"), tmp_path / "head")
    full = train(config("finetune=full", *HARMFUL), tmp_path / "full")
    assert "kept the solved head (valid.loss" in " ".join(capsys.readouterr().out.split())
    choice = full.metrics["finetune_choice"]
    assert (full.metrics["best_epoch"], choice["kept"]) == (0, 0)
    assert choice["candidates"][0]["loss"] < choice["candidates"][-1]["loss"]
    for split in ("valid", "test"):
        assert full.metrics[split]["loss"] == pytest.approx(head.metrics[split]["loss"], rel=1e-3)
        assert full.metrics[split]["top1"] == head.metrics[split]["top1"]
    start, best = weights_of(full.folder, "start.ckpt"), weights_of(full.folder, "best.ckpt")
    assert all(torch.equal(value, best[name]) for name, value in start.items())
    assert all(torch.equal(value, weights_of(head.folder)[name]) for name, value in start.items())


def predictions(wrong: float, photos: int = 200) -> Predictions:
    """Predictions whose first ``wrong`` of the photos are wrong."""
    labels = np.arange(photos) % 2
    logits = np.zeros((photos, 2), np.float32)
    logits[np.arange(photos), labels] = np.where(np.arange(photos) < wrong * photos, -2, 2)
    return Predictions([Photo("", "valid", str(i)) for i in labels], labels, logits)


@pytest.mark.parametrize(
    ("wrong", "kept"),
    [
        ({0.0: 0.5, 0.5: 0.2, 1.0: 0.4}, 0.5),
        ({0.0: 0.5, 0.5: 0.4, 1.0: 0.2}, 1.0),
        ({0.0: 0.2, 0.5: 0.3, 1.0: 0.5}, 0.0),
        ({0.0: 0.200, 0.5: 0.195, 1.0: 0.3}, 0.0),
    ],
    ids=["between", "fine-tuned", "start", "better by one photo"],
)
@pytest.mark.parametrize("score", ["loss", "top1", "macro_f1"])
def test_the_start_is_kept_unless_another_is_better_by_more_than_noise(
    wrong: dict[float, float], kept: float, score: str
) -> None:
    of_alpha = {alpha: predictions(share) for alpha, share in wrong.items()}
    assert interpolation.decide(of_alpha, list(range(200)), f"valid.{score}")["kept"] == kept


@pytest.mark.parametrize(("right_now", "least", "most", "kept"), [(10, 0.84, 0.96, 0), (20, 0.98, 1, 1)])
def test_the_best_of_several_must_be_better_in_most_draws(
    right_now: int, least: float, most: float, kept: float
) -> None:
    """The epoch predicts some photos right that the start does not, and five others wrong."""
    labels, n = np.zeros(200, np.int64), np.arange(200)
    start, epoch = np.where(n < right_now, -1.0, 1.0), np.where(n >= 195, -1.0, 1.0)
    of_alpha = {
        alpha: Predictions([], labels, np.stack([first, 0 * first], 1).astype(np.float32))
        for alpha, first in ((0.0, start), (1.0, epoch))
    }
    chosen = interpolation.decide(of_alpha, n.tolist(), "valid.top1")
    assert least < chosen["certainty"] <= most
    assert chosen["kept"] == kept


def test_copies_are_no_evidence() -> None:
    """One class is better and the other a little worse, but each class is copies of one photo."""
    labels = np.arange(200) % 2
    start = Predictions([], labels, np.zeros((200, 2), np.float32))
    logits = np.where(labels[:, None] == 0, [1, 0], [0.3, 0]).astype(np.float32)
    other = Predictions([], labels, logits)
    of_alpha = {0.0: start, 1.0: other}
    assert interpolation.decide(of_alpha, list(range(200)), "valid.loss")["kept"] == 1
    assert interpolation.decide(of_alpha, labels.tolist(), "valid.loss")["kept"] == 0


def test_a_lower_loss_with_more_mistakes_is_not_kept() -> None:
    labels, n = np.zeros(200, np.int64), np.arange(200)
    start = np.where(n < 20, -9.0, 2.0)  # 20 mistakes, each with a large loss
    other = np.where(n < 24, -0.5, 2.0)
    of_alpha = {
        alpha: Predictions([], labels, np.stack([first, 0 * first], 1).astype(np.float32))
        for alpha, first in ((0.0, start), (1.0, other))
    }
    by_loss = interpolation.decide(of_alpha, n.tolist(), "valid.loss")
    assert (by_loss["kept"], by_loss["certainty"]) == (0, 1)


def test_weights_and_statistics_are_interpolated() -> None:
    start = {"head.0.weight": torch.tensor([1.0]), "backbone.bn1.num_batches_tracked": torch.tensor(3)}
    trained = {"head.0.weight": torch.tensor([5.0]), "backbone.bn1.num_batches_tracked": torch.tensor(9)}
    between = interpolation.mixed(start, trained, 0.25)
    assert [float(value) for value in between.values()] == [2, 9]


@pytest.mark.parametrize(
    "training",
    [pytest.param(["optimizer.lr=0.02"], marks=pytest.mark.slow, id="useful"), pytest.param(HARMFUL, id="harmful")],
)
def test_a_run_that_gets_more_epochs_is_the_one_that_had_them(
    config: Compose, tmp_path: Path, training: list[str]
) -> None:
    given = ["finetune=full", *training, "schedule=constant"]
    whole = train(config(*given, "trainer.max_epochs=2"), tmp_path / "whole")
    train(config(*given, "trainer.max_epochs=1"), tmp_path / "run")
    last = tmp_path / "run/checkpoints/last.ckpt"
    more = train(config(*given, "trainer.max_epochs=2", f"resume={last}"), tmp_path / "run")
    for name in ("last.ckpt", "best.ckpt", "start.ckpt"):
        one, two = weights_of(whole.folder, name), weights_of(more.folder, name)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one), name
    assert {**more.metrics, "seconds": 0} == {**whole.metrics, "seconds": 0}
    again = train(config(*given, "trainer.max_epochs=2", f"resume={last}"), tmp_path / "run")
    assert {**again.metrics, "seconds": 0} == {**whole.metrics, "seconds": 0}, "the weights are not interpolated twice"


@pytest.mark.slow
def test_interpolated_weights_are_not_trained_further(config: Compose, tmp_path: Path) -> None:
    given = ["finetune=full", *HARMFUL, "trainer.max_epochs=1"]
    train(config(*given), tmp_path / "run")
    best = tmp_path / "run/checkpoints/best.ckpt"
    with pytest.raises(InputError, match=r"interpolated after the training: give the run's checkpoints/last.ckpt"):
        train(config(*given[:-1], f"resume={best}"), tmp_path / "run")


@pytest.mark.slow
def test_a_resume_without_start_ckpt_says_so(
    config: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["finetune=full", "trainer.max_epochs=1"]
    train(config(*given), tmp_path / "run")
    (tmp_path / "run/checkpoints/start.ckpt").unlink()
    resume = f"resume={tmp_path}/run/checkpoints/last.ckpt"
    train(config(given[0], "trainer.max_epochs=2", resume), tmp_path / "run")
    printed = " ".join(capsys.readouterr().out.split())
    assert "start.ckpt is missing, so the weights will not be interpolated" in printed


@pytest.mark.slow
def test_the_solution_replaces_the_head_epochs_of_gradual(config: Compose, tmp_path: Path) -> None:
    run = train(config("finetune=gradual", "finetune.head_epochs=2", "trainer.max_epochs=3"), tmp_path / "run")
    assert epochs_of(run.folder) == ["1"]
    start, last = weights_of(run.folder, "start.ckpt"), weights_of(run.folder)
    unchanged = [name for name, value in start.items() if value.ndim > 1 and torch.equal(value, last[name])]
    assert not unchanged, "all layers are trained"


@pytest.mark.slow
def test_a_trial_chooses_too_and_keeps_no_checkpoint(config: Compose, tmp_path: Path) -> None:
    run = train(config("finetune=full", "results=scores", "trainer.max_epochs=1", "trainer.ema=0.5"), tmp_path / "run")
    kept = {one["alpha"]: one["loss"] for one in run.metrics["finetune_choice"]["candidates"]}
    assert run.metrics["valid"]["loss"] == pytest.approx(kept[run.metrics["finetune_choice"]["kept"]], abs=1e-5)
    assert not (run.folder / "checkpoints").exists()


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("head.hidden=[8]", "cannot be solved with head.hidden=[8]"),
        ("loss=focal", "cannot be solved with loss=focal"),
        ("features.cache=false", "cannot be solved with features.cache=false"),
        ("finetune.start=random", None),
    ],
)
def test_a_start_that_cannot_be_solved_says_so(
    config: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str, why: str | None
) -> None:
    run = train(config("finetune=full", setting, "trainer.max_epochs=1"), tmp_path / "run")
    printed = " ".join(capsys.readouterr().out.split())
    assert why in printed if why else "cannot be solved" not in printed
    assert "finetune_choice" not in run.metrics
    assert not (run.folder / "checkpoints/start.ckpt").exists()


@pytest.mark.slow
def test_the_solved_head_learns_as_slowly_as_the_backbone(
    config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[list[float]] = []
    step = Classifier.training_step

    def training_step(self: Classifier, *args: object) -> torch.Tensor:
        rates.append([group["lr"] for group in self.trainer.optimizers[0].param_groups])
        return step(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Classifier, "training_step", training_step)
    given = ["trainer.max_epochs=1", "schedule=constant", "schedule.warmup_epochs=0", "finetune.backbone_lr=0.25"]
    train(config("finetune=full", "optimizer.lr=0.01", *given), tmp_path / "run")
    assert rates[0][:2] == [0.0025, 0.0025]
    assert max(rates[0]) == 0.0025
