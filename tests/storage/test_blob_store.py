"""Blobs that are kept: what was added is found, what was damaged is not, and the space stays within its limit."""

import errno
import hashlib
import os
import pickle
import resource
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sagehound.config import Cache
from sagehound.storage import blob_store as module
from sagehound.storage.atomic import writing_failed
from sagehound.storage.blob_store import NotCached, Store


def settings(folder: Path, max_gb: float = 1.0) -> Cache:
    return Cache(str(folder), max_gb)


def key(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def filled(folder: Path, numbers: range, about: str = "a", max_gb: float = 1.0, size: int = 1000) -> Store:
    store = Store(settings(folder, max_gb), "features", {"about": about})
    store.refresh()
    for n in numbers:
        store.add(key(n), bytes([n % 256]) * size)
    store.seal()
    return store


def held(store: Store, numbers: range) -> list[bool]:
    return [store.get(key(n)) is not None for n in numbers]


def test_what_was_added_is_found_by_this_process_and_the_next(tmp_path: Path) -> None:
    first = filled(tmp_path, range(3))
    later = filled(tmp_path, range(3, 5))
    copy = pickle.loads(pickle.dumps(first))
    for store, known in ((first, 3), (later, 5), (copy, 5)):
        assert held(store, range(6)) == [n < known for n in range(6)]
        assert bytes(store.get(key(1)) or b"") == b"\1" * 1000


def test_nothing_is_found_before_it_is_sealed_and_nothing_of_another_kind(tmp_path: Path) -> None:
    store = Store(settings(tmp_path), "features", {"about": "a"})
    store.add(key(1), b"x")
    assert store.get(key(1)) is None
    store.seal()
    assert store.get(key(1)) is not None
    assert not any(held(filled(tmp_path, range(0), about="b"), range(3)))


def test_a_damaged_blob_is_not_trusted_and_its_neighbours_are(tmp_path: Path) -> None:
    filled(tmp_path, range(3))
    (shard,) = tmp_path.glob("*/*/*.shard")
    content = bytearray(shard.read_bytes())
    content[1500] ^= 1
    shard.write_bytes(content)
    assert held(filled(tmp_path, range(0)), range(3)) == [True, False, True]
    assert held(filled(tmp_path, range(1, 2)), range(3)) == [True, True, True], "made again, and found"


@pytest.mark.parametrize("harm", [lambda c: c[: len(c) // 2], lambda c: b"", lambda c: c[:-30] + b"?" + c[-29:]])
def test_a_damaged_shard_is_removed(tmp_path: Path, harm: object, capsys: pytest.CaptureFixture[str]) -> None:
    filled(tmp_path, range(3))
    (shard,) = tmp_path.glob("*/*/*.shard")
    shard.write_bytes(harm(shard.read_bytes()))  # type: ignore[operator]
    assert held(filled(tmp_path, range(0)), range(3)) == [False] * 3
    assert not shard.exists()
    assert "damaged" in capsys.readouterr().out


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    for number, about in enumerate("abc"):
        filled(tmp_path, range(10), about)
        for shard in tmp_path.glob("*/*/*.shard"):
            if time.time() - shard.stat().st_mtime < 100:
                os.utime(shard, (time.time() - 1000 + number,) * 2)
    assert any(held(filled(tmp_path, range(0), "a"), range(1))), "used again"
    filled(tmp_path, range(10), "d", max_gb=22e-6)
    left = [about for about in "abcd" if any(held(filled(tmp_path, range(0), about), range(10)))]
    assert left == ["a", "d"]


def test_one_store_stops_growing_at_the_limit(tmp_path: Path) -> None:
    store = filled(tmp_path, range(20), max_gb=5e-6)
    assert sum(held(store, range(20))) == 5


def test_a_long_pass_is_kept_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SHARD_BYTES", 3000)
    store = Store(settings(tmp_path), "features", {"about": "a"})
    for n in range(10):
        store.add(key(n), bytes([n]) * 1000)
    del store  # killed before the last part was sealed
    assert held(filled(tmp_path, range(0)), range(10)) == [n < 9 for n in range(10)]


def test_the_limit_holds_during_a_long_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SHARD_BYTES", 3000)
    filled(tmp_path, range(100, 118), about="before")
    store = Store(settings(tmp_path, 20e-6), "features", {"about": "a"})
    kept = [store.add(key(n), bytes([n]) * 1000) for n in range(100)]
    assert 15 < sum(kept) < 20
    assert sum(f.stat().st_size for f in tmp_path.rglob("*.shard")) <= 20e3, "before the pass has ended"


def test_another_set_of_photos_takes_the_place_of_the_first(tmp_path: Path) -> None:
    filled(tmp_path, range(10), max_gb=15e-6)
    assert all(held(filled(tmp_path, range(100, 110), max_gb=15e-6), range(100, 110)))
    assert not any(held(filled(tmp_path, range(0), max_gb=15e-6), range(10)))


def test_nothing_is_written_twice(tmp_path: Path) -> None:
    store = filled(tmp_path, range(3))
    for _ in range(2):
        for n in range(5):
            assert store.add(key(n), b"x" * 1000)
    store.seal()
    assert sorted(f.stat().st_size // 1000 for f in tmp_path.rglob("*.shard")) == [2, 3]


def test_more_shards_than_files_may_be_open(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for n in range(200):
        filled(tmp_path, range(n, n + 1), size=10)
    held_now = len(list(Path("/dev/fd").iterdir()))  # by whatever else this process does
    resource.setrlimit(resource.RLIMIT_NOFILE, (held_now + 150, hard))
    try:
        for _ in range(2):
            assert all(held(filled(tmp_path, range(0)), range(200)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_full_disk_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise writing_failed(tmp_path / "about.json", OSError(errno.ENOSPC, "No space left on device"))

    monkeypatch.setattr(module, "write_json", full)
    with pytest.raises(NotCached, match="the disk is full"):
        filled(tmp_path, range(1))


def test_a_shard_that_cannot_be_opened_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, range(3))
    original = Path.open

    def too_many(self: Path, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as Path.open
        if self.suffix == ".shard":
            raise OSError(errno.EMFILE, "Too many open files")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", too_many)
    assert not any(held(filled(tmp_path, range(0)), range(3)))
    monkeypatch.setattr(Path, "open", original)
    assert all(held(filled(tmp_path, range(0)), range(3)))


def test_a_cache_that_is_removed_meanwhile_is_missed_not_misread(tmp_path: Path) -> None:
    store = filled(tmp_path, range(3))
    assert all(held(store, range(3)))
    shutil.rmtree(tmp_path)
    module._opened.cache_clear()
    assert not any(held(store, range(3)))


@pytest.mark.slow
def test_threads_may_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_opened", lru_cache(maxsize=3)(module._opened.__wrapped__))
    for n in range(40):
        filled(tmp_path, range(5 * n, 5 * n + 5), size=50)
    for _ in range(10):
        module._opened.cache_clear()
        store = filled(tmp_path, range(0))
        start = threading.Barrier(8)

        def read(_: int, store: Store = store, start: threading.Barrier = start) -> bool:
            start.wait()
            numbers = np.random.default_rng().permutation(200).tolist()
            return all(store.get(key(n)) == bytes([n]) * 50 for n in numbers * 3)

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(read, range(8)))


def test_files_of_a_process_that_died_are_removed_after_a_day(tmp_path: Path) -> None:
    filled(tmp_path, range(1))
    (folder,) = tmp_path.glob("features/*")
    old, new = folder / ".old.tmp", folder / ".new.tmp"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 90_000,) * 2)
    filled(tmp_path, range(1, 2))
    assert not old.exists()
    assert new.exists()


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotCached, match=r"nothing can be cached in .*file.*Not a directory"):
        filled(tmp_path / "file", range(1))
