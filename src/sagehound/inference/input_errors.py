"""Errors that are copied into model.tar.gz; ``sagehound.errors`` has all classes."""

from collections.abc import Sequence


class SagehoundError(Exception):
    """Something that a user can fix; the message says what happened, where, and what to do next.

    Args:
        message: one line.
        instead: overrides with which the same command would work; the command line prints that command.
    """

    exit_code = 1

    def __init__(self, message: str, instead: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.instead = instead


class InputError(SagehoundError):
    """Wrong input: data, a weights file, a checkpoint."""

    exit_code = 3


def in_file(error: InputError, file: str | None) -> InputError:
    """The same error, whose message begins with the file's name, if there is one."""
    return error if file is None else type(error)(f"{file}: {error}", error.instead)
