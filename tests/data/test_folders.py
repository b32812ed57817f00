from pathlib import Path

import pytest

from sagehound.data.folders import Photo, scan
from sagehound.errors import InputError


def touch(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def test_numbers_of_folders_are_not_part_of_the_label(tmp_path: Path) -> None:
    tree = scan(touch(tmp_path, "train/001.Affenpinscher/a.jpg", "train/002.Afghan_hound/b.JPG"))
    assert tree.photos == [
        Photo("train/001.Affenpinscher/a.jpg", "train", "Affenpinscher"),
        Photo("train/002.Afghan_hound/b.JPG", "train", "Afghan_hound"),
    ]


def test_a_number_that_only_some_folders_have_is_part_of_the_label(tmp_path: Path) -> None:
    tree = scan(touch(tmp_path, "train/3.5mm/a.jpg", "train/jack/b.jpg"))
    assert {p.label for p in tree.photos} == {"3.5mm", "jack"}


@pytest.mark.parametrize("name", ["valid", "val", "validation", "Valid"])
def test_the_names_of_the_valid_split_mean_the_same(tmp_path: Path, name: str) -> None:
    tree = scan(touch(tmp_path, "train/a/1.jpg", f"{name}/a/2.jpg"))
    assert [p.split for p in tree.photos] == ["train", "valid"]


def test_classes_without_splits_are_train(tmp_path: Path) -> None:
    tree = scan(touch(tmp_path, "cat/1.jpg", "dog/deep/inside/2.png"))
    assert [(p.split, p.label) for p in tree.photos] == [("train", "cat"), ("train", "dog")]


def test_hidden_files_and_other_files_are_no_photos(tmp_path: Path) -> None:
    tree = scan(touch(tmp_path, "train/a/1.jpg", "train/a/._1.jpg", "train/a/notes.txt", "train/.cache/x.jpg"))
    assert [p.file for p in tree.photos] == ["train/a/1.jpg"]
    assert tree.ignored == {".txt": ["train/a/notes.txt"]}


def test_every_format_is_known_by_its_suffix(tmp_path: Path) -> None:
    names = [f"{i}{s}" for i, s in enumerate([".heic", ".HEIF", ".avif", ".jp2", ".j2k", ".tif", ".jpe", ".gif"])]
    tree = scan(touch(tmp_path, *(f"train/a/{name}" for name in names)))
    assert [p.file for p in tree.photos] == [f"train/a/{name}" for name in names]


def test_an_empty_class_is_reported(tmp_path: Path) -> None:
    touch(tmp_path, "train/001.a/1.jpg", "train/002.b/2.jpg")
    (tmp_path / "train/003.c").mkdir()
    assert scan(tmp_path).empty == ["c"]


def test_one_class_spelt_in_two_ways_is_one_class(tmp_path: Path) -> None:
    tree = scan(touch(tmp_path, "train/Beagle/1.jpg", "test/beagle/2.jpg"))
    assert {p.label for p in tree.photos} == {"Beagle"}


def test_train_and_test_may_be_called_training_and_testing(tmp_path: Path) -> None:
    tree = scan(touch(tmp_path, "Training/a/1.jpg", "Testing/a/2.jpg", "extra/a/3.jpg"))
    assert [p.split for p in tree.photos] == ["train", "test"]
    assert tree.beside == ["extra"]


def test_hidden_folders_and_circles_of_links_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.jpg", "train/a/.ipynb_checkpoints/1-checkpoint.jpg", "train/a/more/2.jpg")
    (tmp_path / "train/a/more/loop").symlink_to(tmp_path / "train/a")
    assert [p.file for p in scan(tmp_path).photos] == ["train/a/1.jpg", "train/a/more/2.jpg"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["train/001.Beagle/1.jpg", "train/002.Beagle/2.jpg"], "two folders for one class 'Beagle'"),
        (["train/beagle/1.jpg", "train/Beagle/2.jpg"], "two folders for one class"),
        (["train/a/1.jpg", "valid/a/2.jpg", "val/a/3.jpg"], "two folders for the split valid"),
        (["train/a/1.jpg", "test/a/notes.txt"], "holds no photos in class folders"),
        (["valid/a/1.jpg"], "but no train folder"),
        (["photo.jpg"], "holds no class folders"),
        (["dogImages/train/a/1.jpg"], "did you mean data.root="),
    ],
)
def test_a_tree_that_cannot_be_used_is_explained(tmp_path: Path, files: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        scan(touch(tmp_path, *files))
    assert message in str(error.value)


def test_a_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.root=.*nowhere is not a folder"):
        scan(tmp_path / "nowhere")


def test_an_empty_folder_without_a_number_changes_no_label(photos: Path) -> None:
    (photos / "train" / "Nobody").mkdir()
    tree = scan(photos)
    assert {p.label for p in tree.photos} == {"Amber", "Slate", "Moss"}
    assert tree.empty == ["Nobody"]
