import errno
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sagehound.errors import SagehoundError
from sagehound.storage.atomic import locked, read_csv, replacing, write_csv, write_json, write_text


def test_a_file_is_replaced_only_when_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder/result.txt"
    write_text(path, "old")

    def killed_half_way() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed_half_way()
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "the disk is full: .*result.json could not be written; free some space"),
        (errno.EROFS, "choose another"),
    ],
)
def test_a_file_that_cannot_be_written_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str
) -> None:
    def fail(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(SagehoundError, match=message):
        write_json(tmp_path / "result.json", {})


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("no file system may be mounted here")
    try:
        write_text(disk / "result.txt", "small")
        with pytest.raises(SagehoundError, match="the disk is full"):
            write_text(disk / "result.txt", "large" * 100_000)
        assert (disk / "result.txt").read_text() == "small"
        assert list(disk.iterdir()) == [disk / "result.txt"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_lock_is_held_by_one_and_freed_at_the_end(tmp_path: Path) -> None:
    with (
        locked(tmp_path / ".lock"),
        pytest.raises(SagehoundError, match="busy"),
        locked(tmp_path / ".lock", busy="busy"),
    ):
        pass
    with locked(tmp_path / ".lock", busy="busy"):
        pass


def test_a_lock_that_is_held_is_waited_for_and_the_wait_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order = []
    held, tell = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(tmp_path / ".lock"):
            held.set()
            tell.wait(10)
            order.append("first")

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    threading.Timer(0.2, tell.set).start()
    with locked(tmp_path / ".lock", waiting="waiting for another"):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]
    assert capsys.readouterr().out == "waiting for another\n"


def test_a_lock_ends_with_a_process_that_is_killed(tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from sagehound.storage.atomic import locked\n"
    code += "with locked(Path(sys.argv[1])): print(flush=True); time.sleep(100)"
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / ".lock"], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        with pytest.raises(SagehoundError, match="busy"), locked(tmp_path / ".lock", busy="busy"):
            pass
        process.kill()
    with locked(tmp_path / ".lock", busy="busy"):
        pass


def test_a_lock_keeps_threads_apart(tmp_path: Path) -> None:
    inside = []

    def enter() -> None:
        for _ in range(5):
            with locked(tmp_path / ".lock"):
                inside.append(1)
                assert sum(inside) == 1
                inside.append(-1)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(enter) for _ in range(4)]:
            done.result()
    assert len(inside) == 40


def test_a_lock_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SagehoundError, match="choose another folder"), locked(tmp_path / "file/.lock"):
        pass


def test_names_that_a_spreadsheet_would_run_are_read_back_as_they_are(tmp_path: Path) -> None:
    names = ["=1+1", "-Moss", "'=x", "''@", "'s", "-0.5", "a,b\nc", "plain"]
    write_csv(tmp_path / "t.csv", ["name", "n"], [[name, i] for i, name in enumerate(names)])
    assert [row["name"] for row in read_csv(tmp_path / "t.csv")] == names
    assert "\n'-Moss," in (tmp_path / "t.csv").read_text()
