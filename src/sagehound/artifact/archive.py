"""model.tar.gz: packed reproducibly, and opened as untrusted input. Imports no torch."""

import gzip
import hashlib
import json
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sagehound.errors import InputError
from sagehound.inference.preprocessing import Preprocessing
from sagehound.inference.thresholds import Thresholds
from sagehound.storage import unpacking
from sagehound.storage.archive_reader import Limits
from sagehound.storage.atomic import replacing
from sagehound.storage.scratch import scratch_folder

NAME = "model.tar.gz"
MODEL_CARD = "MODEL_CARD.md"
FORMAT = 2  # format of model.json and the files beside it
READABLE = (1, FORMAT)  # 1 has neither a temperature nor thresholds, and its network has one output
MAX_ENTRIES = 100
MAX_BYTES = 8 * 10**9  # of all files, unpacked
_CARD_BYTES = 4 * 2**20  # of model.json
_RATIO = 20  # of the unpacked files to the archive; weights hardly shrink
LIMITS = Limits((".tar.gz",), MAX_ENTRIES, MAX_BYTES, max_ratio=_RATIO)
MOST_SAMPLES = 24  # photos to try the model with
HINT = "give a model.tar.gz that a run left"  # what to do about a bad file


@dataclass(frozen=True)
class Card:
    """The content of model.json, and the parts that a server needs."""

    classes: list[str]  # in the order of the model's outputs
    preprocessing: Preprocessing
    thresholds: Thresholds
    about: dict[str, Any]  # the whole of model.json

    @classmethod
    def read(cls, folder: Path) -> "Card":
        """Read it from an unpacked artifact.

        Raises:
            InputError: it is missing, has another version, or a wrong value.
        """
        path = folder / "model.json"
        try:
            if path.stat().st_size > _CARD_BYTES:
                raise InputError(f"{path}: more than {_CARD_BYTES / 2**20:g} MiB; pack the model again")
            about = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
            json.dumps(_shallow(about, 20), ensure_ascii=False, allow_nan=False).encode()  # must be writable as JSON
            if type(about["format"]) is not int or about["format"] not in READABLE:
                raise InputError(
                    f"{path}: format {about['format']}, this Sagehound reads 1 to {FORMAT}; "
                    "use the Sagehound that wrote it, or train again"
                )
            classes, preprocessing = about["classes"], about["preprocessing"]
            if not isinstance(classes, list) or not all(isinstance(c, str) for c in classes) or len(classes) < 2:
                raise ValueError("classes must be two names or more")
            if len(set(classes)) != len(classes):
                raise ValueError("two classes of one name")
            return cls(classes, Preprocessing.read(preprocessing), Thresholds.read(about), about)
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}); {HINT}") from error
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise InputError(f"{path} is broken: {type(error).__name__}: {error}; pack the model again") from error


def _shallow(value: Any, levels: int) -> Any:  # noqa: ANN401 - whatever JSON holds
    if not levels:
        raise ValueError("nested too deeply")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _shallow(inner, levels - 1)
    return value


def sample_name(number: int) -> str:
    """The name in the archive of sample photo ``number``, from 0."""
    return f"samples/{number:02}.jpg"


def pack(files: Mapping[str, Path], path: Path) -> None:
    """Write files, by their names in the archive, as a .tar.gz. The same files give the same bytes.

    Raises:
        SagehoundError: the disk is full, or the folder cannot be written.
    """
    with (
        replacing(path) as temporary,
        temporary.open("wb") as raw,
        # weights hardly shrink, so the fastest level is enough
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, file in sorted(files.items()):
            entry = tarfile.TarInfo(name)  # no owner, no time
            entry.size = file.stat().st_size
            with file.open("rb") as content:
                tar.addfile(entry, content)


def unpack(path: Path, folder: Path, *, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
    """Unpack a model into ``folder``, which appears in one step.

    Raises:
        InputError: it is not a .tar.gz or broken, or has entries that are not plain files, outside, too many or too
            large.
        SagehoundError: the disk is full.
    """
    unpacking.unpack(path, folder, hint=HINT, limits=Limits((".tar.gz",), max_entries, max_bytes, max_ratio=_RATIO))


@contextmanager
def opened(model: str | Path) -> Iterator[Path]:
    """Yield the folder of an unpacked artifact, from a run, a model.tar.gz or an unpacked one.

    Raises:
        InputError: there is no such model, or it cannot be opened safely.
    """
    path = find(model)
    if path.is_dir():
        yield path
        return
    with scratch_folder() as folder:
        unpacked = folder / "model"
        unpack(path, unpacked)
        yield unpacked


def find(model: str | Path) -> Path:
    """The model.tar.gz, or the folder of an unpacked one, that ``model`` names.

    Raises:
        InputError: there is none.
    """
    missing = InputError(f"model={model}: no such run or file (from {Path.cwd()})")
    try:
        path = Path(model).expanduser()
        if path.suffix == ".ckpt" and path.is_file():
            raise InputError(f"model={model}: a checkpoint; give its run's folder, or use sagehound.load in Python")
        for candidate in (path if path.is_file() else path / "model.json", path / NAME):
            if candidate.is_file():
                return path if candidate.name == "model.json" else candidate
        if path.is_dir():
            raise InputError(
                f"model={model}: neither {NAME} nor model.json lies in it; give a run that was trained to its end"
            )
    except (OSError, RuntimeError, ValueError) as error:  # a name that is too long, or ~ of an unknown user
        raise missing from error
    raise missing


def digest(model: str | Path) -> str:
    """SHA-256 in hexadecimal, of a model.tar.gz, or of an unpacked one's model.json and network."""
    path = find(model)
    total = hashlib.sha256()
    for file in [path] if path.is_file() else [path / "model.json", path / "model.onnx"]:
        with file.open("rb") as content:
            total.update(hashlib.file_digest(content, "sha256").digest())
    return total.hexdigest()
