"""The commands that SageMaker runs inside a container, `train` and `serve`; the Dockerfile makes them.

SAGEHOUND_OPT_ML stands for /opt/ml, and SAGEHOUND_HOME for /opt/sagehound, where they lie elsewhere.
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

from sagehound import console, hyperparameters, packs
from sagehound.archive import HINT, LIMITS, NAME
from sagehound.archive_reader import Limits
from sagehound.command import clear_errors
from sagehound.errors import ConfigError, InputError, SagehoundError, Stopped
from sagehound.unpacking import unpack, unpack_into

_MOST_LETTERS = 1024  # of a failure's reason that SageMaker shows
_LAST_LINES = 30  # of a job's log, among which its reason is looked for
_GPUS = re.compile(r"ml\.[gp]\d")  # instance types
_SOURCE = Limits((".tar.gz",), 100_000, 2 * 10**9, executable=True)  # of the project that launch.py sends
_PORT = "29500"  # where the first of several machines waits for the others, torch's usual one


def train() -> None:
    """Train as the job's hyperparameters say, and leave model and results where SageMaker fetches them.

    Hyperparameters are overrides of `sagehound train`. The channel `code` holds the project that is run (source.tar.gz;
    without it, the image's own), `photos` what becomes data.root, `weights` a file for backbone.weights. The run's
    folder is checkpoints/JOB/run: what lies there when a spot instance is taken away is what the next one goes on with.
    A job that is stopped hands its checkpoints over as well.

    Raises:
        SystemExit: with the run's exit code; the reason is in output/failure.
    """
    given_base = os.environ.get("SAGEHOUND_OPT_ML")
    base = Path(given_base or "/opt/ml")
    scratch = base / "tmp" if given_base else Path("/tmp/sagehound")  # channels may be read alone
    signal.signal(signal.SIGTERM, _stop)
    with clear_errors():
        try:
            job = _read(base)
            home = _code(base, scratch)
            run = (_kept(base) if job["rank"] == 0 else scratch) / "run"
            source = str(base / "input/config/hyperparameters.json")
            given = [*hyperparameters.decode(job["hyperparameters"], source), *_places(base, scratch, job, run)]
            environment = os.environ | _environment(base, job) | _paths(home)
        except Exception as error:
            _fail(base, [str(error) if isinstance(error, SagehoundError) else f"{type(error).__name__}: {error}"])
            raise
    console.say(f"train {' '.join(given)}")
    script = home / "train.py"  # the project's own, or that of the installed package
    start = [str(script)] if script.is_file() else ["-m", "sagehound.cli", "train"]
    code, last = _run([sys.executable, *start, *given], environment, home)
    stopped = code == 128 + signal.SIGTERM
    if run.is_dir() and job["rank"] == 0 and (stopped or not code):
        _hand_over(run, base, whole=stopped)
    if code:
        _fail(base, last)
        sys.exit(code)


def serve() -> None:
    """Answer requests with the model under /opt/ml/model; under SAGEMAKER_MULTI_MODEL=true, with those it is told of.

    SAGEMAKER_BIND_TO_PORT is the port, 8080 without it.

    Raises:
        SystemExit: with an exit code, after one line that says why.
    """
    with clear_errors():
        from sagehound.serving.server import serve

        model = Path(os.environ.get("SAGEHOUND_OPT_ML", "/opt/ml"), "model")
        several = os.environ.get("SAGEMAKER_MULTI_MODEL", "").lower() == "true"
        port = os.environ.get("SAGEMAKER_BIND_TO_PORT", "8080")
        if not port.isdecimal() or int(port) > 65535:
            raise ConfigError(f"SAGEMAKER_BIND_TO_PORT={port}: give a number up to 65535")
        serve({} if several else {"model": str(model)}, "0.0.0.0", int(port))


def _read(base: Path) -> dict[str, Any]:
    """What SageMaker says of the job: hyperparameters, channels, hosts and this one's rank among them."""
    config = base / "input" / "config"
    found = {}
    for name in ("hyperparameters", "resourceconfig", "inputdataconfig"):
        path = config / f"{name}.json"
        try:
            found[name] = json.loads(path.read_text()) if path.exists() else {}
        except ValueError as error:
            raise InputError(f"{path} is no JSON: {error}; SageMaker writes it, so start the job anew") from error
    hosts = found["resourceconfig"].get("hosts", ["localhost"])
    here = found["resourceconfig"].get("current_host", hosts[0])
    instance = str(found["resourceconfig"].get("current_instance_type", ""))
    return found | {"hosts": hosts, "host": here, "rank": sorted(hosts).index(here), "instance": instance}


def _kept(base: Path) -> Path:
    """A folder of the job's own below checkpoints, which the jobs of a tuning job may share in S3."""
    return base / "checkpoints" / os.environ.get("TRAINING_JOB_NAME", "job")


def _code(base: Path, scratch: Path) -> Path:
    """The project's folder: unpacked from its channel, or the image's own, or one without a project."""
    archive = base / "input" / "data" / "code" / "source.tar.gz"
    if not archive.exists():
        home = Path(os.environ.get("SAGEHOUND_HOME", "/opt/sagehound"))
        return home if home.is_dir() else base
    home = scratch / "code"
    shutil.rmtree(home, ignore_errors=True)  # of the same job, interrupted on this machine
    unpack(archive, home, hint="start the job by launch.py", limits=_SOURCE)
    return home


def _paths(home: Path) -> dict[str, str]:
    """Import the project's own packages before those of the image."""
    given = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([str(home / "src"), str(home / "launchers"), *([given] if given else [])])}


def _places(base: Path, scratch: Path, job: dict[str, Any], run: Path) -> list[str]:
    """Overrides for where things lie in a container; what was given for another machine loses to them."""
    data, chosen = base / "input" / "data", hyperparameters.values(job["hyperparameters"])
    found = ["trainer.num_nodes=" + str(len(job["hosts"]))] if len(job["hosts"]) > 1 else []
    if (data / "photos").is_dir():
        found.append(f"data.root='{packs.unpack(data / 'photos', scratch)}'")
    if (data / "weights").is_dir():
        (weights,) = (data / "weights").iterdir()
        found.append(f"backbone.weights='{weights}'")
    if chosen.get("debugger", "null") != "null":
        found.append(f"debugger.folder='{base / 'output' / 'tensors'}'")
    if _GPUS.match(job["instance"]) and "trainer.accelerator" not in chosen and base == Path("/opt/ml"):
        found.append("trainer.accelerator=gpu")  # rather no training than one on a GPU that is paid for and not found
    if (stopped := _kept(base) / "run" / "checkpoints" / "last.ckpt").exists():
        console.say(f"going on from {stopped}")
        found.append(f"resume='{stopped}'")
    elif run.exists():  # it was interrupted before its first checkpoint
        found.append("overwrite=true")
    return [*found, f"hydra.run.dir='{run}'"]


def _environment(base: Path, job: dict[str, Any]) -> dict[str, str]:
    """SM_*, as AWS's own containers set them, and what torch.distributed and our metric lines want."""
    data, hosts = base / "input" / "data", job["hosts"]
    channels = sorted(job["inputdataconfig"])
    network = job["resourceconfig"].get("network_interface_name", "eth0")
    found = {
        "SM_MODEL_DIR": str(base / "model"),
        "SM_OUTPUT_DATA_DIR": str(base / "output" / "data"),
        "SM_INPUT_DIR": str(base / "input"),
        "SM_CHANNELS": json.dumps(channels),
        "SM_HPS": json.dumps(hyperparameters.values(job["hyperparameters"])),
        "SM_HOSTS": json.dumps(hosts),
        "SM_CURRENT_HOST": job["host"],
        "SM_NETWORK_INTERFACE_NAME": network,
        console.METRIC_LINES: "1",
        "PYTHONUNBUFFERED": "1",  # a log that is followed
        **{f"SM_CHANNEL_{name.upper()}": str(data / name) for name in channels},
    }
    if len(hosts) > 1:
        found |= {"MASTER_ADDR": sorted(hosts)[0], "MASTER_PORT": _PORT, "NODE_RANK": str(job["rank"])}
        found |= {"GLOO_SOCKET_IFNAME": network, "NCCL_SOCKET_IFNAME": network}
        _wait_for(sorted(hosts)[0])
    return found


def _wait_for(host: str, seconds: float = 120) -> None:
    """The machines of a job come up one by one, and know each other's names a little later."""
    end = time.monotonic() + seconds
    while True:
        try:
            socket.gethostbyname(host)
        except OSError as error:
            if time.monotonic() > end:
                raise InputError(f"the machine {host} of this job has no address after {seconds:g} s") from error
            time.sleep(1)
        else:
            return


def _stop(signum: int, _: FrameType | None) -> None:
    raise Stopped("stopped by SIGTERM before the training began", signum)


def _run(command: list[str], environment: dict[str, str], home: Path) -> tuple[int, list[str]]:
    """Run the training; signals go on to it. Returns its exit code and its log's last lines."""
    waiting: list[int] = []
    process: subprocess.Popen[str] | None = None

    def pass_on(signum: int, _: FrameType | None) -> None:
        if process:
            process.send_signal(signum)
        else:
            waiting.append(signum)

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, pass_on)
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
    """Write the one sentence that SageMaker shows as the reason: ours if there is one, else the log's last line."""
    ours = [line.removeprefix("sagehound: ") for line in last if line.startswith("sagehound: ")]
    reason = (ours or last or ["the training ended without a word"])[-1]
    path = base / "output" / "failure"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(reason[:_MOST_LETTERS])


def _hand_over(run: Path, base: Path, *, whole: bool) -> None:
    """The model to where it becomes model.tar.gz, the results to where they become output.tar.gz.

    Args:
        run: the run's folder.
        base: /opt/ml.
        whole: with the checkpoints.
    """
    (base / "model").mkdir(parents=True, exist_ok=True)
    if (run / NAME).exists():
        unpack_into(run / NAME, base / "model", hint=HINT, limits=LIMITS)
    skipped = shutil.ignore_patterns(NAME, ".lock", *([] if whole else ["checkpoints"]))
    shutil.copytree(run, base / "output" / "data", ignore=skipped, dirs_exist_ok=True)
