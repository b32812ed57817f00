"""The variables that a training script finds: SM_* as aws/sagemaker-training-toolkit sets them. Python 3.8 on.

The names and their contents follow ``to_env_vars`` and the properties of ``Environment`` in the toolkit's version 5.1.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from code_folder import ML  # type: ignore[import-not-found] # beside this file

TORCHRUN = "sagemaker_torch_distributed_enabled"
_OF_SDK = {  # the SDKs' hyperparameters that are no parameters of a framework
    "sagemaker_program",
    "sagemaker_submit_directory",
    "sagemaker_enable_cloudwatch_metrics",
    "sagemaker_region",
    "sagemaker_container_log_level",
    "sagemaker_job_name",
    "sagemaker_s3_output",
}
_ONLY_IN_ENVIRONMENT = ("hps", "framework_params", "channels", "user_args")  # others are in SM_TRAINING_ENV too


def variables(settings: dict[str, Any], hyperparameters: dict[str, Any], program: str, code: Path) -> dict[str, str]:
    """The variables of a job's script.

    Args:
        settings: the hyperparameters of the SDK, which begin with ``sagemaker_``, decoded from JSON.
        hyperparameters: the user's, decoded from JSON.
        program: the script's path in the folder of the code.
        code: that folder.
    """
    config = ML / "input" / "config"
    resources = _read(config / "resourceconfig.json")
    channels = _read(config / "inputdataconfig.json")
    parameters = {name: value for name, value in settings.items() if name not in _OF_SDK}
    folders = {name: str(ML / "input" / "data" / name) for name in channels}
    values: dict[str, Any] = {
        **_folders(config),
        **_machines(resources, parameters),
        "input_data_config": channels,
        "channels": sorted(channels),
        "log_level": settings.get("sagemaker_container_log_level", 20),
        "module_name": program[: -len(".py")] if program.endswith(".py") else program,
        "module_dir": settings.get("sagemaker_submit_directory", str(code)),
        "user_entry_point": program,
        "framework_module": os.environ.get("SAGEMAKER_TRAINING_MODULE"),
        "framework_params": parameters,
        "hps": hyperparameters,
        "user_args": _arguments(hyperparameters),
    }
    inner = _more_properties(values, folders)
    values["training_env"] = inner
    values.update({f"channel_{name}": folder for name, folder in folders.items()})
    values.update({f"hp_{name}": value for name, value in hyperparameters.items()})
    return {
        **{f"SM_{name.upper()}": _text(value) for name, value in values.items()},
        "SAGEMAKER_JOB_NAME": str(settings.get("sagemaker_job_name", "")),
        "SAGEMAKER_REGION": str(settings.get("sagemaker_region", os.environ.get("AWS_REGION", ""))),
        "CURRENT_HOST": resources["current_host"],
        "MASTER_ADDR": inner["master_hostname"],
        "MASTER_PORT": "7777",
    }


def _folders(config: Path) -> dict[str, str]:
    return {
        "model_dir": str(ML / "model"),
        "input_dir": str(ML / "input"),
        "input_config_dir": str(config),
        "output_dir": str(ML / "output"),
        "output_data_dir": str(ML / "output" / "data"),
        "output_intermediate_dir": str(ML / "output" / "intermediate"),
    }


def _machines(resources: dict[str, Any], parameters: dict[str, Any]) -> dict[str, Any]:
    """What is about instances, their groups and their hardware."""
    current = resources.get("current_group_name", "homogeneousCluster")
    groups = {group["instance_group_name"]: group for group in resources.get("instance_groups", [])}
    together = [current] if parameters.get(TORCHRUN) else []
    return {
        "hosts": resources["hosts"],
        "current_host": resources["current_host"],
        "current_instance_type": resources.get("current_instance_type", "local"),
        "current_instance_group": current,
        "current_instance_group_hosts": groups.get(current, {}).get("hosts", []),
        "instance_groups": list(groups),
        "instance_groups_dict": groups,
        "distribution_instance_groups": parameters.get("sagemaker_distribution_instance_groups", together),
        "is_hetero": len(groups) > 1,
        "network_interface_name": resources.get("network_interface_name", "eth0"),
        "resource_config": resources,
        "num_cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else multiprocessing.cpu_count(),
        "num_gpus": _gpus(),
        "num_neurons": 0,
    }


def _more_properties(values: dict[str, Any], channels: dict[str, str]) -> dict[str, Any]:
    """SM_TRAINING_ENV: the properties of the toolkit's Environment."""
    groups = values["instance_groups_dict"]
    together = [
        host for name in values["distribution_instance_groups"] for host in groups.get(name, {"hosts": []})["hosts"]
    ]
    master = (together or values["hosts"])[0]
    return {
        **{name: value for name, value in values.items() if name not in _ONLY_IN_ENVIRONMENT},
        "additional_framework_parameters": values["framework_params"],
        "channel_input_dirs": channels,
        "distribution_hosts": together,
        "hyperparameters": values["hps"],
        "is_master": values["current_host"] == master,
        "is_modelparallel_enabled": None,
        "is_smddpmprun_installed": False,
        "is_smddprun_installed": False,
        "job_name": os.environ.get("TRAINING_JOB_NAME"),
        "master_hostname": master,
        "topology": [],
    }


def _text(value: Any) -> str:  # noqa: ANN401 - whatever JSON holds
    """A variable's value: text as it is, nothing for None, anything else as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))


def _arguments(hyperparameters: dict[str, Any]) -> list[str]:
    """Hyperparameters as arguments: ``--name value``, ``-n value`` for names of one letter, sorted by name."""
    words = []
    for name, value in sorted(hyperparameters.items()):
        if isinstance(value, dict):
            text = ",".join(f"{k}={v}" for k, v in sorted(value.items()))
        else:
            text = "" if value is None else str(value)
        words += [f"--{name}" if len(name) > 1 else f"-{name}", text]
    return words


def _read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return content


def _gpus() -> int:
    if not shutil.which("nvidia-smi"):
        return 0
    done = subprocess.run(["nvidia-smi", "--list-gpus"], stdout=subprocess.PIPE, text=True, check=False)
    return done.stdout.count("GPU ")
