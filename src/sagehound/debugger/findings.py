"""findings.json, and how a finding is printed."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sagehound.debugger.evaluator import Evaluator
from sagehound.debugger.rules.rule import Finding
from sagehound.storage.atomic import write_json
from sagehound.system import console

NAME = "findings.json"


def write(file: Path, evaluator: Evaluator, profile: str) -> None:
    """Write the findings in the order of time, and each rule's status in the form of DebugRuleEvaluationStatuses."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"profile": profile, "findings": [asdict(f) for f in evaluator.findings]}
    write_json(file, _plain(content | {"DebugRuleEvaluationStatuses": evaluator.statuses()}))


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
