"""Batch predictions, by the command: what is written, what of bad photos, and going on after a kill."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, Command, save_photo

from sagehound.errors import InputError
from sagehound.serving import batch
from sagehound.serving.batch import predict_folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_of_any_shape_becomes_a_table(launch: Command, run: Path, tmp_path: Path) -> None:
    photos = tmp_path / "flat"
    for i, name in enumerate(["b.jpg", "deep/er/a.png", 'odd, "name".jpg', "ü.webp", "z\rz.jpg"]):
        save_photo(photos / name, (60, 80, 120), seed=i)
    (photos / "broken.jpg").write_bytes(b"no photo")
    (photos / "notes.txt").write_text("no photo either")
    done = launch("transform=local", f"model={run}", "data=folder", f"data.root={photos}")
    assert done.returncode == 0, done.stderr
    assert "warning: 1 of 6 photos could not be read" in done.stdout
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


def test_a_killed_command_goes_on_where_it_was(
    run: Path, run_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = tmp_path / "many"
    for i in range(12):
        shutil.copytree(run_photos, photos / str(i))
    total = 12 * 45
    command = [sys.executable, str(ROOT / "launch.py"), "transform=local", f"model={run}", "data=folder"]
    command += [f"data.root={photos}", "transform.output=out.csv"]
    slow = "import time, runpy, sys; sys.argv = sys.argv[1:]; import sagehound.serving.batch as b; b._EVERY = 0.05\n"
    slow += "line = b._csv_line; b._csv_line = lambda *a: (time.sleep(0.01), line(*a))[1]\n"
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
    assert "going on after" in done.stdout
    found = rows(tmp_path / "out.csv")
    assert len(found) == total
    monkeypatch.chdir(tmp_path)
    predict_folder(run, photos, tmp_path / "whole.csv")
    assert (tmp_path / "whole.csv").read_bytes() == (tmp_path / "out.csv").read_bytes()


def test_what_changed_meanwhile_is_not_gone_on_with(
    run: Path, run_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(run_photos, photos)

    def interrupted(*_: object) -> bytes:
        raise KeyboardInterrupt

    def stopped() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(batch, "_csv_line", _after(20, batch._csv_line, interrupted))
            with pytest.raises(KeyboardInterrupt):
                predict_folder(run, photos, tmp_path / "out.csv")

    stopped()
    predict_folder(run, photos, tmp_path / "out.csv")
    assert "going on after 20 of 45" in capsys.readouterr().out
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


@pytest.mark.parametrize("root", ["nowhere", "empty"])
def test_no_photos_no_table(run: Path, tmp_path: Path, root: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"data\.root="):
        predict_folder(run, tmp_path / root, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_folder(run: Path, run_photos: Path, tmp_path: Path) -> None:
    files = sorted(run_photos.glob("*/*/*.jpg"))
    for count in (200, 8000):
        (tmp_path / str(count)).mkdir()
        for i in range(count):
            os.link(files[i % len(files)], tmp_path / str(count) / f"{i:06}.jpg")
    peaks = []
    for count in (200, 8000):
        code = (
            "import resource, sys; from pathlib import Path; from sagehound.serving.batch import predict_folder\n"
            f"predict_folder({str(run)!r}, Path({str(tmp_path / str(count))!r}), Path('out.csv'))\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] - peaks[0] < 20_000, f"kilobytes at 200 and at 8,000 photos: {peaks}"
