"""model.tar.gz as a file: packed to the same bytes every time, opened as if a stranger had sent it. No torch."""

import gzip
import hashlib
import json
import math
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from sagehound.data.transforms import Preprocessing
from sagehound.errors import InputError
from sagehound.files import replacing

NAME = "model.tar.gz"
FORMAT = 1  # of model.json and the files beside it
MAX_ENTRIES = 100
MAX_BYTES = 8 * 10**9  # of all files, unpacked
_CHUNK = 2**20


@dataclass(frozen=True)
class Card:
    """What a server needs of model.json, and all of it."""

    classes: list[str]  # in the order of the model's outputs
    to: Preprocessing
    about: dict[str, Any]  # model.json as it stands

    @classmethod
    def read(cls, folder: Path) -> "Card":
        """From an unpacked artifact.

        Raises:
            InputError: there is none, it is of another version, or a value cannot be.
        """
        path = folder / "model.json"
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            if about["format"] != FORMAT:
                raise InputError(
                    f"{path}: format {about['format']}, this Sagehound reads format {FORMAT}; "
                    "use the Sagehound that wrote it, or train again"
                )
            classes, to = about["classes"], about["preprocessing"]
            if not isinstance(classes, list) or not all(isinstance(c, str) for c in classes) or len(classes) < 2:
                raise ValueError("classes must be two names or more")
            if len(set(classes)) != len(classes):
                raise ValueError("two classes of one name")
            return cls(classes, _preprocessing(to), about)
        except OSError as error:
            raise InputError(
                f"{path} cannot be read ({error.strerror}); give a model.tar.gz that a run left"
            ) from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{path} is broken: {type(error).__name__}: {error}; pack the model again") from error


def _preprocessing(given: Mapping[str, Any]) -> Preprocessing:
    height, width = (int(n) for n in given["size"])
    resize, interpolation = int(given["resize"]), str(given["interpolation"])
    mean, std = (tuple(float(v) for v in given[k]) for k in ("mean", "std"))
    if not (0 < height <= 4096 and 0 < width <= 4096 and 0 <= resize <= 8192):
        raise ValueError(f"preprocessing of {height} x {width} pixels from {resize}")
    if interpolation.upper() not in Image.Resampling.__members__:
        raise ValueError(f"interpolation {interpolation}")
    if len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
        raise ValueError(f"mean {mean}, std {std}")
    return Preprocessing((height, width), resize, interpolation, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))


def pack(files: Mapping[str, Path], path: Path) -> None:
    """Write the files, by their names inside, as a .tar.gz; the same files give the same bytes.

    Raises:
        SagehoundError: the disk is full, or the folder cannot be written.
    """
    with (
        replacing(path) as temporary,
        temporary.open("wb") as raw,
        # trained weights hardly shrink, so the fastest level
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, file in sorted(files.items()):
            entry = tarfile.TarInfo(name)  # no owner, no time
            entry.size = file.stat().st_size
            with file.open("rb") as content:
                tar.addfile(entry, content)


def unpack(path: Path, folder: Path, *, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
    """Unpack plain files into ``folder``, and nothing but plain files.

    Raises:
        InputError: no .tar.gz, a broken one, an entry that is no plain file or lies outside, or too many or too large.
    """

    def refuse(reason: str) -> InputError:
        return InputError(f"{path}: {reason}; give a model.tar.gz that a run left")

    seen: set[str] = set()
    left = max_bytes
    try:
        with _Patient(path, "rb") as packed, tarfile.open(fileobj=packed, mode="r:") as tar:
            for entry in tar:
                inside = PurePosixPath(entry.name)
                if entry.isdir() and ".." not in inside.parts and not inside.is_absolute():
                    continue  # made where a file needs it
                if entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or entry.sparse is not None:
                    raise refuse(f"{entry.name!r} is no plain file")
                if inside.is_absolute() or ".." in inside.parts or not inside.parts or "\0" in entry.name:
                    raise refuse(f"{entry.name!r} would be written outside of its folder")
                if str(inside) in seen:
                    raise refuse(f"{entry.name!r} stands in it twice")
                seen.add(str(inside))
                left -= entry.size
                if len(seen) > max_entries or left < 0:
                    raise refuse(f"more than {max_entries} files or {max_bytes / 1e9:g} GB")
                _write(tar, entry, folder / inside)
            while rest := packed.read(_CHUNK):  # to the end, where gzip's checksum stands
                left -= len(rest)
                if left < 0:
                    raise refuse(f"more than {max_bytes / 1e9:g} GB")
    except (tarfile.TarError, zlib.error, EOFError, ValueError, RecursionError) as error:
        raise refuse(f"no .tar.gz, or a broken one ({error})") from error
    except OSError as error:  # gzip's own are among these
        raise refuse(error.strerror or str(error)) from error


def _write(tar: tarfile.TarFile, entry: tarfile.TarInfo, to: Path) -> None:
    content = tar.extractfile(entry)
    assert content is not None  # of a plain file there is one
    to.parent.mkdir(parents=True, exist_ok=True)
    with to.open("xb") as file:
        missing = entry.size
        while chunk := content.read(_CHUNK):
            missing -= file.write(chunk)
    if missing:
        raise EOFError("it ends too early")


class _Patient(gzip.GzipFile):
    """A gzip file that hands out a megabyte at a time: tarfile reads an entry's extended header in one go."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _CHUNK:
            raise ValueError("an entry's header of more than a megabyte")
        return super().read(size)


@contextmanager
def opened(model: str | Path) -> Iterator[Path]:
    """The folder of an unpacked artifact: of a run, of a model.tar.gz, or of one that lies unpacked already.

    Raises:
        InputError: there is no such model, or it may not be opened.
    """
    path = find(model)
    if path.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="sagehound-") as folder:
        unpack(path, Path(folder))
        yield Path(folder)


def find(model: str | Path) -> Path:
    """The model.tar.gz, or the folder with an unpacked one, that ``model`` names.

    Raises:
        InputError: there is none.
    """
    path = Path(model).expanduser()
    if path.is_file():
        return path
    if (path / "model.json").is_file():
        return path
    if (path / NAME).is_file():
        return path / NAME
    if path.is_dir():
        raise InputError(
            f"model={model}: neither {NAME} nor model.json lies in it; give a run that was trained to its end"
        )
    raise InputError(f"model={model}: no such run or file (from {Path.cwd()})")


def digest(model: str | Path) -> str:
    """SHA-256, in hexadecimal, of a model.tar.gz, or of an unpacked one's card and network."""
    path = find(model)
    total = hashlib.sha256()
    for file in [path] if path.is_file() else [path / "model.json", path / "model.onnx"]:
        with file.open("rb") as content:
            total.update(hashlib.file_digest(content, "sha256").digest())
    return total.hexdigest()
