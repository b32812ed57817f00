"""The commands `train` and `serve`, which SageMaker runs inside a container. The Dockerfile installs them.

SAGEMAKER_EMULATOR_OPT_ML replaces /opt/ml, and SAGEHOUND_HOME replaces /opt/sagehound.
"""

import collections
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from sagehound.artifact.archive import HINT, LIMITS, NAME
from sagehound.cli import hyperparameters
from sagehound.cli.command import clear_errors
from sagehound.errors import ConfigError, InputError, SagehoundError, Stopped
from sagehound.storage import packs
from sagehound.storage.archive_reader import Limits
from sagehound.storage.unpacking import unpack, unpack_into
from sagehound.system import console

_MAX_REASON = 1024  # characters of a failure's reason that SageMaker shows
_LAST_LINES = 30  # lines of a job's log that are searched for the reason of a failure
_GPUS = re.compile(r"ml\.[gp]\d")  # instance types
_SOURCE = Limits((".tar.gz",), 100_000, 2 * 10**9, executable=True)  # for the project that launch.py uploads
_PORT = "29500"  # torch's default port, on which the first of several machines waits for the others


def train() -> None:
    """Train with the job's hyperparameters, and write model and results to the folders that SageMaker uploads.

    Hyperparameters are overrides of `sagehound train`. The channel `code` contains the project to run (source.tar.gz;
    without it, the image's own), `photos` becomes data.root, and `weights` contains a file for backbone.weights. The
    run's folder is checkpoints/JOB/run, from which the job resumes after a spot interruption. A job that is stopped
    also uploads its checkpoints.

    Raises:
        SystemExit: with the run's exit code; the reason is in output/failure.
    """
    other_base = os.environ.get("SAGEMAKER_EMULATOR_OPT_ML")
    base = Path(other_base or "/opt/ml")
    scratch = base / "tmp" if other_base else Path("/tmp/sagehound")  # channels may be read-only
    signal.signal(signal.SIGTERM, _stop)
    with clear_errors():
        try:
            job = _read(base)
            home = _code(base, scratch)
            run = (_job_folder(base) if job["rank"] == 0 else scratch) / "run"
            source = str(base / "input/config/hyperparameters.json")
            overrides = [*hyperparameters.decode(job["hyperparameters"], source), *_paths(base, scratch, job, run)]
            environment = os.environ | _environment(base, job) | _python_path(home)
        except Exception as error:
            _fail(base, [str(error) if isinstance(error, SagehoundError) else f"{type(error).__name__}: {error}"])
            raise
    console.info(f"train {' '.join(overrides)}")
    script = home / "train.py"  # without it, the installed package runs
    start = [str(script)] if script.is_file() else ["-m", "sagehound.cli", "train"]
    code, last = _run([sys.executable, *start, *overrides], environment, home)
    stopped = code == 128 + signal.SIGTERM
    if run.is_dir() and job["rank"] == 0 and (stopped or not code):
        _copy_results(run, base, with_checkpoints=stopped)
    if code:
        _fail(base, last)
        sys.exit(code)


def serve() -> None:
    """Serve the model in /opt/ml/model, or with SAGEMAKER_MULTI_MODEL=true the models that SageMaker loads.

    SAGEMAKER_BIND_TO_PORT is the port, by default 8080.

    Raises:
        SystemExit: with an exit code, after one line with the reason.
    """
    with clear_errors():
        from sagehound.serving.server import Address, serve

        model = Path(os.environ.get("SAGEMAKER_EMULATOR_OPT_ML", "/opt/ml"), "model")
        several = os.environ.get("SAGEMAKER_MULTI_MODEL", "").lower() == "true"
        port = os.environ.get("SAGEMAKER_BIND_TO_PORT", "8080")
        if not port.isdecimal() or int(port) > 65535:
            raise ConfigError(f"SAGEMAKER_BIND_TO_PORT={port}: give a number up to 65535")
        address = Address("0.0.0.0", int(port))  # SageMaker decides who reaches it
        serve({} if several else {"model": str(model)}, address, device="auto")


def _read(base: Path) -> dict[str, Any]:
    """Read SageMaker's description of the job: hyperparameters, channels, hosts and the rank of this host."""
    config = base / "input" / "config"
    settings = {}
    for name in ("hyperparameters", "resourceconfig", "inputdataconfig"):
        path = config / f"{name}.json"
        try:
            settings[name] = json.loads(path.read_text()) if path.exists() else {}
        except ValueError as error:
            raise InputError(
                f"{path} is not valid JSON: {error}; SageMaker writes this file: start the job again"
            ) from error
    hosts = settings["resourceconfig"].get("hosts", ["localhost"])
    host = settings["resourceconfig"].get("current_host", hosts[0])
    instance = str(settings["resourceconfig"].get("current_instance_type", ""))
    return settings | {"hosts": hosts, "host": host, "rank": sorted(hosts).index(host), "instance": instance}


def _job_folder(base: Path) -> Path:
    """The job's own folder in checkpoints, because the jobs of a tuning job may share that folder in S3."""
    return base / "checkpoints" / os.environ.get("TRAINING_JOB_NAME", "job")


def _code(base: Path, scratch: Path) -> Path:
    """The project's folder: unpacked from its channel, or the image's own, or ``base`` if there is neither."""
    archive = base / "input" / "data" / "code" / "source.tar.gz"
    if not archive.exists():
        home = Path(os.environ.get("SAGEHOUND_HOME", "/opt/sagehound"))
        return home if home.is_dir() else base
    home = scratch / "code"
    shutil.rmtree(home, ignore_errors=True)  # left by the same job when it was interrupted
    unpack(archive, home, hint="start the job with launch.py", limits=_SOURCE)
    return home


def _python_path(home: Path) -> dict[str, str]:
    """The PYTHONPATH that imports the project's packages before the image's."""
    old = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([str(home / "src"), str(home / "launchers"), *([old] if old else [])])}


def _paths(base: Path, scratch: Path, job: dict[str, Any], run: Path) -> list[str]:
    """Overrides for the container's paths and devices; they replace those of the machine that sent the job."""
    data, chosen = base / "input" / "data", hyperparameters.values(job["hyperparameters"])
    overrides = ["trainer.num_nodes=" + str(len(job["hosts"]))] if len(job["hosts"]) > 1 else []
    if (data / "photos").is_dir():
        overrides.append(f"data.root='{packs.unpack(data / 'photos', scratch)}'")
    if (data / "weights").is_dir():
        (weights,) = (data / "weights").iterdir()
        overrides.append(f"backbone.weights='{weights}'")
    if chosen.get("debugger", "null") == "sagemaker":
        overrides.append(f"debugger.folder='{base / 'output' / 'tensors'}'")
    if _GPUS.match(job["instance"]) and "trainer.accelerator" not in chosen and base == Path("/opt/ml"):
        overrides.append("trainer.accelerator=gpu")  # fail if the GPU, which costs money, is not available
    if (stopped := _job_folder(base) / "run" / "checkpoints" / "last.ckpt").exists():
        console.info(f"resuming from {stopped}")
        overrides.append(f"resume='{stopped}'")
    elif run.exists():  # interrupted before its first checkpoint
        overrides.append("overwrite=true")
    return [*overrides, f"hydra.run.dir='{run}'"]


def _environment(base: Path, job: dict[str, Any]) -> dict[str, str]:
    """SM_* variables as in AWS's own containers, and those for torch.distributed and for the metric lines."""
    data, hosts = base / "input" / "data", job["hosts"]
    channels = sorted(job["inputdataconfig"])
    network = job["resourceconfig"].get("network_interface_name", "eth0")
    variables = {
        "SM_MODEL_DIR": str(base / "model"),
        "SM_OUTPUT_DATA_DIR": str(base / "output" / "data"),
        "SM_INPUT_DIR": str(base / "input"),
        "SM_CHANNELS": json.dumps(channels),
        "SM_HPS": json.dumps(hyperparameters.values(job["hyperparameters"])),
        "SM_HOSTS": json.dumps(hosts),
        "SM_CURRENT_HOST": job["host"],
        "SM_NETWORK_INTERFACE_NAME": network,
        console.METRIC_LINES: "1",
        "PYTHONUNBUFFERED": "1",  # so that the log is live
        **{f"SM_CHANNEL_{name.upper()}": str(data / name) for name in channels},
    }
    if len(hosts) > 1:
        variables |= {"MASTER_ADDR": sorted(hosts)[0], "MASTER_PORT": _PORT, "NODE_RANK": str(job["rank"])}
        variables |= {"GLOO_SOCKET_IFNAME": network, "NCCL_SOCKET_IFNAME": network}
        _wait_for(sorted(hosts)[0])
    return variables


def _wait_for(host: str, seconds: float = 120) -> None:
    """Wait until a host of the job has an address: the machines start one by one, and their names come later."""
    end = time.monotonic() + seconds
    while True:
        try:
            socket.gethostbyname(host)
        except OSError as error:
            if time.monotonic() > end:
                raise InputError(
                    f"the machine {host} of this job has no address after {seconds:g} s: start the job again"
                ) from error
            time.sleep(1)
        else:
            return


def _stop(signum: int, _: FrameType | None) -> None:
    raise Stopped("stopped by SIGTERM before the training began", signum)


def _run(command: list[str], environment: dict[str, str], home: Path) -> tuple[int, list[str]]:
    """Run the training and forward signals to it. Returns its exit code and the last lines of its log."""
    waiting: list[int] = []
    process: subprocess.Popen[str] | None = None

    def forward(signum: int, _: FrameType | None) -> None:
        if process:
            process.send_signal(signum)
        else:
            waiting.append(signum)

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, forward)
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    for early in waiting:
        process.send_signal(early)
    assert process.stdout is not None
    last: collections.deque[str] = collections.deque(maxlen=_LAST_LINES)
    for line in process.stdout:
        print(line, end="", flush=True)
        if line.strip():
            last.append(line.strip())
    code = process.wait()
    return code if code >= 0 else 128 - code, list(last)


def _fail(base: Path, last: list[str]) -> None:
    """Write the reason that SageMaker shows: Sagehound's error message, or else the last line of the log."""
    errors = [line.removeprefix("sagehound: ") for line in last if line.startswith("sagehound: ")]
    reason = (errors or last or ["the training ended without a message"])[-1]
    path = base / "output" / "failure"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(reason[:_MAX_REASON])


def _copy_results(run: Path, base: Path, *, with_checkpoints: bool) -> None:
    """Copy the model and the results to the folders that SageMaker packs as model.tar.gz and output.tar.gz."""
    (base / "model").mkdir(parents=True, exist_ok=True)
    if (run / NAME).exists():
        unpack_into(run / NAME, base / "model", hint=HINT, limits=LIMITS)
    skipped = shutil.ignore_patterns(NAME, ".lock", *([] if with_checkpoints else ["checkpoints"]))
    shutil.copytree(run, base / "output" / "data", ignore=skipped, dirs_exist_ok=True)
