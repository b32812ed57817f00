from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from sagehound.data.datamodule import PhotoModule
from sagehound.data.loader import EpochBatches
from sagehound.data.photos import find_photos
from sagehound.data.transforms import Preprocessing
from sagehound.errors import InputError

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


def module(photos: Path, workers: int | None, **data: object) -> PhotoModule:
    cfg = OmegaConf.create(
        {
            "data": {"name": "folder", "root": str(photos), "on_bad": "skip", "split_seed": 0, "batch_size": 4}
            | {"workers": workers, "cache": "none"}
            | data,
            "finetune": {"name": "full"},
            "cache": {"dir": str(photos.parent / "cache"), "max_gb": 1},
        }
    )
    return PhotoModule(find_photos(cfg.data, photos.parent / "cache"), TO, cfg, lambda _: False)


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


def epoch(have: PhotoModule, split: str = "test") -> list[torch.Tensor]:
    return [x for x, _ in have.evaluation_dataloader(split)]


def test_raw_pixels_that_are_kept_are_the_pixels(photos: Path) -> None:
    plain = torch.cat(epoch(module(photos, 2)))
    for _ in range(2):  # as it is built, and as it is read again
        kept = torch.cat(epoch(module(photos, 2, cache="memmap")))
        difference = (kept.int() - plain.int()).abs()
        assert difference.max() <= 2
        assert (difference > 0).float().mean() < 0.01


def test_photos_that_are_kept_as_jpeg_look_the_same_from_the_first_epoch_on(photos: Path) -> None:
    plain = torch.cat(epoch(module(photos, 2))).float()
    first, second = (torch.cat(epoch(module(photos, 2, cache="jpeg"))) for _ in range(2))
    assert torch.equal(first, second)
    assert (first.float() - plain).abs().mean() < 6, "noise is the hardest thing for a JPEG"


@pytest.mark.parametrize("kind", ["jpeg", "memmap"])
def test_photos_that_are_kept_are_read_once(photos: Path, kind: str) -> None:
    have = module(photos, 2, cache=kind)
    first = torch.cat(epoch(have))
    for photo in have.photos.split("test"):
        (photos / photo.file).unlink()
    assert torch.equal(torch.cat(epoch(have)), first)


def test_a_damaged_copy_is_made_again(photos: Path) -> None:
    first = torch.cat(epoch(module(photos, 2, cache="memmap")))
    (shard,) = (photos.parent / "cache" / "photos").glob("*/*.shard")
    content = bytearray(shard.read_bytes())
    content[200] ^= 255
    shard.write_bytes(content)
    assert torch.equal(torch.cat(epoch(module(photos, 2, cache="memmap"))), first)


def test_where_nothing_can_be_kept_the_photos_are_read_from_their_folders(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos.parent / "cache").mkdir()
    (photos.parent / "cache" / "photos").write_text("in the way")
    plain = torch.cat(epoch(module(photos, 2)))
    kept = torch.cat(epoch(module(photos, 2, cache="memmap")))
    assert (kept.int() - plain.int()).abs().max() <= 2
    assert capsys.readouterr().out.count("could not be written") == 1
