"""Interpolates fine-tuned weights with the solved head that they started from, and keeps the best on valid photos.

Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022 (WiSE-FT).
"""

import math
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sagehound.config import Train
from sagehound.data.datamodule import PhotoDataModule
from sagehound.data.duplicates import Pair
from sagehound.data.photo_set import PhotoSet
from sagehound.errors import InputError
from sagehound.evaluation import bootstrap, evaluate
from sagehound.evaluation.tables import Predictions, describe_weights
from sagehound.metrics import direction
from sagehound.models.classifier import Classifier
from sagehound.storage.atomic import replacing
from sagehound.system import console
from sagehound.training import checkpoint

START, BEST, EPOCH = "start.ckpt", "best.ckpt", "best_epoch.ckpt"  # EPOCH: what best.ckpt was before
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)  # shares of the fine-tuned weights; 0 is the start
# share of the draws in which fine-tuning must be better than the start. By chance it is better by one standard error,
# as in the rule of Breiman et al. 1984, "Classification and regression trees", section 3.4.3, in 16 % of cases. The
# best of four candidates is compared, so each has a fourth of these (Bonferroni)
CERTAIN = 1 - 0.16 / (len(ALPHAS) - 1)

Weights = dict[str, Tensor]


def write_start(model: Classifier, photos: PhotoSet, checkpoints: Path) -> None:
    """Write start.ckpt: the weights before the first step, and the near-duplicates, which a resume cannot find anew."""
    weights = {k: v for k, v in model.state_dict().items() if k.startswith(("backbone.", "head."))}
    pairs = [[photos.photos[p.a].file, photos.photos[p.b].file, float(p.distance), p.by] for p in photos.pairs]
    checkpoint.save({"state_dict": weights, "pairs": pairs}, checkpoints / START)


def restore(photos: PhotoSet, checkpoints: Path, resumed: Path) -> PhotoSet:
    """The photos of a run that is resumed, with the near-duplicates of its start.ckpt.

    Args:
        photos: as they were found now.
        checkpoints: the folder of this run's checkpoints.
        resumed: the folder of the checkpoint that is resumed; start.ckpt is copied from there.
    """
    start, before = checkpoints / START, resumed / START
    if not start.exists() and before.exists():
        with replacing(start) as temporary:
            temporary.write_bytes(before.read_bytes())
    if not start.exists():
        console.warn(f"{before} is missing, so the weights will not be interpolated with those of the start")
        return photos
    place = {p.file: i for i, p in enumerate(photos.photos)}
    known = [
        (place[a], place[b], distance, by) for a, b, distance, by in _read(start)["pairs"] if a in place and b in place
    ]
    return photos.with_pairs([Pair(min(a, b), max(a, b), distance, by) for a, b, distance, by in known])


def choose(
    model: Classifier, data: PhotoDataModule, cfg: Train, checkpoints: Path, device: torch.device
) -> dict[str, Any] | None:
    """Choose between the start, the best epoch and weights between them, and write them into best.ckpt.

    The candidate with the best ``trainer.monitor`` of the valid photos (their loss, if a score of train photos is
    monitored) is kept if it is better than the start in ``CERTAIN`` of the bootstrap's draws of scenes; otherwise the
    start is kept. If the loss decides, candidates that predict fewer valid photos right than the start are left out: a
    lower loss may come from the confidence of the predictions alone. Every candidate is evaluated by a pass of its own,
    as the final weights are.

    Returns what metrics.json holds as finetune_choice, or None if there is no start.

    Raises:
        InputError: there is no best.ckpt, or a checkpoint is broken.
    """
    if not (checkpoints / START).exists() or not (checkpoints / BEST).exists():
        return None
    start, trained = _read(checkpoints / START)["state_dict"], _read(checkpoints / BEST)
    if checkpoint.INTERPOLATED in trained:  # the run had ended before
        if not (checkpoints / EPOCH).exists():
            return dict(trained[checkpoint.INTERPOLATED])
        trained = _read(checkpoints / EPOCH)
    predictions: dict[float, Predictions] = {}
    for alpha in ALPHAS:
        checkpoint.load_weights(model, mixed(start, trained["state_dict"], alpha))
        predictions[alpha] = evaluate.predict_split(model, data, "valid", device)
    chosen = decide(predictions, data.photos.scenes_of("valid"), cfg.trainer.monitor)
    chosen["epoch"] = int(trained["epoch"]) + 1
    _tell(chosen)
    _write(checkpoints, start, trained, chosen)
    return chosen


def mixed(start: Weights, trained: Weights, alpha: float) -> Weights:
    """(1 - alpha) x start + alpha x trained, of all parameters and of the statistics of normalisation layers."""
    if alpha in (0, 1):
        return start if alpha == 0 else trained
    return {
        name: value.lerp(trained[name].to(value), alpha) if value.is_floating_point() else trained[name]
        for name, value in start.items()
    }


def decide(predictions: dict[float, Predictions], scenes: list[int], monitor: str) -> dict[str, Any]:
    """The choice between candidates.

    Args:
        predictions: of the valid photos, by alpha; 0 is the start.
        scenes: the number of each photo's scene.
        monitor: the score that decides, such as valid.loss.

    Returns a dict with ``kept``, an alpha; ``by``, the score; ``best``, the alpha with the best one, of those that may
    be kept if there are any; ``certainty``, the share of the draws in which it is better than the start; and
    ``candidates``, each with alpha, loss, top1 and macro_f1.
    """
    split, name = monitor.split(".")
    monitor, name = (monitor, name) if split == "valid" else ("valid.loss", "loss")
    sign = -1 if direction(monitor) == "minimize" else 1
    scores = {alpha: bootstrap.scores(p) for alpha, p in predictions.items()}
    others = [alpha for alpha, of_alpha in scores.items() if alpha and math.isfinite(of_alpha[name])] or [1.0]
    allowed = [alpha for alpha in others if name != "loss" or scores[alpha]["top1"] >= scores[0]["top1"]]
    best = max(allowed or others, key=lambda alpha: sign * scores[alpha][name])
    better = sign * bootstrap.differences(predictions[0], predictions[best], name, scenes) > 0
    certainty = float(better.mean())
    return {
        "kept": best if allowed and certainty >= CERTAIN else 0.0,
        "by": monitor,
        "best": best,
        "certainty": round(certainty, 4),
        "candidates": [{"alpha": alpha} | of_alpha for alpha, of_alpha in scores.items()],
    }


def _tell(chosen: dict[str, Any]) -> None:
    name = chosen["by"].split(".")[1]
    score = {one["alpha"]: f"{one[name]:.4g}" for one in chosen["candidates"]}
    best, kept = chosen["best"], chosen["kept"]
    what = describe_weights(best, chosen["epoch"])
    measured = f"{chosen['by']} {score[best]}, better in {chosen['certainty']:.1%} of the bootstrap's draws"
    head = f"the solved head ({chosen['by']} {score[0.0]})"
    if kept:
        console.info(f"fine-tuning: kept {what} ({measured}) instead of {head}")
    elif chosen["certainty"] >= CERTAIN:
        console.info(f"fine-tuning: kept {head}: it predicts more valid photos right than all others")
    else:
        console.info(
            f"fine-tuning: kept {head}: it is not certain that {what} is better ({measured}; {CERTAIN:.0%} are needed)"
        )


def _write(checkpoints: Path, start: Weights, trained: dict[str, Any], chosen: dict[str, Any]) -> None:
    """Write the chosen weights into best.ckpt, and the best epoch, from which a resume continues, beside it."""
    alpha = chosen["kept"]
    if alpha == 1:
        checkpoint.save(trained, checkpoints / BEST)
        (checkpoints / EPOCH).unlink(missing_ok=True)
        return
    checkpoint.save(trained, checkpoints / EPOCH)
    weights = trained["state_dict"] | mixed(start, trained["state_dict"], alpha)
    epoch = trained["epoch"] if alpha else -1
    content = {"state_dict": weights, "epoch": epoch, checkpoint.INTERPOLATED: chosen}
    checkpoint.save(trained | content, checkpoints / BEST)


def _read(path: Path) -> dict[str, Any]:
    """A checkpoint.

    Raises:
        InputError: it is broken.
    """
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, ValueError, TypeError, pickle.UnpicklingError, EOFError) as error:
        raise InputError(f"{path} is no checkpoint, or a broken one: restore it, or start a new run") from error
