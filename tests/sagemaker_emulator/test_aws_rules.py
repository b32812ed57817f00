"""Rules of AWS that the emulator enforces, each through boto3. RULES.md is the table of these rules."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from emulator_helpers import BUCKET, IMAGE, ROLE, TRAIN, Client, client, control, ended, job, until
from hosting_helpers import SERVE, invoke, make_config, make_endpoint, make_model, settled, variant

from sagemaker_emulator.identity import KEYS
from sagemaker_emulator.request_validation import service_model
from sagemaker_emulator.server import Emulator
from sagemaker_emulator.settings import Settings

TABLE = Path(__file__).parents[2] / "launchers/sagemaker_emulator/RULES.md"
MODEL = "botocore's model"  # what it constrains
REFERENCE = "API reference"  # what AWS's reference says in words; botocore's model contains its text
MEMORY = "from memory"
KEY = "1234abcd-12ab-34cd-56ef-1234567890ab"
KEY_ARN = f"arn:aws:kms:us-west-2:123456789012:key/{KEY}"
SOURCE = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/none"}}
MISSING = "s3://a-bucket-that-is-not-there/out"  # jobs that write to it fail at once
numbers = count()


@dataclass
class Aws:
    emulator: Emulator
    sm: Client  # does not validate requests itself

    def client(self, service: str) -> Client:
        return client(self.emulator, service)

    def group(self, *tags: tuple[str, str]) -> str:
        """A new resource with tags."""
        given = [{"Key": key, "Value": value} for key, value in tags]
        made = self.sm.create_model_package_group(ModelPackageGroupName=f"group-{next(numbers)}", Tags=given)
        return str(made["ModelPackageGroupArn"])

    def train(self, name: str = "", **more: Any) -> str:  # noqa: ANN401 - of a request
        request = job(name or f"job-{next(numbers)}", more.pop("code", "print(1)"))
        request["ResourceConfig"] |= more.pop("resources", {})
        self.sm.create_training_job(**request | more)
        return str(request["TrainingJobName"])

    def process(self, name: str = "", **cluster: str) -> None:
        resources = {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1} | cluster
        output = {"S3Uri": MISSING, "LocalPath": "/opt/ml/processing/out", "S3UploadMode": "EndOfJob"}
        self.sm.create_processing_job(
            ProcessingJobName=name or f"job-{next(numbers)}",
            ProcessingResources={"ClusterConfig": resources},
            AppSpecification={"ImageUri": IMAGE, "ContainerEntrypoint": ["true"]},
            ProcessingOutputConfig={"Outputs": [{"OutputName": "out", "S3Output": output}]},
            RoleArn=ROLE,
        )

    def transform(self, name: str = "", **resources: str) -> None:
        self.sm.create_transform_job(
            TransformJobName=name or f"job-{next(numbers)}",
            ModelName="model",
            TransformInput={"DataSource": SOURCE},
            TransformOutput={"S3OutputPath": MISSING},
            TransformResources={"InstanceType": "ml.m5.large", "InstanceCount": 1} | resources,
        )

    def tune(self, name: str = "", resources: dict[str, str] | None = None, code: str = "", **more: Any) -> str:  # noqa: ANN401 - of a request
        definition = {k: v for k, v in job("x", code or "print('loss=1')").items() if not k.endswith("Name")}
        definition["StaticHyperParameters"] = definition.pop("HyperParameters")
        definition["AlgorithmSpecification"]["MetricDefinitions"] = [{"Name": "loss", "Regex": "loss=(.+)"}]
        definition["ResourceConfig"] |= resources or {}
        name = name or f"tuning-{next(numbers)}"
        self.sm.create_hyper_parameter_tuning_job(
            HyperParameterTuningJobName=name,
            HyperParameterTuningJobConfig={
                "Strategy": "Random",
                "HyperParameterTuningJobObjective": {"Type": "Minimize", "MetricName": "loss"},
                "ResourceLimits": {"MaxParallelTrainingJobs": 1, "MaxNumberOfTrainingJobs": 1},
                "ParameterRanges": {"CategoricalParameterRanges": [{"Name": "size", "Values": ["8"]}]},
            },
            TrainingJobDefinition=definition,
            **more,
        )
        return name

    @cached_property
    def lists(self) -> dict[str, str]:
        """List operations, and the member with a name; there are three resources of each kind."""
        for operation, (_member, make) in _make(self).items():
            for name in NAMES:
                make(_prefix(operation) + name)
        return {operation: member for operation, (member, _make_one) in _make(self).items()}

    @cached_property
    def logs(self) -> tuple[Client, dict[str, str]]:
        """A client of the logs, and the group of two jobs that have logged."""
        for name in ("logged-1", "logged-2"):
            ended(self.sm, self.train(name, code=f"print('of {name}')"))
        return self.client("logs"), {"logGroupName": "/aws/sagemaker/TrainingJobs"}

    def tags(self, arn: str) -> dict[str, str]:
        return {tag["Key"]: tag["Value"] for tag in self.sm.list_tags(ResourceArn=arn)["Tags"]}


def refused(
    text: str, call: Callable[..., object], *args: object, code: str = "ValidationException", **more: object
) -> None:
    with pytest.raises(ClientError, match=re.escape(text) or None) as error:
        call(*args, **more)
    assert error.value.response["Error"]["Code"] == code


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    settings = Settings(images={"/sagehound:": {"train": TRAIN}, "/tiny:": {"serve": SERVE}}, grace=2.0, sync=0.1)
    with Emulator(tmp_path_factory.mktemp("rules"), settings=settings) as emulator:
        location = {"LocationConstraint": "us-west-2"}
        client(emulator, "s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration=location)
        make_model(emulator, "model")
        yield Aws(emulator, client(emulator, "sagemaker", parameter_validation=False))


RULES: list[tuple[str, str, Callable[[Aws], None]]] = []


def rule(text: str, source: str) -> Callable[[Callable[[Aws], None]], None]:
    return lambda check: RULES.append((text, source, check))


# Tags


@rule("Tag keys do not begin with `aws:`, in any case", f"{MEMORY}: AWS's general restrictions of tags")
def _(aws: Aws) -> None:
    refused("reserved for AWS", aws.group, ("aws:x", "1"))
    arn = aws.group(("awsome", "aws:value"))
    refused("reserved for AWS", aws.sm.add_tags, ResourceArn=arn, Tags=[{"Key": "AWS:x", "Value": "1"}])
    refused("reserved for AWS", aws.sm.delete_tags, ResourceArn=arn, TagKeys=["aws:x"])
    assert aws.tags(arn) == {"awsome": "aws:value"}


@rule("A request gives a tag's key once", f"{REFERENCE}, Tag: keys must be unique per resource")
def _(aws: Aws) -> None:
    refused("given twice: x", aws.group, ("x", "1"), ("y", "1"), ("x", "1"))
    arn = aws.group(("x", "1"), ("X", "1"))
    aws.sm.add_tags(ResourceArn=arn, Tags=[{"Key": "x", "Value": "2"}])
    assert aws.tags(arn) == {"x": "2", "X": "1"}


@rule("A request has 50 tags at most", f"{MODEL}, TagList")
def _(aws: Aws) -> None:
    refused("51 items, at most 50", aws.group, *((str(i), "1") for i in range(51)))


@rule("A resource has 50 tags at most", f"{MEMORY}: AWS's general restrictions of tags")
def _(aws: Aws) -> None:
    arn = aws.group(*((str(i), "1") for i in range(50)))
    aws.sm.add_tags(ResourceArn=arn, Tags=[{"Key": "7", "Value": "replaced"}])
    refused("at most 50 tags", aws.sm.add_tags, ResourceArn=arn, Tags=[{"Key": "more", "Value": "1"}])
    assert len(aws.tags(arn)) == 50


@rule("Tags consist of alphanumeric characters, spaces and `_.:/=+-@`", f"{MODEL}, TagKey and TagValue")
def _(aws: Aws) -> None:
    refused("'a!' does not have the form", aws.group, ("a!", "1"))
    refused("'a\\tb' does not have the form", aws.group, ("a", "a\tb"))
    assert aws.tags(aws.group(("größe 1", "a_b.c:d/e=f+g-h@i"))) == {"größe 1": "a_b.c:d/e=f+g-h@i"}


@rule("Only a resource that exists is given tags", MEMORY)
def _(aws: Aws) -> None:
    refused("Could not find", aws.sm.add_tags, ResourceArn=aws.group() + "x", Tags=[{"Key": "a", "Value": "1"}])


@rule("ListTags takes MaxResults of 50 and more", f"{MODEL}, ListTagsMaxResults")
def _(aws: Aws) -> None:
    refused("valid min value: 50", aws.sm.list_tags, ResourceArn=aws.group(), MaxResults=49)


@rule("A tuning job's tags are given to its training jobs too", f"{REFERENCE}, AddTags")
def _(aws: Aws) -> None:
    name = aws.tune(Tags=[{"Key": "team", "Value": "dogs"}])
    jobs = until(lambda: _jobs(aws, name), bool)
    assert aws.tags(jobs[0]["TrainingJobArn"]) == {"team": "dogs"}


def _jobs(aws: Aws, name: str) -> list[dict[str, Any]]:
    found = aws.sm.list_training_jobs_for_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
    return list(found["TrainingJobSummaries"])


# Keys, intervals


@rule(
    "No VolumeKmsKeyId for instances with local disks: g4dn, g5, g6, p4d, p5, trn1 and others",
    f"{REFERENCE}, ResourceConfig, HyperParameterTuningResourceConfig, ProcessingClusterConfig, TransformResources; "
    "the families: sagemaker 3.27, instance_supports_kms",
)
def _(aws: Aws) -> None:
    for family in ("g4dn.xlarge", "g5.xlarge", "p4d.24xlarge", "p5.48xlarge", "trn1.2xlarge"):
        refused("local disks", aws.train, resources={"InstanceType": f"ml.{family}", "VolumeKmsKeyId": KEY})
    local = {"InstanceType": "ml.g4dn.xlarge", "VolumeKmsKeyId": KEY}
    refused("local disks", aws.tune, resources=local)
    refused("local disks", aws.process, **local)
    refused("local disks", aws.transform, **local)
    aws.train(resources={"InstanceType": "ml.p3.2xlarge", "VolumeKmsKeyId": KEY})


@rule(
    "VolumeKmsKeyId of a training or tuning job is a key's ID or ARN, not an alias; that of a transform job may be one",
    f"{REFERENCE}, ResourceConfig, HyperParameterTuningResourceConfig, TransformResources",
)
def _(aws: Aws) -> None:
    for alias in ("alias/mine", "arn:aws:kms:us-west-2:123456789012:alias/mine"):
        refused("is an alias", aws.train, resources={"VolumeKmsKeyId": alias})
        refused("is an alias", aws.tune, resources={"VolumeKmsKeyId": alias})
        aws.transform(VolumeKmsKeyId=alias)
    aws.train(resources={"VolumeKmsKeyId": KEY_ARN})


@rule("The profiler's interval is 100, 200, 500, 1000, 5000 or 60000 ms", f"{REFERENCE}, ProfilerConfig")
def _(aws: Aws) -> None:
    for interval in (0, 300, 1001):
        config = {"S3OutputPath": f"s3://{BUCKET}/p", "ProfilingIntervalInMilliseconds": interval}
        refused("must be one of 100, 200, 500", aws.train, ProfilerConfig=config)
    aws.train(ProfilerConfig={"S3OutputPath": f"s3://{BUCKET}/p", "ProfilingIntervalInMilliseconds": 60000})


# Lists


NAMES = ("b", "c", "a")  # of three resources of each kind, in the order of their creation


def _make(aws: Aws) -> dict[str, tuple[str, Callable[[str], object]]]:
    """For each List operation: the member with a name, and what makes a resource of a name."""
    sm = aws.sm
    return {
        "ListTrainingJobs": ("TrainingJobName", aws.train),
        "ListHyperParameterTuningJobs": ("HyperParameterTuningJobName", aws.tune),
        "ListProcessingJobs": ("ProcessingJobName", aws.process),
        "ListTransformJobs": ("TransformJobName", aws.transform),
        "ListModels": ("ModelName", lambda name: make_model(aws.emulator, name)),
        "ListEndpointConfigs": (
            "EndpointConfigName",
            lambda name: sm.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant("model")]),
        ),
        "ListEndpoints": (
            "EndpointName",
            lambda name: sm.create_endpoint(EndpointName=name, EndpointConfigName="list-b"),
        ),
        "ListModelPackageGroups": (
            "ModelPackageGroupName",
            lambda name: sm.create_model_package_group(ModelPackageGroupName=name),
        ),
        "ListModelPackages": ("ModelPackageName", lambda name: sm.create_model_package(ModelPackageName=name)),
    }


def _prefix(operation: str) -> str:
    return "tune-" if "Tuning" in operation else "list-"  # its training jobs are not in ListTrainingJobs' way


def _list(aws: Aws, operation: str, **more: object) -> dict[str, Any]:
    method = getattr(aws.sm, re.sub(r"(?<=[a-z])(?=[A-Z])", "_", operation).lower())
    found: dict[str, Any] = method(**{"NameContains": _prefix(operation)} | more)
    del found["ResponseMetadata"]
    return found


def _names(found: dict[str, Any], member: str) -> list[str]:
    (items,) = [value for value in found.values() if isinstance(value, list)]
    return [item[member].partition("-")[2] for item in items]


def _default(operation: str, member: str) -> str:
    text = service_model("sagemaker").operation_model(operation).input_shape.members[member].documentation
    (word,) = re.findall(r"default is <code>(\w+)", text)
    return str(word)


@rule("Each list has its own defaults of SortBy and SortOrder", f"{REFERENCE}, each List operation's text")
def _(aws: Aws) -> None:
    for operation, member in aws.lists.items():
        expected = sorted(NAMES) if _default(operation, "SortBy") == "Name" else list(NAMES)
        if _default(operation, "SortOrder") == "Descending":
            expected.reverse()
        assert _names(_list(aws, operation), member) == expected, operation
        by_name = _list(aws, operation, SortBy="Name", SortOrder="Descending")
        assert _names(by_name, member) == ["c", "b", "a"], operation


@rule("NextToken is one that a page of the same list returned; any other is refused", f"{MEMORY}; the message too")
def _(aws: Aws) -> None:
    tokens, wrong = {}, "Invalid pagination token provided in request"
    for operation, member in aws.lists.items():
        first = _list(aws, operation, MaxResults=2)
        rest = _list(aws, operation, MaxResults=2, NextToken=first["NextToken"])
        assert sorted(_names(first, member) + _names(rest, member)) == ["a", "b", "c"]
        assert "NextToken" not in rest
        tokens[operation] = first["NextToken"]
        for token in ("1", "x", "ü", first["NextToken"][:-2]):
            refused(wrong, _list, aws, operation, NextToken=token)
        refused(wrong, _list, aws, operation, NextToken=first["NextToken"], SortBy="Name", SortOrder="Descending")
    assert len(set(tokens.values())) == len(tokens)
    for operation, token in zip(tokens, [*list(tokens.values())[1:], tokens["ListTrainingJobs"]], strict=True):
        refused(wrong, _list, aws, operation, NextToken=token)
    refused(wrong, aws.sm.list_tags, ResourceArn=aws.group(), NextToken=tokens["ListModels"])


@rule("MaxResults is 1 to 100; a page has 10 items without it", f"{MODEL}, MaxResults; {REFERENCE}, ListEndpoints")
def _(aws: Aws) -> None:
    for operation in aws.lists:
        refused("valid min value: 1", _list, aws, operation, MaxResults=0)
        refused("at most 100", _list, aws, operation, MaxResults=101)
    for _number in range(11):
        aws.group()
    assert len(aws.sm.list_model_package_groups()["ModelPackageGroupSummaryList"]) == 10


@rule("ListTrainingJobs with MaxResults takes the page first, then StatusEquals", f"{REFERENCE}, ListTrainingJobs")
def _(aws: Aws) -> None:
    aws.train("status-1")
    aws.train("status-2", code="sys.exit(1)")
    assert ended(aws.sm, "status-2")["TrainingJobStatus"] == "Failed"
    asked = {"StatusEquals": "Failed", "NameContains": "status-"}
    assert _names(_list(aws, "ListTrainingJobs", **asked), "TrainingJobName") == ["2"]
    page = _list(aws, "ListTrainingJobs", MaxResults=1, **asked)
    assert page["TrainingJobSummaries"] == []
    rest = _list(aws, "ListTrainingJobs", MaxResults=1, NextToken=page["NextToken"], **asked)
    assert _names(rest, "TrainingJobName") == ["2"]


# Changes


@rule(
    "A processing or tuning job is deleted after it has ended, and its name is free",
    f"{REFERENCE}, DeleteProcessingJob",
)
def _(aws: Aws) -> None:
    aws.process("deleted")
    name = {"ProcessingJobName": "deleted"}
    until(lambda: aws.sm.describe_processing_job(**name)["ProcessingJobStatus"], lambda s: s == "Failed")
    aws.sm.delete_processing_job(**name)
    refused("Could not find", aws.sm.describe_processing_job, **name)
    aws.process("deleted")
    name = {"HyperParameterTuningJobName": aws.tune("deleted", code="time.sleep(60)")}
    refused("still running", aws.sm.delete_hyper_parameter_tuning_job, **name, code="ResourceInUse")
    aws.sm.stop_hyper_parameter_tuning_job(**name)
    describe = aws.sm.describe_hyper_parameter_tuning_job
    until(lambda: describe(**name)["HyperParameterTuningJobStatus"], lambda s: s == "Stopped")
    aws.sm.delete_hyper_parameter_tuning_job(**name)
    refused("can't find", describe, **name, code="ResourceNotFound")


@rule("UpdateModelPackage adds inference specifications, 15 in all at most", f"{REFERENCE}, UpdateModelPackage")
def _(aws: Aws) -> None:
    name = aws.group().rpartition("/")[2]
    arn = aws.sm.create_model_package(ModelPackageGroupName=name)["ModelPackageArn"]

    def specifications(*numbers: int) -> list[dict[str, Any]]:
        return [{"Name": f"s{number}", "Containers": [{"Image": IMAGE}]} for number in numbers]

    for some in (range(8), range(8, 15)):
        aws.sm.update_model_package(ModelPackageArn=arn, AdditionalInferenceSpecificationsToAdd=specifications(*some))
    found = aws.sm.describe_model_package(ModelPackageName=arn)["AdditionalInferenceSpecifications"]
    assert found == specifications(*range(15))
    more = {"AdditionalInferenceSpecificationsToAdd": specifications(15)}
    refused("at most 15", aws.sm.update_model_package, ModelPackageArn=arn, **more)


@rule("UpdateEndpointWeightsAndCapacities gives each variant once", f"{MEMORY}, as moto does")
def _(aws: Aws) -> None:
    make_endpoint(aws.emulator, "twice", variant("model"))
    wanted = [{"VariantName": "AllTraffic", "DesiredWeight": weight} for weight in (0.5, 0.7)]
    update = aws.sm.update_endpoint_weights_and_capacities
    refused("given twice", update, EndpointName="twice", DesiredWeightsAndCapacities=wanted)
    update(EndpointName="twice", DesiredWeightsAndCapacities=wanted[:1])


# Endpoints


ROUTING = "TrafficRoutingConfiguration"


def _blue_green(routing: dict[str, Any], **more: object) -> dict[str, Any]:
    return {"BlueGreenUpdatePolicy": {ROUTING: {"WaitIntervalInSeconds": 0} | routing, **more}}


def _rolling(kind: str, value: int) -> dict[str, Any]:
    return {"RollingUpdatePolicy": {"MaximumBatchSize": {"Type": kind, "Value": value}, "WaitIntervalInSeconds": 0}}


def _endpoint(aws: Aws, **more: object) -> Callable[..., dict[str, Any]]:
    """Make an endpoint of three instances; returns what updates it to its own configuration."""
    name = f"updated-{next(numbers)}"
    made = make_endpoint(aws.emulator, name, variant("model", InitialInstanceCount=3) | more)
    assert made["EndpointStatus"] == "InService", made

    def update(config: dict[str, Any], to: str = name, **options: object) -> dict[str, Any]:
        aws.sm.update_endpoint(EndpointName=name, EndpointConfigName=to, DeploymentConfig=config, **options)
        return settled(aws.sm, name)

    return update


def _config(aws: Aws, *variants: dict[str, Any], **more: object) -> str:
    return make_config(aws.emulator, f"config-{next(numbers)}", *variants, **more)


@rule("DeploymentConfig has one of BlueGreenUpdatePolicy and RollingUpdatePolicy", f"{REFERENCE}, DeploymentConfig")
def _(aws: Aws) -> None:
    both = _blue_green({"Type": "ALL_AT_ONCE"}) | _rolling("INSTANCE_COUNT", 1)
    refused("Only one of", _endpoint(aws), both)


@rule(
    "CanarySize is at most 50 % of a variant's instances, LinearStepSize 10 to 50 %, MaximumBatchSize 5 to 50 %",
    f"{REFERENCE}, TrafficRoutingConfig, RollingUpdatePolicy",
)
def _(aws: Aws) -> None:
    update = _endpoint(aws)
    for kind, member, least in (("CANARY", "CanarySize", 1), ("LINEAR", "LinearStepSize", 10)):
        for wrong in ({"CAPACITY_PERCENT": 51}, {"INSTANCE_COUNT": 2}, {"CAPACITY_PERCENT": least - 1}):
            ((size, value),) = wrong.items()
            if value:
                config = _blue_green({"Type": kind, member: {"Type": size, "Value": value}})
                refused(f"{member} must be", update, config)
        update(_blue_green({"Type": kind, member: {"Type": "INSTANCE_COUNT", "Value": 1}}))
    for size, value in (("CAPACITY_PERCENT", 51), ("CAPACITY_PERCENT", 4), ("INSTANCE_COUNT", 2)):
        refused("MaximumBatchSize must be", update, _rolling(size, value))
    update(_rolling("CAPACITY_PERCENT", 5))


@rule("CANARY wants CanarySize, LINEAR wants LinearStepSize", MEMORY)
def _(aws: Aws) -> None:
    update = _endpoint(aws)
    refused("CanarySize must be given", update, _blue_green({"Type": "CANARY"}))
    refused("LinearStepSize must be given", update, _blue_green({"Type": "LINEAR"}))


@rule("MaximumExecutionTimeoutInSeconds is larger than all waiting times", f"{REFERENCE}, BlueGreenUpdatePolicy")
def _(aws: Aws) -> None:
    linear = {"Type": "LINEAR", "LinearStepSize": {"Type": "CAPACITY_PERCENT", "Value": 25}}
    config = _blue_green(
        linear | {"WaitIntervalInSeconds": 150}, TerminationWaitInSeconds=150, MaximumExecutionTimeoutInSeconds=600
    )
    refused("larger than the 600 seconds", _endpoint(aws), config)


@rule(
    "An update with a DeploymentConfig keeps the names of the variants; one without may change them",
    "developer guide, Exclusions of deployment guardrails; the second half from memory",
)
def _(aws: Aws) -> None:
    update = _endpoint(aws)
    other = _config(aws, variant("model", VariantName="other"))
    refused("same variant names", update, _blue_green({"Type": "ALL_AT_ONCE"}), to=other)
    assert update({}, to=other)["ProductionVariants"][0]["VariantName"] == "other"


@rule(
    "ml.inf1 is updated all at once without baking, whatever the policy; so are, in place of a rolling update, "
    "serverless endpoints and those with several variants",
    "developer guide, Exclusions of deployment guardrails",
)
def _(aws: Aws) -> None:
    hour = {"WaitIntervalInSeconds": 3600, "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 10}}
    canary, rolling = _blue_green({"Type": "CANARY"} | hour), _rolling("CAPACITY_PERCENT", 10)
    rolling["RollingUpdatePolicy"]["WaitIntervalInSeconds"] = 3600
    update = _endpoint(aws, InstanceType="ml.inf1.xlarge")
    assert "FailureReason" not in update(canary)
    less = {"VariantName": "a", "ModelName": "model", "ServerlessConfig": {"MemorySizeInMB": 1024, "MaxConcurrency": 1}}
    two = [variant("model", VariantName=name) for name in "ab"]
    for variants in ([less], two):
        name = f"updated-{next(numbers)}"
        make_endpoint(aws.emulator, name, *variants)
        aws.sm.update_endpoint(EndpointName=name, EndpointConfigName=name, DeploymentConfig=rolling)
        assert "FailureReason" not in settled(aws.sm, name)


@rule("The alarms of AutoRollbackConfiguration exist", MEMORY)
def _(aws: Aws) -> None:
    config = _blue_green({"Type": "ALL_AT_ONCE"})
    config["AutoRollbackConfiguration"] = {"Alarms": [{"AlarmName": "none"}]}
    refused("no CloudWatch alarm none", _endpoint(aws), config)


@rule(
    "A DeploymentConfig of CreateEndpoint does nothing until an update retains it",
    "developer guide, Canary Traffic Shifting",
)
def _(aws: Aws) -> None:
    size = {"Type": "CAPACITY_PERCENT", "Value": 10}
    config = _blue_green({"Type": "CANARY", "CanarySize": size, "WaitIntervalInSeconds": 1})
    name = {"EndpointName": "retains", "EndpointConfigName": _config(aws, variant("model"))}
    aws.sm.create_endpoint(**name, DeploymentConfig=config)
    assert settled(aws.sm, "retains")["LastDeploymentConfig"] == config
    aws.sm.update_endpoint(**name, RetainDeploymentConfig=True)
    until(lambda: json.dumps(aws.sm.describe_endpoint(EndpointName="retains"), default=str), lambda d: "Baking" in d)
    assert settled(aws.sm, "retains")["LastDeploymentConfig"] == config


@rule(
    "RetainAllVariantProperties keeps weights and numbers of instances, but for ExcludeRetainedVariantProperties",
    f"{REFERENCE}, UpdateEndpoint, VariantProperty",
)
def _(aws: Aws) -> None:
    update, other = _endpoint(aws), _config(aws, variant("model", InitialVariantWeight=0.5))
    excluded = [{"VariantPropertyType": "DesiredWeight"}]
    keep = {"RetainAllVariantProperties": True, "ExcludeRetainedVariantProperties": excluded}
    (found,) = update({}, to=other, **keep)["ProductionVariants"]
    assert (found["CurrentWeight"], found["CurrentInstanceCount"]) == (0.5, 3)


@rule(
    "UpdateEndpointWeightsAndCapacities: at least one instance; no instances for a serverless variant, and no "
    "ServerlessUpdateConfig for others",
    MEMORY,
)
def _(aws: Aws) -> None:
    less = {"VariantName": "a", "ModelName": "model", "ServerlessConfig": {"MemorySizeInMB": 1024, "MaxConcurrency": 1}}
    make_endpoint(aws.emulator, "less", less)
    make_endpoint(aws.emulator, "more", variant("model", VariantName="a"))
    for endpoint, text, change in (
        ("more", "at least 1", {"DesiredInstanceCount": 0}),
        ("more", "is not serverless", {"ServerlessUpdateConfig": {"MaxConcurrency": 2}}),
        ("less", "is serverless", {"DesiredInstanceCount": 1}),
        ("less", "less than or equal to MaxConcurrency", {"ServerlessUpdateConfig": {"ProvisionedConcurrency": 2}}),
    ):
        wanted = [{"VariantName": "a"} | change]
        update = aws.sm.update_endpoint_weights_and_capacities
        refused(text, update, EndpointName=endpoint, DesiredWeightsAndCapacities=wanted)


SHADOW = {"ShadowProductionVariants": [variant("model", VariantName="shadow")]}


@rule(
    "Beside a shadow variant there is one production variant, and no second one", f"{REFERENCE}, CreateEndpointConfig"
)
def _(aws: Aws) -> None:
    two = [variant("model", VariantName=name) for name in "ab"]
    refused("one production variant", _config, aws, *two, **SHADOW)
    refused("one production variant", _config, aws, variant("model"), ShadowProductionVariants=two)
    refused("must be unique", _config, aws, variant("model", VariantName="shadow"), **SHADOW)


@rule(
    "Shadow variants do not go with serverless and asynchronous inference, multi-model containers and ml.inf1",
    "developer guide, Exclusions of shadow tests",
)
def _(aws: Aws) -> None:
    make_model(aws.emulator, "many", many=True)
    less = {"VariantName": "a", "ModelName": "model", "ServerlessConfig": {"MemorySizeInMB": 1024, "MaxConcurrency": 1}}
    for text, production, shadow in (
        ("serverless", less, variant("model", VariantName="shadow")),
        ("serverless", variant("model"), less),
        ("multi-model", variant("many"), variant("model", VariantName="shadow")),
        ("ml.inf1", variant("model"), variant("model", VariantName="shadow", InstanceType="ml.inf1.xlarge")),
    ):
        refused(f"do not support {text}", _config, aws, production, ShadowProductionVariants=[shadow])
    output = {"OutputConfig": {"S3OutputPath": f"s3://{BUCKET}/out"}}
    refused("do not support asynchronous", _config, aws, variant("model"), **SHADOW, AsyncInferenceConfig=output)


@rule(
    "A shadow variant gets the share of requests that its weight has of the production variant's, 1 at most",
    f"{MEMORY}; the reference defines the ratio for production variants",
)
def _(aws: Aws) -> None:
    sums = []
    for weight in (2.0, 0.0):
        shadow = variant("model", VariantName="shadow", InitialVariantWeight=weight)
        name = f"shadowed-{next(numbers)}"
        production = variant("model", InitialVariantWeight=2.0)
        make_endpoint(aws.emulator, name, production, ShadowProductionVariants=[shadow])
        for _number in range(5):
            invoke(aws.emulator, name)
        sums.append(_sums(aws, name, "shadow", 5.0 if weight else 0.0))
    assert [found.get("Invocations", 0.0) for found in sums] == [5.0, 0.0]


def _sums(aws: Aws, endpoint: str, name: str, count: float) -> dict[str, float]:
    """The sums of all metrics of a variant, once it was invoked ``count`` times."""
    watch, end = aws.client("cloudwatch"), datetime.now(UTC) + timedelta(minutes=2)
    dimensions = [{"Name": "EndpointName", "Value": endpoint}, {"Name": "VariantName", "Value": name}]

    def sums() -> dict[str, float]:
        listed = watch.list_metrics(Namespace="AWS/SageMaker", Dimensions=dimensions)["Metrics"]
        hour = {"StartTime": end - timedelta(hours=1), "EndTime": end, "Period": 7200, "Statistics": ["Sum"]}
        return {
            m["MetricName"]: watch.get_metric_statistics(**m, **hour)["Datapoints"][0]["Sum"]
            for m in listed
            if len(m["Dimensions"]) == 2
        }

    return until(sums, lambda found: found.get("Invocations", float("ModelLatency" in found)) >= count)


@rule(
    "Invocations, InvocationsPerInstance, Invocation4XXErrors, Invocation5XXErrors, ModelLatency and OverheadLatency "
    "in AWS/SageMaker, by EndpointName and VariantName, and by EndpointConfigName too",
    "developer guide, Monitor with CloudWatch, Auto-Rollback Configuration",
)
def _(aws: Aws) -> None:
    make_endpoint(aws.emulator, "watched", variant("model", InitialInstanceCount=2))
    for body in (b"a", b"status 404", b"status 503"):
        with suppress(ClientError):
            invoke(aws.emulator, "watched", body)
    found = _sums(aws, "watched", "AllTraffic", 3)
    assert found.pop("ModelLatency") > 0
    assert found.pop("OverheadLatency") > 0
    errors = {"Invocation4XXErrors": 1.0, "Invocation5XXErrors": 1.0}
    assert found == {"Invocations": 3.0, "InvocationsPerInstance": 1.5} | errors
    only = [{"Name": "EndpointConfigName", "Value": "watched"}]
    listed = aws.client("cloudwatch").list_metrics(Namespace="AWS/SageMaker", Dimensions=only)["Metrics"]
    assert len(listed) == 6


@rule(
    "Asynchronous endpoints have Invocation4XXErrors, Invocation5XXErrors and ModelLatency, and not Invocations",
    "developer guide, Alarms and logs for tracking metrics from asynchronous endpoints",
)
def _(aws: Aws) -> None:
    output = {"OutputConfig": {"S3OutputPath": f"s3://{BUCKET}/out"}}
    make_endpoint(aws.emulator, "later", variant("model"), AsyncInferenceConfig=output)
    aws.client("s3").put_object(Bucket=BUCKET, Key="in", Body=b"a")
    aws.client("sagemaker-runtime").invoke_endpoint_async(EndpointName="later", InputLocation=f"s3://{BUCKET}/in")
    found = _sums(aws, "later", "AllTraffic", 1)
    assert found.keys() == {"Invocation4XXErrors", "Invocation5XXErrors", "ModelLatency"}


# Regions, protocols, logs


@rule("Each region has resources and logs of its own, and the client's region is in their ARNs", MEMORY)
def _(aws: Aws) -> None:
    more = {"endpoint_url": aws.emulator.url, **KEYS}
    sm, logs, runtime = (
        boto3.client(name, region_name="eu-west-1", **more) for name in ("sagemaker", "logs", "sagemaker-runtime")
    )
    name, group = aws.train("twice", code="print('west')"), "/aws/sagemaker/TrainingJobs"
    sm.create_training_job(**job("twice", "print('europe')"))
    found = ended(sm, name)
    assert found["TrainingJobArn"] == "arn:aws:sagemaker:eu-west-1:123456789012:training-job/twice"
    assert ended(aws.sm, name)["TrainingJobArn"].startswith("arn:aws:sagemaker:us-west-2:")
    assert [j["TrainingJobName"] for j in sm.list_training_jobs()["TrainingJobSummaries"]] == ["twice"]
    (event,) = logs.filter_log_events(logGroupName=group, logStreamNamePrefix="twice/")["events"]
    assert event["message"] == "europe"
    make_endpoint(aws.emulator, "here", variant("model"))
    refused("not found", runtime.invoke_endpoint, EndpointName="here", Body=b"", code="ValidationError")
    refused("Could not find model", sm.describe_model, ModelName="model")
    odd = boto3.client("sagemaker", region_name="europe", **more)
    refused("valid region, not 'europe'", odd.list_models, code="InvalidSignatureException")


@rule("Each service has errors in its own protocol: S3 and query in XML, the others in JSON", f"{MODEL}, protocol")
def _(aws: Aws) -> None:
    iam, logs, s3 = aws.client("iam"), aws.client("logs"), aws.client("s3")
    refused(
        "has not been implemented",
        iam.generate_organizations_access_report,
        EntityPath="o-abcdefghij/r-abcd",
        code="NotImplemented",
    )
    refused("has not been implemented", logs.list_anomalies, code="NotImplemented")
    refused("not found", iam.get_role, RoleName="x", code="NoSuchEntity")
    refused("does not exist", s3.get_object, Bucket=BUCKET, Key="x", code="NoSuchKey")
    for call, code in (
        (aws.client("ec2").describe_instances, "Throttling"),
        (aws.client("sns").list_topics, "Throttling"),
        (aws.client("ecr").describe_repositories, "ThrottlingException"),
        (s3.list_buckets, "SlowDown"),
    ):
        control(aws.emulator, "faults", [{"operation": "*", "kind": "throttle"}])
        refused("", call, code=code)


@rule("FilterLogEvents by logStreamNamePrefix; not together with logStreamNames", f"{REFERENCE}, FilterLogEvents")
def _(aws: Aws) -> None:
    logs, group = aws.logs
    for prefix, expected in (
        ("logged-1/", ["of logged-1"]),
        ("logged-", ["of logged-1", "of logged-2"]),
        ("none/", []),
    ):
        found = logs.filter_log_events(**group, logStreamNamePrefix=prefix)
        assert sorted(event["message"] for event in found["events"]) == expected
    both = {"logStreamNamePrefix": "logged-1/", "logStreamNames": ["x"]}
    refused("cannot both", logs.filter_log_events, **group, **both, code="InvalidParameterException")


@rule(
    "DescribeLogStreams by prefix; orderBy LastEventTime does not go with a prefix", f"{REFERENCE}, DescribeLogStreams"
)
def _(aws: Aws) -> None:
    logs, group = aws.logs
    (found,) = logs.describe_log_streams(**group, logStreamNamePrefix="logged-1/")["logStreams"]
    assert found["logStreamName"].startswith("logged-1/algo-1-")
    by_time = {"logStreamNamePrefix": "logged-1/", "orderBy": "LastEventTime"}
    refused("LastEventTime", logs.describe_log_streams, **group, **by_time, code="InvalidParameterException")


@rule("GetLogEvents: at a log's end nextForwardToken is the token that was given", f"{REFERENCE}, GetLogEvents")
def _(aws: Aws) -> None:
    logs, group = aws.logs
    ended(aws.sm, aws.train("counted", code="[print(i) for i in range(3)]"))
    (stream,) = logs.describe_log_streams(**group, logStreamNamePrefix="counted/")["logStreams"]
    asked = group | {"logStreamName": stream["logStreamName"], "limit": 2}
    page = logs.get_log_events(**asked, startFromHead=True)
    messages, token = [event["message"] for event in page["events"]], ""
    while token != page["nextForwardToken"]:
        token = page["nextForwardToken"]
        page = logs.get_log_events(**asked, nextToken=token)
        messages += [event["message"] for event in page["events"]]
    assert messages == ["0", "1", "2"]
    refused("invalid", logs.get_log_events, **asked, nextToken="x", code="InvalidParameterException")


@pytest.mark.parametrize("check", [pytest.param(check, id=text) for text, _source, check in RULES])
def test_a_rule_of_aws_is_enforced(aws: Aws, check: Callable[[Aws], None]) -> None:
    check(aws)


def test_the_table_of_rules_is_that_of_the_tests() -> None:
    expected = "".join(f"| {text} | {source} |\n" for text, source, _check in RULES)
    table = TABLE.read_text(encoding="utf-8").partition("|---|---|\n")[2]
    assert table == expected, f"{TABLE}: the rows must be these:\n{expected}"
