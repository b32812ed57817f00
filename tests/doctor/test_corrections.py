"""data.exclude: photos that are dropped or get another class."""

import os
from pathlib import Path

import pytest
from photo_helpers import photo_set

from sagehound.data import corrections
from sagehound.data.folders import Photo, Tree
from sagehound.errors import InputError
from sagehound.storage.atomic import write_csv


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


HEADER = "file,split,label,problems,reason,action,new_class\n"


def test_dropped_photos_are_left_out_and_relabelled_ones_change(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        "train/001.Amber/000.jpg,train,Amber,label,looks like Slate,relabel,Slate",
        "train/001.Amber/001.jpg,train,Amber,blurred,blurred,drop,",
        "train/001.Amber/002.jpg,train,Amber,outlier,unlike all,keep,Slate",
        "train/001.Amber/003.jpg,train,Amber,outlier,unlike all,,",
    ]
    table = write(tmp_path / "suspects.csv", HEADER + "\n".join(rows) + "\n")
    have = photo_set(photos, exclude=str(table))
    label = {p.file: p.label for p in have.photos}
    assert label["train/001.Amber/000.jpg"] == "Slate"
    assert "train/001.Amber/001.jpg" not in label
    assert label["train/001.Amber/002.jpg"] == label["train/001.Amber/003.jpg"] == "Amber"
    assert len(label) == 44
    assert have.audit["excluded"] == {
        "file": str(table),
        "dropped": ["train/001.Amber/001.jpg"],
        "relabelled": [{"file": "train/001.Amber/000.jpg", "from": "Amber", "to": "Slate"}],
    }
    assert have.audit["counts"]["Slate"]["train"] == 9
    assert "data.exclude: photos dropped: 1, relabelled: 1" in capsys.readouterr().out
    assert "excluded" not in photo_set(photos).audit


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEADER + "train/none.jpg,,,,,drop,\n", r"1 of 1 files are not among the photos of .*\(train/none.jpg\)"),
        (
            HEADER + "train/001.Amber/000.jpg,,,,,relabel,Bronze\n",
            "no class 'Bronze'; .* have Amber, Moss, Slate",
        ),
        (HEADER + "train/001.Amber/000.jpg,,,,,relabel,\n", "line 2: .* has the action relabel but no new_class"),
        (HEADER + "train/001.Amber/000.jpg,,,,,delete,\n", "line 2: action 'delete': write keep, relabel or drop"),
        ("file,label\ntrain/001.Amber/000.jpg,Amber\n", "line 2: no column 'action'"),
        ("", "no rows and no columns file and action"),
        ("file,label\n", "no rows and no columns file and action"),
        (
            HEADER + "train/001.Amber/000.jpg,,,,,drop,\ntrain/001.Amber/000.jpg,,,,,relabel,Moss\n",
            "line 3: .* is listed before with another action",
        ),
    ],
)
def test_a_wrong_table_is_one_clear_error(photos: Path, tmp_path: Path, content: str, message: str) -> None:
    table = write(tmp_path / "suspects.csv", content)
    with pytest.raises(InputError, match=f"data.exclude=.*{message}"):
        photo_set(photos, exclude=str(table))


def test_a_missing_table_is_one_clear_error(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data.exclude=.*none.csv cannot be read .* of `sagehound doctor`"):
        photo_set(photos, exclude=str(tmp_path / "none.csv"))
    (tmp_path / "broken.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"data.exclude=.* is no CSV in UTF-8"):
        photo_set(photos, exclude=str(tmp_path / "broken.csv"))


def test_a_name_like_a_formula_is_found(photos: Path, tmp_path: Path) -> None:
    """suspects.csv marks such a name for spreadsheets."""
    for split in ("train", "valid", "test"):
        (photos / split / "001.Amber").rename(photos / split / "=Amber")
    table = tmp_path / "suspects.csv"
    write_csv(table, ["file", "action", "new_class"], [["train/002.Slate/000.jpg", "relabel", "=Amber"]])
    assert "'=Amber" in table.read_text()
    assert [row["to"] for row in photo_set(photos, exclude=str(table)).audit["excluded"]["relabelled"]] == ["=Amber"]


def test_names_that_are_not_utf8_or_end_with_a_space_are_found(tmp_path: Path) -> None:
    """They are found as suspects.csv writes them; other spaces around a name do no harm."""
    latin = os.fsdecode(b"train/a/caf\xe9.jpg")
    photos = [Photo(latin, "train", "a"), Photo("train/a/1.jpg", "train", "a"), Photo("train/b /1.jpg", "train", "b ")]
    tree = Tree(tmp_path, photos, [], {}, [])
    table = tmp_path / "suspects.csv"
    rows = [[latin, "drop", ""], [" train/a/1.jpg ", " Relabel ", "b "]]
    write_csv(table, ["file", "action", "new_class"], [list(row) for row in rows])
    corrected, about = corrections.apply(tree, table)
    assert about["dropped"] == [latin]
    assert about["relabelled"] == [{"file": "train/a/1.jpg", "from": "a", "to": "b "}]
    assert [p.label for p in corrected.photos] == ["b ", "b "]
