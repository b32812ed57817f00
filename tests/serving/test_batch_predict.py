"""Batch predictions, by the command: what is written, what of bad photos, and resuming after a kill."""

import csv
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT, Command, save_photo

from sagehound.errors import InputError
from sagehound.serving import batch_predict
from sagehound.serving.batch_predict import predict_folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_folder_of_any_shape_becomes_a_table(launch: Command, run: Path, tmp_path: Path) -> None:
    photos = tmp_path / "flat"
    for i, name in enumerate(["b.jpg", "deep/er/a.png", 'odd, "name".jpg', "ü.webp", "z\rz.jpg"]):
        save_photo(photos / name, (60, 80, 120), seed=i)
    (photos / "broken.jpg").write_bytes(b"no photo")
    (photos / "notes.txt").write_text("no photo either")
    done = launch("transform=local", f"model={run}", "data=folder", f"data.root={photos}")
    assert done.returncode == 0, done.stderr
    assert "warning: 1 of 6 photos could not be read" in done.stdout
    assert "predictions of 5 photos, 1 could not be read: " in done.stdout
    output = Path(done.stdout.strip().splitlines()[-1].split(": ")[1])
    found = rows(tmp_path / output)
    assert [r["file"] for r in found] == [
        "b.jpg",
        "broken.jpg",
        'odd, "name".jpg',
        "z\rz.jpg",
        "ü.webp",
        "deep/er/a.png",
    ]
    assert found[0]["prediction"] in ("Amber", "Moss", "Slate")
    assert found[0]["top"].startswith(f"{found[0]['prediction']}:")
    assert (found[1]["prediction"], found[1]["error"]) == ("", "not an image file")
    assert [p.name for p in (tmp_path / output).parent.iterdir() if not p.name.endswith(".lock")] == ["predictions.csv"]
    again = launch("transform=local", f"model={run}", "data=folder", f"data.root={photos}", "transform.format=jsonl")
    assert again.returncode == 0, again.stderr
    lines = [json.loads(line) for line in (tmp_path / output).with_suffix(".jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == [r["file"] for r in found]
    assert lines[1]["error"]["code"] == "bad_photo"
    assert lines[0]["label"] == found[0]["prediction"]


@pytest.mark.slow
def test_a_killed_command_goes_on_where_it_was(
    run: Path, run_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = tmp_path / "many"
    for i in range(12):
        shutil.copytree(run_photos, photos / str(i))
    total = 12 * 45
    command = [sys.executable, str(ROOT / "launch.py"), "transform=local", f"model={run}", "data=folder"]
    command += [f"data.root={photos}", "transform.output=out.csv"]
    slow = "import time, runpy, sys; sys.argv = sys.argv[1:]; "
    slow += "import sagehound.serving.batch_predict as b; b._EVERY = 0.05\n"
    slow += "line = b.csv_line; b.csv_line = lambda *a: (time.sleep(0.01), line(*a))[1]\n"
    slow += "runpy.run_path(sys.argv[0], run_name='__main__')"
    process = subprocess.Popen([sys.executable, "-c", slow, *command[1:]], cwd=tmp_path, stdout=subprocess.DEVNULL)
    note = tmp_path / ".out.csv.note"
    deadline = time.monotonic() + 60
    while not note.exists() or json.loads(note.read_text())["progress"]["photos"] < 50:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out.csv").exists(), "an unfinished table has no name"
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "resuming after" in done.stdout
    found = rows(tmp_path / "out.csv")
    assert len(found) == total
    monkeypatch.chdir(tmp_path)
    predict_folder(run, photos, tmp_path / "whole.csv")
    assert (tmp_path / "whole.csv").read_bytes() == (tmp_path / "out.csv").read_bytes()


@pytest.mark.slow
def test_what_changed_meanwhile_is_not_gone_on_with(
    run: Path, run_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(run_photos, photos)

    def interrupted(*_: object) -> bytes:
        raise KeyboardInterrupt

    def stopped() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(batch_predict, "csv_line", _after(20, batch_predict.csv_line, interrupted))
            with pytest.raises(KeyboardInterrupt):
                predict_folder(run, photos, tmp_path / "out.csv")

    stopped()
    predict_folder(run, photos, tmp_path / "out.csv")
    assert "resuming after 20 of 45" in capsys.readouterr().out
    expected = (tmp_path / "out.csv").read_bytes()
    stopped()
    predict_folder(run, photos, tmp_path / "out.csv", top_k=2)
    assert "beginning again" in capsys.readouterr().out
    stopped()
    save_photo(photos / "000.jpg", (1, 2, 3), seed=1)
    predict_folder(run, photos, tmp_path / "out.csv")
    assert "beginning again" in capsys.readouterr().out
    assert len(rows(tmp_path / "out.csv")) == 46
    (photos / "000.jpg").unlink()
    stopped()
    (photos / "test/001.Amber/000.jpg").touch()
    predict_folder(run, photos, tmp_path / "out.csv")
    assert "beginning again" in capsys.readouterr().out
    predict_folder(run, photos, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes() == expected


def _after(count: int, first: object, then: object) -> object:
    calls = iter(range(10**6))
    return lambda *a: (first if next(calls) < count else then)(*a)  # type: ignore[operator]


NAMES = ("=cmd|' C calc'!A0", "+1", "@x", "-x", "'=quoted", "new\nline", "\rreturn", "\ttab", 'a "b", c;=d', "plain")


@pytest.mark.slow
def test_odd_names_come_back_and_a_spreadsheet_runs_none(launch: Command, run: Path, tmp_path: Path) -> None:
    import pandas

    names = [*(f"{name}.jpg" for name in NAMES), os.fsdecode(b"caf\xe9.jpg")]
    for i, name in enumerate(names):
        save_photo(tmp_path / "odd" / name, (60, 80, 120), seed=i)
    for kind in ("csv", "jsonl"):
        given = [f"transform.format={kind}", f"transform.output=out.{kind}", f"data.root={tmp_path / 'odd'}"]
        done = launch("transform=local", f"model={run}", *given)
        assert (done.returncode, done.stderr) == (0, "")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert {line["file"] for line in lines} == set(names)
    marked = pandas.read_csv(tmp_path / "out.csv")["file"]
    assert not any(name[0] in "=+-@\t\r" for name in marked)
    read = marked.str.replace(r"^'(?='*[=+\-@\t\r\n])", "", regex=True)
    assert set(read) == {name.encode(errors="backslashreplace").decode() for name in names}
    for line in (tmp_path / "out.csv").read_bytes().split(b"\n"):
        assert b";=" not in line or b'"a ""b"", c;=d.jpg"' in line, "where ; separates cells it is quoted"


def test_pipes_and_devices_are_reported_and_do_not_hang(launch: Command, run: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    save_photo(photos / "deep/a.jpg", (60, 80, 120), seed=0)
    os.mkfifo(photos / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(photos / "socket.jpg"))
    (photos / "nowhere.jpg").symlink_to(photos / "missing.jpg")
    (photos / "deep/up").symlink_to(photos)
    (photos / "notes.txt").write_text("no photo")
    done = launch("transform=local", f"model={run}", f"data.root={photos}", "transform.output=out.csv", timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "warning: 3 of 4 photos could not be read" in done.stdout
    assert "warning: 1 file is no photo and was ignored (.txt 1)" in done.stdout
    errors = {row["file"]: row["error"] for row in rows(tmp_path / "out.csv")}
    assert errors == {
        "nowhere.jpg": "No such file or directory",
        "pipe.jpg": "no file but a folder, named pipe, socket or device",
        "socket.jpg": "no file but a folder, named pipe, socket or device",
        "deep/a.jpg": "",
    }


def test_a_folder_that_cannot_be_read_ends_in_exit_code_3(run: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for name in ("a.jpg", "locked/b.jpg", "open/c.jpg"):
        save_photo(photos / name, (60, 80, 120), seed=0)
    (photos / "locked").chmod(0)
    command = [sys.executable, str(ROOT / "launch.py"), "transform=local", f"model={run}", f"data.root={photos}"]
    done = subprocess.run(
        [*command, "transform.output=out.csv"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=_as_anybody,
    )
    (photos / "locked").chmod(0o700)
    assert done.returncode == 3, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert f"{photos / 'locked'} cannot be read (Permission denied)" in done.stderr
    assert [row["file"] for row in rows(tmp_path / "out.csv")] == ["a.jpg", "open/c.jpg"]


def _as_anybody() -> None:
    """Root may read every folder: give that right up (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH) where one is root."""
    if os.geteuid() == 0:
        for capability in (1, 2):
            ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


def test_one_photo_is_predicted(launch: Command, run: Path, tmp_path: Path) -> None:
    save_photo(tmp_path / "one.jpg", (60, 80, 120), seed=0)
    done = launch("transform=local", f"model={run}", "data.root=one.jpg", "transform.output=out.csv")
    assert done.returncode == 0, done.stderr
    (row,) = rows(tmp_path / "out.csv")
    assert row["file"] == "one.jpg"
    *_, answer, last = done.stdout.splitlines()
    assert answer == f"one.jpg: {row['prediction']}, probability {float(row['probability']):.1%}"
    assert last == "predictions of 1 photo: out.csv"


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("photos", "no photo could be read (more.jpg: not an image file); out.csv lists 2"),
        ("notes.txt", "no photo could be read (notes.txt: not an image file); out.csv lists 1"),
    ],
)
def test_without_one_readable_photo_the_exit_code_is_3(
    launch: Command, run: Path, tmp_path: Path, root: str, message: str
) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("photos/text.jpg", "photos/more.jpg", "notes.txt"):
        (tmp_path / name).write_text("no photo")
    done = launch("transform=local", f"model={run}", f"data.root={root}", "transform.output=out.csv")
    assert done.returncode == 3, done.stderr
    assert done.stderr.splitlines() == [f"sagehound: data.root={root}: {message}"]
    assert {row["error"] for row in rows(tmp_path / "out.csv")} == {"not an image file"}


@pytest.mark.parametrize("root", ["nowhere", "empty"])
def test_no_photos_no_table(run: Path, tmp_path: Path, root: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"data\.root="):
        predict_folder(run, tmp_path / root, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_folder(run: Path, run_photos: Path, tmp_path: Path) -> None:
    files = sorted(run_photos.glob("*/*/*.jpg"))
    for count in (200, 4000):
        (tmp_path / str(count)).mkdir()
        for i in range(count):
            os.link(files[i % len(files)], tmp_path / str(count) / f"{i:06}.jpg")
    peaks = []
    for count in (200, 4000):
        code = (
            "import re; from pathlib import Path\n"
            "from sagehound.serving.batch_predict import predict_folder\n"
            f"predict_folder({str(run)!r}, Path({str(tmp_path / str(count))!r}), Path('out.csv'))\n"
            "print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])"  # not the tests' own peak
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] - peaks[0] < 9_700, f"kilobytes at 200 and at 4,000 photos: {peaks}"  # 2.6 for each photo
