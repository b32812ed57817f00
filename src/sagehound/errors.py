"""What a user did or met, as one clear line and an exit code; never a bare traceback."""

from sagehound.inference.errors import InputError, SagehoundError

__all__ = ["ConfigError", "InputError", "SagehoundError", "Stopped"]


class ConfigError(SagehoundError):
    """A wrong command or config."""

    exit_code = 2


class Stopped(SagehoundError):
    """A signal ended the run; the exit code is the shell's, 128 + the signal's number."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signum

    def __reduce__(self) -> tuple[type["Stopped"], tuple[str, int]]:
        """For pickle: an error of a sweep's job comes from another process."""
        return type(self), (str(self), self.exit_code - 128)
