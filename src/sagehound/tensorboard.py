"""The end of a run for the eyes: plots, TensorBoard's images, text and hyperparameters, the final table."""

from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig, OmegaConf

from sagehound import console, plots
from sagehound.data.folders import SPLITS
from sagehound.data.photos import PhotoSet
from sagehound.tables import ClassScore, Predictions, confusion, describe_interval


def write_figures(
    logger: TensorBoardLogger,
    folder: Path,
    cfg: DictConfig,
    photos: PhotoSet,
    found: dict[str, Predictions],
    by_class: list[ClassScore],
) -> None:
    """Draw the plots into ``folder`` and show them and the config in TensorBoard."""
    figures = {
        "confusion": plots.confusion_matrix(confusion(found["test"]), photos.classes),
        "accuracy_by_class_size": plots.accuracy_by_class_size(by_class),
        "worst_mistakes": plots.worst_mistakes(found["test"], photos.classes, photos.root),
    }
    board = logger.experiment
    for name, figure in figures.items():
        pixels = plots.save(figure, folder / f"{name}.png")
        board.add_image(name, pixels[::2, ::2], dataformats="HWC")  # a preview; the file has them all
    board.add_text("config", "```yaml\n" + OmegaConf.to_yaml(cfg, resolve=True) + "```")


def log_hyperparameters(logger: TensorBoardLogger, cfg: DictConfig, scores: dict[str, dict[str, float]]) -> None:
    """A row of TensorBoard's table of hyperparameters: the config and what came of it."""
    results = {
        f"{split}/{k}": v for split in ("valid", "test") for k, v in scores[split].items() if isinstance(v, float)
    }
    logger.log_hyperparams(hyperparameters(cfg), {f"final/{k}": v for k, v in results.items()})


def hyperparameters(cfg: DictConfig) -> dict[str, Any]:
    """The config's leaves under their dotted keys, as numbers and strings."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    flat: dict[str, Any] = {}
    for group, values in plain.items():
        for key, value in values.items() if isinstance(values, dict) else [("", values)]:
            name = f"{group!s}.{key}".rstrip(".")
            flat[name] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return flat


def summarise(scores: dict[str, Any], folder: Path) -> None:
    """Print the final table and where everything lies."""
    columns = ["split", "top-1", "95 % interval", "top-5", "macro F1", "loss", "ECE", "photos"]
    rows = []
    for split in SPLITS:
        s = scores[split]
        numbers = [f"{s[k]:.3f}" for k in ("macro_f1", "loss", "ece")]
        interval = describe_interval(s["top1_interval"])
        rows.append([split, f"{s['top1']:.1%}", interval, f"{s['top5']:.1%}", *numbers, f"{s['photos']:,}"])
    console.table(f"Best epoch: {scores['best_epoch']}", columns, rows)
    test = scores["test"]
    console.say(f"test accuracy: {test['top1']:.1%} (95 % interval {describe_interval(test['top1_interval'])})")
    console.say(f"results: {folder}")
