"""What a trial tells of each epoch while it trains, to whoever listens; nobody does unless trials are pruned."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from sagehound.errors import SagehoundError
from sagehound.metrics import of_epoch

Report = Callable[[int, float], bool]  # epochs done and the objective then; whether the trial is to end

MEASURED = tuple(of_epoch(("valid",)))  # valid.loss, valid.top1, ...: what is known of every epoch

_listener: ContextVar[Report | None] = ContextVar("_listener", default=None)


class Pruned(SagehoundError):
    """A trial was ended early, because others were better by then."""


@contextmanager
def listening(report: Report) -> Iterator[None]:
    """Trials that are trained in this block, in this process, tell ``report`` of each epoch."""
    before = _listener.set(report)
    try:
        yield
    finally:
        _listener.reset(before)


def each_epoch(objective: str) -> Callable[[int, Mapping[str, float]], None] | None:
    """What training calls after each epoch; None where nobody listens.

    It raises Pruned where the trial is to end.
    """
    report = _listener.get()
    if report is None:
        return None

    def tell(epochs: int, scores: Mapping[str, float]) -> None:
        value = scores[objective]
        if report(epochs, value):
            raise Pruned(f"pruned after {epochs} epochs, at {objective} {value:.4f}")

    return tell
