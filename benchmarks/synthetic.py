"""What reading real photos costs a training step: full fine-tuning from files and from the cache, beside noise.

python benchmarks/synthetic.py [--backbone resnet34 --random] [--batch-size 64] [--rounds 3]

The same step runs on batches that are read, and on one batch of noise that already lies on the device, in turn; photos
a second of one pass over the train photos. On a GPU the cached photos are to come within 10 % of the noise; on a CPU
the reading takes cores from the step, and the figures are for comparison only.
"""

import time
from collections.abc import Iterable

import torch
from common import Row, config, median, parser, random_weights, scratch, show, training_photos
from torch.nn import functional as F

from sagehound.data.loader import Batch
from sagehound.data.photos import find_photos
from sagehound.models import finetune, optimizers
from sagehound.models.classifier import Classifier
from sagehound.models.features import autocast
from sagehound.system import hardware
from sagehound.system.machine import tune_allocator
from sagehound.training import from_config


def measure(arguments: list[str] | None = None) -> list[Row]:
    """The rows of this benchmark."""
    p = parser(__doc__)
    p.add_argument("--random", action="store_true")
    p.add_argument("--batch-size", type=int, default=64)
    a = p.parse_args(arguments)
    tune_allocator()
    with scratch() as folder:
        weights = random_weights(a.backbone, folder / "weights.safetensors") if a.random else a.weights
        given = [
            *("data=folder", f"data.root={a.data}", "finetune=full", f"data.batch_size={a.batch_size}"),
            *(f"cache.dir={folder / 'cache'}", f"backbone.name={a.backbone}", f"backbone.weights={weights}"),
        ]
        cfg = config(*given)
        found = find_photos(cfg.data, folder / "cache")
        machine = hardware.choose(cfg.trainer, cfg.finetune, len(found.split("valid")))
        device = torch.device(machine.accelerator)
        model = from_config.classifier(cfg, found.classes)
        preprocessing = model.preprocessing
        model.to(device).train()
        optimizer = optimizers.build(
            cfg.optimizer.name,
            optimizers.find(cfg.optimizer.name),
            finetune.parameter_groups(model.backbone, model.head, cfg.finetune, cfg.optimizer),
            {},
        )
        read = {
            name: training_photos(config(*given, f"data.cache={kind}"), preprocessing)
            for name, kind in (("files", "none"), ("cache", "memmap"))
        }
        photo = torch.randint(0, 256, (a.batch_size, 3, *preprocessing.size), dtype=torch.uint8, device=device)
        labels = torch.zeros(a.batch_size, dtype=torch.int64, device=device)
        noise = [(photo.contiguous(memory_format=torch.channels_last), labels)] * len(read["files"])

        def speed(batches: Iterable[Batch]) -> float:
            count, start = 0, time.perf_counter()
            for x, labels in batches:
                step(model, optimizer, x.to(device, non_blocking=True), labels.to(device), machine)
                count += len(labels)
            if device.type == "cuda":
                torch.cuda.synchronize()
            return count / (time.perf_counter() - start)

        for _ in read["cache"]:
            pass  # builds the cache
        speed(noise)  # warms up
        rates: dict[str, list[float]] = {"noise": [], "files": [], "cache": []}
        for _ in range(a.rounds):
            rates["noise"].append(speed(noise))
            for name, batches in read.items():
                rates[name].append(speed(batches))
    return [
        Row(
            f"full fine-tuning step, {a.backbone}, {machine}, photos from {name}",
            f"{median(rates[name]):,.1f} /s",
            f"{median(rates['noise']):,.1f} /s (noise)",
            f"{median(rates[name]) / median(rates['noise']):.2f} x",
            "0.9 x on a GPU" if name == "cache" else "-",
        )
        for name in ("files", "cache")
    ]


def step(
    model: Classifier,
    optimizer: torch.optim.Optimizer,
    x: torch.Tensor,
    labels: torch.Tensor,
    machine: hardware.Compute,
) -> None:
    """One step of training."""
    with autocast(machine.accelerator, machine.precision):
        loss = F.cross_entropy(model(x), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


if __name__ == "__main__":
    show(measure())
