"""Answers that are no success."""


class Refused(Exception):
    """An answer of the service that is no success, as AWS words it."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code, self.message, self.status = code, message, status
