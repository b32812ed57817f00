"""Search over what the emulator has, and operations that it leaves to moto."""

import json
import urllib.error
import urllib.request
from typing import Any

import pytest
from botocore.exceptions import ClientError
from emulator_helpers import Client, client, ended, job

from sagemaker_emulator.server import Emulator


def names(sm: Client, *filters: dict[str, str], **more: Any) -> list[str]:  # noqa: ANN401 - of a request
    expression = {"Filters": list(filters)} | more.pop("expression", {}) if filters else {}
    given = {"SearchExpression": expression} if expression else {}
    results = sm.search(Resource="TrainingJob", **given, **more)["Results"]
    return [r["TrainingJob"]["TrainingJobName"] for r in results]


def compared(name: str, operator: str, value: str) -> dict[str, str]:
    return {"Name": name, "Operator": operator, "Value": value}


def test_jobs_are_searched_by_their_members(sm: Client) -> None:
    metric = {"MetricDefinitions": [{"Name": "acc", "Regex": "acc=([0-9.]+)"}]}
    for number in (1, 2, 3):
        tags = [{"Key": "team", "Value": "hounds" if number < 3 else "cats"}]
        code, lr = f"print('acc=0.{number}')", {"optimizer.lr": str(number / 100)}
        sm.create_training_job(**job(f"j{number}", code, algorithm=metric, hyperparameters=lr, Tags=tags))
        ended(sm, f"j{number}")
    assert names(sm) == ["j3", "j2", "j1"], "the one that changed last comes first"
    of_team = compared("Tags.team", "Equals", "hounds")
    assert names(sm, of_team, SortBy="TrainingJobName", SortOrder="Ascending") == ["j1", "j2"]
    assert names(sm, compared("Metrics.acc", "GreaterThan", "0.1"), SortBy="Metrics.acc") == ["j3", "j2"]
    assert names(sm, compared("HyperParameters.optimizer.lr", "LessThanOrEqualTo", "0.01")) == ["j1"]
    assert names(sm, SortBy="HyperParameters.code", SortOrder="Ascending") == ["j1", "j2", "j3"]
    assert names(sm, compared("TrainingJobName", "In", "j1,j3"), SortOrder="Ascending") == ["j1", "j3"]
    either = [compared("TrainingJobName", "Equals", "j1"), compared("TrainingJobName", "Contains", "3")]
    assert sorted(names(sm, *either, expression={"Operator": "Or"})) == ["j1", "j3"]
    assert names(sm, *either) == []
    first = sm.search(Resource="TrainingJob", MaxResults=2)
    assert (len(first["Results"]), first["TotalHits"]["Value"]) == (2, 3)
    rest = sm.search(Resource="TrainingJob", MaxResults=2, NextToken=first["NextToken"])
    assert [r["TrainingJob"]["TrainingJobName"] for r in rest["Results"]] == ["j1"]
    with pytest.raises(ClientError, match="The emulator searches TrainingJob"):
        sm.search(Resource="FeatureGroup")


RESOURCES = (
    "TrainingJob",
    "HyperParameterTuningJob",
    "Endpoint",
    "ModelPackage",
    "ModelPackageGroup",
    "Pipeline",
    "PipelineExecution",
)


def test_every_resource_is_searched(sm: Client) -> None:
    sm.create_model_package_group(ModelPackageGroupName="dogs")
    range_ = {"ContinuousParameterRanges": [{"Name": "lr", "MinValue": "0.1", "MaxValue": "1"}]}
    config = {"Strategy": "Random", "ResourceLimits": {"MaxParallelTrainingJobs": 1}, "ParameterRanges": range_}
    config["HyperParameterTuningJobObjective"] = {"Type": "Maximize", "MetricName": "acc"}
    metric = {"MetricDefinitions": [{"Name": "acc", "Regex": "acc=([0-9.]+)"}]}
    training = job("", "", algorithm=metric)
    training["StaticHyperParameters"] = training.pop("HyperParameters")
    del training["TrainingJobName"]
    config["ResourceLimits"]["MaxNumberOfTrainingJobs"] = 1  # type: ignore[index]
    sm.create_hyper_parameter_tuning_job(
        HyperParameterTuningJobName="t", HyperParameterTuningJobConfig=config, TrainingJobDefinition=training
    )
    results = {resource: sm.search(Resource=resource)["Results"] for resource in RESOURCES}
    (tuning,) = results["HyperParameterTuningJob"]
    assert tuning["HyperParameterTuningJob"]["HyperParameterTuningJobName"] == "t"
    (group,) = results["ModelPackageGroup"]
    assert group["ModelPackageGroup"]["ModelPackageGroupName"] == "dogs"


def test_times_are_compared_in_iso_8601(sm: Client) -> None:
    sm.create_training_job(**job("j", ""))
    ended(sm, "j")
    for before, after in (("2020-01-01T00:00:00Z", "2100-01-01T00:00:00"), ("2020-01-01", "2100-01-01T00:00:00+02:00")):
        for name in ("CreationTime", "SecondaryStatusTransitions.StartTime"):
            assert names(sm, compared(name, "GreaterThan", before), compared(name, "LessThan", after)) == ["j"]
            assert names(sm, compared(name, "GreaterThan", after)) == []
        started = compared("SecondaryStatusTransitions.StartTime", "GreaterThan", before)
        nested = {"NestedPropertyName": "SecondaryStatusTransitions", "Filters": [started]}
        found = sm.search(Resource="TrainingJob", SearchExpression={"NestedFilters": [nested]})
        assert len(found["Results"]) == 1
    with pytest.raises(ClientError, match="Filter CreationTime: yesterday is not a time in ISO 8601"):
        names(sm, compared("CreationTime", "GreaterThan", "yesterday"))


def test_what_moto_knows_is_stored_and_marked_as_not_executed(emulator: Emulator, sm: Client) -> None:
    sm.create_experiment(ExperimentName="dogs")
    sm.create_trial(TrialName="first", ExperimentName="dogs")
    sm.create_trial_component(TrialComponentName="part")
    sm.associate_trial_component(TrialComponentName="part", TrialName="first")
    assert [e["ExperimentName"] for e in sm.list_experiments()["ExperimentSummaries"]] == ["dogs"]
    browser = urllib.request.Request(emulator.url, headers={"Accept": "text/html"})
    with urllib.request.urlopen(browser) as page:
        text = page.read().decode()
    assert "CreateExperiment" in text
    assert "not executed" in text
    target = {"X-Amz-Target": "SageMaker.CreateExperiment"}
    request = urllib.request.Request(emulator.url, data=b'{"ExperimentName": "no spaces here!"}', headers=target)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    assert json.loads(refused.value.read())["__type"] == "ValidationException"
    with pytest.raises(ClientError, match="NotImplemented"):
        sm.list_inference_experiments()


def test_resources_are_found_by_their_tags_in_the_tagging_api(emulator: Emulator) -> None:
    sm, tagging = client(emulator, "sagemaker"), client(emulator, "resourcegroupstaggingapi")
    for name, team in (("a", "dogs"), ("b", "cats"), ("c", "dogs")):
        sm.create_model_package_group(ModelPackageGroupName=name, Tags=[{"Key": "team", "Value": team}])
    tagging_s3 = {"TagSet": [{"Key": "team", "Value": "dogs"}]}
    client(emulator, "s3").put_bucket_tagging(Bucket="photos", Tagging=tagging_s3)

    def found(**request: Any) -> list[str]:  # noqa: ANN401
        pages = tagging.get_paginator("get_resources").paginate(**request)
        return [r["ResourceARN"].rpartition(":")[2] for page in pages for r in page["ResourceTagMappingList"]]

    dogs = [{"Key": "team", "Values": ["dogs"]}]
    groups = ["model-package-group/a", "model-package-group/c"]
    assert found(TagFilters=dogs) == ["photos", *groups]
    assert found(TagFilters=dogs, ResourceTypeFilters=["sagemaker"]) == groups
    assert found(ResourceTypeFilters=["sagemaker:model-package-group"], ResourcesPerPage=1) == [
        "model-package-group/a",
        "model-package-group/b",
        "model-package-group/c",
    ]
    assert found(ResourceTypeFilters=["sagemaker:endpoint"]) == []
    sm.delete_model_package_group(ModelPackageGroupName="a")
    assert found(TagFilters=dogs, ResourceTypeFilters=["sagemaker"]) == ["model-package-group/c"]
