"""The script that one would otherwise write: what the other benchmarks are measured against.

python benchmarks/plain.py --data PATH --weights FILE [--backbone resnet34] [--finetune full] [--epochs 10]

ImageFolder and torchvision's transforms over PIL photos, DataLoader workers, a frozen (or trained) timm backbone, a
linear head, AdamW. In every epoch the backbone runs on every train and valid photo, at the end on every test photo.
Prints one line of JSON: seconds in all, of each epoch and of the test, and the accuracies.
"""

import argparse
import json
import os
import time
from pathlib import Path

import timm
import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision import transforms as T

STATISTICS = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
TRAIN = T.Compose(
    [T.RandomResizedCrop(224), T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize(**STATISTICS)],
)
EVALUATE = T.Compose([T.Resize(256), T.CenterCrop(224), T.ToTensor(), T.Normalize(**STATISTICS)])


def make_loader(folder: Path, batch_size: int, workers: int, *, train: bool) -> DataLoader:  # type: ignore[type-arg]
    """Batches of one split: photos, float, b x 3 x 224 x 224, and labels."""
    photos = datasets.ImageFolder(str(folder), TRAIN if train else EVALUATE)
    return DataLoader(photos, batch_size, shuffle=train, num_workers=workers)


def make_model(backbone: str, weights: str | None, classes: int, finetune: str) -> nn.Module:
    """A timm model with a new linear head; everything else is frozen unless finetune is full."""
    overlay = {"file": weights} if weights else None
    model = timm.create_model(backbone, pretrained=bool(weights), num_classes=classes, pretrained_cfg_overlay=overlay)
    head = {id(p) for p in model.get_classifier().parameters()}  # type: ignore[operator]
    for parameter in model.parameters():
        parameter.requires_grad = finetune == "full" or id(parameter) in head
    return model


@torch.no_grad()
def accuracy(model: nn.Module, loader: DataLoader, device: torch.device) -> float:  # type: ignore[type-arg]
    """Share of photos whose most probable class is the label."""
    model.eval()
    right, total = 0, 0
    for photos, labels in loader:
        answers = model(photos.to(device)).argmax(1).cpu()
        right += int((answers == labels).sum())
        total += len(labels)
    return right / total


def main() -> None:
    """Train and test as the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights")
    parser.add_argument("--backbone", default="mobilenetv2_100")
    parser.add_argument("--finetune", choices=("head", "full"), default="head")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.001)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()

    torch.manual_seed(a.seed)
    begin = time.perf_counter()
    loaders = {
        split: make_loader(a.data / split, a.batch_size, a.workers, train=split == "train")
        for split in ("train", "valid", "test")
    }
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = make_model(a.backbone, a.weights, len(loaders["train"].dataset.classes), a.finetune).to(device)  # type: ignore[attr-defined]
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=a.lr)
    epochs, valid = [], 0.0
    for _ in range(a.epochs):
        start = time.perf_counter()
        model.train(a.finetune == "full")
        for photos, labels in loaders["train"]:
            loss = nn.functional.cross_entropy(model(photos.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        valid = accuracy(model, loaders["valid"], device)
        epochs.append(time.perf_counter() - start)
    start = time.perf_counter()
    test = accuracy(model, loaders["test"], device)
    end = time.perf_counter()
    print(
        json.dumps(
            {"seconds": end - begin, "epochs": epochs, "test_seconds": end - start, "valid": valid, "test": test}
        )
    )


if __name__ == "__main__":
    main()
