"""What differs between the protocols of the server: bodies of requests and responses."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from fastapi import Request

from sagehound.artifact.archive import Card
from sagehound.errors import InputError
from sagehound.inference import formats
from sagehound.inference.formats import PhotoResult, ResponseFormat
from sagehound.inference.preprocessing import Pixels
from sagehound.inference.request_body import is_photo, photos_in

_LONG = 2**18  # bytes of a body that is parsed; longer ones are parsed in a thread


class Asked(NamedTuple):
    """What the address of a request asks for; None where it does not say."""

    top_k: int | None = None
    all: bool | None = None
    unknown: bool | None = None
    coverage: float | None = None


class Given(NamedTuple):
    """The photos of a request: files, pixels, or the reason why one cannot be read."""

    photos: Sequence[bytes | Pixels | InputError]
    single: bool  # an error of one photo is the response to the whole request
    names: Sequence[str | None]  # of the photos, in messages


class InferenceProtocol(Protocol):
    """The protocol of one request."""

    is_captured: bool  # by deploy.capture, whose files have photos and responses as SageMaker's contract has them
    is_explanation: bool  # its photos are variants of one

    def response_format(self, request: Request, asked: Asked) -> ResponseFormat:
        """What the headers and the address ask for."""

    def completed(self, want: ResponseFormat, card: Card) -> ResponseFormat:
        """What to compute with this model."""

    def is_slow(self, body: bytes) -> bool:
        """Whether ``photos`` may take milliseconds."""

    def photos(self, body: bytes) -> Given:
        """The photos of the body."""

    def encode(self, answers: Sequence[PhotoResult], want: ResponseFormat, given: Given) -> bytes:
        """The body of the response."""


class Invocation:
    """SageMaker's contract, with Sagehound's formats."""

    is_captured = True
    is_explanation = False

    def response_format(self, request: Request, asked: Asked) -> ResponseFormat:
        """By the header Accept and the query."""
        self._content_type = request.headers.get("content-type", "")
        return formats.response_format(request.headers.get("accept"), self._content_type, *asked)

    def completed(self, want: ResponseFormat, card: Card) -> ResponseFormat:
        """The same.

        Raises:
            InputError: the model has no such score or coverage.
        """
        card.thresholds.check(unknown=want.unknown, coverage=want.coverage)
        return want

    def is_slow(self, body: bytes) -> bool:
        """A photo alone is not parsed."""
        return len(body) >= _LONG and not is_photo(self._content_type)

    def photos(self, body: bytes) -> Given:
        """See ``photos_in``."""
        return Given(*photos_in(body, self._content_type))

    def encode(self, answers: Sequence[PhotoResult], want: ResponseFormat, given: Given) -> bytes:
        """See ``formats.encode``. Photos with a name have it in their response."""
        named = [formats.with_file(a, name) for a, name in zip(answers, given.names, strict=True)]
        return formats.encode(named, want, single=given.single)
