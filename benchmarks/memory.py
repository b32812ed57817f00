"""Training a head on a million photos' features: the peak memory of the process that trains.

python benchmarks/memory.py [--photos 1000000] [--features 2048]

The features are drawn, not computed, and lie in the cache as a run would have left them (16 bits a number, 4 GB). One
epoch of training and validation follows. Counted is the largest resident set of the process that trains.
"""

import argparse
import hashlib
import multiprocessing
import resource
import time
from pathlib import Path

import numpy as np

from sagehound.system.imports import importing

with importing():  # as the run does; each process of this benchmark imports again
    import torch
    from common import Row, config, scratch, show
    from lightning.pytorch.loggers import TensorBoardLogger

    from sagehound.data.datamodule import PhotoDataModule
    from sagehound.data.folders import Photo
    from sagehound.data.loader import Features
    from sagehound.data.photo_set import PhotoSet
    from sagehound.inference.preprocessing import Preprocessing
    from sagehound.models.classifier import Classifier
    from sagehound.models.features import FeatureLookup, FeatureView
    from sagehound.system import hardware
    from sagehound.training.trainer import fit

CLASSES = 100
TO = Preprocessing((224, 224), 256, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class NoBackbone(torch.nn.Module):
    """Stands where the backbone would, which never sees a photo here."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.head_hidden_size = features


def measure(arguments: list[str] | None = None) -> list[Row]:
    """The rows of this benchmark."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--photos", type=int, default=1_000_000)
    p.add_argument("--features", type=int, default=2048)
    a = p.parse_args(arguments)
    results = multiprocessing.get_context("spawn").Queue()
    with scratch() as folder:
        for step in (generate, train):  # each in a process of its own, so that the peak is the training's
            child = multiprocessing.get_context("spawn").Process(target=step, args=(folder, a, results))
            child.start()
            child.join()
            if child.exitcode:
                raise SystemExit(f"{step.__name__} failed")
        (loss, seconds, peak) = results.get()
        on_disk = sum(f.stat().st_size for f in folder.rglob("*.shard")) / 1e9
    print(
        f"{on_disk:.2f} GB of features; one epoch {seconds:.0f} s; "
        f"valid loss {loss:.4f} (by chance {np.log(CLASSES):.4f})"
    )
    return [Row(f"peak memory, {a.photos:,} photos x {a.features} features", f"{peak:.2f} GB", "-", "-", "< 4 GB")]


def view(folder: Path) -> FeatureView:
    """The store of the generated features."""
    cfg = config(
        *("data=folder", "data.root=none", "data.batch_size=256", "trainer.max_epochs=1", "optimizer.lr=0.001"),
        *(f"cache.dir={folder}", "trainer.accelerator=cpu"),
    )
    return FeatureView({"generated": True}, "bf16-mixed", None, cfg)


def digest(number: int) -> bytes:
    """Stands for the content of a photo."""
    return hashlib.sha256(str(number).encode()).digest()


def generate(folder: Path, a: argparse.Namespace, _: object) -> None:
    """Rows of noise around one centre for each class."""
    rng = np.random.default_rng(0)
    store = view(folder).store
    centres = rng.normal(0, 0.1, (CLASSES, a.features)).astype(np.float32)
    noise = rng.normal(0, 1, (1000, a.features)).astype(np.float32)
    for number in range(a.photos):
        row = centres[number % CLASSES] + noise[(number * 7919) % 1000]
        store.add(digest(number), row.astype(np.float16).tobytes())
    store.seal()


def train(folder: Path, a: argparse.Namespace, results: "multiprocessing.Queue[tuple[float, float, float]]") -> None:
    """One epoch on nine tenths of the rows, validated on the rest."""
    kept = view(folder)
    kept.store.refresh()
    cfg, begin_valid = kept.cfg, a.photos * 9 // 10
    names = [f"class{c:03}" for c in range(CLASSES)]
    photos = [
        Photo(
            f"{'valid' if i >= begin_valid else 'train'}/{names[i % CLASSES]}/{i}.jpg",
            "valid" if i >= begin_valid else "train",
            names[i % CLASSES],
        )
        for i in range(a.photos)
    ]
    found = PhotoSet(Path("none"), names, photos, {}, {p.file: digest(i).hex() for i, p in enumerate(photos)})
    keys = {s: [bytes.fromhex(found.digests[p.file]) for p in found.split(s)] for s in ("train", "valid")}
    rows = {s: FeatureLookup([kept], keys[s], 0) for s in keys}
    model = Classifier(NoBackbone(a.features), names, preprocessing=TO, lr=cfg.optimizer.lr)
    machine = hardware.choose(cfg.trainer, cfg.finetune, len(keys["valid"]))
    data = PhotoDataModule.of(found, TO, cfg.data, cfg.augment, cfg.cache)
    data.features = Features(rows["train"], rows, always=True)
    logger = TensorBoardLogger(folder / "run", name="", version="tensorboard", default_hp_metric=False)
    start = time.perf_counter()
    fit(model, data, machine, [logger], cfg, folder / "run")
    loss = float(model.trainer.callback_metrics["valid/loss"])
    results.put((loss, time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6))


if __name__ == "__main__":
    show(measure())
