"""Observers of the tensors of a step: the recorder saves them, and the monitor evaluates rules on them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor, nn

from sagehound.errors import SagehoundError
from sagehound.system import console

Parameters = Callable[[], Iterable[tuple[str, nn.Parameter]]]  # called only if they are wanted: it takes a millisecond


class Observer(Protocol):
    """Gets the tensors of each step that it wants."""

    after_error: str  # what no longer happens after an error in it

    def begin(self, parameters: Parameters, *, training: bool) -> set[str]:
        """Begin the next step with the parameters that are trained; returns the collections that are wanted of it."""

    def activation(self, name: str, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Take the inputs and the output, b x ..., of a layer."""

    def gradients(self, parameters: Parameters) -> None:
        """Take the gradients of the parameters."""

    def scores(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Take the loss and its inputs, b x c and b."""

    def end(self) -> None:
        """End the step."""

    def close(self) -> None:
        """End the training."""

    def abandon(self) -> None:
        """Release everything after an error."""


class Observers:
    """Several observers. After an error in one, a warning is printed once and the others continue.

    Args:
        observers: in the order in which they are called.
    """

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = list(observers)
        self._wanted: dict[int, set[str]] = {}

    def __bool__(self) -> bool:
        """Whether at least one observer has not failed."""
        return bool(self._observers)

    def begin(self, parameters: Parameters, *, training: bool) -> set[str]:
        """Begin the next step; returns the collections that any of them wants."""
        self._wanted = {}

        def begin(observer: Observer) -> None:
            self._wanted[id(observer)] = observer.begin(parameters, training=training)

        self._each(begin)
        return set().union(*self._wanted.values())

    def activation(self, name: str, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Pass a layer's tensors to each observer; the part of the name after the last dot is relu, tanh or sigmoid."""
        wanted = {"relu_input", "relu_output"} if name.endswith(".relu") else {"saturating_input"}
        self._each(lambda o: o.activation(name, inputs, output), wanted)

    def gradients(self, parameters: Parameters) -> None:
        """Pass the gradients to each observer."""
        self._each(lambda o: o.gradients(parameters), {"gradients"})

    def scores(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Pass the loss and its inputs to each observer."""
        self._each(lambda o: o.scores(logits, labels, loss), {"losses", "labels", "predictions"})

    def end(self) -> None:
        """End the step."""
        self._each(lambda o: o.end())

    def close(self) -> None:
        """End the training."""
        self._each(lambda o: o.close())
        self._observers = []

    def _each(self, call: Callable[[Observer], None], wanted: set[str] | None = None) -> None:
        for observer in list(self._observers):
            if wanted and not wanted & self._wanted.get(id(observer), set()):
                continue
            with reported(observer.after_error) as failed:
                call(observer)
            if failed:
                self._observers.remove(observer)
                observer.abandon()


@contextmanager
def reported(after_error: str) -> Iterator[list[Exception]]:
    """Print a warning after an error and continue. Sagehound's own errors and stops by a signal are raised.

    Args:
        after_error: what no longer happens.
    """
    failed: list[Exception] = []
    try:
        yield failed
    except SagehoundError:
        raise
    except Exception as error:
        failed.append(error)
        console.warn(f"debugger: {after_error} ({type(error).__name__}: {error}); training continues")
