"""What a user did or met, as one clear line and an exit code; never a bare traceback."""

from collections.abc import Sequence


class SagehoundError(Exception):
    """Something that a user can mend; the message says what happened, where, and what to do next.

    Args:
        message: one line.
        instead: overrides with which the same command would work; the command line prints that command.
    """

    exit_code = 1

    def __init__(self, message: str, instead: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.instead = instead


class ConfigError(SagehoundError):
    """A wrong command or config."""

    exit_code = 2


class InputError(SagehoundError):
    """Wrong input: data, a weights file, a checkpoint."""

    exit_code = 3


class Stopped(SagehoundError):
    """A signal ended the run; the exit code is the shell's, 128 + the signal's number."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signum
