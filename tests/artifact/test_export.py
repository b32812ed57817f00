"""What a run leaves in model.tar.gz, and that it answers as the trained model does or is not kept."""

import csv
import filecmp
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from helpers import COLOURS, Command, Compose, make_photos, save_photo, small, verify_by
from PIL import Image
from torch import Tensor

from sagehound import inference
from sagehound.artifact import archive
from sagehound.artifact.archive import Card, opened
from sagehound.errors import SagehoundError
from sagehound.inference.network import ServedNetwork
from sagehound.inference.preprocessing import prepare
from sagehound.serving.predictor import Predictor
from sagehound.training.train import train


def test_the_archive_says_what_is_in_it_and_where_it_comes_from(run: Path) -> None:
    with opened(run) as folder:
        found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
        about = Card.read(folder).about
        network = {p.key: p.value for p in onnx.load(folder / "model.onnx").metadata_props}
        requirements = (folder / "code/requirements.txt").read_text()
    assert {"model.onnx", "model.safetensors", "model.json", "code/inference.py", "code/requirements.txt"} <= found
    assert "MODEL_CARD.md" in found
    assert json.loads(network["classes"]) == about["classes"]
    assert json.loads(network["preprocessing"]) == about["preprocessing"]
    assert not [f for f in found if Path(f).suffix in (".pkl", ".pt", ".pth", ".bin", ".ckpt")]
    assert about["backbone"] == "test_resnet"
    assert about["classes"] == ["Amber", "Moss", "Slate"]
    assert about["metrics"]["test"] == json.loads((run / "metrics.json").read_text())["test"]
    assert about["data"]["photos"] == {"train": 24, "valid": 9, "test": 12}
    assert len(about["data"]["fingerprint"]) == 64
    assert about["weights"]["source"] == "test_resnet.safetensors"
    assert about["training"]["optimizer"]["lr"] == 0.01
    assert about["versions"]["torch"].startswith("2.")
    assert str(run) not in json.dumps(about), "no path of the machine it was made on"
    assert "timm==" in requirements
    assert "pillow-heif>=" in requirements, "HEIC, which could be trained on"


def test_the_folder_of_inference_travels_whole(run: Path) -> None:
    source = Path(inference.__file__).parent
    files = {f.relative_to(source).as_posix(): f.read_bytes() for f in source.rglob("*.py")}
    with opened(run) as folder:
        code = folder / "code"
        packed = {f.relative_to(code).as_posix(): f.read_bytes() for f in code.rglob("*") if f.is_file()}
    assert packed.keys() == {
        *("inference.py", "requirements.txt", "sagehound/__init__.py"),
        *(f"sagehound/inference/{name}" for name in files),
    }
    assert all(packed[f"sagehound/inference/{name}"] == content for name, content in files.items())


def test_it_answers_as_the_run_said(run: Path, run_photos: Path) -> None:
    with (run / "predictions.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["split"] == "test"]
    with opened(run) as folder:
        predictor = Predictor(folder)
        found = predictor([prepare(run_photos / r["file"], predictor.card.preprocessing) for r in rows])
    assert found.shape == (12, 3)
    assert [predictor.card.classes[i] for i in found.argmax(1)] == [r["prediction"] for r in rows]
    np.testing.assert_allclose(found.max(1), [float(r["probability"]) for r in rows], atol=1e-5)


INFERENCE = """
import importlib, json, pkgutil, sys
sys.path = [p for p in sys.path if "sagehound" not in p]
sys.meta_path = [m for m in sys.meta_path if "editable" not in str(m)]
sys.path.insert(0, sys.argv[1] + "/code")
import sagehound, sagehound.inference as folder
assert sagehound.__file__.startswith(sys.argv[1]), sagehound.__file__
names = [module.name for module in pkgutil.iter_modules(folder.__path__, "sagehound.inference.")]
late = ["sagehound.inference.network", "sagehound.inference.handler"]
for name in sorted(names, key=late.__contains__):
    assert name in late or "torch" not in sys.modules, name
    importlib.import_module(name)
assert "torch" in sys.modules and len(names) >= 9, names
import inference
model = inference.model_fn(sys.argv[1])
body = open(sys.argv[2], "rb").read()
one = inference.output_fn(inference.predict_fn(inference.input_fn(body, "image/jpeg"), model), "application/json")
import base64
several = json.dumps({"instances": [base64.b64encode(body).decode(), "no photo"]})
given = inference.input_fn(several, "application/json")
two = inference.output_fn(inference.predict_fn(given, model), "application/json")
table = inference.output_fn(inference.predict_fn(inference.input_fn(body, "image/jpeg"), model), "text/csv")
print(json.dumps([json.loads(one), json.loads(two), table.decode()]))
"""


@pytest.mark.slow
def test_inference_py_needs_nothing_but_the_files_beside_it(run: Path, run_photos: Path, tmp_path: Path) -> None:
    photo = sorted((run_photos / "test/001.Amber").iterdir())[0]
    with opened(run) as folder:
        done = subprocess.run(
            [sys.executable, "-P", "-c", INFERENCE, str(folder), str(photo)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        predictor = Predictor(folder)
        expected = predictor([prepare(photo, predictor.card.preprocessing)])[0]
    one, two, table = json.loads(done.stdout)
    assert one["label"] == predictor.card.classes[int(expected.argmax())]
    assert one["probability"] == pytest.approx(float(expected.max()), abs=1e-4)
    assert two["predictions"][0] == one
    assert "error" in two["predictions"][1]
    assert table.startswith(f"{one['label']},{one['probability']}")


@pytest.mark.slow
def test_the_same_run_gives_the_same_bytes(config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verify_by(monkeypatch, "server")
    for name, report in (("a", "report=false"), ("b", "report=true")):
        given = ["artifact=true", "head.hidden=[8]", "head.dropout=0.3", "data.samples=2", "results=all", report]
        train(config(*given), tmp_path / name)
    curve = json.loads((tmp_path / "b/insights.json").read_text())["learning_curve"]  # written beside the archive
    assert [point["photos"] for point in curve] == [12, 24]
    assert curve[-1]["top1"] > 0.5
    assert not (tmp_path / "a/insights.json").exists()
    assert filecmp.cmp(tmp_path / "a/model.tar.gz", tmp_path / "b/model.tar.gz", shallow=False)
    with opened(tmp_path / "a") as folder:
        assert sorted(file.name for file in (folder / "samples").iterdir()) == ["00.jpg", "01.jpg"]
        assert Card.read(folder).about["samples"] == 2
        assert "small copies of 2 test photos" in (folder / "MODEL_CARD.md").read_text()


Change = Callable[[str], str]


def plant(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, change: Change) -> None:
    """Change one file of the archive before it is packed."""
    right = archive.pack

    def pack(files: Mapping[str, Path], path: Path) -> None:
        faulty = folder / "faulty"
        faulty.write_text(changed(files[name].read_text(), change))
        right({**files, name: faulty}, path)

    monkeypatch.setattr(archive, "pack", pack)


def changed(text: str, change: Change) -> str:
    new = change(text)
    assert new != text
    return new


def swapped(text: str, i: int, j: int) -> str:
    """model.json with two class names in each other's place."""
    card = json.loads(text)
    classes = card["classes"]
    classes[i], classes[j] = classes[j], classes[i]
    return json.dumps(card)


@pytest.mark.slow
def test_one_that_answers_otherwise_is_loud_and_not_kept(
    config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = ServedNetwork.forward

    def swapped(self: ServedNetwork, photos: Tensor) -> tuple[Tensor, ...]:
        probabilities, *others = right(self, photos)
        return probabilities.flip(1), *others

    verify_by(monkeypatch, "server")
    monkeypatch.setattr(ServedNetwork, "forward", swapped)
    with pytest.raises(SagehoundError, match=r"model\.onnx in a fresh process does not answer as it does") as error:
        train(config("artifact=true"), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run/model.tar.gz").exists()
    assert (tmp_path / "run/checkpoints/best.ckpt").exists()
    assert json.loads((tmp_path / "run/metrics.json").read_text())["test"]["photos"] == 12
    assert not [p for p in (tmp_path / "run").iterdir() if p.name.startswith(".") and p.name != ".lock"]


@pytest.mark.slow
def test_weights_that_do_not_fit_the_network_are_found_out(
    config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sagehound.artifact import export

    verify_by(monkeypatch, "inference")
    monkeypatch.setattr(export, "save_file", lambda state, path, **_: path.write_bytes(b"\x08\0\0\0\0\0\0\0{}      "))
    with pytest.raises(SagehoundError, match=r"code/inference\.py in a fresh process does not answer"):
        train(config("artifact=true"), tmp_path / "run")
    assert not (tmp_path / "run/model.tar.gz").exists()


@pytest.mark.slow
def test_two_swapped_classes_are_found(config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verify_by(monkeypatch, "server")
    plant(monkeypatch, tmp_path, "model.json", lambda text: swapped(text, 0, 2))
    with pytest.raises(SagehoundError, match=r"its classes are .*: number 1 is Slate instead of Amber.*No model\.tar"):
        train(config("artifact=true"), tmp_path / "run")
    assert not (tmp_path / "run/model.tar.gz").exists()
    assert (tmp_path / "run/predictions.csv").exists()


@pytest.mark.slow
def test_what_a_killed_run_left_is_removed(config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verify_by(monkeypatch, "server")
    (tmp_path / "run/.artifact-x").mkdir(parents=True)
    (tmp_path / "run/.artifact-x/model.onnx").touch()
    (tmp_path / "run/.model.tar.gz.123.tmp").touch()
    train(config("artifact=true"), tmp_path / "run")
    assert [p.name for p in (tmp_path / "run").iterdir() if p.name.startswith(".")] == [".lock"]


def test_a_full_disk_is_one_line(config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors import SafetensorError

    from sagehound.artifact import export

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(export, "save_file", full)
    with pytest.raises(SagehoundError, match=r"cannot be written as model\.tar\.gz: I/O error.*best\.ckpt was kept"):
        train(config("artifact=true"), tmp_path / "run")


@pytest.mark.slow
def test_a_compiled_backbone_is_written_plain(config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verify_by(monkeypatch, "inference")  # which reads the weights by the names that they have in plain layers
    compile_ = torch.nn.Module.compile  # without generated C++, which takes most of a minute
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compile_(module, backend="aot_eager"))
    train(config("artifact=true", "finetune=full", "trainer.compile=true", "trainer.max_epochs=1"), tmp_path / "run")
    assert (tmp_path / "run/model.tar.gz").exists()


def test_a_trial_leaves_none(config: Compose, tmp_path: Path) -> None:
    train(config("artifact=true", "results=scores"), tmp_path / "run")
    assert not (tmp_path / "run/model.tar.gz").exists()


@pytest.mark.slow
def test_odd_photos_are_seen_alike_by_training_and_by_the_artifact(
    command: Command, weights: Path, tmp_path: Path
) -> None:
    """EXIF turns, palettes, transparency, CMYK, 16 bits, greyscale, other formats: all through one decoder."""
    photos = make_photos(tmp_path / "photos", train=4, valid=2, test=1)
    for number, (name, colour) in enumerate(COLOURS.items()):
        folder = photos / "test" / name
        save_photo(folder / "turned.jpg", colour, number, exif=_turned(6))
        for file in ("CMYK.jpg", "P.png", "L.png", "LA.png", "RGBA.webp", "RGB.bmp"):
            with Image.open(folder / "000.jpg") as image:
                image.convert(Path(file).stem).save(folder / file)
        Image.fromarray(np.full((40, 50), 30_000, np.uint16)).save(folder / "deep.png")
    done = command(*small(photos, weights), "artifact=true", f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert "differ from the trained model's by" in done.stdout
    assert (tmp_path / "run/model.tar.gz").exists()


def _turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()
