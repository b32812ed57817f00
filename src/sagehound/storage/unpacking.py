"""Unpacks archives: plain files only, within limits, all or none. Imports no torch."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from sagehound.errors import InputError
from sagehound.storage.archive_reader import ANY, ArchiveReader, Limits, PackedFile
from sagehound.storage.atomic import writing_failed

FileFilter = Callable[[PurePosixPath], bool]  # whether a file, given by its path inside, is unpacked
Read = Callable[[int], object]  # called with the bytes of the archive that were read so far


def unpack(
    archive: Path,
    folder: Path,
    *,
    hint: str,
    limits: Limits = ANY,
    wanted: FileFilter = lambda _: True,
    read: Read = lambda _: None,
) -> None:
    """Unpack the plain files of an archive. ``folder`` must be new or empty; it appears in one step.

    Args:
        archive: a .zip or .tar.
        folder: is made.
        hint: what to do about a bad archive; ends the message.
        limits: kinds of archives, entries and bytes.
        wanted: whether a file, given by its path inside, is unpacked.
        read: called with the bytes of the archive that were read so far, for a progress bar.

    Raises:
        DamagedArchive: it cannot be read to its end, is encrypted, or of another kind.
        InputError: it cannot be opened, or holds something that is not allowed.
        SagehoundError: the disk is full, or the folder cannot be written.
    """
    with appearing(folder) as unfinished:
        add(archive, unfinished, hint=hint, limits=limits, wanted=wanted, read=read)


def unpack_into(
    archive: Path, folder: Path, *, hint: str, limits: Limits = ANY, wanted: FileFilter = lambda _: True
) -> None:
    """As ``unpack``, into a folder that may hold other files. All are unpacked before the first one is replaced."""
    unfinished = folder / ".unpacking"
    shutil.rmtree(unfinished, ignore_errors=True)  # left by a killed process
    try:
        unfinished.mkdir(parents=True)
        add(archive, unfinished, hint=hint, limits=limits, wanted=wanted)
        for file in [f for f in unfinished.rglob("*") if f.is_file()]:
            place = folder / file.relative_to(unfinished)
            place.parent.mkdir(parents=True, exist_ok=True)
            file.replace(place)
    except OSError as error:
        raise writing_failed(folder, error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside ``folder``. It is renamed to ``folder`` if the block succeeds, else removed.

    One process at a time. A folder left by a killed process is removed first.

    Raises:
        SagehoundError: the disk is full, or the folder cannot be written.
    """
    unfinished = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        unfinished.rename(folder)
    except OSError as error:
        raise writing_failed(folder, error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def add(
    archive: Path,
    folder: Path,
    *,
    hint: str,
    limits: Limits = ANY,
    wanted: FileFilter = lambda _: True,
    read: Read = lambda _: None,
) -> None:
    """As ``unpack``, but the caller removes the folder if this fails.

    Several threads may add archives to one folder. A file that is in two of them is refused.
    """
    try:
        source = archive.open("rb")
    except OSError as error:
        raise InputError(f"{archive} cannot be read ({error.strerror}); {hint}") from error
    parents: set[Path] = set()
    with source:
        for file in ArchiveReader(archive, source, folder, hint, limits).files():
            if wanted(file.name):
                _write(file, folder, parents, f"{archive}: {str(file.name)!r} occurs twice, or as a folder too; {hint}")
            read(source.tell())


def _write(file: PackedFile, folder: Path, parents: set[Path], twice: str) -> None:
    place = folder / file.name
    try:
        if place.parent not in parents:
            place.parent.mkdir(parents=True, exist_ok=True)
            parents.add(place.parent)
        with place.open("xb") as out:
            for chunk in file.chunks:
                out.write(chunk)
        if file.executable:
            place.chmod(0o755)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(twice) from error
    except OSError as error:
        raise writing_failed(folder, error) from error
