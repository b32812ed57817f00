"""Tensors of a training: what is written, how it is read, and that the training is the same with and without."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
import torch
from helpers import Command, Compose, small, verify_by
from run_helpers import same, weights_of
from smdebug import modes
from smdebug.trials import create_trial
from torch.nn import functional as F

from sagehound.errors import ConfigError
from sagehound.training.train import train

ALL = "losses,gradients,weights,biases,relu_input,relu_output,labels,predictions"
EVERY = ["debugger.train_interval=1", "debugger.eval_interval=1", "debugger.loss_interval=1"]
DEBUGGER = ["debugger=sagemaker", f"debugger.collections=[{ALL}]", *EVERY]


def tensors(folder: Path) -> Any:  # noqa: ANN401 - smdebug ships no types
    return create_trial(str(folder))


def values(folder: Path, name: str, *, training: bool = True) -> dict[int, np.ndarray]:
    mode = modes.TRAIN if training else modes.EVAL
    tensor = tensors(folder).tensor(name)
    return {step: tensor.value(step, mode=mode) for step in tensor.steps(mode=mode)}


@pytest.mark.slow
def test_tensors_are_written_and_the_run_is_the_one_without(
    config: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["finetune=full", "head.hidden=[8]", "trainer.precision=32-true"]
    plain = train(config(*given), tmp_path / "plain")
    verify_by(monkeypatch, "server")
    run = train(config(*given, *DEBUGGER, "artifact=true"), tmp_path / "run")
    printed = capsys.readouterr().out
    assert same(plain, run)
    assert (run.folder / "model.tar.gz").exists(), "it was made, and predicted in a fresh process what the run did"
    folder = run.folder / "debugger/tensors"
    assert f"debugger: tensors are written to {folder}" in printed
    assert "smdebug" not in printed
    found = tensors(folder)
    assert (found.steps(mode=modes.TRAIN), found.steps(mode=modes.EVAL)) == (list(range(10)), list(range(4)))
    count = {name: len(found.tensor_names(collection=name)) for name in ALL.split(",")}
    learned = [
        n for n in weights_of(run.folder) if n.startswith(("backbone.", "head.")) and n.endswith(("weight", "bias"))
    ]
    assert count["weights"] + count["biases"] == count["gradients"] == len(learned)
    assert count["relu_input"] == count["relu_output"] > 10
    assert [count[name] for name in ("losses", "labels", "predictions")] == [1, 1, 1]

    for training in (True, False):
        loss = values(folder, "CrossEntropyLoss_output_0", training=training)
        logits = values(folder, "CrossEntropyLoss_input_0", training=training)
        labels = values(folder, "CrossEntropyLoss_input_1", training=training)
        assert [len(v) for v in labels.values()] == ([5, 5, 5, 5, 4] * 2 if training else [5, 4] * 2)
        for step, value in loss.items():
            expected = F.cross_entropy(torch.from_numpy(logits[step]), torch.from_numpy(labels[step]))
            assert value == pytest.approx(float(expected), rel=1e-5)
    name = next(n for n in found.tensor_names(collection="relu_input") if n.startswith("backbone.layer1"))
    before, after = values(folder, name), values(folder, name.replace("input", "output"))
    assert all((before[step] < 0).any() for step in before), "what went in, though the layer works in place"
    assert all(np.array_equal(after[step], before[step].clip(0)) for step in before)
    last = "Classifier_head.2.weight"
    weights, gradients = values(folder, last), values(folder, f"gradient/{last}")
    assert weights.keys() == gradients.keys() == set(range(10))
    moved = np.abs(weights[9] - weights_of(run.folder)["head.2.weight"].numpy()).max()
    assert 0 < moved < np.abs(weights[0] - weights_of(run.folder)["head.2.weight"].numpy()).max()


@pytest.mark.slow
@pytest.mark.parametrize(
    "given",
    [
        ["finetune=head", "head.hidden=[8]"],
        ["finetune=gradual", "finetune.start=random", "finetune.head_epochs=1"],
        ["finetune=full", "trainer.ema=0.9", "trainer.precision=bf16-mixed", "augment=strong", "head.dropout=0.3"],
        ["finetune=head", "features.cache=false", "data.batch_size=20", "trainer.accumulate=2"],
    ],
)
def test_every_kind_of_training_is_the_one_without(config: Compose, tmp_path: Path, given: list[str]) -> None:
    plain = train(config(*given), tmp_path / "plain")
    run = train(config(*given, *DEBUGGER), tmp_path / "run")
    assert same(plain, run)
    folder = run.folder / "debugger/tensors"
    relus = tensors(folder).tensor_names(collection="relu_input")
    learned = tensors(folder).tensor_names(collection="gradients")
    if given[0] == "finetune=head":
        assert all(name.startswith("gradient/Classifier_head.") for name in learned)
        assert set(learned) == {f"gradient/Classifier_{n}" for n in weights_of(run.folder) if n.startswith("head.")}
    if "head.hidden=[8]" in given:
        assert relus == ["head.1.relu_input_0"], "the features are kept: the backbone is not run"
    if "features.cache=false" in given:
        assert all(name.endswith("_input_0") for name in relus), "of the parts of a batch, the first"
        assert {len(v) for v in values(folder, relus[0]).values()} == {8}
    if given[0] == "finetune=gradual":
        steps = tensors(folder).tensor("Classifier_backbone.bn1.weight").steps(mode=modes.TRAIN)
        assert steps == [5, 6, 7, 8, 9], "it rests in the first epoch"
    if "trainer.precision=bf16-mixed" in given:
        assert {v.dtype for v in values(folder, relus[0]).values()} == {np.dtype("float32")}


@pytest.mark.slow
def test_a_step_is_one_of_the_optimizer(config: Compose, tmp_path: Path) -> None:
    given = ["finetune=head", "data.batch_size=4", "trainer.accumulate=4", "trainer.gradient_clip=0.001"]
    run = train(config(*given, *DEBUGGER), tmp_path / "run")  # 24 photos: 4 + 2 batches an epoch
    labels = values(run.folder / "debugger/tensors", "CrossEntropyLoss_input_1")
    assert {step: len(v) for step, v in labels.items()} == {0: 16, 1: 8, 2: 16, 3: 8}
    logits = values(run.folder / "debugger/tensors", "CrossEntropyLoss_input_0")
    loss = values(run.folder / "debugger/tensors", "CrossEntropyLoss_output_0")
    for step in (0, 1):
        expected = F.cross_entropy(torch.from_numpy(logits[step]), torch.from_numpy(labels[step]))
        assert loss[step] == pytest.approx(float(expected), rel=1e-5)
    gradient = values(run.folder / "debugger/tensors", "gradient/Classifier_head.0.bias")
    share = torch.softmax(torch.from_numpy(logits[0]), 1) - F.one_hot(torch.from_numpy(labels[0]), 3)
    assert gradient[0] == pytest.approx(share.mean(0).numpy(), rel=1e-4), "of all its batches, not clipped"


@pytest.mark.slow
def test_intervals_reductions_and_collections(config: Compose, tmp_path: Path) -> None:
    given = ["debugger.train_interval=4", "debugger.loss_interval=3", "debugger.reductions=true"]
    chosen = ["debugger=sagemaker", "debugger.collections=[weights,predictions]"]
    run = train(config(*chosen, *given), tmp_path / "run")
    found = tensors(run.folder / "debugger/tensors")
    weight = found.tensor("Classifier_head.0.weight")
    assert weight.steps(mode=modes.TRAIN) == [0, 4, 8]
    assert found.tensor("CrossEntropyLoss_output_0").steps(mode=modes.TRAIN) == [0, 3, 6, 9]
    assert found.tensor("CrossEntropyLoss_output_0").steps(mode=modes.EVAL) == [0, 3]
    assert found.tensor("CrossEntropyLoss_input_0").value(0, mode=modes.TRAIN).shape == (5, 3)
    assert "CrossEntropyLoss_input_1" not in found.tensor_names()
    numbers = {r: float(weight.reduction_value(0, r, mode=modes.TRAIN)) for r in ("min", "mean", "max")}
    assert numbers["min"] < numbers["mean"] < numbers["max"]
    assert float(weight.reduction_value(0, "mean", abs=True, mode=modes.TRAIN)) > 0


@pytest.mark.slow
def test_a_resume_goes_on_beside_what_was_written(config: Compose, tmp_path: Path) -> None:
    first = train(config(*DEBUGGER), tmp_path / "run")
    before = sorted((p, p.stat().st_size) for p in (first.folder / "debugger/tensors").rglob("*"))
    train(config(*DEBUGGER, "trainer.max_epochs=3", f"resume={first.folder}/checkpoints/last.ckpt"), first.folder)
    assert sorted((p, p.stat().st_size) for p in (first.folder / "debugger/tensors").rglob("*")) == before
    found = tensors(first.folder / "debugger/tensors-2")
    assert (found.steps(mode=modes.TRAIN), found.steps(mode=modes.EVAL)) == ([10, 11, 12, 13, 14], [4, 5])


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file may grow over so many bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.slow
def test_an_error_is_told_once_and_the_training_goes_on(
    config: Compose, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = ["finetune=full", "optimizer=sgd", "optimizer.lr=0.01"]
    plain = train(config(*given), tmp_path / "plain")
    largest = max(p.stat().st_size for p in plain.folder.rglob("*") if p.is_file())
    (tmp_path / "file").write_text("")
    cases = {
        "start": (f"debugger.folder={tmp_path}/file/tensors", largest * 1000),
        "later": (f"debugger.folder={tmp_path}/small", int(largest * 1.1)),
    }
    for case, (folder, most) in cases.items():
        capfd.readouterr()
        with files_of_at_most(most):
            run = train(config(*given, *DEBUGGER, folder), tmp_path / case)
        printed, errors = capfd.readouterr()
        assert printed.count("warning: debugger: no more tensors are written (") == 1, printed
        assert "training continues" in printed
        assert errors == ""
        assert same(plain, run)
    assert list((tmp_path / "small").rglob("*.tfevents*")), "it had begun to write"


@pytest.mark.slow
def test_nothing_stays_on_the_model(config: Compose, tmp_path: Path) -> None:
    from lightning.pytorch.loggers import TensorBoardLogger

    from sagehound.data.photos import find_photos
    from sagehound.system import hardware
    from sagehound.training import from_config
    from sagehound.training.trainer import fit

    cfg = config("finetune=full", *DEBUGGER)
    photos = find_photos(cfg.data, tmp_path / "cache")
    model = from_config.classifier(cfg, photos.classes)
    in_place = [m.inplace for m in model.modules() if hasattr(m, "inplace")]
    attributes = [set(vars(m)) for m in model.backbone.modules()]
    machine = hardware.choose(cfg.trainer, cfg.finetune, len(photos.split("valid")))
    logger = TensorBoardLogger(tmp_path, name="", version="tensorboard")
    fit(model, from_config.data_module(cfg, photos, model), machine, [logger], cfg, tmp_path)
    assert len(tensors(tmp_path / "debugger/tensors").steps(mode=modes.TRAIN)) == 10
    assert [m.inplace for m in model.modules() if hasattr(m, "inplace")] == in_place
    assert any(in_place)
    assert [set(vars(m)) for m in model.backbone.modules()] == attributes
    for module in model.modules():
        assert not {**module._forward_hooks, **module._forward_pre_hooks, **module._backward_hooks}
    assert not any(p._backward_hooks for p in model.parameters())


@pytest.mark.slow
def test_where_sagemaker_takes_them_from(config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = tmp_path / "debughookconfig.json"
    asked.write_text(json.dumps({"S3OutputPath": "s3://b/p", "LocalPath": str(tmp_path / "opt/tensors")}))
    monkeypatch.setenv("SMDEBUG_CONFIG_FILE_PATH", str(asked))
    (tmp_path / "opt/tensors").mkdir(parents=True)
    profiler = {"ProfilerEnabled": True, "LocalPath": str(tmp_path / "opt/profiler")}
    (tmp_path / "profilerconfig.json").write_text(json.dumps({"ProfilingParameters": profiler}))
    monkeypatch.setenv("SMPROFILER_CONFIG_PATH", str(tmp_path / "profilerconfig.json"))
    train(config("debugger=sagemaker"), tmp_path / "run")
    assert tensors(tmp_path / "opt/tensors").tensor_names(collection="losses") == ["CrossEntropyLoss_output_0"]
    assert not (tmp_path / "run/debugger").exists()
    assert not (tmp_path / "opt/profiler").exists(), "SageMaker's own agent watches the machine"


@pytest.mark.slow
def test_a_model_without_relus_is_told_of(config: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = config(
        "debugger=sagemaker",
        "backbone.name=test_vit2",
        "backbone.weights=null",
        "backbone.pretrained=false",
        "finetune=full",
    )
    train(cfg, tmp_path / "run")
    assert "debugger: the model has no ReLU: relu_input and relu_output stay empty" in capsys.readouterr().out
    assert tensors(tmp_path / "run/debugger/tensors").steps(mode=modes.TRAIN) == [0, 5]


def test_tensors_are_written_to_a_folder(config: Compose, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"debugger\.folder=s3://bucket/x: give a folder of this machine"):
        train(config("debugger=sagemaker", "debugger.folder=s3://bucket/x"), tmp_path / "run")


def test_compiled_layers_are_not_looked_between(config: Compose, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"compiled code does not expose: drop them, or set trainer\.compile=false"):
        train(config("debugger=sagemaker", "trainer.compile=true"), tmp_path / "run")


@pytest.mark.parametrize(
    ("smdebug", "message"),
    [
        (
            "raise ModuleNotFoundError(\"No module named 'smdebug'\", name='smdebug')",
            "which is not installed: pip install",
        ),
        (
            "raise TypeError('Descriptors cannot be created directly.\\nMore')",
            "(TypeError: Descriptors cannot be created",
        ),
    ],
)
def test_smdebug_is_needed(
    command: Command,
    photos: Path,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    smdebug: str,
    message: str,
) -> None:
    (tmp_path / "smdebug").mkdir()
    (tmp_path / "smdebug/__init__.py").write_text(smdebug)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = command(*small(photos, weights), "debugger=sagemaker")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "debugger.save=true" in done.stderr
    assert message in done.stderr
    assert "pip install 'sagehound[debugger]'" in done.stderr


@pytest.mark.slow
def test_several_processes(command: Command, photos: Path, weights: Path, tmp_path: Path) -> None:
    given = [*small(photos, weights), "finetune=full", "trainer.devices=2", "debugger.workers=all"]
    done = command(*given, *DEBUGGER, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count("debugger:") == 1
    assert "smdebug" not in done.stdout
    saved = tensors(tmp_path / "run/debugger/tensors")
    assert saved.workers() == ["worker_0", "worker_1"]
    name = "Classifier_head.0.weight"
    assert len(saved.tensor(name).steps(mode=modes.TRAIN)) == 6, "24 photos, twice, by two processes of 5"
    both = [saved.tensor(f"gradient/{name}").value(0, mode=modes.TRAIN, worker=w) for w in saved.workers()]
    assert np.array_equal(*both), "as the optimizer is given them, averaged"


def test_who_does_not_choose_it_pays_nothing(tmp_path: Path) -> None:
    (tmp_path / "modules.py").write_text(
        "import sys, sagehound.training.train\nprint([m for m in sys.modules if m.startswith('smdebug')])"
    )
    assert forked.run(tmp_path / "modules.py", tmp_path, [], timeout=60).stdout == "[]\n"
