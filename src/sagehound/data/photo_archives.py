"""Photos in a .zip or .tar: unpacked once into the cache, plain files only."""

import hashlib
from pathlib import Path

from sagehound.storage import unpacking
from sagehound.storage.atomic import locked
from sagehound.system import console

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_MAC = {"__MACOSX", ".DS_Store"}  # files that macOS adds to zips


def is_archive(path: Path) -> bool:
    """Whether a file has the suffix of an archive."""
    return path.name.lower().endswith(SUFFIXES) and path.is_file()


def unpacked(archive: Path, cache_dir: Path) -> Path:
    """Unpack an archive below ``cache_dir``, unless it was unpacked before; returns the folder of its photos.

    A changed archive (size or time) is unpacked again. Folders that hold nothing but one folder are skipped.

    Raises:
        DamagedArchive: it cannot be read to its end, or is encrypted.
        InputError: it holds a link or a path outside of its folder, or more than the disk has room for.
        SagehoundError: the disk is full.
    """
    status = archive.stat()
    known = f"{archive.resolve()}\n{status.st_size}\n{status.st_mtime_ns}".encode(errors="surrogateescape")
    name = archive.name.partition(".")[0] or "photos"
    folder = cache_dir / "unpacked" / f"{name}-{hashlib.sha256(known).hexdigest()[:16]}"
    with locked(folder.with_name(f".{folder.name}.lock"), waiting=f"another run is unpacking {archive}"):
        if not folder.is_dir():
            extract(archive, folder)
    return _inner(folder)


def extract(archive: Path, folder: Path) -> None:
    """Unpack the plain files of an archive; ``folder`` appears in one step.

    Raises:
        DamagedArchive, InputError, SagehoundError: as for ``unpacked``.
    """
    label = f"Unpacking {archive.name}"
    with console.bar(bytes_=True) as progress:
        if not console.terminal().is_terminal:
            console.info(label)
        task = progress.add_task(label, total=archive.stat().st_size)
        unpacking.unpack(
            archive,
            folder,
            hint="pack it again, with plain files alone",
            wanted=lambda path: not _MAC & set(path.parts),
            read=lambda count: progress.update(task, completed=count),
        )


def _inner(folder: Path) -> Path:
    """The first folder below which there is more than one folder, or a folder of photos."""
    while True:
        folders = [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
        if len(folders) != 1 or not any(p.is_dir() for p in folders[0].iterdir()):
            return folder
        folder = folders[0]
