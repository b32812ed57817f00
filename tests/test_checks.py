"""`make check`'s own scripts find what they are for."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT


def run_check(name: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / ".ci" / name), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("The key hangs on the weights.", "depends on"),
        ("A request is held against AWS's rules.", "is validated against"),
        ("class KeptPhotos:", "cached photos"),
        ("It mends what it finds.", "fix"),
    ],
)
def test_unclear_english_is_found_with_its_line(tmp_path: Path, line: str, advice: str) -> None:
    (tmp_path / "a.md").write_text(f"A plain line.\n{line}\n")
    done = run_check("english.py", tmp_path, "a.md")
    assert done.returncode == 1
    assert done.stdout.startswith("a.md:2: ")
    assert advice in done.stdout


def test_words_with_a_plain_use_are_not_reported(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("A message recommends an amendment. The server answers. Set it to zero.\n")
    assert run_check("english.py", tmp_path, "a.md").returncode == 0


def test_long_files_long_functions_and_repeated_names_are_found(tmp_path: Path) -> None:
    for room in ("src/a/one", "src/a/two", "launchers/b"):
        (tmp_path / room).mkdir(parents=True)
    (tmp_path / "src/a/one/train.py").write_text("x = 1\n" * 301)
    (tmp_path / "src/a/two/train.py").write_text("def long():\n" + "    x = 1\n" * 50)
    (tmp_path / "launchers/b/train.py").write_text("def short():\n" + "    x = 1\n" * 49)
    done = run_check("sizes.py", tmp_path)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "src/a/one/train.py: 301 lines, 300 at most: split it",
        "src/a/two/train.py:1: long has 51 lines, 50 at most",
        "src/a/one/train.py and src/a/two/train.py: one name for two",
    ]
