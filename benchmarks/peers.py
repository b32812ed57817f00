"""Fine-tunes a backbone of timm as fastai, timm or torchvision do, and predicts the test photos.

python benchmarks/peers.py fastai --data PATH --weights FILE [--backbone resnet34] [--epochs 5] [--seed 0] --folder OUT

Each recipe has the defaults of its library. Its train photos are read as the library reads them. The test photos are
read and predicted by the same code for all, as Sagehound does. Needed are an installed fastai for `fastai`, and nothing
beside Sagehound for the others. OUT gets predictions.csv and metrics.json, as a run of Sagehound has them.

fastai: `vision_learner` and `fine_tune(epochs)` with all defaults. One epoch with a frozen backbone comes before, as
the solved head of Sagehound has a pass of its own. Photos: `Resize(460)` and `aug_transforms(size=224,
min_scale=0.75)`, the presizing of its book.

timm: its train.py is not part of the package, so its loop is written here with timm's optimizer, schedule, transforms
and loss. Kept are the script's defaults: SGD with Nesterov momentum 0.9, weight decay 2e-5, cosine schedule, label
smoothing 0.1, random crop from 8 % on, mirror, colour jitter 0.4, the epoch with the best valid top-1. Changed are
those for ImageNet from random weights: learning rate 0.001, batches of 64 in place of 128, one epoch of warmup in place
of five, and the schedule is updated at every step (--sched-on-updates).

torchvision: references/classification/train.py is no part of the package either. Kept are its defaults: SGD with
momentum 0.9, weight decay 1e-4, batches of 32, random crop and mirror, no decay before epoch 30, the last epoch.
Changed is the learning rate, 0.1 for 8 x 32 photos from random weights: 0.001, that of PyTorch's tutorial on transfer
learning. (0.008, the same scaled from its 4 photos to 32, let the loss of mobilenetv2 grow in the second epoch.)

Both begin with the small head weights of torchvision (deviation 0.01). timm's own have a deviation of 0.18 for ten
classes, so that its script begins with a loss of 7, from which it did not recover in five epochs of 600 photos (22 %).
"""

import argparse
import json
import os
import random
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision import transforms as T

from sagehound.config import Backbone, Data
from sagehound.data.photos import find_photos
from sagehound.evaluation.tables import Predictions, write_predictions
from sagehound.inference.preprocessing import Preprocessing, prepare
from sagehound.models.backbone import build, data_config
from sagehound.system.machine import tune_allocator

Batches = DataLoader[tuple[Tensor, Tensor]]


def convert(a: argparse.Namespace) -> Path:
    """The weights in a file with timm's names: some packages have others."""
    path: Path = a.folder / "backbone.safetensors"
    save_file(build(Backbone(name=a.backbone, weights=a.weights)).state_dict(), path)
    return path


def make_model(a: argparse.Namespace, classes: int) -> nn.Module:
    """The pretrained backbone with a new linear head, whose first weights are small, as torchvision's are."""
    model: nn.Module = timm.create_model(
        a.backbone, pretrained=True, num_classes=classes, pretrained_cfg_overlay={"file": a.file}
    )
    head: Any = model.get_classifier()  # type: ignore[operator]
    nn.init.normal_(head.weight, 0, 0.01)
    nn.init.zeros_(head.bias)
    return model


def batches(
    a: argparse.Namespace,
    split: str,
    transform: Callable[..., Any],
    size: int,
    *,
    shuffle: bool = False,
    drop_last: bool = False,
) -> Batches:
    """Batches of one split, read by processes, one for each core."""
    photos = datasets.ImageFolder(str(a.data / split), transform)
    return DataLoader(photos, size, shuffle, num_workers=len(os.sched_getaffinity(0)), drop_last=drop_last)


@torch.no_grad()
def top1(model: nn.Module, photos: Batches) -> float:
    """Share of photos that are predicted right."""
    model.eval()
    right = [(model(x).argmax(1) == y).float() for x, y in photos]
    return float(torch.cat(right).mean())


def fine_tune_as_fastai(a: argparse.Namespace, classes: int) -> nn.Module:
    """The model of a vision_learner after fine_tune."""
    from fastai.vision.all import (  # type: ignore[import-not-found]
        ImageDataLoaders,
        Resize,
        aug_transforms,
        set_seed,
        vision_learner,
    )

    set_seed(a.seed)
    photos = ImageDataLoaders.from_folder(
        a.data,
        train="train",
        valid="valid",
        seed=a.seed,
        device=torch.device("cpu"),
        item_tfms=Resize(460 * a.image_size // 224),
        batch_tfms=aug_transforms(size=a.image_size, min_scale=0.75),
    )
    learner = vision_learner(photos, a.backbone, pretrained_cfg_overlay={"file": a.file}, path=a.folder)
    with learner.no_bar():
        learner.fine_tune(a.epochs)
    model: nn.Module = learner.model
    return model


def fine_tune_as_timm(a: argparse.Namespace, classes: int) -> nn.Module:
    """The epoch with the best valid top-1."""
    from timm.data import create_transform
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2

    size = 64
    model = make_model(a, classes)
    given = data_config(model) | {"input_size": (3, a.image_size, a.image_size)}
    photos = {"input_size": given["input_size"], "mean": given["mean"], "std": given["std"]}
    crop = create_transform(**photos, is_training=True, interpolation="random", color_jitter=0.4)
    centre = create_transform(**photos, interpolation=given["interpolation"], crop_pct=given["crop_pct"])
    train, valid = batches(a, "train", crop, size, shuffle=True, drop_last=True), batches(a, "valid", centre, size)
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.001, momentum=0.9, weight_decay=2e-5)
    schedule, _ = create_scheduler_v2(
        optimizer,
        sched="cosine",
        num_epochs=a.epochs,
        warmup_epochs=1,
        warmup_lr=1e-5,
        step_on_epochs=False,
        updates_per_epoch=len(train),
    )
    loss: nn.Module = LabelSmoothingCrossEntropy(0.1)
    best, kept, step = -1.0, model, 0
    for _ in range(a.epochs):
        model.train()
        for x, y in train:
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
            step += 1
            schedule.step_update(step)
        score = top1(model, valid)
        if score > best:
            best, kept = score, deepcopy(model)
    return kept


def fine_tune_as_torchvision(a: argparse.Namespace, classes: int) -> nn.Module:
    """The last epoch."""
    model = make_model(a, classes)
    given = data_config(model)
    end = [T.PILToTensor(), T.ConvertImageDtype(torch.float), T.Normalize(given["mean"], given["std"])]
    crop = T.Compose([T.RandomResizedCrop(a.image_size), T.RandomHorizontalFlip(), *end])
    centre = T.Compose([T.Resize(256 * a.image_size // 224), T.CenterCrop(a.image_size), *end])
    train, valid = batches(a, "train", crop, 32, shuffle=True), batches(a, "valid", centre, 32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, weight_decay=1e-4)
    for _ in range(a.epochs):
        model.train()
        for x, y in train:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        top1(model, valid)
    return model


RECIPES = {"fastai": fine_tune_as_fastai, "timm": fine_tune_as_timm, "torchvision": fine_tune_as_torchvision}


@torch.no_grad()
def test(a: argparse.Namespace, model: nn.Module) -> None:
    """Predict the test photos; write predictions.csv and metrics.json."""
    given = data_config(timm.create_model(a.backbone, num_classes=0))
    preprocessing = Preprocessing.of_weights(given | {"input_size": (3, a.image_size, a.image_size)})
    found = find_photos(Data(name="folder", root=str(a.data)), a.folder)
    photos = found.split("test")
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    model.eval()
    logits = []
    for photo in photos:
        pixels = torch.from_numpy(prepare(found.root / photo.file, preprocessing).copy()).permute(2, 0, 1)
        logits.append(model(((pixels / 255 - mean) / std)[None]))
    labels = torch.tensor(found.labels(photos))
    predictions = Predictions(photos, labels.numpy(), torch.cat(logits).float().numpy())
    write_predictions(a.folder / "predictions.csv", found.classes, {"test": predictions})
    scores = {"top1": float(predictions.correct.mean()), "loss": float(F.cross_entropy(torch.cat(logits), labels))}
    (a.folder / "metrics.json").write_text(json.dumps({"test": scores}))


def main() -> None:
    """Train and test as the command line says."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("recipe", choices=list(RECIPES))
    p.add_argument("--data", type=Path, required=True, help="a folder of train, valid and test photos")
    p.add_argument("--weights", required=True, help="a file, or pkg://PACKAGE/PATH")
    p.add_argument("--backbone", default="mobilenetv2_100")
    p.add_argument("--epochs", type=int, default=5)
    p.add_argument("--image-size", type=int, default=224)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--folder", type=Path, required=True, help="where the results go")
    a = p.parse_args()
    a.folder.mkdir(parents=True, exist_ok=True)
    a.file = str(convert(a))
    tune_allocator()  # the allocator that Sagehound sets; a training step of mobilenetv2 takes half as long
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(a.seed)
    classes = sorted(folder.name for folder in (a.data / "train").iterdir() if folder.is_dir())
    test(a, RECIPES[a.recipe](a, len(classes)))


if __name__ == "__main__":
    main()
