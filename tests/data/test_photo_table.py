"""Photos that a CSV lists, and photos in an archive."""

import io
import json
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from helpers import Command, Compose, make_photos, small
from photo_helpers import photo_set

from sagehound.errors import InputError, SagehoundError
from sagehound.training.train import train


def listed(photos: Path, text: str, **changes: object) -> object:
    (photos / "labels.csv").write_text(text, encoding="utf-8")
    return photo_set(photos, table=str(photos / "labels.csv"), **changes)


def rows(photos: Path, column: str = "") -> list[str]:
    files = sorted(p.relative_to(photos).as_posix() for p in photos.rglob("*.jpg"))
    return [f"{file},{Path(file).parts[1][4:]}{column}" for file in files]


def test_a_table_without_splits_is_split_by_itself(photos: Path) -> None:
    have = listed(photos, "\n".join(["file,label", *rows(photos)]))
    assert have.classes == ["Amber", "Moss", "Slate"]
    assert {s: len(have.split(s)) for s in ("train", "valid", "test")} == {"train": 33, "valid": 6, "test": 6}


def test_columns_may_have_any_names_and_any_comma(photos: Path) -> None:
    text = [
        "Bild;Rasse;Teil;Ort",
        *(f"{r.replace(',', ';')};{r.split('/')[0]};{i % 5}" for i, r in enumerate(rows(photos))),
    ]
    names = {"file": "Bild", "label": "Rasse", "split": "Teil", "group": "Ort", "weight": "weight"}
    have = listed(photos, "\ufeff" + "\r\n".join(text) + "\r\n", columns=names)
    assert {s: len(have.split(s)) for s in ("train", "valid", "test")} == {"train": 24, "valid": 9, "test": 12}
    assert {p.group for p in have.photos} == {"0", "1", "2", "3", "4"}
    assert have.audit["groups_across_splits"] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,label\na.jpg,x\n", "no column 'file', it has name, label: give data.columns.file=NAME"),
        ("file,label\n../a.jpg,x\n", "line 2: ../a.jpg must lie below data.root"),
        ("file,label\n/a.jpg,x\n", "line 2: /a.jpg must lie below data.root"),
        ("file,label\na.jpg,\n", "line 2: file or label is empty"),
        ("file,label,split\na.jpg,x,dev\n", "line 2: split 'dev'"),
        ("file,label,weight\na.jpg,x,-1\n", "line 2: weight -1"),
        ("file,label,weight\na.jpg,x,much\n", "line 2: weight 'much' is not a number"),
        ("file,label\na.jpg,x\na.jpg,y\n", "lines 2 and 3 both list a.jpg"),
        ("file,label\n", "lists no photos"),
        ("file,label,split\na.jpg,x,test\n", "no photo is in the train split"),
        ("", "no column 'file', it has none"),
        ("file,label,label\na.jpg,x,y\n", "several columns 'label'"),
        ("file,label\na\0.jpg,x\n", "line 2: the file's name holds a NUL byte"),
        ("file,label,weight\na.jpg,x,1e300\n", "line 2: weight 1e+300"),
        ("PK\x03\x04", "is a spreadsheet or an archive: export it as CSV"),
        (f"file,label\na.jpg,{'x' * 200_000}\n", "is no CSV"),
    ],
)
def test_a_wrong_table_is_explained(photos: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        listed(photos, text)
    assert message in str(error.value)


def test_a_table_is_read_as_spreadsheets_write_it(photos: Path) -> None:
    """A blank first line, spaces, quoted names and labels in another case."""
    lines = [
        f'"{r.split(",")[0]}", {r.split(",")[1].upper() if i % 2 else r.split(",")[1]}'
        for i, r in enumerate(rows(photos))
    ]
    have = listed(photos, "\n".join(["", '"file", label', *lines]))
    assert len(have.classes) == 3
    assert len(have.photos) == 45


def test_photos_that_the_table_does_not_list_are_named(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    have = listed(photos, "\n".join(["file,label", *rows(photos)[1:]]))
    assert have.audit["not_in_table"] == ["test/001.Amber/000.jpg"]
    assert "that the table does not list: 1, such as test/001.Amber/000.jpg" in capsys.readouterr().out


def test_a_listed_photo_that_is_missing_is_named(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    have = listed(photos, "\n".join(["file,label", *rows(photos), "nowhere.jpg,Amber"]))
    assert have.audit["skipped"] == ["nowhere.jpg"]
    assert "nowhere.jpg (No such file or directory)" in capsys.readouterr().out


@pytest.mark.slow
def test_weights_change_what_is_learned(config: Compose, photos: Path, tmp_path: Path) -> None:
    """Photos of weight 0 teach nothing: as if their class were not there."""
    table = photos / "labels.csv"
    weighted = [f"{r},{r.split('/')[0]},{0 if 'Moss' in r else 2}" for r in rows(photos)]
    table.write_text("\n".join(["file,label,split,weight", *weighted]))
    cfg = config("data.root=null", f"data.table={table}", "optimizer.lr=0.05", "trainer.max_epochs=8")
    train(cfg, tmp_path / "run")
    predictions = (tmp_path / "run/predictions.csv").read_text().splitlines()[1:]
    assert predictions
    assert not [line for line in predictions if line.split(",")[3] == "Moss"], "never learned"


@pytest.mark.parametrize(
    ("weight", "reason"), [("2", "photos with weights cannot be blended"), ("0", "the weights of all train photos")]
)
def test_weights_that_cannot_be_used_leave_the_earlier_run_as_it_was(
    config: Compose, photos: Path, tmp_path: Path, weight: str, reason: str
) -> None:
    table = photos / "labels.csv"
    weighted = [f"{r},{r.split('/')[0]},{weight if 'Moss' in r else int(weight) // 2}" for r in rows(photos)]
    table.write_text("\n".join(["file,label,split,weight", *weighted]))
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.json").write_text("{}")
    cfg = config("data.root=null", f"data.table={table}", "augment.mixup=0.2", "overwrite=true")
    with pytest.raises(SagehoundError, match=reason):
        train(cfg, tmp_path / "run")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["metrics.json"]


def zipped(photos: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w") as z:
        for photo in sorted(photos.rglob("*.jpg")):
            z.write(photo, f"my photos/{photo.relative_to(photos)}")
        z.writestr("__MACOSX/my photos/._x.jpg", b"of a Mac")
    return archive


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz"])
def test_photos_in_an_archive_are_unpacked_once(
    photos: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / f"set.{suffix}"
    if suffix == "zip":
        zipped(photos, archive)
    else:
        with tarfile.open(archive, "w:gz" if suffix == "tar.gz" else "w") as tar:
            tar.add(photos, "photos")
    first = photo_set(archive)
    assert len(first.photos) == 45
    assert "Unpacking" in capsys.readouterr().out
    assert photo_set(archive).digests == first.digests
    printed = capsys.readouterr().out
    assert "Unpacking" not in printed
    assert "Reading photos" not in printed


def link(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("../evil.jpg", "outside of its folder"),
        ("/etc/evil.jpg", "outside of its folder"),
        ("train\\..\\..\\evil.jpg", "outside of its folder"),
        (link("train/a/x.jpg"), "a link or device"),
    ],
)
def test_an_unsafe_archive_is_refused(tmp_path: Path, entry: str | zipfile.ZipInfo, message: str) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as z:
        z.writestr(entry, b"/etc/passwd")
    with pytest.raises(InputError, match=message):
        photo_set(tmp_path / "set.zip")
    assert not list((tmp_path / "cache").rglob("*.jpg"))


def test_a_broken_archive_is_named(photos: Path, tmp_path: Path) -> None:
    archive = zipped(photos, tmp_path / "set.zip")
    content = archive.read_bytes()
    archive.write_bytes(content[:-100])
    with pytest.raises(InputError, match=r"set\.zip: damaged"):
        photo_set(archive)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        tar.add(photos)
    (tmp_path / "set.tar.gz").write_bytes(out.getvalue()[:2000])
    with pytest.raises(InputError, match=r"set\.tar\.gz: damaged"):
        photo_set(tmp_path / "set.tar.gz")


def test_an_audit_alone_trains_nothing(command: Command, photos: Path, weights: Path, tmp_path: Path) -> None:
    archive = zipped(photos, tmp_path / "set.zip")
    done = command(*small(archive, weights), "audit_only=true", "hydra.run.dir=run")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((tmp_path / "run/audit.json").read_text())["photos"] == {"train": 24, "valid": 9, "test": 12}
    assert "Amber" in done.stdout
    assert not (tmp_path / "run/metrics.json").exists()
    assert not (tmp_path / "run/checkpoints").exists()


@pytest.mark.parametrize(
    ("root", "reason"),
    [
        ("", "is empty; perhaps a shell variable is not set"),
        (".", "is the current folder"),
        ("~", "is a home folder"),
        ("/", "is a home folder or contains one"),
        (str(Path(__file__).parents[2]), "is Sagehound's own folder"),
    ],
)
def test_a_home_or_an_unset_variable_is_refused_as_root(command: Command, root: str, reason: str) -> None:
    done = command("data=folder", f"data.root='{root}'" if root else "data.root=")
    assert done.returncode == 2
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_archive_keeps_its_photos_apart_from_others(tmp_path: Path) -> None:
    for name in ("a", "b"):
        photos = make_photos(tmp_path / name, train=4, valid=1, test=1 if name == "a" else 2)
        zipped(photos, tmp_path / f"{name}.zip")
    assert [len(photo_set(tmp_path / f"{n}.zip").photos) for n in "ab"] == [18, 21]


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.xz"])
def test_a_changed_byte_in_an_archive_is_found(photos: Path, tmp_path: Path, suffix: str) -> None:
    archive = tmp_path / f"set.{suffix}"
    with tarfile.open(archive, f"w:{suffix[4:]}") as tar:
        tar.add(photos, "photos")
        header = tar.getmembers()[20].offset  # tarfile treats a broken header as the end
    content = bytearray(archive.read_bytes())
    content[header + 150 if suffix == "tar" else len(content) // 2] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(InputError, match="damaged") as error:
        photo_set(archive)
    assert "\n" not in str(error.value)


def test_a_tar_that_ends_with_a_zip_is_a_tar(photos: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.add(photos, "photos")
        tar.add(zipped(photos / "test", tmp_path / "z.zip"), "photos/z.zip")
    assert len(photo_set(tmp_path / "set.tar").photos) == 45


def test_a_zip_with_backslashes_holds_folders(photos: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as z:
        for photo in photos.rglob("*.jpg"):
            entry = zipfile.ZipInfo("x")
            entry.filename = str(photo.relative_to(photos)).replace("/", "\\")
            z.writestr(entry, photo.read_bytes())
    assert len(photo_set(tmp_path / "set.zip").photos) == 45
