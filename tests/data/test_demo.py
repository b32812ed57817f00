import hashlib
from pathlib import Path

import pytest

from sagehound.data import demo
from sagehound.data.folders import scan


def digest(root: Path) -> str:
    files = sorted(p for p in root.rglob("*.jpg"))
    return hashlib.sha256(b"".join(p.name.encode() + p.read_bytes() for p in files)).hexdigest()


@pytest.mark.slow
def test_the_photos_are_the_same_every_time(tmp_path: Path) -> None:
    demo.draw(tmp_path / "a")
    demo.draw(tmp_path / "b")
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    tree = scan(tmp_path / "a")
    counts = [sum(p.split == "train" and p.label == b.name for p in tree.photos) for b in demo.BREEDS]
    assert counts == [b.train for b in demo.BREEDS]
    assert max(counts) >= 4 * min(counts)


def test_photos_that_exist_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    demo.draw(tmp_path / "demo")
    assert not list((tmp_path / "demo").iterdir())
