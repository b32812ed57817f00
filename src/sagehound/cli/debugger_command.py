"""The command `sagehound debugger`: evaluates rules over the tensors of a finished run."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from sagehound.cli.command import clear_errors
from sagehound.config import Debugger
from sagehound.debugger import findings, saved
from sagehound.debugger.evaluator import ISSUES
from sagehound.debugger.rules import registry
from sagehound.errors import ConfigError
from sagehound.system import console, interrupts


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; {self.prog} RUN [--rule NAME] [--profile aws] [PARAMETER=VALUE ...]")


def evaluate(program: str, argv: Sequence[str]) -> None:
    """Print the status of each rule, and write findings.json into the run's folder.

    Args:
        program: the program's name, as the user types it.
        argv: the rest of the command line.

    Raises:
        SystemExit: with exit code 2 (wrong command) or 3 (no saved tensors).
    """
    parser = _Parser(prog=program, description="Evaluate the debugger's rules over the tensors that a run has saved.")
    parser.add_argument("run", metavar="RUN", help="a run's folder, or a folder of smdebug's tensors")
    parser.add_argument("--rule", metavar="NAME", help="this rule only, such as vanishing_gradient")
    parser.add_argument("--profile", choices=("calibrated", "aws"), default="calibrated", help="default parameters")
    parser.add_argument("parameters", metavar="PARAMETER=VALUE", nargs="*", help="parameters of --rule")
    with clear_errors():
        arguments = parser.parse_intermixed_args(argv)
        interrupts.restore_keyboard_interrupt()
        run = Path(arguments.run)
        if not run.is_dir():
            raise ConfigError(f"{run}: no such folder; give a run's folder")
        cfg = Debugger(name="local", profile=arguments.profile, rules=_rules(arguments.rule, arguments.parameters))
        evaluator = saved.evaluate(run, cfg)
        for status in evaluator.statuses():
            details = f": {status['StatusDetails']}" if status["StatusDetails"] else ""
            console.info(f"{status['RuleConfigurationName']:26} {status['RuleEvaluationStatus']}{details}")
        for finding in evaluator.findings:
            console.info(f"{finding.rule}: {findings.line(finding)}")
        file = (run if (run / "events").is_dir() else run / "debugger") / "findings_saved.json"
        findings.write(file, evaluator, arguments.profile)
        count = sum(s["RuleEvaluationStatus"] == ISSUES for s in evaluator.statuses())
        console.info(f"{count} of {len(evaluator.statuses())} rules found something: {file}")
        sys.stdout.flush()


def _rules(name: str | None, parameters: Sequence[str]) -> dict[str, dict[str, Any]] | None:
    if name is None:
        if parameters:
            raise ConfigError(f"{parameters[0]}: give --rule NAME, of which this is a parameter")
        return None
    chosen = {key: key for key in registry()} | {rule.name: key for key, rule in registry().items()}
    values = {}
    for word in parameters:
        key, is_setting, value = word.partition("=")
        if not is_setting:
            raise ConfigError(f"{word}: parameters are written PARAMETER=VALUE")
        values[key] = value
    return {chosen.get(name, name): values}
