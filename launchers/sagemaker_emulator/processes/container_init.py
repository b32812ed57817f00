"""The first process of a container in namespaces of its own: shows its folder as /opt/ml, and starts the command.

Run as a file, by ``namespaces.py``: ``python -I -S container_init.py FOLDER COMMAND ...``. It imports the standard
library only, so that it starts within 30 ms. When it ends, Linux kills all that the container has started.
"""

import ctypes
import os
import shutil
import signal
import sys
from pathlib import Path

_BIND, _RECURSIVE = 0x1000, 0x4000  # MS_BIND and MS_REC of mount(2)
_ML = Path("/opt/ml")
_HOSTS = Path("/etc/hosts")


def main(arguments: list[str]) -> int:
    """Mount, run the command, and return its exit code as Docker reports it: 128 + the signal's number.

    Args:
        arguments: the folder, and the command with its arguments.
    """
    folder, command = Path(arguments[0]), arguments[1:]
    directory = Path.cwd()
    show(folder)
    if (names := folder.with_name(_HOSTS.name)).exists():  # the names of the job's instances
        _mount(str(names), str(_HOSTS), "", _BIND)
    os.chdir(directory)
    for number in (signal.SIGTERM, signal.SIGINT):  # sent to the group, so the command gets them too
        signal.signal(number, lambda *_: None)
    child = os.fork()
    if not child:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        try:
            os.execvp(command[0], command)
        except OSError as error:
            print(f"{command[0]}: {error.strerror}", file=sys.stderr, flush=True)
            os._exit(127)
    while True:  # this is process 1, so processes whose parent has ended are its children
        ended, status = os.wait()
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def show(folder: Path) -> None:
    """Show a folder as /opt/ml. Without /opt/ml on this machine, /opt is replaced by one that has it and all else.

    Raises:
        OSError: the system does not allow it.
    """
    if _ML.is_dir():
        _mount(str(folder), str(_ML), "", _BIND | _RECURSIVE)
        return
    new = folder.parent / "opt"
    new.mkdir(exist_ok=True)
    _mount("tmpfs", str(new), "tmpfs", 0)
    for old in Path("/opt").iterdir():
        shown = new / old.name
        if old.is_symlink():
            shown.symlink_to(old.readlink())
        elif old.is_dir():
            shown.mkdir()
            shutil.copystat(old, shown)
            _mount(str(old), str(shown), "", _BIND | _RECURSIVE)
        else:
            shown.touch()
            _mount(str(old), str(shown), "", _BIND)
    (new / "ml").mkdir()
    _mount(str(folder), str(new / "ml"), "", _BIND | _RECURSIVE)
    _mount(str(new), "/opt", "", _BIND | _RECURSIVE)


def _mount(source: str, target: str, kind: str, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags), None):
        number = ctypes.get_errno()
        raise OSError(number, f"{source} cannot be mounted on {target}: {os.strerror(number)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
