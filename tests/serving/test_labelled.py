"""The labels of batch predictions come from the folders of the photos."""

from pathlib import Path

from sagehound.serving.labelled import score
from sagehound.storage.atomic import write_csv


def test_a_label_is_the_nearest_folder_that_is_a_class(run: Path, tmp_path: Path) -> None:
    """Photos in folders below a class count, as in training; others do not."""
    files = ["train/001.Amber/a.jpg", "Slate/day 2/b.jpg", "Amber/Slate/c.jpg", "elsewhere/d.jpg", "e.jpg"]
    predictions = tmp_path / "predictions.csv"
    write_csv(predictions, ["file", "prediction"], [[file, "Slate"] for file in files])
    scored = score(str(run), predictions)
    assert scored
    assert (scored.photos, scored.correct, scored.trained) == (3, 2, 1)
