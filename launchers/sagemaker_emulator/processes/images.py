"""The commands of images. There is no Docker: an image is known by its name, and its commands run on this machine."""

import re
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path

from sagemaker_emulator.errors import JobFailed

_FOLDER = Path(__file__).parents[1] / "script_mode"
_SCRIPTS = {"train": _FOLDER / "run_script.py", "serve": _FOLDER / "serve_script.py"}
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

    def folders(self, image: str) -> list[str]:
        """The folders of the image's Python, which come first on its PATH."""
        return [str(Path(commands["python"][0]).parent) for commands in self._of(image) if "python" in commands]

    def _of(self, image: str) -> Iterator[Mapping[str, list[str]]]:
        for pattern, commands in self._known.items():
            if re.search(pattern, image):
                yield commands
        for entry in entry_points(group=GROUP):
            if re.search(entry.name, image):
                yield entry.load()
