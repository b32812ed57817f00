"""The commands of images. There is no Docker: an image is known by its name, and its commands run on this machine."""

import re
from collections.abc import Mapping
from importlib.metadata import entry_points

from sagemaker_emulator.errors import JobFailed

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

        Raises:
            JobFailed: nothing is known about the image.
        """
        for pattern, commands in self._known.items():
            if re.search(pattern, image) and verb in commands:
                return list(commands[verb])
        for entry in entry_points(group=GROUP):
            if re.search(entry.name, image):
                commands = entry.load()
                if verb in commands:
                    return list(commands[verb])
        raise JobFailed(
            f"ClientError: the emulator has no command to {verb} with the image {image}: start it with "
            f"--image 'REGEX=FOLDER', where FOLDER holds bin/{verb}, or give a ContainerEntrypoint"
        )
