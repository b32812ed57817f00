"""Runs the steps of a workflow that are not done yet, a process for each, and says what was done."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

from sagehound.config.overrides import override
from sagehound.errors import SagehoundError, Stopped
from sagehound.storage.atomic import locked, write_json
from sagehound.system import console
from sagehound_launchers.workflow.inputs import has_output, key, needs_model, place, trained
from sagehound_launchers.workflow.plan import Step, Workflow

_STATE = "workflow.json"
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


def run(workflow: Workflow) -> None:
    """Run the steps that are not done yet.

    Raises:
        SagehoundError: a step failed; its own message is printed before.
        Stopped: a signal came. The same command continues.
    """
    folder = workflow.folder
    names = ", ".join(step.name for step in workflow.steps)
    console.info(f"steps: {names}; results: {folder}")
    if workflow.dry_run:
        for step in workflow.steps:
            _show(workflow, step)
        return
    with locked(folder / ".lock", busy=f"another command runs the steps in {folder}"), _signals():
        _recall(workflow)
        session = _session(workflow)
        from sagehound_launchers.packages import find  # imported here: it needs numpy

        if workflow.model.startswith(find.PREFIX):  # the version of now, for all steps
            workflow.model = find.find(workflow.model.removeprefix(find.PREFIX), workflow.cfg)[1].address
        for number, step in enumerate(workflow.steps, 1):
            before, step.key = step.key, key(workflow, step, session)
            is_same = before == step.key
            if step.name == "train":
                workflow.model = trained(workflow)
            if is_same and step.state == "done" and has_output(workflow, step):
                console.info(f"step {number} of {len(workflow.steps)}, {step.name}: done before")
                continue
            again = " again, because its settings or inputs have changed" if before and not is_same else ""
            console.info(f"step {number} of {len(workflow.steps)}: {step.name}{again}")
            code = _run_step(workflow, step, is_same=is_same)
            if code:
                _table(workflow)
                raise _failed(workflow, step, session, code)
        _table(workflow)


def _run_step(workflow: Workflow, step: Step, *, is_same: bool) -> int:
    """Run a step, and write down how it ended; returns its exit code."""
    step.state = "running"
    _write(workflow)
    start = time.monotonic()
    code = _call([*_multirun(step), *step.overrides, *place(workflow, step)], workflow.flags)
    step.seconds = round((step.seconds if is_same else 0) + time.monotonic() - start, 1)
    step.state = "failed" if code else "done"
    step.dollars = _dollars(workflow, step)
    _write(workflow)
    return code


def _multirun(step: Step) -> list[str]:
    return ["-m"] if step.name == "search" else []


def _show(workflow: Workflow, step: Step) -> None:
    """Let a step write its requests, if it sends any."""
    if not step.sends:
        console.info(f"dry_run: {step.name} runs on this machine, and is left out")
        return
    if step.name == "search" and "hpo=sagemaker" not in step.overrides:
        console.info("dry_run: the search's jobs have the request of train, with other values")
        return
    folder = workflow.folder / "dry_run" / step.name
    kind = "sweep" if step.name == "search" else "run"
    words = [override(f"hydra.{kind}.dir", str(folder)), "dry_run=true"]
    if step.name not in ("search", "train"):
        known = bool(workflow.model) and needs_model(step) and Path(workflow.model).exists()
        words.append(override("model", workflow.model if known else str(folder / "not-trained")))
    if code := _call([*_multirun(step), *step.overrides, *words], workflow.flags):
        sys.exit(code)


def _session(workflow: Workflow) -> Any:  # noqa: ANN401 - an AwsSession, which imports boto3
    """The account of the steps, or an emulator that lives as long as the command; None if no step needs it."""
    if not any(step.sends for step in workflow.steps):
        return None
    from sagehound_launchers.sagemaker import account

    session = account.open_session(workflow.cfg.aws)
    if session.own and session.url:
        os.environ[account.OF_WORKFLOW] = session.url  # for the steps, which say what ends with it
    return session


def _call(words: Sequence[str], flags: Sequence[str]) -> int:
    """Run `sagehound launch` in a process that ends with this one; returns its exit code."""
    command = [sys.executable, "-P", "-m", "sagehound.cli", "launch", *flags, *words]
    sys.stdout.flush()
    process = subprocess.Popen(command, preexec_fn=_die_with_parent if sys.platform == "linux" else None)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # the terminal has sent it to the step as well
            process.wait()
            raise
        except Stopped:
            process.terminate()
            process.wait()
            raise


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)


@contextmanager
def _signals() -> Iterator[None]:
    """Turn SIGTERM into Stopped."""

    def stop(signum: int, _: FrameType | None) -> None:
        raise Stopped("stopped by SIGTERM; the same command continues", signum)

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _dollars(workflow: Workflow, step: Step) -> float | None:
    """What a training job was billed by list price; None if it is not known, or cost nothing."""
    path = Path(workflow.model, "job.json")
    if step.name != "train" or workflow.cfg.aws.name == "emulator" or not path.exists():
        return None
    from sagehound_launchers.sagemaker import cost

    aws, job = workflow.cfg.aws, json.loads(path.read_text())
    price = cost.price(aws.instance_type, str(job.get("TrainingJobArn", ":::us-east-1")).split(":")[3])
    billed = job.get("BillableTimeInSeconds", 0) * aws.instance_count
    return round(price.dollars * billed / 3600, 4) if price else None


def _failed(workflow: Workflow, step: Step, session: Any, code: int) -> SagehoundError:  # noqa: ANN401 - as above
    """The error of a step, with what still exists on SageMaker."""
    left = ""
    if session is not None:
        from sagehound_launchers.sagemaker import inventory

        try:
            there = [r for r in inventory.everything(session) if r.kind == "endpoint" or r.kind.endswith("job")]
        except SagehoundError as hidden:  # such as a missing permission, which must not hide the step that failed
            there, left = [], f"; what exists on SageMaker is not known ({hidden})"
        hourly = sum(r.dollars or 0 for r in there)
        if there:
            names = ", ".join(f"{r.kind} {r.name}" for r in there)
            left = f"; on SageMaker there is {names} (${hourly:g} an hour): sagehound launch list"
    error = SagehoundError(f"step {step.name} failed{left}; the same command continues there")
    error.exit_code = code
    return error


def _table(workflow: Workflow) -> None:
    rows = []
    for step in workflow.steps:
        cost = "-" if step.dollars is None else f"${step.dollars:g}"
        rows.append([step.name, step.state, f"{step.seconds:.1f}", cost])
    console.table(f"Steps in {workflow.folder}", ["step", "state", "seconds", "cost"], rows)


def _recall(workflow: Workflow) -> None:
    """Take over what an earlier command for the folder has done."""
    try:
        known = {step["name"]: step for step in json.loads((workflow.folder / _STATE).read_text())["steps"]}
        for step in workflow.steps:
            before = known.get(step.name, {})
            step.key, step.state = before.get("key", ""), before.get("state", step.state)
            step.seconds, step.dollars = float(before.get("seconds", 0)), before.get("dollars")
    except (OSError, ValueError, KeyError, TypeError):
        return  # nothing was begun, or it cannot be read


def _write(workflow: Workflow) -> None:
    write_json(workflow.folder / _STATE, {"steps": [asdict(step) for step in workflow.steps]})
