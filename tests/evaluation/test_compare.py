"""The command `sagehound compare`: whether two runs differ on the same photos."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from sagehound.cli.compare_command import compare
from sagehound.data.folders import Photo
from sagehound.evaluation.evaluate import score
from sagehound.evaluation.tables import Predictions, write_predictions

CLASSES = ["Beagle", "Dingo"]


def write(folder: Path, right: list[int], first: int = 0) -> str:
    """A run's predictions of fifty test photos, of which ``right`` are right, and of ten valid photos."""
    folder.mkdir()
    by_split = {}
    for split, number in (("test", 50), ("valid", 10)):
        labels = np.arange(number) % 2
        photos = [Photo(f"{split}/{first + i}.jpg", split, CLASSES[label]) for i, label in enumerate(labels)]
        wrong = ~np.isin(np.arange(number), right)
        by_split[split] = Predictions(photos, labels, np.eye(2, dtype=np.float32)[labels ^ wrong])
    write_predictions(folder / "predictions.csv", CLASSES, by_split)
    (folder / "metrics.json").write_text(json.dumps({split: score(p) for split, p in by_split.items()}))
    return str(folder)


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    """Both are right for 36 test photos, one only for 12 and one for 2: an example of Newcombe (1998)."""
    return [write(tmp_path / "a", [*range(48)]), write(tmp_path / "b", [*range(36), 48, 49])]


def test_numbers_of_the_literature(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    compare("sagehound compare", [*runs, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["runs"], found["split"], found["photos"], found["only_right"]) == (runs, "test", 50, [12, 2])
    assert found["top1"] == [48 / 50, 38 / 50]
    assert found["difference"] == pytest.approx(-0.2)
    assert found["interval"] == pytest.approx([-0.3404, -0.0569], abs=5e-5)
    assert found["p"] == pytest.approx(binomtest(12, 14).pvalue)
    assert [c["class"] for c in found["classes"]] == CLASSES
    assert sum(c["difference"] * c["photos"] for c in found["classes"]) == pytest.approx(-10)
    assert all(c["p"] <= c["p_adjusted"] <= 1 for c in found["classes"])


def test_a_screen_says_which_run_is_better(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    compare("sagehound compare", runs)
    printed = capsys.readouterr().out
    assert "B - A: -20.0 points (95 % interval -34.0 to -5.7)" in printed
    assert "only A right: 12, only B right: 2; McNemar's exact test: p = 0.0129, A is better" in printed
    assert "Beagle" in printed
    assert len(printed.splitlines()) < 24
    compare("sagehound compare", [runs[0], runs[0], "--split", "valid"])
    assert "10 valid photos" in (printed := capsys.readouterr().out)
    assert "p = 1, no difference shown" in printed


@pytest.mark.parametrize(
    ("spoil", "code", "message"),
    [
        (
            "other",
            3,
            "other: the runs have different photos or labels: 50 and 50 photos, 48 in common. Train both with",
        ),
        ("missing", 2, "missing: no such folder; give a run's folder"),
        ("empty", 3, "predictions.csv: no such file; give a run that was trained to its end"),
        ("broken", 3, "is broken (a row is not complete)"),
    ],
)
def test_errors(
    runs: list[str], spoil: str, code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / spoil
    if spoil == "other":
        write(other, [*range(48)], first=2)
    elif spoil != "missing":
        other.mkdir()
    if spoil == "broken":
        (other / "predictions.csv").write_text("file,split\na.jpg,test\n")
        (other / "metrics.json").write_text('{"test": {}}')
    with pytest.raises(SystemExit) as ended:
        compare("sagehound compare", [runs[0], str(other)])
    assert ended.value.code == code
    assert message in capsys.readouterr().err
