"""Errors that a user sees as one line and an exit code, without a traceback."""

from sagehound.inference.input_errors import InputError, SagehoundError

__all__ = ["ConfigError", "InputError", "SagehoundError", "Stopped"]


class ConfigError(SagehoundError):
    """A wrong command or config."""

    exit_code = 2


class Stopped(SagehoundError):
    """A signal stopped the run; the exit code is 128 + the signal's number, as in a shell."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signum

    def __reduce__(self) -> tuple[type["Stopped"], tuple[str, int]]:
        """Support pickle, because a sweep's jobs run in other processes."""
        return type(self), (str(self), self.exit_code - 128)
