"""Writes and prints the results of a run."""

from pathlib import Path
from typing import Any

from sagehound.config import Train
from sagehound.data.photo_set import PhotoSet
from sagehound.evaluation import evaluate, history, plots, tables, tensorboard, thresholds_fit
from sagehound.evaluation.tables import Predictions
from sagehound.report import charts
from sagehound.storage.atomic import write_json
from sagehound.system import console


def write_metrics(
    folder: Path,
    cfg: Train,
    photos: PhotoSet,
    predictions: dict[str, Predictions],
    scores: dict[str, dict[str, Any]],
    about: dict[str, Any],
    seconds: dict[str, float],
) -> dict[str, Any]:
    """Write metrics.json; returns its content.

    Args:
        folder: of the run.
        cfg: its config.
        photos: all of them.
        predictions: of each split.
        scores: of each split.
        about: best_epoch, and finetune_choice if there was one.
        seconds: of each phase.
    """
    valid, test = predictions["valid"], predictions["test"]
    about = about | {
        "temperature": test.temperature,
        "classes": len(photos.classes),
        "backbone": cfg.backbone.name,
    }
    about |= thresholds_fit.measured(thresholds_fit.fit(valid), test)
    clean = evaluate.without_leaks(photos, test)
    about |= {"test_without_leaks": clean} if clean else {}
    metrics = scores | {"seconds": {phase: round(s, 3) for phase, s in seconds.items()}} | about
    write_json(folder / "metrics.json", metrics)
    return metrics


def write_tables(folder: Path, photos: PhotoSet, predictions: dict[str, Predictions]) -> None:
    """Write predictions.csv, per_class.csv and confusions.csv."""
    tables.write_predictions(folder / "predictions.csv", photos.classes, predictions)
    tables.write_per_class(folder / "per_class.csv", tables.per_class(photos.classes, predictions))
    tables.write_confusions(folder / "confusions.csv", photos.classes, tables.confusion(predictions["test"]))


def draw(folder: Path, photos: PhotoSet, predictions: dict[str, Predictions], best_epoch: int) -> dict[str, Path]:
    """Write the plots, which takes a second; returns their files by name."""
    test, by_class = predictions["test"], tables.per_class(photos.classes, predictions)
    figures = {
        "curves": plots.curves(history.read(folder / history.NAME), best_epoch),
        "confusion": plots.confusion_matrix(tables.confusion(test), photos.classes),
        "accuracy_by_class_size": plots.accuracy_by_class_size(by_class, photos.independent("test")),
        "worst_mistakes": plots.worst_mistakes(test, photos.classes, photos.root),
        "reliability": charts.reliability(test.probabilities.max(1), test.correct),
    }
    files = {name: folder / "plots" / f"{name}.png" for name in figures}
    for name, figure in figures.items():
        plots.save(figure, files[name])
    return files


def tell(metrics: dict[str, Any], scores: dict[str, dict[str, Any]], folder: Path, *, is_trial: bool) -> None:
    """Print the scores, for SageMaker and for the user."""
    for split, of_split in scores.items():
        for name, value in of_split.items():
            if not isinstance(value, list):  # an interval
                console.metric(f"{split}.{name}", value)
    tensorboard.summarise(metrics, folder, is_trial=is_trial)
    if not is_trial:
        evaluate.tell_leaks(metrics.get("test_without_leaks", {}))
