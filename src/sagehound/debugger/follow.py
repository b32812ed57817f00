"""Evaluates the rules of a SageMaker request over the tensors that a job writes, while it writes them.

``python -m sagehound.debugger.follow FOLDER --rules FILE --statuses FILE`` ends when its standard input is closed and
every step has been evaluated. ``--rules`` holds DebugRuleConfigurations, ``--statuses`` gets
DebugRuleEvaluationStatuses.
"""

import argparse
import json
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sagehound.debugger.evaluator import ERROR, NOT_EVALUATED, Evaluator
from sagehound.debugger.findings import line
from sagehound.debugger.rules import registry
from sagehound.debugger.rules.rule import Rule
from sagehound.debugger.saved import step_of
from sagehound.debugger.smdebug_rules import instance
from sagehound.errors import ConfigError
from sagehound.storage.atomic import write_json

_PAUSE = 0.5  # seconds between two looks at the folder
_NAMES = {"StalledTrainingRule": "StalledTraining"}  # where AWS names a rule otherwise
_BY = "Evaluated by Sagehound's open rule of this name, by AWS's documented definition."


class Follower:
    """Evaluates the rules of a request.

    Args:
        folder: of the tensors; it may not exist yet.
        configurations: the request's DebugRuleConfigurations.
    """

    def __init__(self, folder: Path, configurations: Sequence[Mapping[str, Any]]) -> None:
        self.folder = folder
        rules: dict[str, Rule] = {}
        notes: dict[str, str] = {}
        self._unused: dict[str, list[str]] = {}
        for configuration in configurations:
            name = configuration["RuleConfigurationName"]
            try:
                rules[name], self._unused[name] = _rule(configuration)
            except ConfigError as error:
                notes[name] = str(error)
        self._order = [configuration["RuleConfigurationName"] for configuration in configurations]
        self._evaluator = Evaluator(rules)
        for name, why in notes.items():
            self._evaluator.note(name, ERROR, why)
        self._trial: Any = None
        self._next = 0

    def advance(self) -> None:
        """Evaluate the steps that were written since the last call."""
        if self._trial is None:
            if not (self.folder / "collections").is_dir() or not any(self.folder.glob("index/*/*.json")):
                return  # smdebug would wait for them
            from smdebug.trials import create_trial

            self._trial = create_trial(str(self.folder))
        for number in [n for n in self._trial.steps() if n >= self._next]:
            self._next = number + 1
            for _ in self._evaluator.on_step(step_of(self._trial, number)):
                pass

    def end(self) -> None:
        """Judge what can be judged only after the last step."""
        self.advance()
        for _ in self._evaluator.on_end():
            pass

    def statuses(self) -> list[dict[str, Any]]:
        """DebugRuleEvaluationStatuses in the order of the request."""
        return [self._status(name) for name in self._order]

    def _status(self, name: str) -> dict[str, Any]:
        status, details = self._evaluator.status(name)
        if findings := self._evaluator.of(name):
            details = line(findings[0]) + "."
        unused = self._unused.get(name)
        parts = [details, f"Not used: {', '.join(unused)}." if unused else "", _BY if name in self._unused else ""]
        return {
            "RuleConfigurationName": name,
            "RuleEvaluationStatus": ERROR if status == NOT_EVALUATED else status,  # AWS has no such word
            "StatusDetails": " ".join(part for part in parts if part)[:1024],
        }


def _rule(configuration: Mapping[str, Any]) -> tuple[Rule, list[str]]:
    """The rule of a configuration with AWS's documented defaults, and the parameters that it does not have.

    Raises:
        ConfigError: there is no such rule, or a parameter is not a number.
    """
    given = dict(configuration.get("RuleParameters", {}))
    name = given.pop("rule_to_invoke", configuration["RuleConfigurationName"])
    name = _NAMES.get(name, name)
    if "source_s3_uri" in given:
        raise ConfigError(f"{name}: a rule from a source of your own is not evaluated here; run it by smdebug")
    kind = next((rule for rule in registry().values() if rule.name == name), None)
    if kind is None:
        raise ConfigError(f"Sagehound has no rule {name}; it has {', '.join(r.name for r in registry().values())}")
    known = {key: value for key, value in given.items() if key in kind.parameters()}
    return instance(kind, "aws", known), sorted(set(given) - set(known) - {"action_json"})


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate until the standard input is closed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rules", type=Path, required=True)
    parser.add_argument("--statuses", type=Path, required=True)
    arguments = parser.parse_args(argv)
    follower = Follower(arguments.folder, json.loads(arguments.rules.read_text()))
    ended = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    written: list[dict[str, Any]] = []
    while True:
        is_last = ended.wait(_PAUSE)
        (follower.end if is_last else follower.advance)()
        if (statuses := follower.statuses()) != written:
            write_json(arguments.statuses, statuses)
            written = statuses
        if is_last:
            return


if __name__ == "__main__":
    main()
