"""SageMaker Debugger and its profiler in the request of a training job: tensors, AWS's own rules, system metrics."""

import importlib.util
import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sagehound.config import Debugger, did_you_mean
from sagehound.debugger import LABELS, LOSS, PREDICTIONS, RELU_INPUT, RELU_OUTPUT, collections
from sagehound.errors import ConfigError
from sagehound_launchers.config.extras import needs

_MOST = 20  # rules of a job: AWS, list of Debugger built-in rules
_TENSORS = "/opt/ml/output/tensors"  # in the container; SageMaker uploads it while the job runs
_EVERY = 500  # milliseconds between two samples of CPU, GPU, memory, disk and network
_SOME = ("collection_names", "tensor_regex")  # parameter that chooses a rule's tensors
_PARAMETERS: dict[str, tuple[str, ...]] = {  # the rules for any classifier, with AWS's documentation
    "vanishing_gradient": ("threshold",),
    "exploding_tensor": (*_SOME, "only_nan"),
    "overfit": ("tensor_regex", "start_step", "patience", "ratio_threshold"),
    "overtraining": ("patience_train", "patience_validation", "delta"),
    "poor_weight_initialization": ("activation_inputs_regex", "threshold", "distribution_range", "patience", "steps"),
    "loss_not_decreasing": (
        *_SOME,
        "use_losses_collection",
        "num_steps",
        "diff_percent",
        "increase_threshold_percent",
        "mode",
    ),
    "class_imbalance": (
        "threshold_imbalance",
        "threshold_misprediction",
        "samples",
        "argmax",
        "labels_regex",
        "predictions_regex",
    ),
    "dead_relu": ("tensor_regex", "threshold_inactivity", "threshold_layer"),
    "weight_update_ratio": ("num_steps", "large_threshold", "small_threshold", "epsilon"),
    "all_zero": (*_SOME, "threshold"),
    "tensor_variance": (*_SOME, "max_threshold", "min_threshold"),
    "unchanged_tensor": (*_SOME, "num_steps", "rtol", "atol", "equal_nan"),
    "stalled_training_rule": ("threshold", "stop_training_on_fire", "training_job_name_prefix"),
}
_TEXTS = {*_SOME, "activation_inputs_regex", "labels_regex", "predictions_regex", "mode", "training_job_name_prefix"}
_FLAGS = {"only_nan", "use_losses_collection", "argmax", "equal_nan", "stop_training_on_fire"}
_OURS: dict[str, dict[str, str]] = {  # parameters for the names of Sagehound's tensors
    "overfit": {"tensor_regex": f"{LOSS}_output"},
    "poor_weight_initialization": {"activation_inputs_regex": RELU_INPUT},
    "loss_not_decreasing": {"collection_names": "losses"},
    "class_imbalance": {"labels_regex": LABELS, "predictions_regex": PREDICTIONS, "argmax": "True"},
    "dead_relu": {"tensor_regex": RELU_OUTPUT},
}
_NEEDS = {  # the collections that a rule reads besides the losses
    "vanishing_gradient": ("gradients",),
    "poor_weight_initialization": ("gradients", "relu_input"),
    "class_imbalance": ("labels", "predictions"),
    "dead_relu": ("relu_output",),
    "weight_update_ratio": ("weights",),
}


def notice() -> str:
    """The notice before AWS's rules are requested."""
    return (
        "debugger=sagemaker: AWS closed SageMaker Debugger to new customers on 2026-07-30; accounts with it keep it, "
        "any other account has the job refused: drop debugger=sagemaker then"
    )


def request_parts(cfg: Debugger, region: str, output_uri: str) -> dict[str, Any]:
    """Debugger's members of CreateTrainingJob. Framework profiling ended with PyTorch 2.0.

    Args:
        cfg: the group ``debugger``.
        region: of the job; the image of the rules depends on it.
        output_uri: s3://BUCKET/PREFIX; AWS adds the job's name and debug-output, profiler-output or rule-output.

    Raises:
        ConfigError: AWS has no such rule or parameter, a rule lacks its tensors, or the region has no rules.
    """
    tensors, profile = _rules(cfg, region)
    parts: dict[str, Any] = {
        "DebugHookConfig": {
            "LocalPath": _TENSORS,
            "S3OutputPath": output_uri,
            "HookParameters": {"include_workers": cfg.workers},
            "CollectionConfigurations": [
                {"CollectionName": name, "CollectionParameters": given} for name, given in collections(cfg).items()
            ],
        },
        "ProfilerConfig": {"S3OutputPath": output_uri, "ProfilingIntervalInMilliseconds": _EVERY},
    }
    if tensors:
        parts["DebugRuleConfigurations"] = tensors
    if profile:
        parts["ProfilerRuleConfigurations"] = profile
    return parts


def rule_image(region: str) -> str:
    """The image that evaluates AWS's rules, from the SDK's table of accounts.

    The SDK's get_rule_container_image_uri returns the same, but takes two seconds to import.

    Raises:
        ConfigError: AWS evaluates no rules in that region.
    """
    needs("debugger=sagemaker", "sagemaker", "sagemaker", "smdebug_rulesconfig")
    spec = importlib.util.find_spec("sagemaker")  # which does not import it
    assert spec
    assert spec.origin
    table = json.loads((Path(spec.origin).parent / "core/image_uri_config/debugger.json").read_text())
    latest = table["versions"]["latest"]
    accounts = latest["registries"]
    if region not in accounts:
        raise ConfigError(
            f"debugger.rules: AWS evaluates no rules in {region}: set debugger.rules=null, or choose aws.region from "
            f"{', '.join(accounts)}"
        )
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"{accounts[region]}.dkr.ecr.{region}.{domain}/{latest['repository']}:latest"


def _rules(cfg: Debugger, region: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rules about tensors, and those about the machine."""
    rules: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    if not cfg.rules:
        return rules
    if len(cfg.rules) > _MOST:
        raise ConfigError(f"debugger.rules: {len(cfg.rules)} rules, AWS takes {_MOST} at most: leave some out")
    image, tensors, profile = rule_image(region), _debug_rules(), _profile_rules()
    for name, given in cfg.rules.items():
        given = {str(key): str(value) for key, value in (given or {}).items()}
        if name in tensors:
            aws_name, parameters = tensors[name], _checked(name, given, cfg)
        elif name in profile:
            aws_name, parameters = profile[name].__name__, _checked_profile(name, given, profile)
        else:
            known = [*tensors, *profile]
            raise ConfigError(
                f"debugger.rules.{name}: AWS has no such rule{did_you_mean(name, known)}; {_choose(known)}"
            )
        rules[name in profile].append(
            {
                "RuleConfigurationName": aws_name,
                "RuleEvaluatorImage": image,
                "RuleParameters": {"rule_to_invoke": aws_name, **parameters},
            }
        )
    return rules


def _debug_rules() -> dict[str, str]:
    """The rules about tensors: name in the config, AWS's name."""
    import smdebug_rulesconfig as known  # type: ignore[import-untyped]

    return {name: getattr(known, name)()["DebugRuleConfiguration"]["RuleConfigurationName"] for name in _PARAMETERS}


def _profile_rules() -> dict[str, Any]:
    """The rules about the machine: name in the config, the SDK's class with its parameters."""
    from smdebug_rulesconfig.profiler_rules import rules as known  # type: ignore[import-untyped]

    classes = [c for _, c in inspect.getmembers(known, inspect.isclass) if c.__name__ != "ProfilerRuleBase"]
    return {_snake(c.__name__): c for c in classes if c.__name__ != "Dataloader"}  # only for the profiler report


def _snake(name: str) -> str:
    """LowGPUUtilization as low_gpu_utilization."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _checked(name: str, given: Mapping[str, str], cfg: Debugger) -> dict[str, str]:
    """The parameters of a rule about tensors: Sagehound's, updated with the given ones."""
    missing = [c for c in _NEEDS.get(name, ()) if c not in cfg.collections]
    if missing:
        raise ConfigError(f"debugger.rules.{name} reads {', '.join(missing)}: add them to debugger.collections")
    parameters = dict(_OURS.get(name, {}))
    for key, value in given.items():
        if key not in _PARAMETERS[name]:
            raise ConfigError(_unknown(name, key, list(_PARAMETERS[name])))
        if key in _FLAGS and value.lower() not in ("true", "false"):
            raise ConfigError(f"debugger.rules.{name}.{key}={value}: give true or false")
        if key not in _FLAGS | _TEXTS:
            _number(name, key, value)
        parameters[key] = value.capitalize() if key in _FLAGS else value
    if (
        name in ("all_zero", "tensor_variance", "unchanged_tensor", "exploding_tensor")
        and not {*_SOME} & parameters.keys()
    ):
        parameters["tensor_regex"] = ".*"
    return parameters


def _checked_profile(name: str, given: Mapping[str, str], rules: Mapping[str, Any]) -> dict[str, str]:
    """The parameters of a rule about the machine. Those of the profiler report are named RULE_PARAMETER."""
    known = [p for p in inspect.signature(rules[name]).parameters if p != "rule_parameters"]
    if name == "profiler_report":
        others = [c for c in rules.values() if c is not rules[name]]
        known = [f"{c.__name__}_{p}" for c in others for p in inspect.signature(c).parameters]
    typed: dict[str, float | str] = {}
    for key, value in given.items():
        if key not in known:
            raise ConfigError(_unknown(name, key, known))
        typed[key] = value if key.endswith("mode") else _number(name, key, value)
    try:
        rules[name](**typed)
    except AssertionError as error:
        raise ConfigError(f"debugger.rules.{name}: {error}") from error
    return dict(given)


def _number(name: str, key: str, value: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise ConfigError(f"debugger.rules.{name}.{key}={value}: give a number") from error


def _unknown(name: str, key: str, known: list[str]) -> str:
    return f"debugger.rules.{name}.{key}: the rule has no such parameter{did_you_mean(key, known)}; {_choose(known)}"


def _choose(known: list[str]) -> str:
    return f"choose from {', '.join(known)}"
