"""Reads the curves and the weights of a run."""

from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sagehound.runs.run import Run


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar in TensorBoard's files: (step, value) in order."""
    scalars: dict[str, list[tuple[int, float]]] = {}
    for file in sorted((run / "tensorboard").glob("events*"), key=lambda p: p.stat().st_mtime_ns):
        events = EventAccumulator(str(file)).Reload()
        for tag in events.Tags()["scalars"]:
            if not tag.startswith(("final/", "hp_metric")):
                scalars.setdefault(tag, []).extend((e.step, e.value) for e in events.Scalars(tag))
    return {tag: sorted(set(points)) for tag, points in scalars.items()}


def weights_of(run: Path, name: str = "last.ckpt") -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run / "checkpoints" / name, weights_only=True)["state_dict"]
    return state


def same_weights(a: Path, b: Path) -> bool:
    one, two = weights_of(a), weights_of(b)
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def same(a: Run, b: Run) -> bool:
    """Whether two runs have the same weights, bit for bit, and the same scores."""
    return same_weights(a.folder, b.folder) and {**a.metrics, "seconds": 0} == {**b.metrics, "seconds": 0}
