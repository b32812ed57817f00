"""What `debugger=sagemaker` adds to the request of a training job."""

from typing import Any

import pytest
from helpers import ROOT
from hydra import compose, initialize_config_dir

from sagehound.config import Debugger, typed
from sagehound.errors import ConfigError
from sagehound_launchers.sagemaker.debugger_request import notice, request_parts, rule_image
from sagemaker_emulator.request_validation import problems

JOB = {  # what any training job needs beside
    "TrainingJobName": "job",
    "RoleArn": "arn:aws:iam::111122223333:role/SageMaker",
    "AlgorithmSpecification": {"TrainingImage": "image", "TrainingInputMode": "File"},
    "OutputDataConfig": {"S3OutputPath": "s3://bucket/sagehound"},
    "ResourceConfig": {"InstanceType": "ml.g4dn.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 50},
    "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
}
IMAGE = "929884845733.dkr.ecr.eu-west-1.amazonaws.com/sagemaker-debugger-rules:latest"
EVERY_5 = {"train.save_interval": "5", "eval.save_interval": "5"}
SELDOM = {"train.save_interval": "100", "eval.save_interval": "100"}


def debugger(*overrides: str) -> Debugger:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = typed(compose("train", overrides=["debugger=sagemaker", "data=folder", "data.root=x", *overrides]))
    group: Debugger = cfg.debugger
    return group


def parts(*overrides: str) -> dict[str, Any]:
    return request_parts(debugger(*overrides), "eu-west-1", "s3://bucket/sagehound")


def parameters(*overrides: str) -> dict[str, dict[str, str]]:
    found = parts(*overrides)
    rules = found.get("DebugRuleConfigurations", []) + found.get("ProfilerRuleConfigurations", [])
    return {r["RuleConfigurationName"]: r["RuleParameters"] for r in rules}


def rule(name: str, **given: str) -> dict[str, Any]:
    chosen = {"rule_to_invoke": name, **given}
    return {"RuleConfigurationName": name, "RuleEvaluatorImage": IMAGE, "RuleParameters": chosen}


def test_the_request_as_it_is_by_default() -> None:
    assert parts() == {
        "DebugHookConfig": {
            "LocalPath": "/opt/ml/output/tensors",
            "S3OutputPath": "s3://bucket/sagehound",
            "HookParameters": {"include_workers": "one"},
            "CollectionConfigurations": [
                {"CollectionName": "losses", "CollectionParameters": EVERY_5},
                {"CollectionName": "gradients", "CollectionParameters": SELDOM},
                {
                    "CollectionName": "relu_input",
                    "CollectionParameters": {"include_regex": ".*relu_input", **SELDOM},
                },
                {
                    "CollectionName": "labels",
                    "CollectionParameters": {"include_regex": "CrossEntropyLoss_input_1", **EVERY_5},
                },
                {
                    "CollectionName": "predictions",
                    "CollectionParameters": {"include_regex": "CrossEntropyLoss_input_0", **EVERY_5},
                },
            ],
        },
        "DebugRuleConfigurations": [
            rule("VanishingGradient"),
            rule("Overfit", tensor_regex="CrossEntropyLoss_output"),
            rule("Overtraining"),
            rule("PoorWeightInitialization", activation_inputs_regex=".*relu_input"),
            rule("LossNotDecreasing", collection_names="losses"),
            rule(
                "ClassImbalance",
                labels_regex="CrossEntropyLoss_input_1",
                predictions_regex="CrossEntropyLoss_input_0",
                argmax="True",
            ),
        ],
        "ProfilerConfig": {"S3OutputPath": "s3://bucket/sagehound", "ProfilingIntervalInMilliseconds": 500},
        "ProfilerRuleConfigurations": [rule("ProfilerReport"), rule("LowGPUUtilization")],
    }


def test_aws_takes_the_request() -> None:
    assert problems("CreateTrainingJob", JOB | parts()) == []
    assert problems("CreateTrainingJob", JOB | parts("debugger.reductions=true", "debugger.workers=all")) == []
    broken = JOB | parts()
    broken["ProfilerConfig"]["ProfilingIntervalInMilliseconds"] = "often"
    assert problems("CreateTrainingJob", broken), "the check sees what is wrong"


def test_reductions_are_asked_for_but_of_what_is_small() -> None:
    found = parts("debugger.reductions=true", "debugger.collections=[weights,labels]", "debugger.rules=null")
    given = {
        c["CollectionName"]: c["CollectionParameters"] for c in found["DebugHookConfig"]["CollectionConfigurations"]
    }
    assert given["weights"]["reductions"] == "min,max,mean,std,variance,abs_mean,l2_norm"
    assert "reductions" not in given["labels"] | given["losses"]


def test_parameters_of_rules() -> None:
    found = parameters(
        "+debugger.rules.overfit.patience=3",
        "+debugger.rules.class_imbalance.argmax=false",
        "+debugger.rules.low_gpu_utilization.threshold_p95=60",
        "+debugger.rules.profiler_report.CPUBottleneck_cpu_threshold=80",
        "+debugger.rules.cpu_bottleneck={}",
        "~debugger.rules.overtraining",
    )
    assert found["Overfit"] == {"rule_to_invoke": "Overfit", "tensor_regex": "CrossEntropyLoss_output", "patience": "3"}
    assert found["ClassImbalance"]["argmax"] == "False", "what is given wins"
    assert found["LowGPUUtilization"]["threshold_p95"] == "60"
    assert found["ProfilerReport"]["CPUBottleneck_cpu_threshold"] == "80"
    assert found["CPUBottleneck"] == {"rule_to_invoke": "CPUBottleneck"}
    assert "Overtraining" not in found


@pytest.mark.slow
def test_every_rule_that_is_offered_is_one_of_aws() -> None:
    """Each is asked for with all its parameters, as far as they are numbers; AWS's class or table takes them."""
    with pytest.raises(ConfigError) as error:
        parts("+debugger.rules.magic={}")
    names = str(error.value).split("choose from ")[1].split(", ")
    assert len(names) == 23
    several = [f"+debugger.rules.{n}={{}}" for n in names if n not in debugger().rules]
    everything = "debugger.collections=[gradients,weights,biases,relu_input,relu_output,labels,predictions]"
    found = parameters(everything, *several[:12])
    assert len(found) == 20
    assert problems("CreateTrainingJob", JOB | parts(everything, *several[:12])) == []
    with pytest.raises(ConfigError, match=r"debugger\.rules: 21 rules, AWS takes 20 at most"):
        parts(everything, *several[:13])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["+debugger.rules.overfitting={}"],
            "debugger.rules.overfitting: AWS has no such rule (did you mean overfit?)",
        ),
        (
            ["+debugger.rules.overfit.patient=1"],
            "overfit.patient: the rule has no such parameter (did you mean patience?)",
        ),
        (["+debugger.rules.overfit.patience=long"], "debugger.rules.overfit.patience=long: give a number"),
        (["+debugger.rules.class_imbalance.argmax=2"], "debugger.rules.class_imbalance.argmax=2: give true or false"),
        (["+debugger.rules.low_gpu_utilization.threshold_p95=170"], "threshold_p95 must be a valid percentile!"),
        (
            ["+debugger.rules.low_gpu_utilization.threshold=1"],
            "the rule has no such parameter (did you mean threshold_p5?)",
        ),
        (["+debugger.rules.low_gpu_utilization.window=x"], "low_gpu_utilization.window=x: give a number"),
        (
            ["+debugger.rules.profiler_report.Nonsense_x=1"],
            "profiler_report.Nonsense_x: the rule has no such parameter",
        ),
        (["debugger.collections=[losses]"], "vanishing_gradient reads gradients: add them to debugger.collections"),
    ],
)
def test_wrong_rules_are_named_with_the_choices(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parts(*overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_without_rules_tensors_and_system_metrics_remain() -> None:
    assert set(parts("debugger.rules=null")) == {"DebugHookConfig", "ProfilerConfig"}


@pytest.mark.slow
def test_the_image_is_the_one_that_the_sdk_names() -> None:
    from sagemaker.core.debugger.debugger import get_rule_container_image_uri

    with pytest.raises(ConfigError, match=r"AWS evaluates no rules in mars-1: set debugger\.rules=null") as error:
        rule_image("mars-1")
    regions = str(error.value).split("choose aws.region from ")[1].split(", ")
    assert len(regions) > 20
    assert [rule_image(r) for r in regions] == [get_rule_container_image_uri("VanishingGradient", r) for r in regions]
    assert rule_image("cn-north-1").endswith(".amazonaws.com.cn/sagemaker-debugger-rules:latest")


def test_the_notice_is_one_line() -> None:
    assert "2026-07-30" in notice()
    assert "\n" not in notice()
