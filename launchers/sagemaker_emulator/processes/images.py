"""The commands of images. There is no Docker: an image is known by its name, and its commands run on this machine."""

import os
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path

from sagemaker_emulator.errors import JobFailed

_FOLDER = Path(__file__).parents[1] / "script_mode"
_SCRIPTS = {"train": _FOLDER / "run_script.py", "serve": _FOLDER / "serve_script.py"}
_SYSTEM = os.defpath.split(os.pathsep)  # /bin and /usr/bin
GROUP = "sagemaker_emulator.images"  # entry points: a regex of the image's name, and what to run for it


class Images:
    """Finds what an image runs to ``train``, ``serve`` or ``process``.

    Args:
        known: commands by a regex of the image's name; see ``Settings.images``.
    """

    def __init__(self, known: Mapping[str, Mapping[str, list[str]]]) -> None:
        self._known = known

    def command(self, image: str, verb: str) -> list[str]:
        """The command and its arguments.

        Installed packages add images by entry points of the group ``sagemaker_emulator.images``. The name of the entry
        point is a regex of the image's name, its value a mapping from ``train``, ``serve`` or ``process`` to a command.

        Where a Python is known and no command, it runs the user's script: see ``script_mode``.

        Raises:
            JobFailed: nothing is known about the image.
        """
        for commands in self._of(image):
            if verb in commands:
                return list(commands[verb])
            if verb in _SCRIPTS and "python" in commands:
                return [*commands["python"], str(_SCRIPTS[verb])]
        raise JobFailed(
            f"ClientError: the emulator has no command to {verb} with the image {image}: start it with "
            f"--image 'REGEX=FOLDER', where FOLDER is a Python environment or holds bin/{verb}"
            f"{', or give a ContainerEntrypoint' if verb != 'serve' else ''}"
        )

    def folders(self, image: str, command: str) -> list[str]:
        """The folders that come first on the PATH of a container: that of the image's Python, and the command's.

        The folder of a command of the system, such as /bin/bash, is left out: its Python is not the image's.
        """
        pythons = [commands["python"][0] for commands in self._of(image) if "python" in commands]
        folders = [str(Path(name).parent) for name in pythons if Path(name).is_absolute()]
        own = Path(command).parent
        return [*folders, str(own)] if own.is_absolute() and str(own) not in _SYSTEM else folders

    def _of(self, image: str) -> Iterator[Mapping[str, list[str]]]:
        for pattern, commands in self._known.items():
            if re.search(pattern, image):
                yield commands
        for entry in entry_points(group=GROUP):
            if re.search(entry.name, image):
                yield entry.load()
