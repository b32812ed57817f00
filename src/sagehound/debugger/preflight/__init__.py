"""Checks before the first epoch: photos, labels, weights, loss and learning rate.

With the default ``finetune=head`` the backbone gets no gradients, so most faults can be seen here. A check is a
function that yields findings. It works on copies, or undoes its changes: checks do not change the training.
"""

from collections.abc import Callable, Iterator, Sequence

import torch

from sagehound.debugger.evaluator import ERROR, ISSUES, NO_ISSUES, NOT_EVALUATED, Evaluator
from sagehound.debugger.preflight import data_checks, model_checks, step_checks
from sagehound.debugger.preflight.setting import Setting, Unknown, same_random_numbers
from sagehound.debugger.rules.rule import Finding

CHECKS: tuple[Callable[[Setting], Iterator[Finding]], ...] = (
    model_checks.loss_function,
    model_checks.first_loss,
    model_checks.backbone_weights,
    model_checks.normalisation,
    data_checks.photos_seen,
    data_checks.own_transform,
    data_checks.labels,
    data_checks.leaks,
    data_checks.batches,
    model_checks.head_weights,
    step_checks.one_batch,
)


def run(setting: Setting, evaluator: Evaluator, chosen: Sequence[str] | None = None) -> Iterator[tuple[str, Finding]]:
    """Run the chosen checks, or all; yield each finding with the name of its rule, at most one for each rule."""
    for check in CHECKS:
        if chosen is not None and check.__name__ not in chosen:
            continue
        name = f"Preflight/{check.__name__}"
        try:
            with same_random_numbers(), torch.random.fork_rng(devices=[]):
                findings = list(check(setting))
        except Unknown as error:
            evaluator.note(name, NOT_EVALUATED, str(error))
            continue
        except Exception as error:  # a user's own loss, optimizer or transform
            evaluator.note(name, ERROR, f"{type(error).__name__}: {error}")
            continue
        for finding in findings:
            if any(finding.rule == known.rule for known in evaluator.findings):
                continue
            yield evaluator.add(finding.rule, finding), finding
        evaluator.note(name, ISSUES if findings else NO_ISSUES, ", ".join(finding.rule for finding in findings))


__all__ = ["CHECKS", "Setting", "Unknown", "run"]
