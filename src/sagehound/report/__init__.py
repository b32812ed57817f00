"""report.html: what a run, a search or several runs show, in one file that needs no connection."""

from pathlib import Path
from typing import TYPE_CHECKING

from sagehound.storage.atomic import write_csv, write_text

if TYPE_CHECKING:
    from sagehound.models.classifier import Classifier

NAME = "report.html"


def write(folder: Path, model: "Classifier | None" = None) -> Path:
    """Write report.html into a run's folder; returns its path.

    Args:
        folder: the run's.
        model: the trained model, for heat maps of mistakes; without it they are left out.

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
    write_text(folder / NAME, run_report.page(run, model))
    return folder / NAME
