"""Reports of each epoch of a trial to the search, which may prune it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from sagehound.errors import SagehoundError

Report = Callable[[int, float], bool]  # finished epochs and the objective; returns whether to end the trial

_listener: ContextVar[Report | None] = ContextVar("_listener", default=None)


class Pruned(SagehoundError):
    """A trial was pruned, because others were better."""


@contextmanager
def listening(report: Report) -> Iterator[None]:
    """Trials that are trained in this block, in this process, call ``report`` after each epoch."""
    before = _listener.set(report)
    try:
        yield
    finally:
        _listener.reset(before)


def each_epoch(objective: str) -> Callable[[int, Mapping[str, float]], None] | None:
    """The function that training calls after each epoch; None without pruning.

    It raises Pruned if the trial is to end.
    """
    report = _listener.get()
    if report is None:
        return None

    def tell(epochs: int, scores: Mapping[str, float]) -> None:
        value = scores[objective]
        if report(epochs, value):
            raise Pruned(f"pruned after {epochs} epochs, at {objective} {value:.4f}")

    return tell
