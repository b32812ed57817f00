"""Trains by a user's script, as AWS's framework images do: ``python run_script.py``, in a training job's container.

The hyperparameters ``sagemaker_program`` and ``sagemaker_submit_directory`` name the script and its archive, as the
SDKs of SageMaker write them. The script gets hyperparameters as arguments and variables SM_*, by the contract that the
README of aws/sagemaker-training-toolkit documents. Standard library only, from Python 3.8 on.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from code_folder import ML, CodeError, fetch, install  # type: ignore[import-not-found] # beside this file

_TORCHRUN = "sagemaker_torch_distributed_enabled"
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
        program = settings.get("sagemaker_program") or os.environ.get("SAGEMAKER_PROGRAM")
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
    environment = _environment(settings, hyperparameters, program, code)
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


def _environment(settings: dict[str, Any], hyperparameters: dict[str, Any], program: str, code: Path) -> dict[str, str]:
    """The variables SM_* of the toolkit, beside those of this process."""
    config = ML / "input" / "config"
    resources = json.loads((config / "resourceconfig.json").read_text(encoding="utf-8"))
    inputs = config / "inputdataconfig.json"
    channels = json.loads(inputs.read_text(encoding="utf-8")) if inputs.exists() else {}
    values: dict[str, Any] = {
        "model_dir": str(ML / "model"),
        "input_dir": str(ML / "input"),
        "input_config_dir": str(config),
        "output_dir": str(ML / "output"),
        "output_data_dir": str(ML / "output" / "data"),
        "output_intermediate_dir": str(ML / "output" / "intermediate"),
        "channels": sorted(channels),
        "current_host": resources["current_host"],
        "current_instance_type": resources.get("current_instance_type", ""),
        "current_instance_group": resources.get("current_group_name", ""),
        "hosts": resources["hosts"],
        "num_cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "num_gpus": _gpus(),
        "num_neurons": 0,
        "network_interface_name": resources.get("network_interface_name", "lo"),
        "log_level": settings.get("sagemaker_container_log_level", 20),
        "module_name": Path(program).stem,
        "module_dir": settings.get("sagemaker_submit_directory", str(code)),
        "user_entry_point": program,
        "input_data_config": channels,
        "resource_config": resources,
        "framework_params": settings,
        "hps": hyperparameters,
        "user_args": _arguments(hyperparameters),
        "master_addr": sorted(resources["hosts"])[0],
    }
    values["training_env"] = {
        **{name: value for name, value in values.items() if name not in ("hps", "user_args", "framework_params")},
        "hyperparameters": hyperparameters,
        "channel_input_dirs": {name: str(ML / "input" / "data" / name) for name in channels},
    }
    values.update({f"channel_{name}": str(ML / "input" / "data" / name) for name in channels})
    values.update({f"hp_{name}": value for name, value in hyperparameters.items()})
    variables = {f"SM_{name.upper()}": v if isinstance(v, str) else json.dumps(v) for name, v in values.items()}
    return {**os.environ, "MASTER_ADDR": values["master_addr"], "MASTER_PORT": "7777", **variables}


def _arguments(hyperparameters: dict[str, Any]) -> list[str]:
    """Hyperparameters as arguments: ``--name value``, ``-n value`` for names of one letter, sorted by name."""
    words = []
    for name, value in sorted(hyperparameters.items()):
        items = value.items() if isinstance(value, dict) else ()
        text = ",".join(f"{k}={v}" for k, v in sorted(items)) if isinstance(value, dict) else str(value)
        words += [f"--{name}" if len(name) > 1 else f"-{name}", text]
    return words


def _command(program: str, settings: dict[str, Any], environment: dict[str, str]) -> list[str]:
    words = json.loads(environment["SM_USER_ARGS"])
    if program.endswith(".sh"):
        return ["/bin/sh", program, *words]
    if not settings.get(_TORCHRUN):
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


def _gpus() -> int:
    if not shutil.which("nvidia-smi"):
        return 0
    done = subprocess.run(["nvidia-smi", "--list-gpus"], stdout=subprocess.PIPE, text=True, check=False)
    return done.stdout.count("GPU ")


if __name__ == "__main__":
    sys.exit(main())
