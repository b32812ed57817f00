"""The source archive of a remote job: git's tracked files in their current state, without secrets.

Tests and notebooks are included. Ignored files and files that were never added are not.
"""

import gzip
import hashlib
import io
import os
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from stat import S_ISDIR, S_ISLNK, S_ISREG

from sagehound.errors import InputError
from sagehound_launchers.sagemaker.secret_patterns import secrets_in

MOST = 50 * 10**6  # bytes of all files; more is data, not source
WITHOUT_GIT = (  # files to archive if git tracks nothing
    "train.py",
    "launch.py",
    "conf",
    "src",
    "launchers",
    "pyproject.toml",
    "requirements.lock",
    "README.md",  # pyproject.toml names these two and needs them
    "LICENSE",
)
_SHOWN = 5  # findings that a message lists
_MADE = ("__pycache__", "*.pyc", "*.egg-info", ".*")  # skipped in a walk without git
_OF_A_HOOK = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")  # set inside a git hook
_EXECUTABLE, _PLAIN, _SUBMODULE = "100755", "100644", "160000"  # git's modes

_SECRET_NAMES = (
    ".env",
    ".env.*",
    "*.pem",
    "*.key",
    "*.p12",
    "*.pfx",
    "*.jks",
    "*.keystore",
    "*.kdbx",
    "*.ppk",
    "id_rsa",
    "id_dsa",
    "id_ecdsa",
    "id_ed25519",
    "credentials",
    "credentials.json",
    "credentials.csv",
    ".netrc",
    ".pypirc",
    ".pgpass",
    ".git-credentials",
    ".htpasswd",
)
_NO_SECRET_NAMES = (".env.example", ".env.sample", ".env.template", ".env.dist")


@dataclass(frozen=True)
class SourceArchive:
    """A source archive."""

    content: bytes  # .tar.gz of plain files
    digest: str  # SHA-256 of the tar inside, independent of zlib
    files: int
    notes: tuple[str, ...]  # files that are missing in the archive, a line each


def make(root: Path, *, tracked: bool = True, own: Sequence[Path] = ()) -> SourceArchive:
    """Archive the project in ``root``: the tracked files as they are now, committed or not.

    The same names, contents and executable bits give the same archive. Links are replaced by their targets. Tracked
    files that are missing or cannot be read are left out. If git tracks nothing, or ``tracked`` is false,
    ``WITHOUT_GIT`` is archived.

    Args:
        root: the project's folder.
        tracked: whether to use git.
        own: folders with the user's options, which are added to ``conf``; as in Hydra, they replace no option.

    Raises:
        InputError: there is no project, it has a secret, a link leaves it, or it has more than ``MOST`` bytes.
    """
    root = root.resolve()
    modes, notes = _modes(root) if tracked else (_walked(root), [])
    files = dict(_on_disk(root, modes))
    gone = sorted(modes.keys() - files.keys() - {f for f, mode in modes.items() if mode == _SUBMODULE})
    gone = [f for f in gone if not (root / f).is_dir()]  # a link to a folder is replaced by its content
    if gone:
        notes.append(f"{_some(gone)}: gone, or cannot be read, and not sent")
    for folder in own:
        for path in sorted(folder.rglob("*.yaml")):
            files.setdefault(f"conf/{path.relative_to(folder).as_posix()}", path)
    contents = _read(root, files)
    if not contents:
        raise InputError(f"{root} holds no project: run from the folder of train.py")
    if secrets := list(_secrets(contents)):
        raise InputError(
            f"the source archive would carry secrets: {_some(secrets)}; take them out, or `git rm --cached` the file "
            "and name it in .gitignore; a key that was ever pushed must be revoked"
        )
    tar = _tar(contents, {file: modes.get(file, _PLAIN) for file in contents})
    packed = io.BytesIO()
    with gzip.GzipFile("", "wb", fileobj=packed, mtime=0) as out:
        out.write(tar)
    return SourceArchive(packed.getvalue(), hashlib.sha256(tar).hexdigest(), len(contents), tuple(notes))


def _some(secrets: list[str]) -> str:
    more = f" and {len(secrets) - _SHOWN} more" if len(secrets) > _SHOWN else ""
    return ", ".join(secrets[:_SHOWN]) + more


def _modes(root: Path) -> tuple[dict[str, str], list[str]]:
    """The project's files with git's modes, and notes for the user."""
    modes: dict[str, str] = {}
    lines, reason = _git(root, "ls-files", "-z", "--stage")
    for line in lines:
        about, _, file = line.partition("\t")
        modes[file] = about.split()[0]
    if not modes:
        return _walked(root), [f"{reason}: taken were {', '.join(WITHOUT_GIT)}"]
    notes = []
    if new := _git(root, "ls-files", "-z", "--others", "--exclude-standard")[0]:
        notes.append(f"{_some(sorted(new))}: not sent, as git does not track it; `git add` what the job needs")
    if submodules := sorted(f for f, mode in modes.items() if mode == _SUBMODULE):
        notes.append(f"{_some(submodules)}: a submodule, and not sent")
    return modes, notes


def _git(root: Path, *arguments: str) -> tuple[list[str], str]:
    """Run git; returns its output, split at NUL, and why there is none (empty if there is some)."""
    environment = {k: v for k, v in os.environ.items() if k not in _OF_A_HOOK}
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, env=environment, check=False)
    except OSError as error:
        return [], f"git cannot be run ({error.strerror})"
    if done.returncode:
        return [], f"git says {done.stderr.decode(errors='replace').strip().partition(chr(10))[0]!r}"
    return [os.fsdecode(name) for name in done.stdout.split(b"\0") if name], f"git tracks nothing in {root}"


def _walked(root: Path) -> dict[str, str]:
    """The files of ``WITHOUT_GIT``."""
    modes = {}
    for name in WITHOUT_GIT:
        top = root / name
        paths = [top] if not top.is_dir() or top.is_symlink() else top.rglob("*")
        for path in paths:
            inside = path.relative_to(root)
            made = any(fnmatchcase(part, pattern) for part in inside.parts for pattern in _MADE)
            if not made and (path.is_symlink() or path.is_file()):
                modes[inside.as_posix()] = _EXECUTABLE if os.access(path, os.X_OK) else _PLAIN
    return modes


def _on_disk(root: Path, modes: dict[str, str]) -> Iterator[tuple[str, Path]]:
    """Names in the archive, and the files with their content."""
    for file in modes:
        path = root / file
        try:
            kind = path.lstat().st_mode
            if S_ISREG(kind):
                _inside(root, path.parent.relative_to(root).as_posix(), path.parent.resolve())
                yield file, path
            elif S_ISLNK(kind):
                yield from _behind(root, file, modes)
        except (OSError, RuntimeError):  # missing, or circular links
            continue


def _inside(root: Path, file: str, target: Path) -> None:
    if not target.is_relative_to(root):
        raise InputError(f"{file} is a link to {target}, outside of {root}: replace it by what it points to")


def _behind(root: Path, file: str, modes: dict[str, str]) -> Iterator[tuple[str, Path]]:
    """The target of a link: a tracked file, or the tracked files below a folder."""
    target = (root / file).resolve(strict=True)
    _inside(root, file, target)
    inside = target.relative_to(root).as_posix()
    kind = target.stat().st_mode
    if S_ISREG(kind) and inside in modes:
        yield file, target
    elif S_ISDIR(kind):
        for other in modes:
            path = root / other
            if other.startswith(f"{inside}/") and path.is_file() and not path.is_symlink():
                yield file + other.removeprefix(inside), path


def _read(root: Path, files: dict[str, Path]) -> dict[str, bytes]:
    sizes = {file: path.stat().st_size for file, path in files.items()}
    total = sum(sizes.values())
    if total > MOST:
        largest = sorted(sizes, key=lambda f: -sizes[f])[:_SHOWN]
        named = ", ".join(f"{file} ({sizes[file] / 1e6:.1f} MB)" for file in largest)
        raise InputError(
            f"the source archive of {root} would hold {total / 1e6:,.0f} MB, at most {MOST / 1e6:.0f} are sent; "
            f"the largest: {named}; `git rm --cached` what is no source and name it in .gitignore"
        )
    contents = {}
    for file, path in files.items():
        try:
            contents[file] = path.read_bytes()
        except OSError:
            continue
    return contents


def _secrets(contents: dict[str, bytes]) -> Iterator[str]:
    """The places of secrets and their kinds, never the secret itself."""
    for file, content in sorted(contents.items()):
        name = file.rpartition("/")[2].lower()
        if name not in _NO_SECRET_NAMES and any(fnmatchcase(name, pattern) for pattern in _SECRET_NAMES):
            yield f"{file} (by its name)"
            continue
        yield from (f"{file}:{line} ({what})" for line, what in secrets_in(content))


def _tar(contents: dict[str, bytes], modes: dict[str, str]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8") as tar:
        for file in sorted(contents):
            entry = tarfile.TarInfo(file)  # no owner, no time
            entry.size = len(contents[file])
            entry.mode = 0o755 if modes[file] == _EXECUTABLE else 0o644
            tar.addfile(entry, io.BytesIO(contents[file]))
    return packed.getvalue()
