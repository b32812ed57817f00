"""Trains by a user's script, as AWS's framework images do: ``python run_script.py``, in a training job's container.

The hyperparameters ``sagemaker_program`` and ``sagemaker_submit_directory`` name the script and its archive, as the
SDKs of SageMaker write them. The script gets hyperparameters as arguments and variables SM_*, by the contract that the
README of aws/sagemaker-training-toolkit documents. Standard library only, from Python 3.8 on.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from code_folder import ML, CodeError, fetch, install  # type: ignore[import-not-found] # beside this file
from training_variables import TORCHRUN, variables  # type: ignore[import-not-found] # beside this file

_UNSUPPORTED = {  # hyperparameters that the SDKs write for ``distribution``
    "sagemaker_mpi_enabled": "mpi",
    "sagemaker_parameter_server_enabled": "parameter_server",
    "sagemaker_distributed_dataparallel_enabled": "smdistributed",
    "sagemaker_multi_worker_mirrored_strategy_enabled": "multi_worker_mirrored_strategy",
}
_KEPT = 20  # last lines of stderr that the reason of a failure is taken from


def main() -> int:
    """Run the script; returns its exit code. A failure is described in /opt/ml/output/failure."""
    try:
        settings, hyperparameters = _hyperparameters()
        for name, value in _UNSUPPORTED.items():
            if settings.get(name):
                raise CodeError(f"distribution={{'{value}': ...}} is not supported here; torch_distributed is")
        program = os.environ.get("SAGEMAKER_PROGRAM") or settings.get("sagemaker_program")
        if not program:
            raise CodeError(
                "the job names no script: it has neither the hyperparameter sagemaker_program (entry_point of an "
                "estimator) nor a ContainerEntrypoint"
            )
        source = settings.get("sagemaker_submit_directory") or os.environ.get("SAGEMAKER_SUBMIT_DIRECTORY")
        code = fetch(source, ML / "code") if source else ML / "code"
        if not (code / program).is_file():
            raise CodeError(f"the archive {source} holds no {program}")
        packages = install(code / "requirements.txt")
    except CodeError as error:
        _fail(f"ConfigurationError: {error}")
        return 1
    environment = {**os.environ, **variables(settings, hyperparameters, program, code)}
    paths = [str(code), packages, os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    command = _command(program, settings, environment)
    print(f"Invoking script with the following command:\n\n{' '.join(command)}\n", flush=True)
    return _run(command, code, environment)


def _hyperparameters() -> tuple[dict[str, Any], dict[str, Any]]:
    """The SDK's own hyperparameters, and the user's, both decoded from JSON where they are JSON."""
    file = ML / "input" / "config" / "hyperparameters.json"
    settings: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for name, text in (json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}).items():
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        (settings if name.startswith("sagemaker_") else own)[name] = value
    own.pop("_tuning_objective_metric", None)
    return settings, own


def _command(program: str, settings: dict[str, Any], environment: dict[str, str]) -> list[str]:
    words = json.loads(environment["SM_USER_ARGS"])
    if program.endswith(".sh"):
        return ["/bin/sh", program, *words]
    if not settings.get(TORCHRUN):
        return [sys.executable, program, *words]
    hosts = json.loads(environment["SM_HOSTS"])
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes", str(len(hosts))),
        *("--nproc_per_node", str(max(int(environment["SM_NUM_GPUS"]), 1))),
        *("--node_rank", str(hosts.index(environment["SM_CURRENT_HOST"]))),
        *("--master_addr", environment["MASTER_ADDR"], "--master_port", environment["MASTER_PORT"]),
        *(program, *words),
    ]


def _run(command: list[str], code: Path, environment: dict[str, str]) -> int:
    """Run it, pass on what it prints, and describe its failure."""
    for number in (signal.SIGTERM, signal.SIGINT):  # the script is in the same group and gets them too
        signal.signal(number, lambda *_: None)
    last: list[bytes] = []
    process = subprocess.Popen(command, cwd=str(code), env=environment, stderr=subprocess.PIPE)

    def pass_on() -> None:
        assert process.stderr
        for line in process.stderr:
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()
            last.append(line)
            del last[:-_KEPT]

    reader = threading.Thread(target=pass_on, daemon=True)
    reader.start()
    status = process.wait()
    reader.join(5)
    status = status if status >= 0 else 128 - status
    if status:
        text = b"".join(last).decode(errors="replace").strip()
        _fail(f'ExecuteUserScriptError:\nExitCode {status}\nErrorMessage "{text}"\nCommand "{" ".join(command)}"')
    return status


def _fail(reason: str) -> None:
    """Write the reason that SageMaker shows, unless the script has written one."""
    print(reason, file=sys.stderr, flush=True)
    file = ML / "output" / "failure"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(reason, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
