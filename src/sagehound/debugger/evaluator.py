"""Evaluates rules over a stream of steps: during training, or over saved tensors."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np

from sagehound.debugger.observation import Missing, Step
from sagehound.debugger.rules.rule import Facts, Finding, Rule

IN_PROGRESS, NO_ISSUES, ISSUES = "InProgress", "NoIssuesFound", "IssuesFound"  # AWS's words
ERROR, NOT_EVALUATED = "Error", "NotEvaluated"


@dataclass
class _Status:
    """The state of the evaluation of one rule."""

    status: str = IN_PROGRESS
    details: str = ""
    seen: set[str] = field(default_factory=set)  # needed collections that were observed
    findings: list[Finding] = field(default_factory=list)
    changed: float = field(default_factory=time.time)

    def set(self, status: str, details: str) -> None:
        self.status, self.details, self.changed = status, details, time.time()


class Evaluator:
    """Gives each step to each rule. A rule that has found something, or has failed, sees no more steps.

    Args:
        rules: by their names in the config.
        facts: what is known of the run.
    """

    def __init__(self, rules: Mapping[str, Rule], facts: Facts | None = None) -> None:
        self.rules, self.facts = dict(rules), facts or Facts()
        self._statuses = {name: _Status() for name in rules}
        self.findings: list[Finding] = []  # in the order in which they were made
        self.earlier: list[dict[str, Any]] = []  # those of the run before it was resumed

    def on_step(self, step: Step) -> Iterator[tuple[str, Finding]]:
        """Yield each new finding with the rule's name in the config."""
        present = {c for c in step.tensors if step.of(c)}
        for name, rule in self.rules.items():
            status = self._statuses[name]
            if status.status == IN_PROGRESS:
                status.seen.update(present.intersection(rule.needs))
                yield from self._judge(name, partial(rule.on_step, step))

    def on_end(self) -> Iterator[tuple[str, Finding]]:
        """Yield the findings of the end, and close every rule."""
        for name, rule in self.rules.items():
            status = self._statuses[name]
            if status.status != IN_PROGRESS:
                continue
            if missing := [c for c in rule.needs if c not in status.seen]:
                status.set(NOT_EVALUATED, f"no tensors of {', '.join(missing)}")
                continue
            yield from self._judge(name, rule.on_end)
            if status.status == IN_PROGRESS:
                status.set(NO_ISSUES, "")

    def add(self, name: str, finding: Finding) -> str:
        """Note a finding that was made outside of the steps, such as before the first one.

        Args:
            name: of the rule, in the config or in findings.
            finding: a rule that makes it sees no more steps.

        Returns:
            The rule's name in the config, or ``name`` if the run does not have this rule.
        """
        name = next((key for key, rule in self.rules.items() if name in (key, rule.name)), name)
        status = self._statuses.setdefault(name, _Status())
        self.findings.append(finding)
        status.findings.append(finding)
        status.set(ISSUES, finding.meaning)
        return name

    def note(self, name: str, status: str, details: str = "") -> None:
        """Note the status of a check that is not one of the rules."""
        self._statuses.setdefault(name, _Status()).set(status, details)

    def status(self, name: str) -> tuple[str, str]:
        """The status of one rule by its name in the config, and the details."""
        return self._statuses[name].status, self._statuses[name].details

    def of(self, name: str) -> list[Finding]:
        """The findings of one rule, by its name in the config."""
        return list(self._statuses[name].findings)

    def statuses(self) -> list[dict[str, Any]]:
        """In the vocabulary of DebugRuleEvaluationStatuses, with the findings of each rule."""
        return [
            {
                "RuleConfigurationName": self.rules[name].name if name in self.rules else name,
                "RuleEvaluationStatus": status.status,
                "StatusDetails": status.details,
                "LastModifiedTime": datetime.fromtimestamp(status.changed, UTC).isoformat(timespec="seconds"),
                "Findings": [asdict(finding) for finding in status.findings],
            }
            for name, status in self._statuses.items()
        ]

    def _judge(self, name: str, look: Any) -> Iterator[tuple[str, Finding]]:  # noqa: ANN401 - a bound method
        status = self._statuses[name]
        try:
            with np.errstate(all="ignore"):  # tensors may hold NaN and infinity
                finding = look()
        except Missing as error:
            status.set(NOT_EVALUATED, f"it needs {error}")
        except Exception as error:  # a rule may be the user's own
            status.set(ERROR, f"{type(error).__name__}: {error}")
        else:
            if finding is not None:
                self.findings.append(finding)
                status.findings.append(finding)
                status.set(ISSUES, finding.meaning)
                yield name, finding
