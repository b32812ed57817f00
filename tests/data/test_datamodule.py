from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sagehound.data.datamodule import PhotoDataModule
from sagehound.data.loader import EpochBatches, in_order
from sagehound.data.sources import CachedPhotos
from sagehound.errors import InputError
from sagehound.inference.preprocessing import Preprocessing

TO = Preprocessing((32, 32), 32, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def batches(position: tuple[int, int] = (0, 0), photos: int = 23, size: int = 5, **where: int) -> EpochBatches:
    return EpochBatches(photos, size, 7, lambda: position, where.get("rank", 0), where.get("world_size", 1))


def test_an_epoch_shows_every_photo_once_in_batches_of_like_size() -> None:
    epoch = list(batches())
    assert sorted(i for batch in epoch for _, i in batch) == list(range(23))
    assert {len(b) for b in epoch} == {4, 5}
    assert len(batches()) == len(epoch) == 5


def test_the_order_follows_from_the_epoch() -> None:
    assert list(batches((1, 0))) == list(batches((1, 0)))
    first, second = ([i for batch in batches((epoch, 0)) for _, i in batch] for epoch in (0, 1))
    assert first != second


def test_a_resume_skips_what_was_trained_on() -> None:
    assert list(batches((4, 3))) == list(batches((4, 0)))[3:]


def test_several_processes_share_an_epoch() -> None:
    shares = [list(batches(rank=r, world_size=2)) for r in range(2)]
    assert [len(b) for b in shares[0]] == [len(b) for b in shares[1]]
    seen = [i for share in shares for batch in share for _, i in batch]
    assert set(seen) == set(range(23))
    assert len(seen) == 24, "one photo is repeated so that both have the same number of steps"


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_balanced_epoch_shows_each_class_equally_often_and_each_repeat_changed_differently(world_size: int) -> None:
    labels = [0] * 13 + [1] * 4 + [3] * 2  # class 2 has no photo

    def share(epoch: int, rank: int) -> list[list[tuple[int, int]]]:
        return list(EpochBatches(19, 5, 7, lambda: (epoch, 0), rank, world_size, labels))

    keys = [key for rank in range(world_size) for batch in share(0, rank) for key in batch][:20]
    counts = Counter(labels[i] for _, i in keys)
    assert set(counts) == {0, 1, 3}
    assert max(counts.values()) - min(counts.values()) <= 2, "one more for 19 in 3 classes, one for two processes"
    of_photo = Counter(i for _, i in keys)
    for c in counts:
        times = [of_photo[i] for i, label in enumerate(labels) if label == c]
        assert max(times) - min(times) <= 1 + (world_size - 1)
    assert len(set(keys)) == len(keys), "the number of the epoch, from which the augmentation follows, differs"
    assert share(0, 0) == share(0, 0)
    assert share(0, 0) != share(1, 0)
    assert {i for _, i in keys if labels[i] == 0} != {i for batch in share(1, 0) for _, i in batch if labels[i] == 0}


def module(photos: Path, workers: int | None, cache: str = "none") -> PhotoDataModule:
    return PhotoDataModule(
        photos, batch_size=4, workers=workers, cache=cache, cache_dir=photos.parent / "cache", preprocessing=TO
    )


@pytest.mark.parametrize("workers", [0, 1, 3, None])
def test_batches_are_uint8_in_the_order_of_the_photos(photos: Path, workers: int | None) -> None:
    have = module(photos, workers)
    found = list(have.evaluation_dataloader("test"))
    assert [len(y) for _, y in found] == [4, 4, 4]
    assert torch.cat([y for _, y in found]).tolist() == have.photos.labels(have.photos.split("test"))
    assert found[0][0].dtype == torch.uint8
    assert found[0][0].shape == (4, 3, 32, 32)
    first = found[0][0][0].float().mean((1, 2))
    assert np.allclose(first, (200, 140, 40), atol=25), "the first class is amber"


def test_a_photo_that_vanishes_is_named(photos: Path) -> None:
    have = module(photos, 2)
    gone = photos / have.photos.split("test")[5].file
    gone.unlink()
    with pytest.raises(InputError, match=f"{gone.name}: No such file.*run again"):
        list(have.evaluation_dataloader("test"))


def test_a_loader_that_is_left_early_ends_its_threads(photos: Path) -> None:
    import threading

    before = threading.active_count()
    loader = module(photos, 2).evaluation_dataloader("train")
    for _ in range(5):
        next(iter(loader))
    for thread in threading.enumerate():
        if thread.name.startswith("ThreadPoolExecutor"):
            thread.join(5)
    assert threading.active_count() <= before


def epoch(have: PhotoDataModule, batches: int | None = None) -> torch.Tensor:
    """The train photos in order, asking for no more batches than there are, as Lightning does."""
    loader = have.augmented(have.photos.split("train"), in_order(24, 4))
    steps = iter(loader)
    return torch.cat([next(steps)[0] for _ in range(batches or len(loader))])


def files_of(photos: Path, cache: str) -> list[Path]:
    return sorted((photos.parent / "cache" / cache).glob("*/*.shard"))


def test_raw_pixels_that_are_kept_are_the_pixels(photos: Path) -> None:
    plain = epoch(module(photos, 2))
    have = module(photos, 2, cache="memmap")
    for _ in range(3):  # as it is built, and as it is read again
        difference = (epoch(have).int() - plain.int()).abs()
        assert difference.max() <= 2
        assert (difference > 0).float().mean() < 0.01


def test_photos_that_are_kept_as_jpeg_look_the_same_from_the_first_epoch_on(photos: Path) -> None:
    plain = epoch(module(photos, 2)).float()
    first, second = (epoch(module(photos, 2, cache="jpeg")) for _ in range(2))
    assert torch.equal(first, second)
    assert (first.float() - plain).abs().mean() < 6, "noise is the hardest thing for a JPEG"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["jpeg", "memmap"])
def test_photos_that_are_kept_are_read_once(photos: Path, kind: str, workers: int) -> None:
    have = module(photos, workers, cache=kind)
    first = epoch(have)
    size = sum(f.stat().st_size for f in files_of(photos, "photos"))
    for photo in have.photos.split("train"):
        (photos / photo.file).unlink()
    assert torch.equal(epoch(have), first)
    assert sum(f.stat().st_size for f in files_of(photos, "photos")) == size


def test_a_pass_that_is_left_early_keeps_what_was_read(photos: Path) -> None:
    have = module(photos, 2, cache="memmap")
    first = epoch(have, batches=3)
    for photo in have.photos.split("train")[:12]:
        (photos / photo.file).unlink()
    assert torch.equal(epoch(have, batches=3), first)


def test_a_damaged_copy_is_made_again(photos: Path) -> None:
    first = epoch(module(photos, 2, cache="memmap"))
    (shard,) = files_of(photos, "photos")
    content = bytearray(shard.read_bytes())
    content[200] ^= 255
    shard.write_bytes(content)
    for _ in range(2):
        assert torch.equal(epoch(module(photos, 2, cache="memmap")), first)
    assert len(files_of(photos, "photos")) == 2, "once"


def test_validation_and_evaluation_see_the_files_whatever_is_kept(photos: Path) -> None:
    plain, kept = (
        torch.cat([x for x, _ in module(photos, 2, cache=c).evaluation_dataloader("train")]) for c in ("none", "jpeg")
    )
    assert torch.equal(plain, kept)


def test_a_photo_that_no_jpeg_can_hold_is_not_kept(photos: Path) -> None:
    narrow = photos / "train" / "001.Amber" / "000.jpg"
    Image.new("RGB", (33, 70_000), "red").save(narrow.with_suffix(".png"))
    narrow.unlink()
    comment = Image.new("RGB", (64, 48), "blue")
    comment.save(photos / "train" / "001.Amber" / "001.jpg", comment=b"x" * 60_000)
    have = module(photos, 2, cache="jpeg")
    assert torch.equal(epoch(have), epoch(have))
    kept = {p.file for p in have.photos.split("train")} - not_kept(have)
    assert "train/001.Amber/001.jpg" in kept
    assert "train/001.Amber/000.png" not in kept


def not_kept(have: PhotoDataModule) -> set[str]:
    source = have.augmented(have.photos.split("train"), []).photos
    source.begin()
    assert isinstance(source, CachedPhotos)
    return {
        p.file
        for p in have.photos.split("train")
        if source.store.get(bytes.fromhex(have.photos.digests[p.file])) is None
    }


def test_a_cache_that_is_full_is_told_once(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    have = module(photos, 2, cache="memmap")
    have.cache.max_gb = 20e-6
    first = epoch(have)
    assert capsys.readouterr().out.count("cache.max_gb is reached") == 1
    assert 0 < len(not_kept(have)) < 24
    assert torch.equal(epoch(have), first)


def test_where_nothing_can_be_kept_the_photos_are_read_from_their_folders(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = epoch(module(photos, 2))
    (photos.parent / "cache" / "photos").write_text("in the way")
    have = module(photos, 2, cache="memmap")
    loader = have.augmented(have.photos.split("train"), in_order(24, 4))
    for _ in range(2):
        kept = torch.cat([x for x, _ in loader])
        assert (kept.int() - plain.int()).abs().max() <= 2
    assert capsys.readouterr().out.count("nothing can be cached") == 1
