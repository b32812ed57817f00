"""hpo.pruner=diagnosis: a trial ends when the debugger's rules say that it cannot become good."""

from collections.abc import Iterator
from contextlib import contextmanager

from sagehound.config import Debugger
from sagehound.debugger.rules.rule import RuleFailed
from sagehound_launchers.config import Launch
from sagehound_launchers.search.pruning import Pruned

# found before the first epoch or in its first steps
_FATAL = ("learning_rate_too_high", "learning_rate_too_low", "exploding_tensor", "loss_not_decreasing")
# of what differs between trials; photos and weights are the same in all of them
_CHECKS = ("first_loss", "head_weights", "one_batch")


def prepare(cfg: Launch) -> None:
    """Let the debugger of a trial end it; a debugger of the user's config stays, with its own actions."""
    if cfg.debugger is None:
        cfg.debugger = Debugger(
            name="local",
            save=False,
            collections=["losses", "weights", "labels", "predictions"],
            train_interval=5,
            loss_interval=1,
            histograms=False,
            checks=list(_CHECKS),
            rules={name: {"action": "fail"} for name in _FATAL},
        )


@contextmanager
def pruned() -> Iterator[None]:
    """Turn the error of a rule whose action is fail into the end of a pruned trial."""
    try:
        yield
    except RuleFailed as error:
        raise Pruned(f"pruned: {error}") from error
