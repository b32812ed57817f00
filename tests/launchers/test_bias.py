"""`bias=local`: the files, the sentences and the errors of the real command."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers import Command, make_photos, small

from sagehound import report
from sagehound.storage.atomic import read_csv


def predictions(run: Path, split: str = "test") -> list[dict[str, str]]:
    return [row for row in read_csv(run / "predictions.csv") if row["split"] == split]


def facets_file(path: Path, run: Path, columns: Sequence[str] = ("camera", "place", "shot")) -> Path:
    """A CSV of groups: the camera of the even photos is old, the place changes every third one."""
    with path.open("w", newline="") as file:
        lines = csv.writer(file, delimiter=";")
        lines.writerow(["file", *columns])
        for i, row in enumerate(read_csv(run / "predictions.csv")):
            lines.writerow(
                [row["file"], *[("old", "new")[i % 2], ["home", "park", "street"][i % 3], f"{i}"][: len(columns)]]
            )
    return path


@pytest.fixture
def own_run(run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run's files that the stage reads."""
    copy = tmp_path / "trained"
    copy.mkdir()
    for name in ("config.yaml", "metrics.json", "predictions.csv", "model.tar.gz"):
        (copy / name).write_bytes((run / name).read_bytes())
    return copy


def rows(folder: Path) -> dict[tuple[str, str, str, str], dict[str, str]]:
    return {(r["facet"], r["group"], r["outcome"], r["measure"]): r for r in read_csv(folder / "bias.csv")}


def test_classes_and_groups_are_measured_from_the_runs_predictions(
    launch: Command, own_run: Path, run_photos: Path, tmp_path: Path
) -> None:
    facets = facets_file(tmp_path / "facets.csv", own_run)
    given = ["bias=local", f"model={own_run}", f"bias.facets={facets}", "data=folder", f"data.root={run_photos}"]
    done = launch(*given)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) <= 10
    assert "shot (45)" in done.stdout  # a column of 45 different values makes no groups
    assert "bias in 12 test photos and the labels of 24 train photos, 3 classes, by class, camera, place" in done.stdout

    found, test = rows(own_run), predictions(own_run)
    camera = {row["file"]: row["camera"] for row in csv.DictReader(facets.open(), delimiter=";")}
    right = {
        name: [r["label"] == r["prediction"] for r in test if camera[r["file"]] == name] for name in ("old", "new")
    }
    difference = sum(right["new"]) / len(right["new"]) - sum(right["old"]) / len(right["old"])
    row = found["camera", "old", "(recognised)", "AD"]
    assert float(row["value"]) == pytest.approx(difference, abs=1e-6)
    assert float(row["low"]) <= difference <= float(row["high"])
    assert row["verdict"] == "too few photos"  # six of each camera
    assert "of photos with camera=old are classified correctly" in row["meaning"]
    recall = sum(r["label"] == r["prediction"] for r in test if r["label"] == "Moss") / 4
    assert found["class", "Moss", "(recognised)", "AD"]["meaning"].startswith(
        f"{recall:.1%} of photos of Moss are classi"
    )
    assert all(r["range"] and r["worse"] and r["meaning"] for r in found.values())
    assert {r["stage"] for r in found.values()} == {"pre_training", "post_training"}


def test_bias_json_has_the_layout_of_analysis_json(launch: Command, own_run: Path, tmp_path: Path) -> None:
    facets = facets_file(tmp_path / "facets.csv", own_run)
    done = launch(
        "bias=local", f"model={own_run}", f"bias.facets={facets}", "bias.columns=[camera]", "bias.group_by=null"
    )
    assert done.returncode == 0, done.stderr
    content = json.loads((own_run / "bias.json").read_text())
    for one in (content, *content["one_vs_rest"]):
        for section in ("pre_training_bias_metrics", "post_training_bias_metrics"):
            assert set(one[section]) == {"label", "label_value_or_threshold", "facets"}
            for groups in one[section]["facets"].values():
                for group in groups:
                    assert group["value_or_threshold"]
                    assert all({"name", "description", "value"} <= set(metric) for metric in group["metrics"])
    assert set(content["post_training_bias_metrics"]["facets"]) == {"class", "camera"}
    assert [one["post_training_bias_metrics"]["label_value_or_threshold"] for one in content["one_vs_rest"]] == [
        *("Amber", "Moss", "Slate")
    ]
    metrics = content["one_vs_rest"][0]["post_training_bias_metrics"]["facets"]["camera"][0]["metrics"]
    assert [m["name"] for m in metrics] == ["AD", "DAR", "DCA", "DCR", "DI", "DPPL", "DRR", "RD", "SD", "TE"]
    moss = next(one for one in content["classes"] if one["class"] == "Moss")
    assert (moss["train_photos"], moss["photos"]) == (8, 4)
    assert moss["recall_interval"][0] <= moss["recall"] <= moss["recall_interval"][1]


@pytest.mark.slow
def test_the_report_shows_what_was_measured(launch: Command, own_run: Path, run: Path, tmp_path: Path) -> None:
    (own_run / "per_class.csv").write_bytes((run / "per_class.csv").read_bytes())
    facets = facets_file(tmp_path / "facets.csv", own_run)
    done = launch("bias=local", f"model={own_run}", f"bias.facets={facets}", "bias.columns=[camera]")
    assert done.returncode == 0, done.stderr
    page = report.write(own_run).read_text()
    assert "Groups of photos, compared with all other photos" in page
    assert "camera=old" in page
    assert rows(own_run)["camera", "old", "(recognised)", "AD"]["meaning"] in page


def test_other_photos_are_predicted_with_the_model(launch: Command, own_run: Path, tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "others", train=2, valid=1, test=3)
    given = [f"model={own_run / 'model.tar.gz'}", "data=folder", f"data.root={photos}", "hydra.run.dir=measured"]
    done = launch("bias=local", *given)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "measured/bias.json").read_text())
    assert content["photos"] == {"train": 6, "test": 9}
    assert not (own_run / "bias.json").exists()


@pytest.mark.slow
def test_a_model_is_trained_first_and_measured(launch: Command, photos: Path, weights: Path, tmp_path: Path) -> None:
    done = launch("bias=local", *small(photos, weights), "artifact=true", "hydra.run.dir=trained-here")
    assert done.returncode == 0, done.stderr
    assert "bias in 12 test photos and the labels of 24 train photos, 3 classes, by class" in done.stdout
    assert len(rows(tmp_path / "trained-here")) == 3 * 7  # each class: CI, AD, DI, RD, DAR, DCA, TE


def test_the_photo_table_gives_the_groups(launch: Command, own_run: Path, run_photos: Path, tmp_path: Path) -> None:
    table = tmp_path / "photos.csv"
    with table.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["file", "label", "split", "camera"])
        for i, row in enumerate(read_csv(own_run / "predictions.csv")):
            lines.writerow([row["file"], row["label"], row["split"], ("old", "new")[i % 2]])
    given = ["data=folder", f"data.root={run_photos}", f"data.table={table}", "bias.split=valid", "hydra.run.dir=here"]
    done = launch("bias=local", f"model={own_run}", *given)
    assert done.returncode == 0, done.stderr
    assert "bias in 9 valid photos and the labels of 24 train photos, 3 classes, by class, camera" in done.stdout


@pytest.mark.parametrize(
    ("overrides", "code", "message"),
    [
        (["bias.columns=[camera]"], 2, "has no photo table: give bias.facets=FILE"),
        (["bias.facets={facets}", "bias.columns=[lens]"], 3, "has no column 'lens', it has file, camera, place, shot"),
        (
            ["bias.facets={facets}", "bias.columns=[shot]"],
            3,
            "shot of {facets} has 45 different values: it needs 2 to 20",
        ),
        (["bias.facets={facets}", "bias.group_by=shot"], 3, "bias.group_by=shot: no such column of groups; there are"),
        (["model=nowhere"], 3, "model=nowhere: there is no such run and no such file"),
        (["model={run}/model.tar.gz"], 3, "model.tar.gz has no predictions.csv: give photos to classify, data=folder"),
        (["bias.facets=nowhere.csv"], 3, "nowhere.csv cannot be read (No such file or directory"),
        (["bias.facets={other}"], 3, "lists none of the photos: it has elsewhere.jpg, and the photos are like"),
        (["bias.label=Moss"], 2, "bias.label is of bias=sagemaker"),
        (["bias.split=tset"], 2, "bias.split=tset"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    launch: Command, own_run: Path, tmp_path: Path, overrides: list[str], code: int, message: str
) -> None:
    facets = facets_file(tmp_path / "facets.csv", own_run)
    other = tmp_path / "other.csv"
    other.write_text("file,camera\nelsewhere.jpg,old\n")
    names = {"facets": facets, "other": other, "run": own_run}
    done = launch("bias=local", f"model={own_run}", *(o.format(**names) for o in overrides))
    assert done.returncode == code, done.stderr
    assert message.format(**names) in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (own_run / "bias.json").exists()
