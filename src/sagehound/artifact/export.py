"""Exports a trained model to model.tar.gz, and keeps it only if fresh processes predict the same with it."""

import hashlib
import importlib.metadata
import importlib.util
import json
import platform
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from sagehound import inference
from sagehound.artifact import archive, model_card, quantize, verify
from sagehound.artifact.fresh_processes import FreshProcesses
from sagehound.config import Backbone, Train, as_dict
from sagehound.data.photo_set import PhotoSet
from sagehound.errors import SagehoundError
from sagehound.evaluation.tables import Predictions
from sagehound.inference.network import ServedNetwork
from sagehound.inference.preprocessing import Preprocessing
from sagehound.models import weights_file, weights_pack
from sagehound.models.backbone import pretrained_cfg
from sagehound.models.classifier import Classifier
from sagehound.storage.atomic import replacing
from sagehound.system import console, hardware

_FOLDER = Path(inference.__file__).parent
# code/ of the archive: SageMaker calls the functions of inference.py; the package inference is copied whole, as this
# process trained with it
_ENTRY = """\"\"\"What SageMaker's PyTorch containers call.\"\"\"

from sagehound.inference.handler import input_fn, model_fn, output_fn, predict_fn

__all__ = ["input_fn", "model_fn", "output_fn", "predict_fn"]
"""
_MARK = '"""Of Sagehound, what a model needs to classify photos."""\n'
# packages that AWS's images lack; newer Pillows need Python 3.11
_NEEDED = f"timm=={importlib.metadata.version('timm')}\nsafetensors>=0.5\npillow>=11.3\n"
if importlib.util.find_spec("pillow_heif"):  # formats of the training can be classified too
    _NEEDED += "pillow-heif>=1.1\n"
_FILES = ("model.json", "model.onnx", "model.safetensors", archive.MODEL_CARD)
_RECORDED = ("sagehound", "torch", "timm", "onnx", "onnxruntime", "pillow", "numpy")


def served(model: Classifier) -> ServedNetwork:
    """The network of the artifact."""
    return ServedNetwork(model.normalise, model.backbone, model.head, model.unknown, model.temperature)


def make(
    model: Classifier,
    preprocessing: Preprocessing,
    cfg: Train,
    photos: PhotoSet,
    metrics: dict[str, Any],
    test: Predictions,
    path: Path,
    fresh: FreshProcesses,
    more: Mapping[str, bytes] | None = None,
    thresholds: Mapping[str, Any] | None = None,
    judged: Predictions | None = None,
) -> None:
    """Write ``path``, a model.tar.gz, if fresh processes predict with it what the trained model predicts.

    Args:
        model: on the CPU or a GPU; left on the CPU.
        preprocessing: what the backbone expects of a photo.
        cfg: the run's config.
        photos: the photo set.
        metrics: of the splits; goes into model.json.
        test: the model's predictions of the test photos, as in predictions.csv.
        path: of the archive.
        fresh: the processes that verify it; started here if needed.
        more: content of further files, by their names in the archive.
        thresholds: further entries of model.json, see ``evaluation.thresholds_fit``.
        judged: the model's predictions of the photos that decide whether int8 is kept; None: ``test``.

    Raises:
        SagehoundError: a prediction differs, or a process fails; ``path`` is removed.
    """
    _remove_left(path)
    fresh.start()
    with replacing(path) as candidate:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".artifact-") as temporary:
            made = Path(temporary)
            card = describe(model, preprocessing, cfg, photos, metrics) | dict(thresholds or {})
            served = None
            with hardware.threads(
                max(torch.get_num_threads() - len(fresh.ways), 1)
            ):  # the fresh processes use the other cores
                _write_network(model, card, made)
                if cfg.artifact_precision == "int8":
                    served = _quantize(card, photos, preprocessing, judged or test, made)
            _write_cards(card, photos, test, made)
            files = {name: made / name for name in _FILES} | _code(made) | _further(more or {}, made)
            archive.pack(files, candidate)
        proven = verify.verify(candidate, photos, test, path.with_name("predictions.csv"), fresh, served)
    console.info(f"artifact: {path.name}, {path.stat().st_size / 1e6:.1f} MB; {proven}")


def _remove_left(path: Path) -> None:
    """Remove what an earlier end of the same run, or a killed process, has left."""
    path.unlink(missing_ok=True)  # left by an earlier end of the same run, with other weights
    for left in (
        *path.parent.glob(".artifact-*"),
        *path.parent.glob(f".{path.name}.*.tmp"),
    ):  # left by a killed process
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def _write_cards(card: dict[str, Any], photos: PhotoSet, test: Predictions, folder: Path) -> None:
    """Write model.json and MODEL_CARD.md."""
    (folder / "model.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    text = model_card.text(card, photos, test)
    (folder / archive.MODEL_CARD).write_bytes(text.encode(errors="backslashreplace"))


def _code(folder: Path) -> dict[str, Path]:
    """Make the files of code/ in ``folder``; returns them by their names in the archive."""
    code = folder / "code"
    shutil.copytree(_FOLDER, code / "sagehound/inference", ignore=shutil.ignore_patterns("__pycache__"))
    (code / "inference.py").write_text(_ENTRY)
    (code / "requirements.txt").write_text(_NEEDED)
    (code / "sagehound/__init__.py").write_text(_MARK)
    return {file.relative_to(folder).as_posix(): file for file in sorted(code.rglob("*")) if file.is_file()}


def _further(contents: Mapping[str, bytes], folder: Path) -> dict[str, Path]:
    """Write files into ``folder``; returns them by name."""
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in contents}


def describe(
    model: Classifier, preprocessing: Preprocessing, cfg: Train, photos: PhotoSet, metrics: dict[str, Any]
) -> dict[str, Any]:
    """The content of model.json: what a server needs, and the model's origin. It holds no time and no path."""
    plain = as_dict(cfg)
    assert isinstance(plain, dict)
    groups = ("head", "finetune", "optimizer", "schedule", "augment", "features", "seed")
    contents = sorted(f"{photos.digests[p.file]} {p.split} {p.label}" for p in photos.photos)
    return {
        "format": archive.FORMAT,
        "backbone": cfg.backbone.name,
        "head": plain["head"],
        "classes": photos.classes,
        "temperature": model.temperature,
        "preprocessing": asdict(preprocessing)
        | {"colours": "RGB, uint8, height x width x channel; normalised inside the network"},
        "metrics": metrics,
        "data": {
            "fingerprint": hashlib.sha256("\n".join(contents).encode()).hexdigest(),
            "photos": {split: len(photos.split(split)) for split in ("train", "valid", "test")},
        },
        "weights": origin(model.backbone, cfg.backbone, cfg.cache.dir),
        "training": {name: plain[name] for name in groups}
        | {"batch_size": cfg.data.batch_size, "max_epochs": cfg.trainer.max_epochs, "precision": cfg.trainer.precision},
        "git": _revision(),
        "versions": {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in _RECORDED},
    }


def origin(net: nn.Module, backbone: Backbone, cache: str) -> dict[str, str | None]:
    """Origin of the pretrained weights, and their licence if known."""
    if not backbone.pretrained:
        return {"source": "none: trained from nothing", "licence": None}
    if not backbone.weights:
        known = pretrained_cfg(net)
        source = known.get("hf_hub_id") or known.get("url") or backbone.name
        return {"source": f"timm: {source}", "licence": known.get("license")}
    try:
        path = weights_file.loaded(net) or weights_file.find(backbone.weights, cache)
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        packed = weights_pack.read(path)
    except (SagehoundError, OSError) as error:  # a resumed run has its weights from the checkpoint
        console.warn(f"model.json does not say what the weights were: {error}")
        return {"source": backbone.weights, "sha256": None, "licence": None}
    licence = packed.licence if packed else None
    source = f"{path.name}, {packed.source}" if packed else path.name
    if backbone.weights.startswith("pkg://"):
        source = backbone.weights
        package = source.removeprefix("pkg://").partition("/")[0]
        for distribution in importlib.metadata.packages_distributions().get(package, [])[:1]:
            about = importlib.metadata.metadata(distribution)
            licence = next((str(about[key]) for key in ("License-Expression", "License") if key in about), None)
    return {"source": source, "sha256": digest, "licence": licence}


def _revision() -> dict[str, Any] | None:
    """The commit of the working folder, and whether files have changed since; None outside of a repository."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=True, timeout=30
        ).stdout.strip()

    try:
        return {"revision": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _write_network(model: Classifier, card: dict[str, Any], folder: Path) -> None:
    """Write model.safetensors and model.onnx with the same weights; model.onnx also has the classes of model.json.

    Raises:
        SagehoundError: the disk is full, or the backbone cannot be expressed in ONNX.
    """
    model = model.cpu().eval()
    model.backbone._compiled_call_impl = None  # undo trainer.compile: the exporter traces the plain modules
    network = served(model).eval()
    state = {k: v.contiguous() for k, v in network.state_dict().items()}
    outputs = ["probabilities", "unknown"][: 1 if network.unknown is None else 2]
    try:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # warnings of shapes that timm's models check while they are traced
            torch.onnx.export(
                network,
                (torch.zeros(2, *card["preprocessing"]["size"], 3, dtype=torch.uint8),),
                str(folder / "model.onnx"),
                dynamo=False,  # the other exporter takes seven seconds for mobilenetv2, this one less than one second
                opset_version=17,
                input_names=["photos"],
                output_names=outputs,
                dynamic_axes={name: {0: "batch"} for name in ("photos", *outputs)},
            )
        _describe_network(card, folder / "model.onnx")
    except Exception as error:  # safetensors and the exporter raise many kinds of errors, also for a full disk
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SagehoundError(
            f"the model was trained, but cannot be written as {archive.NAME}: {reason}. checkpoints/best.ckpt was "
            "kept; free some space or choose another backbone.name, then resume=RUN tries again without training"
        ) from error
    model.eval()  # the exporter changes it


def _quantize(
    card: dict[str, Any], photos: PhotoSet, preprocessing: Preprocessing, judged: Predictions, folder: Path
) -> Predictions | None:
    """Replace model.onnx by one in int8 if that is as good and faster, and add the figures to ``card``.

    Returns its predictions of the judged photos; None if fp32 is kept.

    Raises:
        SagehoundError: the disk is full, or ONNX Runtime cannot quantize the backbone.
    """
    network, int8 = folder / "model.onnx", folder / "int8.onnx"
    try:
        calibrated = quantize.write(network, int8, photos, preprocessing)
        _describe_network(card, int8)
        trial, predictions = quantize.compare(network, int8, judged, photos, preprocessing, calibrated)
    except Exception as error:  # ONNX Runtime raises many kinds of errors, also for a full disk
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SagehoundError(
            f"the model was trained, but not quantized: {reason}. checkpoints/best.ckpt was kept; "
            "resume=RUN artifact_precision=fp32 writes the model file without training"
        ) from error
    card["precision"] = trial.about()
    if not trial.is_kept:
        int8.unlink()
        console.warn(trial.describe())
        return None
    int8.replace(network)
    console.info(f"artifact: {trial.describe()}")
    return predictions


def _describe_network(card: dict[str, Any], path: Path) -> None:
    """Add classes and preprocessing, each as JSON, to model.onnx, for programs that have only this file."""
    import onnx  # imported here: it takes a tenth of a second

    network = onnx.load(path)
    described = {name: json.dumps(card[name]) for name in ("classes", "preprocessing")}
    onnx.helper.set_model_props(network, {"backbone": card["backbone"], **described})
    onnx.save(network, path)
