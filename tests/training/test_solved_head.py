"""finetune.solver=auto: the head is solved, and the run is otherwise as usual."""

import csv
import tarfile
from pathlib import Path

import pytest
import torch
from helpers import Compose

from sagehound.errors import ConfigError
from sagehound.models import losses
from sagehound.training.train import train

AUTO = "finetune.solver=auto"


def head(folder: Path) -> dict[str, torch.Tensor]:
    """The head's weights in best.ckpt."""
    state = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    return {name.rpartition(".")[2]: value for name, value in state.items() if name.startswith("head.")}


@pytest.mark.slow
def test_a_solved_head_has_one_epoch_and_ignores_the_learning_rate(config: Compose, tmp_path: Path) -> None:
    run = train(config(AUTO), tmp_path / "a")
    train(config(AUTO, "optimizer.lr=1", "trainer.max_epochs=7"), tmp_path / "b")
    with (run.folder / "history.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1"]
    assert run.metrics["test"]["top1"] > 0.6
    assert all(torch.equal(head(tmp_path / "a")[name], value) for name, value in head(tmp_path / "b").items())


@pytest.mark.slow
def test_a_solved_run_is_resumed_as_it_is(config: Compose, tmp_path: Path) -> None:
    first = train(config(AUTO), tmp_path / "a")
    last = tmp_path / "a" / "checkpoints" / "last.ckpt"
    before = head(tmp_path / "a")
    second = train(config(AUTO, f"resume={last}"), tmp_path / "a")
    assert first.metrics["test"] == second.metrics["test"]
    assert all(torch.equal(before[name], value) for name, value in head(tmp_path / "a").items())


@pytest.mark.slow
def test_unbalanced_classes(config: Compose, tmp_path: Path) -> None:
    for extra in sorted((Path(str(config().data.root)) / "train").glob("*/*.jpg"))[2:8]:
        extra.unlink()  # the first class has 2 photos, the others 8

    def solved(*overrides: str) -> dict[str, torch.Tensor]:
        train(config(AUTO, *overrides), folder := tmp_path / "-".join(["run", *overrides]))
        return head(folder)

    plain, adjusted = solved(), solved("loss.logit_adjustment=1")
    sampling, weights = solved("data.sampling=balanced"), solved("loss.class_weights=balanced")
    assert torch.equal(plain["weight"], adjusted["weight"])
    assert torch.allclose(plain["bias"] - adjusted["bias"], losses.adjustment([2, 8, 8], 1), atol=1e-5)
    assert torch.equal(sampling["weight"], weights["weight"])
    assert not torch.equal(sampling["weight"], plain["weight"])


@pytest.mark.slow
def test_the_debugger_is_off_and_says_so(config: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(config(AUTO, "debugger=local"), tmp_path / "a")
    assert "no training steps" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("finetune=full", "finetune=full"),
        ("head.hidden=[8]", "head.hidden"),
        ("head.dropout=0.2", "head.dropout=0.2"),
        ("loss=focal", "loss=focal"),
        ("augment=light", "augmented"),
        ("augment.mixup=0.2", "augment.mixup=0.2"),
        ("features.cache=false", "features.cache=false"),
    ],
)
def test_what_cannot_be_solved_is_refused(config: Compose, tmp_path: Path, setting: str, named: str) -> None:
    with pytest.raises(ConfigError, match=f"finetune.solver=auto cannot solve .*{named}"):
        train(config(AUTO, setting), tmp_path / "a")


@pytest.mark.slow
def test_the_artifact_of_a_solved_head_is_verified(config: Compose, tmp_path: Path) -> None:
    run = train(config(AUTO, "artifact=true"), tmp_path / "a")
    with tarfile.open(run.folder / "model.tar.gz") as artifact:
        assert any(name.endswith(".onnx") for name in artifact.getnames())
