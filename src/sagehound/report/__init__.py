"""report.html: what a run, a search or several runs show, in one file that needs no connection."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sagehound.config import Train
from sagehound.storage.atomic import write_csv, write_text
from sagehound.system import console
from sagehound.system.program import command

if TYPE_CHECKING:
    from sagehound.data.datamodule import PhotoDataModule
    from sagehound.models.classifier import Classifier

NAME, COMPARISON = "report.html", "comparison.html"

Array = np.ndarray[Any, Any]


def write(folder: Path, model: "Classifier | None" = None, output: Path | None = None) -> Path:
    """Write report.html into a run's folder; returns its path.

    Args:
        folder: the run's.
        model: the trained model, for heat maps of mistakes; without it they are left out.
        output: another file.

    Raises:
        InputError: the folder holds no finished run.
        SagehoundError: the file cannot be written.
    """
    from sagehound.report import contents, next_actions, run_report  # matplotlib takes a second to import

    run = contents.read(folder)
    suspicious = {one["file"] for one in run.insights.get("suspicious_labels", [])}
    if suspicious:
        rows = [[r["file"], r["label"], r["split"]] for r in run.predictions if r["file"] not in suspicious]
        write_csv(folder / next_actions.REVIEWED, ["file", "label", "split"], rows)
    write_text(output or folder / NAME, run_report.page(run, model))
    return output or folder / NAME


def write_any(folders: Sequence[Path], output: Path | None = None) -> Path:
    """Write the report of a run or a search, or the comparison of several runs; returns its path.

    Args:
        folders: of runs, or one of a search.
        output: the file; None: report.html in the folder, or comparison.html in the current one.

    Raises:
        InputError: a folder holds no finished run and no search.
        SagehoundError: the file cannot be written.
    """
    from sagehound.report import comparison, contents, search_report

    if len(folders) > 1:
        html, place = comparison.page([contents.read(folder) for folder in folders]), Path(COMPARISON)
    elif (folders[0] / search_report.TRIALS).exists():
        html, place = search_report.page(search_report.read(folders[0])), folders[0] / NAME
    else:
        return write(folders[0], _model(folders[0]), output)
    write_text(output or place, html)
    return output or place


def _model(folder: Path) -> "Classifier | None":
    """The trained model of a run's checkpoint; None without one."""
    from sagehound.runs.trained_model import read_checkpoint

    path = folder / "checkpoints" / "best.ckpt"
    if not path.is_file():
        console.info("the run has no checkpoint, so the report shows no heat maps")
        return None
    return read_checkpoint(path)


def is_wanted(cfg: Train) -> bool:
    """Whether a training writes insights.json and report.html."""
    return cfg.report and cfg.results not in ("tables", "scores")


@contextmanager
def insights_beside(cfg: Train, folder: Path, data: "PhotoDataModule") -> Iterator[None]:
    """Write insights.json in a thread while the block runs, if a report is wanted and features are cached.

    After an error, a warning is printed.
    """
    if not (is_wanted(cfg) and data.features):
        yield
        return
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(_write_insights, folder, data)
        yield
    if error := writing.exception():  # the report is written without them
        console.warn(f"insights.json was not written ({type(error).__name__}: {error})")


def of_training(cfg: Train, folder: Path, model: "Classifier", data: "PhotoDataModule") -> None:
    """Write report.html after a training, and insights.json if there was no artifact to write it beside.

    After an error, a warning is printed.
    """
    try:
        if not cfg.artifact:
            with insights_beside(cfg, folder, data):
                pass
        write(folder, model)
    except Exception as error:  # the model is there, and the report can be written later
        again = command(["report", str(folder)], ["sagehound"])
        console.warn(f"report.html was not written ({type(error).__name__}: {error}); {again} tries again")


def _write_insights(folder: Path, data: "PhotoDataModule") -> None:
    from sagehound.report import insights

    photos, scenes = data.photos, data.photos.scenes()
    of_train = [scene for scene, p in zip(scenes, photos.photos, strict=True) if p.split == "train"]
    insights.write(folder, *_features(data, "train"), photos.classes, of_train)


def _features(data: "PhotoDataModule", split: str) -> tuple[Array, Array, list[str]]:
    """Cached features of a split, n x f, labels, n, and files."""
    assert data.features
    photos = data.photos.split(split)
    place = {name: i for i, name in enumerate(data.photos.classes)}
    rows = data.features.centre[split]([(0, i) for i in range(len(photos))])
    return rows, np.array([place[p.label] for p in photos]), [p.file for p in photos]
