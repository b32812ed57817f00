"""findings.json, and how a finding is printed."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sagehound.debugger.evaluator import Evaluator
from sagehound.debugger.rules.rule import Finding
from sagehound.storage.atomic import write_json
from sagehound.system import console

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

NAME = "findings.json"


def write(file: Path, evaluator: Evaluator, profile: str) -> None:
    """Write the findings in the order of time, and each rule's status in the form of DebugRuleEvaluationStatuses."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"profile": profile, "findings": [*evaluator.earlier, *(asdict(f) for f in evaluator.findings)]}
    write_json(file, _plain(content | {"DebugRuleEvaluationStatuses": evaluator.statuses()}))


def read(file: Path) -> list[dict[str, Any]]:
    """The findings of an earlier part of the run; empty if there is no readable file."""
    try:
        return list(json.loads(file.read_text(encoding="utf-8"))["findings"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _plain(value: Any) -> Any:  # noqa: ANN401 - JSON
    """With NaN and infinity, which JSON lacks, as text."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def line(finding: Finding) -> str:
    """What was found, why, and what to do, without the rule's name."""
    where = "" if finding.step is None else f" at {'step' if finding.is_training else 'valid batch'} {finding.step}"
    cure = f". Try {finding.override}" if finding.override else ""
    return f"{finding.meaning}{where}. Likely cause: {finding.cause}{cure}"


def tell(finding: Finding) -> None:
    """Print a finding."""
    console.warn(f"debugger: {finding.rule}: {line(finding)}")


def log(finding: Finding, loggers: "Sequence[Logger]", step: int) -> None:
    """Mark a finding in every logger: a point named after the rule, and in those that have texts, a text.

    Args:
        finding: what was found.
        loggers: the run's.
        step: the optimizer step at which it was found.
    """
    from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger

    name = f"debugger/{finding.rule}"
    for logger in loggers:
        logger.log_metrics({name: 1.0}, step)
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text(name, line(finding), step)
        elif isinstance(logger, WandbLogger):
            logger.experiment.summary[f"{name} text"] = line(finding)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.set_tag(logger.run_id, name, line(finding))
