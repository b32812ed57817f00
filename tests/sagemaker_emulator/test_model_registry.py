"""The model registry, and models made of what it holds."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from emulator_helpers import BUCKET, ROLE, Client, client, until
from hosting_helpers import TINY, hosting, invoke, make_endpoint, packed, variant

from sagemaker_emulator.server import Emulator

ARN = "arn:aws:sagemaker:us-west-2:123456789012:"


@pytest.fixture
def emulator(tmp_path: Path) -> Iterator[Emulator]:
    with hosting(tmp_path / "emulator") as running:
        yield running


def package(group: str, uri: str = f"s3://{BUCKET}/m.tar.gz", **more: object) -> dict[str, Any]:
    container = {"Image": TINY, "ModelDataUrl": uri, "Environment": {"COLOUR": "liver", "SIZE": "small"}}
    inference = {
        "Containers": [container],
        "SupportedContentTypes": ["image/jpeg"],
        "SupportedResponseMIMETypes": ["application/json"],
    }
    return {"ModelPackageGroupName": group, "InferenceSpecification": inference, **more}


def test_versions_count_up_and_are_never_given_again(emulator: Emulator, sm: Client) -> None:
    made = sm.create_model_package_group(ModelPackageGroupName="Dogs", Tags=[{"Key": "a", "Value": "b"}])
    assert made["ModelPackageGroupArn"] == ARN + "model-package-group/Dogs"
    arns = [sm.create_model_package(**package("Dogs"))["ModelPackageArn"] for _ in range(2)]
    assert arns == [f"{ARN}model-package/dogs/{version}" for version in (1, 2)]
    sm.delete_model_package(ModelPackageName=arns[1])
    third = sm.create_model_package(**package("Dogs", ModelApprovalStatus="Approved"))["ModelPackageArn"]
    assert third.endswith("/3")
    found = sm.describe_model_package(ModelPackageName=third)
    assert (found["ModelPackageVersion"], found["ModelPackageGroupName"]) == (3, "Dogs")
    assert (found["ModelPackageStatus"], found["ModelApprovalStatus"]) == ("Completed", "Approved")
    assert "ModelPackageName" not in found
    assert found["InferenceSpecification"]["Containers"][0]["Image"] == TINY

    listed = sm.list_model_packages(ModelPackageGroupName="Dogs")["ModelPackageSummaryList"]
    assert [p["ModelPackageVersion"] for p in listed] == [1, 3]
    newest = sm.list_model_packages(
        ModelPackageGroupName="Dogs", ModelApprovalStatus="Approved", SortOrder="Descending", MaxResults=1
    )["ModelPackageSummaryList"]
    assert [p["ModelPackageArn"] for p in newest] == [third]
    assert sm.list_model_packages()["ModelPackageSummaryList"] == [], "only packages of no group, as at AWS"
    with pytest.raises(ClientError, match=r"ConflictException"):
        sm.delete_model_package_group(ModelPackageGroupName="Dogs")
    for arn in (arns[0], third):
        sm.delete_model_package(ModelPackageName=arn)
    sm.delete_model_package_group(ModelPackageGroupName="Dogs")
    assert sm.list_model_package_groups()["ModelPackageGroupSummaryList"] == []


def test_an_approved_package_becomes_a_model_that_answers(emulator: Emulator, sm: Client, s3: Client) -> None:
    s3.put_object(Bucket=BUCKET, Key="m.tar.gz", Body=packed(name="registered"))
    sm.create_model_package_group(ModelPackageGroupName="dogs")
    arn = sm.create_model_package(**package("dogs"))["ModelPackageArn"]
    assert sm.describe_model_package(ModelPackageName="dogs/1")["ModelApprovalStatus"] == "PendingManualApproval"
    container = {"ModelPackageName": arn, "Environment": {"SIZE": "large"}}
    for status in ("PendingManualApproval", "Rejected"):
        sm.update_model_package(ModelPackageArn=arn, ModelApprovalStatus=status)
        with pytest.raises(ClientError, match=f"approval status {status}"):
            sm.create_model(ModelName="m", PrimaryContainer=container, ExecutionRoleArn=ROLE)
    sm.update_model_package(ModelPackageArn=arn, ModelApprovalStatus="Approved", ApprovalDescription="it barks")
    assert sm.describe_model_package(ModelPackageName=arn)["ApprovalDescription"] == "it barks"
    sm.create_model(ModelName="m", Containers=[container], ExecutionRoleArn=ROLE)
    assert sm.describe_model(ModelName="m")["Containers"] == [container | {"Mode": "SingleModel"}]
    assert make_endpoint(emulator, "m", variant("m"))["EndpointStatus"] == "InService"
    said = invoke(emulator, "m")
    assert said["model"] == "registered"
    assert (said["environment"]["COLOUR"], said["environment"]["SIZE"]) == ("liver", "large")


def test_packages_of_no_group_have_names(emulator: Emulator, sm: Client, s3: Client) -> None:
    s3.put_object(Bucket=BUCKET, Key="m.tar.gz", Body=packed(name="m"))
    asked = package("")
    del asked["ModelPackageGroupName"]
    sm.create_model_package(ModelPackageName="alone", **asked)
    with pytest.raises(ClientError, match="ModelPackage already exists"):  # as the SDKs match it
        sm.create_model_package(ModelPackageName="alone", **asked)
    (listed,) = sm.list_model_packages(NameContains="ALO")["ModelPackageSummaryList"]
    assert listed["ModelPackageName"] == "alone"
    sm.create_model(ModelName="m", PrimaryContainer={"ModelPackageName": "alone"}, ExecutionRoleArn=ROLE)
    with pytest.raises(ClientError, match="Missing ARN"):
        sm.create_model_package(**asked)
    with pytest.raises(ClientError, match="Both ModelPackageName and ModelPackageGroupName"):
        sm.create_model_package(ModelPackageName="b", **package("dogs"))


def test_customers_properties_are_changed_and_taken_off(sm: Client) -> None:
    sm.create_model_package_group(ModelPackageGroupName="dogs")
    arn = sm.create_model_package(**package("dogs", CustomerMetadataProperties={"a": "1", "b": "2"}))["ModelPackageArn"]
    sm.update_model_package(
        ModelPackageArn=arn, CustomerMetadataProperties={"a": "3"}, CustomerMetadataPropertiesToRemove=["b"]
    )
    assert sm.describe_model_package(ModelPackageName=arn)["CustomerMetadataProperties"] == {"a": "3"}
    sm.update_model_package(ModelPackageArn=arn, CustomerMetadataPropertiesToRemove=["a"])
    assert "CustomerMetadataProperties" not in sm.describe_model_package(ModelPackageName=arn)


def test_what_is_not_there_is_refused(sm: Client) -> None:
    with pytest.raises(ClientError, match=r"ModelPackageGroup .* does not exist"):
        sm.create_model_package(**package("none"))
    with pytest.raises(ClientError, match=r"ModelPackage .* does not exist"):
        sm.describe_model_package(ModelPackageName="none/1")
    sm.create_model_package_group(ModelPackageGroupName="dogs")
    for option, count in (("SameAccount", 1), ("CrossAccount", 0)):
        listed = sm.list_model_package_groups(CrossAccountFilterOption=option)["ModelPackageGroupSummaryList"]
        assert len(listed) == count, option
    with pytest.raises(ClientError, match="Model Package Group already exists"):
        sm.create_model_package_group(ModelPackageGroupName="dogs")
    with pytest.raises(ClientError, match="cannot have tags"):
        sm.create_model_package(**package("dogs", Tags=[{"Key": "a", "Value": "b"}]))


def test_the_registry_survives_a_restart(tmp_path: Path) -> None:
    with hosting(tmp_path / "again") as emulator:
        sm = client(emulator, "sagemaker")
        sm.create_model_package_group(ModelPackageGroupName="dogs", ModelPackageGroupDescription="all of them")
        for _ in range(2):
            sm.create_model_package(**package("dogs"))
        sm.delete_model_package(ModelPackageName="dogs/2")
    with hosting(tmp_path / "again") as emulator:
        sm = client(emulator, "sagemaker")
        found = sm.describe_model_package_group(ModelPackageGroupName="dogs")
        assert (found["ModelPackageGroupDescription"], found["ModelPackageGroupStatus"]) == ("all of them", "Completed")
        assert sm.create_model_package(**package("dogs"))["ModelPackageArn"].endswith("/dogs/3")


def test_a_client_token_creates_a_package_once(sm: Client) -> None:
    sm.create_model_package_group(ModelPackageGroupName="dogs")
    same = [sm.create_model_package(**package("dogs", ClientToken="token"))["ModelPackageArn"] for _ in range(2)]
    assert same == [f"{ARN}model-package/dogs/1"] * 2
    other = sm.create_model_package(**package("dogs", ClientToken="another"))["ModelPackageArn"]
    assert other == f"{ARN}model-package/dogs/2"


def test_steps_with_equal_arguments_register_a_version_each_and_none_twice_after_a_restart(tmp_path: Path) -> None:
    names = ("dogs", f"{ARN}model-package-group/dogs", "dogs")
    steps = [
        {"Name": f"R{i}", "Type": "RegisterModel", "Arguments": package(name, ClientToken="mine")}
        for i, name in enumerate(names)
    ]
    definition = json.dumps({"Version": "2020-12-01", "Steps": steps})

    def versions(sm: Client) -> list[int]:
        listed = sm.list_model_packages(ModelPackageGroupName="dogs")["ModelPackageSummaryList"]
        return [p["ModelPackageVersion"] for p in listed]

    def succeeded(sm: Client) -> None:
        until(
            lambda: sm.describe_pipeline_execution(PipelineExecutionArn=arn)["PipelineExecutionStatus"],
            "Succeeded".__eq__,
        )

    with Emulator(tmp_path) as emulator:
        client(emulator, "s3").create_bucket(
            Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "us-west-2"}
        )
        sm = client(emulator, "sagemaker")
        sm.create_pipeline(PipelineName="p", PipelineDefinition=definition, RoleArn=ROLE, ClientRequestToken="t" * 32)
        arn = sm.start_pipeline_execution(PipelineName="p")["PipelineExecutionArn"]
        succeeded(sm)
        assert versions(sm) == [1, 2, 3]
    (file,) = (tmp_path / "records/pipeline-execution").glob("*.json")
    record = json.loads(file.read_text())
    record["PipelineExecutionStatus"] = "Executing"  # as if it had been killed before it saw the packages
    for state in record["_Steps"].values():
        del state["Metadata"], state["EndTime"]
        state["StepStatus"] = "Starting"
    file.write_text(json.dumps(record))
    with Emulator(tmp_path) as emulator:
        sm = client(emulator, "sagemaker")
        succeeded(sm)
        assert versions(sm) == [1, 2, 3]


def test_tags_end_with_their_resource(sm: Client) -> None:
    tags = [{"Key": "a", "Value": "b"}]
    arn = sm.create_model_package_group(ModelPackageGroupName="dogs", Tags=tags)["ModelPackageGroupArn"]
    assert sm.list_tags(ResourceArn=arn)["Tags"] == tags
    sm.delete_model_package_group(ModelPackageGroupName="dogs")
    assert sm.list_tags(ResourceArn=arn)["Tags"] == []
    sm.create_model_package_group(ModelPackageGroupName="dogs")
    assert sm.list_tags(ResourceArn=arn)["Tags"] == []
