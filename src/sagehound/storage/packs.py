"""Photos packed for one channel of a remote job: uncompressed tars, each named by its content. Imports no torch.

Sending thousands of small photos costs a round trip for each; packs of some megabytes cost few. The boundaries of packs
depend on the photos' paths and sizes: an added or removed photo changes its own pack, seldom the next one, and no
other.
"""

import hashlib
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sagehound.errors import InputError
from sagehound.storage.archive_reader import Limits
from sagehound.storage.atomic import locked
from sagehound.storage.unpacking import add, appearing
from sagehound.system.machine import cores

TARGET = 4 * 2**20  # bytes of photos in a pack, on average
LEAST, MOST = TARGET // 4, 4 * TARGET  # a single photo may be larger
_LIMITS = Limits((".tar",))
_NAME = re.compile(r"[0-9a-f]{64}\.tar")


@dataclass(frozen=True)
class Pack:
    """One tar of photos."""

    name: str  # name of the object
    content: bytes


def groups(files: Iterable[tuple[str, int]]) -> Iterator[list[str]]:
    """Divide photos into packs.

    A pack ends after a photo whose path hashes below its share of ``TARGET`` bytes: content-defined chunking, with
    photos instead of bytes. So a change moves only the boundaries near it.

    Args:
        files: paths below the root, with /, and sizes in bytes.
    """
    group: list[str] = []
    size = 0
    for file, bytes_ in sorted(files):
        if group and size + bytes_ > MOST:
            yield group
            group, size = [], 0
        group.append(file)
        size += bytes_
        chance = int.from_bytes(hashlib.blake2b(os.fsencode(file), digest_size=8).digest()) / 2**64
        if size >= LEAST and chance < bytes_ / (TARGET - LEAST):
            yield group
            group, size = [], 0
    if group:
        yield group


def pack_name(content: bytes) -> str:
    """The name of a pack with this content."""
    return f"{hashlib.sha256(content).hexdigest()}.tar"


def make_pack(root: Path, files: Iterable[str]) -> Pack:
    """Read photos into a tar; the same names and contents give the same bytes and the same name.

    Raises:
        InputError: a photo cannot be read, or is being written to.
    """
    parts: list[bytes] = []
    for file in sorted(files):
        content = read_photo(root / file)
        entry = tarfile.TarInfo(file)  # no owner, no time
        entry.size = len(content)
        padding = bytes(-len(content) % tarfile.BLOCKSIZE)
        parts += [entry.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"), content, padding]
    packed = b"".join([*parts, bytes(2 * tarfile.BLOCKSIZE)])
    return Pack(pack_name(packed), packed)


def read_photo(path: Path) -> bytes:
    """The content of a photo's file, read at one moment.

    Raises:
        InputError: it cannot be read, or is being written to.
    """
    try:
        if not path.is_file() and path.exists():  # reading it may never end
            raise InputError(f"{path} is a folder, named pipe, socket or device, not a file: remove it")
        with path.open("rb") as file:
            before = os.fstat(file.fileno())
            content = file.read()
            after = os.fstat(file.fileno())
    except OSError as error:
        raise unreadable(path, error) from error
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or len(content) != after.st_size:
        raise InputError(f"{path} changed while it was read; run the same command again when nothing writes there")
    return content


def unreadable(path: Path, error: OSError) -> InputError:
    """The message for a photo that cannot be read."""
    return InputError(f"{path} cannot be read ({error.strerror}): fix or remove it, then run the same command again")


def unpack(folder: Path, to: Path | None = None) -> Path:
    """Unpack a channel's packs into the original tree of photos.

    An existing tree is used as it is. The tree appears in one step. Several processes may call at once: one unpacks and
    the others wait.

    Args:
        folder: the channel; files that are not packs are ignored.
        to: parent of the new tree; None: the channel.

    Returns:
        the root of the tree; ``folder`` if it holds no packs.

    Raises:
        InputError: a pack is damaged, or holds something else than photos.
        SagehoundError: the disk is full, or cannot be written.
    """
    packs = sorted(p for p in folder.iterdir() if _NAME.fullmatch(p.name)) if folder.is_dir() else []
    if not packs:
        return folder
    digest = hashlib.sha256(" ".join(p.name for p in packs).encode()).hexdigest()
    root = (to or folder) / f"photos-{digest[:16]}"
    if root.is_dir():
        return root
    with locked(root.with_name(f".{root.name}.lock"), waiting=f"another process unpacks {folder}"):
        if not root.is_dir():
            _unpack_all(packs, root)
    return root


def _unpack_all(packs: list[Path], root: Path) -> None:
    with appearing(root) as unfinished, ThreadPoolExecutor(2 * cores()) as pool:
        try:
            for _ in pool.map(lambda pack: _unpack_one(pack, unfinished), packs):
                pass
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _unpack_one(pack: Path, root: Path) -> None:
    hint = "send the photos again"
    try:
        with pack.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{pack}: cannot be read ({error.strerror}); {hint}") from error
    if digest != pack.stem:
        raise InputError(f"{pack}: its content is not what its name says: it was damaged on its way; {hint}")
    add(pack, root, hint=hint, limits=_LIMITS)
