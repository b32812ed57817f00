"""What reaches a terminal."""

from pathlib import Path

import pytest
from helpers import Command

from sagehound.system import console

NAME = "a\x1b]0;owned\x07\x1b[31m\x9bm.jpg"
SHOWN = r"a\x1b]0;owned\x07\x1b[31m\x9bm.jpg"


def test_control_characters_are_escaped(capfd: pytest.CaptureFixture[str]) -> None:
    console.info(f"{NAME}\tone\nline")
    console.warn(NAME)
    console.table("Photos", ["file"], [[NAME]])
    written = capfd.readouterr().out
    assert written.count(SHOWN) == 3
    assert "one\nline" in written
    assert "\x1b" not in written
    assert "\x9b" not in written


@pytest.mark.parametrize("content", [b"no photo", None])
def test_the_name_of_a_photo_is_no_command_to_the_terminal(
    launch: Command, run: Path, run_photos: Path, tmp_path: Path, content: bytes | None
) -> None:
    photo = next((run_photos / "test").rglob("*.jpg")).read_bytes()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / NAME).write_bytes(content or photo)
    done = launch("transform=local", f"model={run}", "data=folder", f"data.root={tmp_path / 'mine'}")
    assert done.returncode == (3 if content else 0)
    assert "\x1b" not in done.stdout + done.stderr
    assert SHOWN in done.stdout + done.stderr
