"""A user's own optimizer, loss, transform and data source, in a file outside of the package, through the command."""

from pathlib import Path

import pytest
import torch
from conftest import Command, small

MINE = '''
import random

import torch
from PIL import ImageOps
from sagehound import Photo
from torch.nn import functional as F


class Halved(torch.optim.SGD):
    """SGD at half the learning rate."""

    def __init__(self, params, lr, weight_decay=0.0, nesterov=False, share=0.5):
        super().__init__(params, lr=lr, momentum=0.9, weight_decay=weight_decay, nesterov=nesterov)
        self.share = share

    def step(self, closure=None):
        rates = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] *= self.share
        loss = super().step(closure)
        for group, rate in zip(self.param_groups, rates):
            group["lr"] = rate
        return loss


class Hinge(torch.nn.Module):
    """One number a photo, so that photos may have weights."""

    def __init__(self, margin=1.0):
        super().__init__()
        self.margin = margin

    def forward(self, logits, targets):
        return F.multi_margin_loss(logits, targets, margin=self.margin, reduction="none")


class Solarize:
    def __init__(self, threshold=128):
        self.threshold = threshold

    def __call__(self, photo):
        return ImageOps.solarize(photo, self.threshold) if random.random() < 0.5 else photo


def by_name(root, suffix=".jpg"):
    """The photos of a folder whose classes are in the names of the files."""
    for file in sorted(root.glob(f"*{suffix}")):
        split, label, number = file.stem.split("_")
        yield Photo(file.name, split, label, group=number)
'''
OPTIONS = {
    "optimizer/halved.yaml": "_target_: mine.Halved\nname: halved\nlr: 0.05\nnesterov: true\n",
    "loss/hinge.yaml": "_target_: mine.Hinge\nmargin: 2\n",
    "augment/solarize.yaml": "flip: true\ntransform:\n  _target_: mine.Solarize\n  threshold: 64\n",
    "data/by_name.yaml": "name: folder\nsource:\n  _target_: mine.by_name\n  suffix: .jpg\n",
}


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a module and with options of the user's own."""
    (tmp_path / "mine.py").write_text(MINE)
    for name, text in OPTIONS.items():
        path = tmp_path / "options" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def hyper_parameters(folder: Path) -> dict[str, object]:
    found = torch.load(folder / "run/checkpoints/best.ckpt", weights_only=True)["hyper_parameters"]
    assert isinstance(found, dict)
    return found


def test_own_parts_train_through_the_command(command: Command, here: Path, photos: Path, weights: Path) -> None:
    flat = here / "flat"
    flat.mkdir()
    for file in photos.rglob("*.jpg"):
        split, label, name = file.relative_to(photos).parts
        file.rename(flat / f"{split}_{label.partition('.')[2]}_{name.partition('.')[0]}.jpg")
    own = ["optimizer=halved", "loss=hinge", "augment=solarize", "data=by_name", f"data.root={flat}", "finetune=full"]
    given = [o for o in small(photos, weights) if not o.startswith("data")]
    done = command("--config-dir", "options", *given, *own, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    kept = hyper_parameters(here)
    assert (kept["optimizer"], kept["loss"]) == ("mine.Halved", "mine.Hinge")
    assert kept["optimizer_args"] == {"nesterov": True}
    assert "Amber" in (here / "run/per_class.csv").read_text()
    config = (here / "run/config.yaml").read_text()
    assert "threshold: 64" in config
    assert "nesterov: true" in config
    again = command("resume=run", "--config-dir", "options", "trainer.max_epochs=3")
    assert again.returncode == 0, again.stderr


def test_torch_and_timm_optimizers_go_by_name(command: Command, here: Path, photos: Path, weights: Path) -> None:
    for name, argument in (("adamw", "optimizer.amsgrad=true"), ("lamb", "optimizer.max_grad_norm=2.0")):
        given = [
            f"optimizer.name={name}",
            argument,
            f"hydra.run.dir={name}",
            "loss=focal",
            "loss.class_weights=balanced",
        ]
        done = command(*small(photos, weights), *given)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["optimizer=halved", "optimizer.nestrov=true"],
            "optimizer.nestrov: Halved has no such argument (did you mean",
        ),
        (["optimizer._target_=mine.Halvd"], "optimizer._target_=mine.Halvd: mine has no Halvd (did you mean Halved?)"),
        (["optimizer.name=lin"], "optimizer.name=lin: neither torch.optim nor timm.optim has it (did you mean lion?)"),
        (["optimizer.amsgrad2=true"], "optimizer.amsgrad2: AdamW has no such argument (did you mean amsgrad?)"),
        (["loss=hinge", "loss.margn=1"], "loss.margn: Hinge has no such argument (did you mean margin?)"),
        (["loss=hinge", "augment.label_smoothing=0.1"], "your own loss weights classes and smooths labels itself"),
        (["loss.gama=1"], "loss.gama: no such key (did you mean loss.gamma?)"),
        (["loss.class_weights=balancd"], "give balanced, or a list"),
        (["augment.transform._target_=mine.Solarise"], "mine has no Solarise (did you mean Solarize?)"),
        (["augment=solarize", "augment.transform.treshold=1"], "did you mean threshold?"),
        (["data.source._target_=mine.by_name", "data.source.sufix=.png"], "did you mean suffix?"),
        (["data.source._target_=mine.by_name", "data.source.suffix=.png"], "data.source lists no photos"),
    ],
)
def test_a_wrong_part_is_one_line_before_any_photo_is_read(
    command: Command, here: Path, photos: Path, weights: Path, given: list[str], message: str
) -> None:
    for photo in photos.rglob("*.jpg"):
        photo.write_bytes(b"")  # the audit would complain
    done = command("--config-dir", "options", *small(photos, weights), *given, "hydra.run.dir=run")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.returncode in (2, 3)
    assert not list(here.glob("run/*"))
