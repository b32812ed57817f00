"""`pipeline=sagemaker`: the same steps as a pipeline of SageMaker, which runs them without this machine.

The arguments of a step are the request of its job without the name, in version 2020-12-01 of AWS's schema of pipeline
definitions (aws-sagemaker-mlops.github.io/sagemaker-model-building-pipeline-definition-JSON-schema).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sagehound.config.overrides import override_key
from sagehound.errors import ConfigError
from sagehound.metrics import of_epoch
from sagehound.storage.atomic import write_json
from sagehound.system import console
from sagehound_launchers.config import Launch
from sagehound_launchers.packages.gate import parse
from sagehound_launchers.packages.package import APPROVED, PENDING
from sagehound_launchers.packages.sagemaker_registry import INSTANCES, TYPES
from sagehound_launchers.sagemaker import account, batch_transform, hosting_requests, job_inputs
from sagehound_launchers.sagemaker.account import Cloud
from sagehound_launchers.sagemaker.aws_errors import aws_errors, code_of
from sagehound_launchers.sagemaker.requests import REQUEST, hyperparameters, tags, training_job
from sagehound_launchers.sagemaker.secret_patterns import refuse_secrets

if TYPE_CHECKING:
    from sagehound_launchers.stages.pipeline import Pipeline

VERSION = "2020-12-01"
CONDITIONS = {">=": "GreaterThanOrEqualTo", ">": "GreaterThan", "<=": "LessThanOrEqualTo", "<": "LessThan"}
_NAMES = ("TrainingJobName", "TransformJobName", "ModelName")  # which pipelines give


@dataclass(frozen=True)
class Parts:
    """What the steps are made of."""

    cloud: Cloud
    cfg: Launch
    training: dict[str, Any]  # CreateTrainingJob
    transform: dict[str, Any] | None  # CreateTransformJob


def export(cfg: Launch, own: "Pipeline", overrides: Sequence[str], folder: Path) -> None:
    """Create or update the pipeline from the settings of the command, and start it if ``pipeline.start``.

    Args:
        cfg: the whole command's config.
        own: the keys of the group ``pipeline``.
        overrides: of the command, which become hyperparameters.
        folder: for pipeline.json, the definition.

    Raises:
        ConfigError: a step has no counterpart in a pipeline, or AWS would refuse the definition.
    """
    _check(cfg)
    cloud = account.connect(cfg.aws, dry_run=cfg.dry_run)
    text = definition(_parts(cloud, cfg, overrides))
    write_json(folder / "pipeline.json", text)
    if cfg.dry_run:
        console.info(f"dry_run: nothing was sent; the pipeline's definition: {folder / 'pipeline.json'}")
        return
    sagemaker = cloud.client("sagemaker")
    request = {
        "PipelineName": own.pipeline,
        "PipelineDefinition": json.dumps(text),
        "RoleArn": cloud.account.role,
    }
    with aws_errors(f"creating the pipeline {own.pipeline}"):
        try:
            sagemaker.create_pipeline(**request, Tags=tags(cfg.aws, "pipeline"))
            console.info(f"created the pipeline {own.pipeline}")
        except sagemaker.exceptions.ClientError as error:
            if code_of(error) != "ValidationException" or "already exists" not in str(error):
                raise
            sagemaker.update_pipeline(**request)
            console.info(f"updated the pipeline {own.pipeline}")
    if own.start:
        with aws_errors(f"starting the pipeline {own.pipeline}"):
            arn = sagemaker.start_pipeline_execution(PipelineName=own.pipeline)["PipelineExecutionArn"]
        console.info(f"started {arn}")
    else:
        console.info(f"start it: aws sagemaker start-pipeline-execution --pipeline-name {own.pipeline}")


def _check(cfg: Launch) -> None:
    """Refuse what a pipeline cannot do."""
    known = {"pipeline", "registry", "transform"}
    if others := [stage.name for stage, _ in cfg.stages if stage.name not in known]:
        raise ConfigError(f"pipeline=sagemaker has no step for {', '.join(others)}: run it after the pipeline")
    for rule in _rules(cfg):
        name = "{}.{}".format(*parse(rule)[:2])
        if name not in of_epoch():
            raise ConfigError(
                f"registry.require={rule}: a pipeline knows a job's last {', '.join(of_epoch())} only, not {name}"
            )


def _rules(cfg: Launch) -> list[str]:
    registry = _stage(cfg, "registry")
    return list(registry.rules) if registry else []


def _stage(cfg: Launch, name: str) -> Any:  # noqa: ANN401 - a stage's group
    return next((own for stage, own in cfg.stages if stage.name == name), None)


def _parts(cloud: Cloud, cfg: Launch, overrides: Sequence[str]) -> Parts:
    """Upload code and photos, and make the requests."""
    given = hyperparameters([o for o in overrides if override_key(o) != "pipeline"] + ["results=all"])
    refuse_secrets(given, "hyperparameters")
    refuse_secrets(cfg.aws.environment, "a job's environment")
    channels = (job_inputs.placeholders if cfg.dry_run else job_inputs.channels)(cloud, cfg)
    training = training_job("-", cfg, cloud.account, given, channels, "-")
    own = _stage(cfg, "transform")
    if own is None:
        return Parts(cloud, cfg, training, None)
    source = batch_transform.find_source(cloud, cfg, own.place(cfg))
    transform = batch_transform.job_request(f"sagehound-{source.digest[:12]}", cfg, own, source, cloud.account.bucket)
    if not cfg.dry_run:
        batch_transform.write_manifest(cloud, transform, source)
    return Parts(cloud, cfg, training, transform)


def definition(parts: Parts) -> dict[str, Any]:
    """The pipeline's definition: training, then what depends on it, under a condition if scores are required."""
    environment = {k: v for k, v in parts.training["Environment"].items() if k != REQUEST}
    arguments = {k: v for k, v in parts.training.items() if k not in _NAMES} | {"Environment": environment}
    arguments["ResourceConfig"] = arguments["ResourceConfig"] | {"InstanceType": _get("Parameters.InstanceType")}
    after = [*_register(parts), *_predict(parts)]
    steps: list[dict[str, Any]] = [{"Name": "Train", "Type": "Training", "Arguments": arguments}]
    if (rules := _rules(parts.cfg)) and after:
        checks = [_condition(*parse(rule)) for rule in rules]
        message = f"the model does not have {parts.cfg.registry.require}"  # type: ignore[attr-defined]
        fail = {"Name": "Refuse", "Type": "Fail", "Arguments": {"ErrorMessage": message}}
        check = {"Conditions": checks, "IfSteps": after, "ElseSteps": [fail]}
        steps.append({"Name": "Check", "Type": "Condition", "Arguments": check})
    else:
        steps += after
    instance = {"Name": "InstanceType", "Type": "String", "DefaultValue": parts.cfg.aws.instance_type}
    return {"Version": VERSION, "Parameters": [instance], "Steps": steps}


def _condition(split: str, score: str, comparison: str, value: float) -> dict[str, Any]:
    reached = _get(f"Steps.Train.FinalMetricDataList['{split}.{score}'].Value")
    return {"Type": CONDITIONS[comparison], "LeftValue": reached, "RightValue": value}


def _register(parts: Parts) -> list[dict[str, Any]]:
    own = _stage(parts.cfg, "registry")
    if own is None:
        return []
    container = {"Image": parts.cloud.account.image, "ModelDataUrl": _model()}
    arguments = {
        "ModelPackageGroupName": own.group,
        "ModelApprovalStatus": APPROVED if own.approved else PENDING,
        "InferenceSpecification": {
            "Containers": [container],
            "SupportedContentTypes": TYPES,
            "SupportedResponseMIMETypes": ["application/json", "text/csv"],
            "SupportedRealtimeInferenceInstanceTypes": INSTANCES,
            "SupportedTransformInstanceTypes": INSTANCES,
        },
    }
    return [{"Name": "Register", "Type": "RegisterModel", "Arguments": arguments}]


def _predict(parts: Parts) -> list[dict[str, Any]]:
    if parts.transform is None:
        return []
    model = hosting_requests.model("-", "pipeline", "-", parts.cloud.account, parts.cfg.aws)
    model["PrimaryContainer"] = model["PrimaryContainer"] | {"ModelDataUrl": _model()}
    transform = {k: v for k, v in parts.transform.items() if k not in _NAMES}
    transform["ModelName"] = _get("Steps.Model.ModelName")
    return [
        {"Name": "Model", "Type": "Model", "Arguments": {k: v for k, v in model.items() if k not in _NAMES}},
        {"Name": "Predict", "Type": "Transform", "Arguments": transform},
    ]


def _model() -> dict[str, str]:
    return _get("Steps.Train.ModelArtifacts.S3ModelArtifacts")


def _get(path: str) -> dict[str, str]:
    return {"Get": path}
