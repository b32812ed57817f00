"""The command with a user's optimizer, loss, transform and data source from a file outside the package."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from helpers import ROOT, Command, small

import sagehound
from sagehound import ConfigError, InputError
from sagehound.config import Cache, Data, Train
from sagehound_launchers import endpoint_probe

PAGE = (ROOT / "docs/extending.md").read_text()
(MINE,) = re.findall(r"With this file as `my_parts.py`:\n\n```python\n(.*?)```", PAGE, flags=re.DOTALL)
OPTIONS = {
    "optimizer/halved.yaml": "_target_: my_parts.Halved\nname: halved\nlr: 0.05\nnesterov: true\n",
    "loss/hinge.yaml": "_target_: my_parts.Hinge\nmargin: 2\n",
    "augment/blur.yaml": "flip: true\ntransform:\n  _target_: my_parts.Blur\n  radius: 2\n",
    "data/by_name.yaml": "name: folder\nsource:\n  _target_: my_parts.by_name\n  suffix: .jpg\n",
}


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with the user's own module and options."""
    (tmp_path / "my_parts.py").write_text(MINE)
    for name, text in OPTIONS.items():
        path = tmp_path / "options" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def flatten(photos: Path, flat: Path) -> Path:
    """Copy the photos to one folder, with split and class in their names."""
    flat.mkdir()
    for file in photos.rglob("*.jpg"):
        split, label, name = file.relative_to(photos).parts
        (flat / f"{split}_{label.partition('.')[2]}_{name.partition('.')[0]}.jpg").write_bytes(file.read_bytes())
    return flat


def hyper_parameters(folder: Path) -> dict[str, object]:
    hparams = torch.load(folder / "run/checkpoints/best.ckpt", weights_only=True)["hyper_parameters"]
    assert isinstance(hparams, dict)
    return hparams


@pytest.mark.slow
def test_own_parts_train_through_the_command(command: Command, here: Path, photos: Path, weights: Path) -> None:
    flat = flatten(photos, here / "flat")
    own = ["optimizer=halved", "loss=hinge", "augment=blur", "data=by_name", f"data.root={flat}", "finetune=full"]
    given = [o for o in small(photos, weights) if not o.startswith("data")]
    done = command("--config-dir", "options", *given, *own, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    hparams = hyper_parameters(here)
    assert (hparams["optimizer"], hparams["loss"]) == ("my_parts.Halved", "my_parts.Hinge")
    assert hparams["optimizer_args"] == {"nesterov": True}
    assert "Amber" in (here / "run/per_class.csv").read_text()
    config = (here / "run/config.yaml").read_text()
    assert "radius: 2" in config
    assert "nesterov: true" in config
    resumed = command("resume=run", "--config-dir", "options", "trainer.max_epochs=3")
    assert resumed.returncode == 0, resumed.stderr


@pytest.mark.slow
def test_torch_and_timm_optimizers_by_name(command: Command, here: Path, photos: Path, weights: Path) -> None:
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
        (
            ["optimizer._target_=my_parts.Halvd"],
            "my_parts has no Halvd (did you mean Halved?)",
        ),
        (["optimizer.name=lin"], "optimizer.name=lin: neither torch.optim nor timm.optim has it (did you mean lion?)"),
        (["optimizer.amsgrad2=true"], "optimizer.amsgrad2: AdamW has no such argument (did you mean amsgrad?)"),
        (["loss=hinge", "loss.margn=1"], "loss.margn: Hinge has no such argument (did you mean margin?)"),
        (["loss=hinge", "augment.label_smoothing=0.1"], "your own loss weights classes and smooths labels itself"),
        (["loss.gama=1"], "loss.gama: no such key (did you mean loss.gamma?)"),
        (["loss.class_weights=balancd"], "give balanced, or a list"),
        (["augment.transform._target_=my_parts.Blurr"], "my_parts has no Blurr (did you mean Blur?)"),
        (["augment=blur", "augment.transform.radios=1"], "did you mean radius?"),
        (["data.source._target_=my_parts.by_name", "data.source.sufix=.png"], "did you mean suffix?"),
        (["data.source._target_=my_parts.by_name", "data.source.suffix=.png"], "data.source lists no photos"),
    ],
)
def test_a_wrong_part_is_refused_before_photos_are_read(
    here: Path, photos: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], message: str
) -> None:
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", [*sys.path])  # the current folder is appended to it
    for photo in photos.rglob("*.jpg"):
        photo.write_bytes(b"")  # the audit would complain
    with pytest.raises((ConfigError, InputError)) as error:
        sagehound.train(*small(photos, weights), *given, "hydra.run.dir=run", config_dir="options")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(here.glob("run/*"))


@pytest.mark.slow
def test_the_command_reports_it_in_one_line(command: Command, here: Path, photos: Path, weights: Path) -> None:
    done = command("--config-dir", "options", *small(photos, weights), "optimizer=halved", "optimizer.nestrov=true")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "did you mean nesterov?" in done.stderr


COMMANDS = re.findall(r"^python train.py (.*my_parts.*)$", PAGE, flags=re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("given", COMMANDS)
def test_the_examples_of_the_documentation_train(
    command: Command, here: Path, photos: Path, weights: Path, given: str
) -> None:
    flatten(photos, here / "flat")
    words = [w.replace("=PATH", f"={photos}").replace("=FLAT", f"={here / 'flat'}") for w in shlex.split(given)]
    done = command(*[o for o in small(photos, weights) if not o.startswith("data=")], *words, "finetune=full")
    assert done.returncode == 0, done.stderr


def test_the_documentation_has_an_example_of_each() -> None:
    assert len(COMMANDS) == 4


@pytest.mark.slow
def test_audit_and_probe_use_an_own_source(
    command: Command, here: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat = flatten(photos, here / "flat")
    source = ["data=folder", f"data.root={flat}", "data.source._target_=my_parts.by_name", "data.source.suffix=.jpg"]
    done = command("audit_only=true", *source, "hydra.run.dir=audit")
    assert done.returncode == 0, done.stderr
    assert "Amber" in (here / "audit/splits.csv").read_text()
    monkeypatch.chdir(here)
    own = {"_target_": "my_parts.by_name", "suffix": ".jpg"}
    cfg = Train(data=Data(name="folder", root=str(flat), source=own), cache=Cache(str(here / "cache")))
    assert {photo.label for photo in endpoint_probe.test_photos(cfg)[0]} >= {"Amber"}
