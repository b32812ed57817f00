"""When the steps of one photo's classification began and ended."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple


class Span(NamedTuple):
    """Begin and end, nanoseconds of ``time.perf_counter_ns``."""

    begin: int
    end: int

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.end - self.begin) / 1e9


@dataclass(slots=True)
class PhotoTimes:
    """The steps of one photo. A step that did not happen is None: pixels are not decoded.

    The decoder's and the model's threads write them before the photo's future is done; after that they are read.
    """

    submitted: int = field(default_factory=time.perf_counter_ns)
    decode: Span | None = None
    inference: Span | None = None  # of the batch that the photo was in

    def queues(self) -> Iterator[Span]:
        """Yield when it waited: for a decoder, then for the model."""
        begin = self.submitted
        for step in (self.decode, self.inference):
            if step is not None:
                yield Span(begin, step.begin)
                begin = step.end
