"""Errors of the emulator: of a request, of a job, and of the command."""


class ApiError(Exception):
    """An error response of a service, as AWS words it."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code, self.message, self.status = code, message, status


def invalid(message: str) -> ApiError:
    """The error of a request that AWS refuses."""
    return ApiError("ValidationException", message)


STOPPED = "InternalServerError: the emulator was stopped"  # the FailureReason of what ran when it ended


class JobFailed(Exception):
    """The FailureReason of a job, with AWS's prefix: ``ClientError: ...``."""


class EmulatorError(Exception):
    """The emulator cannot start; the message is one line for the user."""
