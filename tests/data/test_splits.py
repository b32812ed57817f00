"""Splits that are taken from train: no photo of a scene that was trained on is tested."""

import base64
import json
import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers import Command, Compose, make_photos, save_photo, small
from hypothesis import given, settings
from hypothesis import strategies as st
from photo_helpers import photo_set
from PIL import Image, ImageEnhance, ImageOps

from sagehound.config import Data
from sagehound.data.duplicates import Fingerprints, Pair, by_hash, components
from sagehound.data.folders import Photo
from sagehound.data.photo_set import PhotoSet
from sagehound.data.splits import fill
from sagehound.errors import ConfigError, InputError
from sagehound.evaluation import evaluate
from sagehound.evaluation.tables import Predictions
from sagehound.training.train import train


def scene(number: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """A picture like no other: blots of colour of many sizes."""
    rng = np.random.default_rng(number)
    picture = np.zeros((size[1], size[0], 3))
    for octave in range(1, 6):
        blots = rng.normal(0, 255 / octave, (2**octave + 1, 2**octave + 1, 3)).clip(-127, 127) + 128
        blown = Image.fromarray(blots.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
        picture += np.asarray(blown, float) / 5
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def frame(picture: Image.Image, seed: int) -> Image.Image:
    """The same scene a moment later: the camera has moved, the light has changed, the sensor is noisy."""
    rng = random.Random(seed)
    w, h = picture.size
    left, top = rng.uniform(0, 0.02) * w, rng.uniform(0, 0.02) * h
    moved = picture.resize((w, h), Image.Resampling.BICUBIC, (left, top, left + 0.96 * w, top + 0.96 * h))
    noise = np.random.default_rng(seed).normal(0, 4, (h, w, 3))
    return Image.fromarray((np.asarray(moved) * rng.uniform(0.95, 1.05) + noise).clip(0, 255).astype(np.uint8))


def save(picture: Image.Image, path: Path, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)  # type: ignore[arg-type]


def burst(root: Path, scenes: int, frames: int, classes: int, split: str = "") -> Path:
    """Scenes of nearly equal frames, each scene with a label that has nothing to do with it."""
    rng = random.Random(0)
    for number in range(scenes):
        label = f"class_{rng.randrange(classes)}"
        for i in range(frames):
            save(frame(scene(number), 100 * number + i), root / split / label / f"{number:02}_{i}.jpg")
    return root


def scenes_by_split(have: PhotoSet) -> dict[str, set[str]]:
    return {s: {Path(p.file).name[:2] for p in have.split(s)} for s in ("train", "valid", "test")}


def test_frames_of_one_scene_are_never_divided(tmp_path: Path) -> None:
    have = photo_set(burst(tmp_path / "photos", scenes=12, frames=3, classes=2))
    by_split = scenes_by_split(have)
    assert sum(map(len, by_split.values())) == 12, "each scene is in one split"
    assert all(by_split.values())
    assert have.audit["near_duplicates_across_splits"] == []
    assert len(have.audit["near_duplicates_within_split"]) == 12
    assert not have.leaked()


@pytest.mark.slow
def test_bursts_with_labels_of_chance_score_chance(command: Command, weights: Path, tmp_path: Path) -> None:
    root = burst(tmp_path / "photos", scenes=36, frames=5, classes=3)
    done = command(*small(root, weights), "trainer.max_epochs=20", "optimizer.lr=0.01", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    test = json.loads((tmp_path / "run/metrics.json").read_text())["test"]
    scenes = len(
        {
            Path(row.split(",")[0]).name[:2]
            for row in (tmp_path / "run/splits.csv").read_text().split()
            if ",test," in row
        }
    )
    # each scene is right or wrong as a whole: binomial with its number, three deviations
    assert test["top1"] <= 1 / 3 + 3 * (2 / 9 / scenes) ** 0.5


def test_a_leak_of_given_splits_is_named_last(
    config: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = burst(tmp_path / "burst", scenes=12, frames=3, classes=2, split="train")
    for split in ("valid", "test"):
        for photo in sorted((root / "train").rglob("*_0.jpg")):
            target = root / split / photo.relative_to(root / "train")
            target.parent.mkdir(parents=True, exist_ok=True)
            photo.rename(target)
            break
    for label in ("class_0", "class_1"):  # and one photo that is its own
        save(scene(100 + len(label) + int(label[-1])), root / "test" / label / "own.jpg")
    train(config(f"data.root={root}"), tmp_path / "run")
    last = capsys.readouterr().out.splitlines()[-1]
    assert "in train or valid: 1 of 3, so the test accuracy is too high; without them " in last
    clean = json.loads((tmp_path / "run/metrics.json").read_text())["test_without_leaks"]
    assert (clean["photos"], clean["leaked"]) == (2, 1)
    assert f"without them {clean['top1']:.1%} (" in last
    (group,) = json.loads((tmp_path / "run/audit.json").read_text())["near_duplicates_across_splits"][:1]
    assert {p["split"] for p in group} == {"train", "test"} or {p["split"] for p in group} == {"train", "valid"}
    assert all(p["by"] == "hash" and p["distance"] <= 76 for p in group)


COPIES = {
    "smaller": lambda i: i.resize((i.width // 2, i.height // 2)),
    "recompressed": lambda i: i,  # saved with another quality
    "mirrored": ImageOps.mirror,
    "cropped": lambda i: i.crop((6, 5, i.width - 6, i.height - 5)),
    "brighter": lambda i: ImageEnhance.Brightness(i).enhance(1.25),
}


@pytest.mark.parametrize("kind", COPIES)
def test_a_changed_copy_is_a_near_duplicate(real_data: Path, tmp_path: Path, kind: str) -> None:
    photos = sorted((real_data / "woof10/test").rglob("*.jp*g"))[::15]
    for i, photo in enumerate(photos):
        target = tmp_path / "photos/train" / ("a", "b")[i % 2] / photo.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, target)
        copy = COPIES[kind](Image.open(photo).convert("RGB"))
        save(copy, tmp_path / "photos/test" / ("a", "b")[i % 2] / f"{i}.jpg", quality=60)
    shutil.copytree(tmp_path / "photos/test", tmp_path / "photos/valid")
    have = photo_set(tmp_path / "photos")
    assert len(have.leaked()) == len(photos)


def test_different_photos_are_no_near_duplicates(real_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One dog show stands in woof10 twice, once with a border around it; nothing else is alike."""
    have = photo_set(real_data / "woof10")
    (pair,) = have.audit["near_duplicates_across_splits"]
    assert [p["file"].rpartition("/")[2] for p in pair] == [
        "English_foxhound_train_00049.jpg",
        "English_foxhound_valid_00003.jpg",
    ]
    assert have.audit["near_duplicates_within_split"] == []
    assert "2 photos are near-duplicates of photos in another split" in capsys.readouterr().out


def test_plain_surfaces_are_no_near_duplicates(tmp_path: Path) -> None:
    for i in range(12):
        save(
            Image.new("RGB", (64, 64), (10 * i, 200, 255 - 10 * i)), tmp_path / "photos" / f"class_{i % 2}" / f"{i}.png"
        )
    have = photo_set(tmp_path / "photos")
    assert have.pairs == []


def test_groups_of_a_pattern_stay_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for camera in range(8):
        for i in range(4):
            save_photo(tmp_path / f"photos/class_{i % 2}/cam{camera}_{i}.jpg", (200, 90, 50 * (i % 2)), 10 * camera + i)
    save_photo(tmp_path / "photos/class_0/other.jpg", (200, 90, 0), 999)
    have = photo_set(tmp_path / "photos", group=r"(cam\d+)_")
    splits = {c: {p.split for p in have.photos if p.group == c} for c in {p.group for p in have.photos if p.group}}
    assert len(splits) == 8
    assert all(len(s) == 1 for s in splits.values())
    assert Counter(next(iter(s)) for s in splits.values()).keys() == {"train", "valid", "test"}
    assert "1 of 33 photos do not match" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="matches no photo, such as"):
        photo_set(tmp_path / "photos", group="nowhere")


def test_groups_of_given_splits_are_named(photos: Path) -> None:
    have = photo_set(photos, group=r"(\d+\.jpg)")
    assert have.audit["groups_across_splits"] == ["000.jpg", "001.jpg", "002.jpg", "003.jpg"]


def test_a_second_run_never_tests_what_was_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_photos(tmp_path / "photos", train=20) / "train"
    before = {have.digests[p.file]: p.split for have in [photo_set(root)] for p in have.photos}
    capsys.readouterr()
    for gone in sorted((root / "001.Amber").iterdir())[:4]:
        gone.unlink()
    for i in range(30):
        save_photo(root / "002.Slate" / f"new_{i}.jpg", (60, 80, 120), seed=5000 + i)
    have = photo_set(root)
    after = {have.digests[p.file]: p.split for p in have.photos}
    assert all(after[d] == split for d, split in before.items() if d in after)
    assert {p.split for p in have.photos if "new_" in p.file} == {"train", "valid", "test"}
    assert "30 photos are new and 4 are gone since the last run" in capsys.readouterr().out
    photo_set(root)
    assert "are new" not in capsys.readouterr().out


def test_a_new_frame_of_a_tested_scene_is_tested_too(tmp_path: Path) -> None:
    root = burst(tmp_path / "photos", scenes=20, frames=2, classes=2)
    tested = next(p for p in photo_set(root).photos if p.split == "test")
    number = int(Path(tested.file).name[:2])
    save(frame(scene(number), 7777), root / tested.label / f"{number:02}_9.jpg")
    assert {p.split for p in photo_set(root).photos if Path(p.file).name.startswith(f"{number:02}_")} == {"test"}


@pytest.mark.slow
def test_a_resumed_run_never_tests_what_it_was_trained_on(
    config: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_photos(tmp_path / "own", train=12, valid=3, test=3)
    cfg = config(f"data.root={root}")
    train(cfg, tmp_path / "run")
    trained = next(iter(sorted((root / "train/001.Amber").iterdir())))
    trained.rename(root / "test/001.Amber/moved.jpg")
    cfg.resume, cfg.trainer.max_epochs = str(tmp_path / "run/checkpoints/last.ckpt"), 3
    metrics = train(cfg, tmp_path / "run").metrics
    assert metrics["test"]["photos"] == 9
    out = capsys.readouterr().out
    assert "in valid or test that the resumed run was trained on are left out: 1, such as test/" in out
    cfg.trainer.max_epochs = 4
    assert train(cfg, tmp_path / "run").metrics["test"]["photos"] == 9, "the second resume knows it too"


def test_a_scene_that_fills_a_class_is_refused_with_the_ways_on(tmp_path: Path) -> None:
    for number, label in enumerate(("a", "b")):
        for i in range(6):
            save(frame(scene(number), i), tmp_path / "photos" / label / f"{i}.jpg")
    with pytest.raises(InputError, match=r"data\.near_duplicates=apart"):
        photo_set(tmp_path / "photos")
    assert len(photo_set(tmp_path / "photos", near_duplicates="apart").split("test")) == 2


def of_sizes(sizes: list[int], seed: int, **fractions: float) -> dict[str, list[int]]:
    """The groups that each split gets of a class whose groups have these sizes, by their sizes."""
    groups = [g for g, size in enumerate(sizes) for _ in range(size)]
    photos = [Photo(f"{i}.jpg", "train", "a", str(g)) for i, g in enumerate(groups)]
    digests = {p.file: f"{seed}-{p.file}" for p in photos}
    data = Data("folder", "x", **fractions)  # type: ignore[arg-type]
    filled = fill(photos, digests, groups, ["valid", "test"], data, {})
    found: dict[str, set[int]] = {"train": set(), "valid": set(), "test": set()}
    for photo in filled:
        found[photo.split].add(int(photo.group))
    assert sum(map(len, found.values())) == len(sizes), "no group is divided"
    return {split: sorted((sizes[g] for g in some), reverse=True) for split, some in found.items()}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.integers(0, 1000))
def test_train_gets_the_most_and_every_split_something(sizes: list[int], seed: int) -> None:
    found = of_sizes(sizes, seed)
    assert found["train"]
    if len(sizes) >= 3:
        assert found["valid"]
        assert found["test"]
    for split in ("valid", "test"):
        wanted = max(round(0.15 * sum(sizes)), 1)
        assert sum(found[split]) <= max(1.5 * wanted, sorted(sizes)[min(len(sizes), 2) - 1])


def test_the_largest_of_few_groups_is_trained_on() -> None:
    for seed in range(20):
        assert of_sizes([75, 24, 1], seed) == {"train": [75], "valid": [1], "test": [24]}
        assert of_sizes([60, 40], seed)["train"] == [60]
        assert of_sizes([1, 1, 1], seed, valid_fraction=0.5, test_fraction=0.3)["test"] == [1]


def test_bursts_are_tested_as_often_as_single_photos() -> None:
    """30 of 100 photos are in bursts of three; each split has about that share of them."""
    found = [of_sizes([1] * 70 + [3] * 10, seed) for seed in range(60)]
    for split in ("train", "valid", "test"):
        sizes = [size for one in found for size in one[split]]
        assert 0.2 <= sum(s for s in sizes if s == 3) / sum(sizes) <= 0.4


def test_thousands_of_frames_of_one_scene_take_few_pairs() -> None:
    rng = np.random.default_rng(0)
    texts = []
    for _ in range(1000):
        bits = np.zeros(512, np.uint8)
        bits[rng.integers(0, 512, 12)] = 1
        pixels = (np.arange(192) % 97 + rng.integers(0, 3, 192)).astype(np.uint8)
        texts.append(base64.b85encode(np.packbits(bits).tobytes() + pixels.tobytes()).decode())
    pairs = by_hash(Fingerprints(texts))
    assert len(pairs) <= 4 * len(texts)
    assert len(set(components(len(texts), ((p.a, p.b) for p in pairs)))) == 1


def test_changed_groups_are_split_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_photos(tmp_path / "photos", train=20) / "train"
    photo_set(root)
    with pytest.raises(InputError, match=r"data\.group puts them into 1 groups"):
        photo_set(root, group="jp")
    have = photo_set(root, group=r"(\d)\.jpg")
    assert "the groups have changed" in capsys.readouterr().out
    assert all(have.split(s) for s in ("train", "valid", "test"))


def test_a_class_whose_train_photos_are_gone_is_split_anew(tmp_path: Path) -> None:
    root = make_photos(tmp_path / "photos", train=12) / "train"
    for p in photo_set(root).split("train"):
        if p.label == "Moss":
            (root / p.file).unlink()
    assert {p.split for p in photo_set(root).photos if p.label == "Moss"} >= {"train"}


@pytest.mark.parametrize("content", ['{"x": 1}', '{"x": null}', '["ab"]', '{"x": ["train"]}', "no JSON", ""])
def test_a_damaged_memory_is_no_memory(tmp_path: Path, content: str) -> None:
    root = make_photos(tmp_path / "photos", train=8) / "train"
    before = photo_set(root)
    (memory,) = (tmp_path / "photos/cache/splits").iterdir()
    memory.write_text(content)
    assert photo_set(root).photos == before.photos


def test_a_changed_archive_keeps_its_splits(tmp_path: Path) -> None:
    root = make_photos(tmp_path / "photos", train=12) / "train"
    archive = Path(shutil.make_archive(str(tmp_path / "set"), "zip", root))
    before = {have.digests[p.file]: p.split for have in [photo_set(archive)] for p in have.photos}
    for i in range(12):
        save_photo(root / "003.Moss" / f"new_{i}.jpg", (60, 120, 50), seed=9000 + i)
    shutil.make_archive(str(tmp_path / "set"), "zip", root)
    after = {have.digests[p.file]: p.split for have in [photo_set(archive)] for p in have.photos}
    assert len(after) == len(before) + 12
    assert before.items() <= after.items()


def test_copies_linked_by_other_copies_leak_too(tmp_path: Path) -> None:
    """a is near b and b near c, though a is not near c; c shares its group with d."""
    files = {"train/x/a.jpg": "", "valid/x/b.jpg": "", "test/x/c.jpg": "g", "test/x/d.jpg": "g", "test/y/e.jpg": ""}
    photos = [Photo(file, file.split("/")[0], file.split("/")[1], group) for file, group in files.items()]
    pairs = [Pair(0, 1, 70.0, "hash"), Pair(1, 2, 70.0, "hash")]
    have = PhotoSet(tmp_path, ["x", "y"], photos, {}, {p.file: p.file for p in photos}, pairs=pairs)
    assert have.leaked() == {"test/x/c.jpg", "test/x/d.jpg"}
    assert have.independent("test") == 2


def test_an_interval_counts_scenes(tmp_path: Path) -> None:
    photos = [Photo(f"{i}.jpg", "test", "a") for i in range(30)]
    p = Predictions(photos, np.zeros(30, np.int64), np.tile(np.float32([1, 0]), (30, 1)))
    assert evaluate.score(p, range(30))["top1_interval"] == pytest.approx([0.8865, 1], abs=1e-3)
    assert evaluate.score(p, [i % 6 for i in range(30)])["top1_interval"] == pytest.approx([0.6097, 1], abs=1e-3)
