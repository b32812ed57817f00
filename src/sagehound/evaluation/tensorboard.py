"""TensorBoard's images, text and hyperparameters of a run, and the final table."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import OmegaConf
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard.summary import hparams

from sagehound.config import Train, as_dict
from sagehound.data.folders import SPLITS
from sagehound.evaluation.tables import describe_interval, describe_weights
from sagehound.metrics import EACH_EPOCH, METRICS
from sagehound.system import console

LAYOUT = {  # tags are regular expressions from the first character on: without $, train/loss is train/loss_step too
    "curves": {m.label: ["Multiline", [f"{split}/{m.name}$" for split in sorted(m.each_epoch)]] for m in EACH_EPOCH},
}


_LARGE = 1_000_000  # bytes; TensorBoard computes checksums in Python: 0.1 s for this size


class SharedCharts(Callback):
    """Puts the train and the valid curve of a score into one chart, on the tab Custom Scalars."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the layout before the first epoch."""
        for logger in trainer.loggers if trainer.is_global_zero else []:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_custom_scalars(LAYOUT)


def show_figures(logger: TensorBoardLogger, figures: dict[str, Path], cfg: Train) -> None:
    """Show figures, PNG files by name, and the config in TensorBoard."""
    board = logger.experiment
    for name, path in figures.items():
        content = path.read_bytes()
        image = Image.open(io.BytesIO(content))
        if len(content) > _LARGE:
            smaller = io.BytesIO()
            image.save(smaller, format="JPEG", quality=90)
            content = smaller.getvalue()
        width, height = image.size
        picture = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=content)
        # add_image would compress the pixels again
        board._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=name, image=picture)]))
    board.add_text("config", "```yaml\n" + OmegaConf.to_yaml(OmegaConf.create(as_dict(cfg))) + "```")


def show_table(logger: TensorBoardLogger, name: str, columns: tuple[str, str], numbers: Mapping[str, float]) -> None:
    """Show numbers by name as a table, on the tab Text; a curve of one point would hide those of other names."""
    rows = [f"| {' | '.join(columns)} |", "|---|---|", *(f"| {key} | {value:.4g} |" for key, value in numbers.items())]
    logger.experiment.add_text(name, "\n".join(rows))


def log_hyperparameters(logger: TensorBoardLogger, cfg: Train, scores: dict[str, dict[str, Any]], folder: Path) -> None:
    """Write a row of TensorBoard's table of hyperparameters: the config and the final scores.

    Scores are columns, not metrics, which would need a curve each. Without the experiment's own summary, TensorBoard
    finds the columns that differ between runs and shows them first. In a single run no column differs, so its overrides
    are the first column.
    """
    columns: dict[str, Any] = {}
    if (folder / "overrides.yaml").exists() and not (folder.parent / "multirun.yaml").exists():
        columns[" overrides"] = " ".join(OmegaConf.load(folder / "overrides.yaml"))
    columns |= hyperparameters(cfg)
    for split in ("valid", "test"):
        names = [m.name for m in METRICS if m.each_epoch and split in m.splits]
        columns |= {f"{split}.{name}": scores[split][name] for name in names}
    logger.log_hyperparams(hyperparameters(cfg))
    for summary in hparams(columns, {})[1:]:
        logger.experiment._get_file_writer().add_summary(summary)


def hyperparameters(cfg: Train) -> dict[str, Any]:
    """The config's values by dotted key, as numbers and strings, without keys that change no result."""
    plain = as_dict(cfg)
    assert isinstance(plain, dict)
    flat: dict[str, Any] = {}
    for group, values in plain.items():
        if group in ("artifact", "best", "cache", "logger", "results", "resume"):
            continue
        for key, value in values.items() if isinstance(values, dict) else [("", values)]:
            name = f"{group!s}.{key}".rstrip(".")
            if value == {}:
                continue
            number = isinstance(value, int | float) and not isinstance(value, bool)
            flat[name] = value if number or isinstance(value, str) else json.dumps(value)  # true and null, as in YAML
    return flat


def summarise(scores: dict[str, Any], folder: Path, *, is_trial: bool) -> None:
    """Print the final table and the folder of the results.

    A trial prints no test score, so that trials are not chosen by it.
    """
    shown = [m for m in METRICS if scores["classes"] >= m.least_classes and m.name != "top1"]
    rows = []
    for split in SPLITS[:2] if is_trial else SPLITS:
        s = scores[split]
        numbers = [f"{s[m.name]:{m.format}}" if m.name in s else "" for m in shown]
        rows.append([split, f"{s['top1']:.1%}", describe_interval(s["top1_interval"]), *numbers, f"{s['photos']:,}"])
    columns = ["split", "top-1", "95 % interval", *(m.label for m in shown), "photos"]
    choice = scores.get("finetune_choice")
    kept = f"Weights: {describe_weights(choice['kept'], choice['epoch'])}" if choice else None
    console.table(kept or f"Best epoch: {scores['best_epoch']}", columns, rows)
    last = "valid" if is_trial else "test"
    interval = describe_interval(scores[last]["top1_interval"])
    console.info(f"{last} accuracy: {scores[last]['top1']:.1%} (95 % interval {interval})")
    console.info(f"results: {folder}")
