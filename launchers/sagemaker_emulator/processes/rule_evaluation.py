"""Evaluates a training job's DebugRuleConfigurations, by the command of an installed package."""

import json
import subprocess
import time
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from sagemaker_emulator.processes.reaper import Reaper
from sagemaker_emulator.storage.atomic_files import write_json
from sagemaker_emulator.storage.records import Record

GROUP = "sagemaker_emulator.rules"  # entry points: a command that evaluates rules
_PRIORITY = {"Error": 1, "NoIssuesFound": 2, "IssuesFound": 3}  # of several attempts


class RuleEvaluation:
    """Evaluates the rules of one attempt of a job in a process of its own, while the job writes tensors.

    The command of the first entry point of ``sagemaker_emulator.rules`` gets the folder of the tensors, ``--rules``
    with the request's DebugRuleConfigurations as JSON, and ``--statuses`` for DebugRuleEvaluationStatuses. It ends when
    its standard input is closed and every step has been evaluated.

    Args:
        record: the job's.
        tensors: the folder to which the job writes them.
        folder: for the process's own files.
        reaper: ends the process with the emulator.
    """

    def __init__(self, record: Record, tensors: Path, folder: Path, reaper: Reaper) -> None:
        self._record, self._reaper = record, reaper
        self._statuses = folder / "rule-statuses.json"
        self._process: subprocess.Popen[bytes] | None = None
        rules = record.get("DebugRuleConfigurations", [])
        command = _command() if rules else []
        if not command:
            return
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "rules.json", rules)
        self._log = (folder / "rules.log").open("wb")
        self._process = subprocess.Popen(
            [*command, str(tensors), "--rules", str(folder / "rules.json"), "--statuses", str(self._statuses)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            start_new_session=True,
        )
        reaper.add(self._process.pid)

    def update(self) -> bool:
        """Copy the statuses into the job's record; returns whether a rule asks to stop the job."""
        statuses: list[dict[str, Any]] = []
        with suppress(OSError, ValueError):
            statuses = json.loads(self._statuses.read_text())
        known = {status["RuleConfigurationName"]: status for status in statuses}
        stops = False
        for rule, record in zip(
            self._record.get("DebugRuleConfigurations", []),
            self._record.get("DebugRuleEvaluationStatuses", []),
            strict=True,
        ):
            status = known.get(rule["RuleConfigurationName"])
            if status is None:
                continue
            stops = stops or (status["RuleEvaluationStatus"] == "IssuesFound" and _is_stop(rule))
            before, after = (_PRIORITY.get(s["RuleEvaluationStatus"], 0) for s in (record, status))
            if after >= before and {**record, **status} != record:
                record.update(status, LastModifiedTime=time.time())
        return stops

    def end(self, most: float) -> None:
        """Have the last steps evaluated, for at most ``most`` seconds, and copy the statuses."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(most)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reaper.remove(self._process.pid)
        self._log.close()
        self.update()
        if self._process.returncode:
            self._fail()

    def _fail(self) -> None:
        lines = Path(self._log.name).read_text(errors="replace").strip().splitlines() or [""]
        for record in self._record["DebugRuleEvaluationStatuses"]:
            if record["RuleEvaluationStatus"] == "InProgress":
                record.update(
                    RuleEvaluationStatus="Error", StatusDetails=lines[-1][:1024], LastModifiedTime=time.time()
                )


def _command() -> list[str]:
    """The command of an installed package; empty without one."""
    for entry in entry_points(group=GROUP):
        with suppress(ImportError):
            return list(entry.load())
    return []


def close(record: Record) -> None:
    """Give every rule that was not evaluated a status that claims no finding."""
    for kind in ("Debug", "Profiler"):
        for rule in record.get(f"{kind}RuleEvaluationStatuses", []):
            if rule["RuleEvaluationStatus"] == "InProgress":
                details = "the emulator evaluates no managed rules"
                rule.update(RuleEvaluationStatus="Stopped", StatusDetails=details, LastModifiedTime=time.time())


def _is_stop(rule: Record) -> bool:
    """Whether StopTraining is among a rule's actions, as the SDK writes them."""
    text = str(rule.get("RuleParameters", {}).get("action_json", "")).replace('\\"', '"')
    with suppress(ValueError):
        actions = json.loads(text)
        return any(
            str(action.get("name", "")).lower() == "stoptraining"
            for action in (actions if isinstance(actions, list) else [actions])
        )
    return False
