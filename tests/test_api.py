"""sagehound.train and sagehound.load in a script or a notebook."""

import io
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import make_photos, small_all
from PIL import Image

import sagehound
from sagehound import ConfigError, InputError, Run
from sagehound.config import Train, is_registered, registered


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("api") / "photos", train=8, valid=3, test=4)


@pytest.fixture(scope="module")
def run(photos: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with a model.tar.gz, trained from Python in an empty folder."""
    here = tmp_path_factory.mktemp("here")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setenv("SAGEHOUND_CACHE", str(here / "cache"))
        overrides = [o for o in small_all(photos, weights) if not o.startswith(("artifact", "trainer.max_epochs"))]
        run = sagehound.train(*overrides, "optimizer.lr=0.01", seed=1, **{"trainer.max_epochs": 3})
        return Run(run.folder.resolve(), run.metrics)


def test_train_writes_a_run_like_the_command(run: Run, photos: Path) -> None:
    assert run.folder.parent.parent.name == "outputs"
    assert (run.folder / "model.tar.gz").exists()
    assert Run.open(run.folder).metrics == run.metrics
    assert run.metrics["test"]["photos"] == 12
    assert "seed=1" in (run.folder / "overrides.yaml").read_text()
    assert registered() is Train or not is_registered()


def test_a_model_takes_paths_bytes_images_arrays_and_lists(run: Run, photos: Path) -> None:
    model = sagehound.load(run)
    assert model.classes == ["Amber", "Moss", "Slate"]
    path = photos / "test" / "001.Amber" / "000.jpg"
    image = Image.open(path)
    forms = [str(path), path, path.read_bytes(), image, np.asarray(image)]
    results = [model.predict(photo, top_k=2) for photo in forms]
    assert {r.label for r in results} == {results[0].label}
    for result in results:
        assert result.top[0][0] == result.label
        assert len(result.top) == 2
        assert sum(result.probabilities.values()) == pytest.approx(1, abs=1e-4)
        assert result.probability == pytest.approx(results[0].probability, abs=0.02)
    several = model.predict(forms * 3, top_k=2)
    assert [r.label for r in several] == [results[0].label] * 15
    assert several[0].probability == pytest.approx(results[0].probability, abs=1e-5)
    stacked = model.predict(np.stack([np.asarray(image)] * 2))
    assert [r.label for r in stacked] == [results[0].label] * 2
    assert model.predict([]) == []
    assert isinstance(model.predict([path]), list)


def test_run_archive_and_checkpoint_give_the_same_predictions(run: Run, photos: Path, tmp_path: Path) -> None:
    files = sorted((photos / "test").rglob("*.jpg"))
    without = tmp_path / "run"
    shutil.copytree(run.folder, without, ignore=shutil.ignore_patterns("model.tar.gz"))
    ways = [run, run.folder, str(run.folder / "model.tar.gz"), run.folder / "checkpoints/best.ckpt", without]
    first, *others = ([p.probabilities for p in sagehound.load(way).predict(files)] for way in ways)
    for other in [*others, [p.probabilities for p in run.model().predict(files)]]:
        for a, b in zip(first, other, strict=True):
            assert a == pytest.approx(b, abs=2e-3)


def test_a_rotated_photo_has_the_same_prediction_as_file_and_as_image(run: Run, photos: Path, tmp_path: Path) -> None:
    photo = Image.open(photos / "test" / "003.Moss" / "001.jpg")
    turned = photo.transpose(Image.Transpose.ROTATE_90)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    model = run.model()
    as_file, as_image = model.predict(tmp_path / "turned.png"), model.predict(Image.open(tmp_path / "turned.png"))
    assert as_file.probabilities == pytest.approx(as_image.probabilities)
    assert as_file.probabilities == pytest.approx(model.predict(photo).probabilities, abs=1e-4)


def test_an_archive_needs_no_torch(run: Run, photos: Path) -> None:
    code = f"""
import sys
sys.modules["torch"] = None
import sagehound
model = sagehound.load({str(run.folder / "model.tar.gz")!r})
print(model.predict({str(photos / "test" / "001.Amber" / "000.jpg")!r}).label)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("Amber", "Moss", "Slate")


def test_the_error_names_a_wrong_photo(run: Run, tmp_path: Path) -> None:
    model = run.model()
    (tmp_path / "text.jpg").write_text("no photo")
    content = io.BytesIO()
    Image.new("RGB", (9, 9)).save(content, "PNG")
    for wrong, message in (
        (tmp_path / "text.jpg", "text.jpg"),
        (tmp_path / "none.jpg", "none.jpg"),
        (b"nothing", "the photo: "),
        ([content.getvalue(), b"nothing"], "photo 1: "),
        (np.zeros((4, 4, 4), np.uint8), "an array of uint8, 4 x 4 x 4: give uint8"),
        (np.zeros((4, 4, 3), np.float32), "an array of float32"),
        ([3], "int: give a path"),
        (None, "NoneType: give a path"),
        (content, "BytesIO: give a path"),
        (bytearray(b"nothing"), "bytearray: give a path"),
        (torch.zeros(3, 4, 4), "Tensor: give a path"),
    ):
        with pytest.raises(InputError) as error:
            model.predict(wrong)  # type: ignore[arg-type, call-overload]
        assert message in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="top_k=0"):
        model.predict(content.getvalue(), top_k=0)


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["optimizer.lrr=1"], ConfigError, "optimizer.lrr"),
        (["epochs=3"], ConfigError, "did you mean trainer.max_epochs=3"),
        (["-m", "seed=1,2"], ConfigError, "trains one run"),
        (["data=folder", "data.root=nowhere"], InputError, "nowhere"),
        (["backbone=resnet35"], ConfigError, "backbone=resnet35: no such option"),
        (["hpo=optuna"], ConfigError, "hpo=optuna"),
    ],
)
def test_a_wrong_override_is_an_exception_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], error: type[Exception], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["data=demo", "backbone=efficientnet_lite0", *overrides]
    with pytest.raises(error) as raised:
        sagehound.train(*given)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "outputs").exists() or not list((tmp_path / "outputs").rglob("*.yaml"))


def test_wrong_python_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\['data=demo'\]: an override is a string"):
        sagehound.train(["data=demo"])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r'give each key as an override of its own: "data\.root=photos"'):
        sagehound.train(data={"root": "photos"})
    with pytest.raises(ConfigError, match="nowhere: no such folder"):
        sagehound.train("data=demo", config_dir=tmp_path / "nowhere")


@pytest.mark.slow
def test_launch_runs_the_command_and_raises_its_errors(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sagehound.launch(
        "data=folder", transform="local", model=run, **{"data.root": photos / "test", "transform.output": "p.csv"}
    )
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 13
    assert "p.csv" in capsys.readouterr().out
    for words, error, message in (
        (["deploy=lokal"], ConfigError, "deploy=lokal: no such option (did you mean local?)"),
        (["deploy=local", "model=nowhere"], InputError, "model=nowhere: no such run or file"),
    ):
        with pytest.raises(error) as raised:
            sagehound.launch(*words)
        assert str(raised.value).startswith(message)
        assert capsys.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_signal_to_launch_ends_the_command(run: Run, tmp_path: Path, signum: int, code: int) -> None:
    program = f"import sagehound; sagehound.launch('deploy=local', 'deploy.port=0', model={str(run.folder)!r})"
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as python:
        assert python.stdout
        line = next(line for line in python.stdout if b"http://" in line).decode()
        python.send_signal(signum)
        python.communicate(timeout=60)
    assert python.returncode == code
    address = re.search(r"127\.0\.0\.1:(\d+)", line)
    assert address
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", int(address[1]))) != 0, "the server has ended"


def test_launch_refuses_what_is_no_text() -> None:
    with pytest.raises(ConfigError, match=r"3: an override is a string, .*; give several as launch\(\*overrides\)"):
        sagehound.launch(3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r'give each key as an override of its own: "aws\.name=emulator"'):
        sagehound.launch(aws={"name": "emulator"})


def test_a_file_without_a_model_is_refused(tmp_path: Path, run: Run) -> None:
    (tmp_path / "x.ckpt").write_bytes(b"no checkpoint")
    for wrong in (tmp_path, tmp_path / "x.ckpt", tmp_path / "y.ckpt", "nowhere"):
        with pytest.raises(InputError) as error:
            sagehound.load(wrong)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": 3},
        {"backbone": None},
        {"backbone": {"_target_": "os.system"}},
        {"mixup": "x"},
        {"preprocessing": {"a": 1}},
        {"classes": []},
        {"_instantiator": "os.system"},
    ],
)
def test_a_checkpoint_with_other_hyperparameters_is_refused(
    tmp_path: Path, run: Run, changes: dict[str, object]
) -> None:
    checkpoint = torch.load(run.folder / "checkpoints/best.ckpt", weights_only=True)
    checkpoint["hyper_parameters"] |= changes
    torch.save(checkpoint, tmp_path / "x.ckpt")
    with pytest.raises(InputError, match="not a checkpoint of a Classifier, or a broken one") as error:
        sagehound.load(tmp_path / "x.ckpt")
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_public_names_exist_and_the_import_is_light() -> None:
    code = """
import sys
import sagehound
print({m.partition(".")[0] for m in sys.modules} & {"torch", "lightning", "hydra", "omegaconf", "numpy", "PIL", "yaml"})
from sagehound import *
print(train, load, Classifier, PhotoDataModule, Photo, Run, __version__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "set()", "heavy imports would slow down every user"


@pytest.mark.slow
def test_training_in_threads_and_in_programs_that_use_hydra(tmp_path: Path, photos: Path, weights: Path) -> None:
    code = f"""
from threading import Thread
import hydra
from hydra import compose
import sagehound

def train(seed):
    given = ["data=folder", "data.root={photos}", "backbone.name=test_resnet", "backbone.weights={weights}"]
    runs.append(sagehound.train(*given, "trainer.max_epochs=1", artifact=False, seed=seed).folder)

runs = []
threads = [Thread(target=train, args=(seed,)) for seed in (1, 2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
with hydra.initialize(version_base=None):
    train(3)
    assert compose(overrides=["+mine=1"]).mine == 1
assert len(set(runs)) == 3 and all(run.is_absolute() for run in runs), runs
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_run_from_another_machine_is_resumed(tmp_path: Path, photos: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints/last.ckpt").touch()
    (run / "overrides.yaml").write_text(f"- trainer=sagemaker\n- data=folder\n- data.root={photos}\n")
    with pytest.raises(InputError, match=r"last\.ckpt"):  # it is empty; this program does not know trainer=sagemaker
        sagehound.train(f"resume={run}")
