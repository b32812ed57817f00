"""SageMaker's registry of models: what others registered, and what AWS's rules allow."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from sagehound.artifact import archive
from sagehound.errors import InputError
from sagehound_launchers.config import Aws
from sagehound_launchers.packages import package
from sagehound_launchers.packages.sagemaker_registry import SageMakerRegistry, package_request
from sagehound_launchers.sagemaker import account, uploads
from sagehound_launchers.sagemaker.requests import check
from sagemaker_emulator.request_validation import problems
from sagemaker_emulator.server import Emulator


@pytest.fixture
def registry(emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SageMakerRegistry:
    monkeypatch.setenv("SAGEHOUND_CACHE", str(tmp_path / "cache"))
    aws = Aws(name="emulator", folder=str(emulator.folder))
    return SageMakerRegistry(account.connect(aws), aws)


def registered_by_others(registry: SageMakerRegistry, model: Path, properties: dict[str, str]) -> None:
    uri = uploads.model(registry.cloud, "sagehound", str(model), dry_run=False)
    sm: Any = registry.cloud.client("sagemaker")
    sm.create_model_package_group(ModelPackageGroupName="others")
    container = {"Image": registry.cloud.account.image, "ModelDataUrl": uri}
    kinds = {"SupportedContentTypes": ["image/jpeg"], "SupportedResponseMIMETypes": ["application/json"]}
    sm.create_model_package(
        ModelPackageGroupName="others",
        ModelApprovalStatus="Approved",
        InferenceSpecification={"Containers": [container], **kinds},
        CustomerMetadataProperties=properties,
    )


def test_a_package_of_others_writes_nowhere_but_into_the_cache(
    registry: SageMakerRegistry, run: Path, tmp_path: Path
) -> None:
    registered_by_others(registry, run, {"sha256": f"{tmp_path}/elsewhere"})
    (version,) = registry.versions("others")
    fetched = registry.fetch(version)
    assert archive.digest(fetched) == archive.digest(run / "model.tar.gz")
    assert fetched.is_relative_to(tmp_path / "cache/registry")
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_that_is_not_the_registered_one_is_refused(
    registry: SageMakerRegistry, run: Path, tmp_path: Path
) -> None:
    registered_by_others(registry, run, {"sha256": "0" * 64})
    (version,) = registry.versions("others")
    with pytest.raises(InputError, match="the registered model was changed: register it again"):
        registry.fetch(version)
    assert not list((tmp_path / "cache").rglob("model.tar.gz"))


def test_a_group_that_is_made_again_has_its_own_model(registry: SageMakerRegistry, run: Path, tmp_path: Path) -> None:
    registered_by_others(registry, run, {})
    (version,) = registry.versions("others")
    assert archive.digest(registry.fetch(version)) == archive.digest(run / "model.tar.gz")
    sm: Any = registry.cloud.client("sagemaker")
    for one in sm.list_model_packages(ModelPackageGroupName="others")["ModelPackageSummaryList"]:
        sm.delete_model_package(ModelPackageName=one["ModelPackageArn"])
    sm.delete_model_package_group(ModelPackageGroupName="others")
    other = tmp_path / "model.tar.gz"
    other.write_bytes((run / "model.tar.gz").read_bytes() + b"\0" * 512)
    registered_by_others(registry, other, {})
    (again,) = registry.versions("others")
    assert again == version
    assert archive.digest(registry.fetch(again)) == archive.digest(other)


def test_a_damaged_file_of_the_cache_is_fetched_again(registry: SageMakerRegistry, run: Path) -> None:
    version = registry.add("dogs", package.read(str(run)), package.APPROVED)
    fetched = registry.fetch(version)
    fetched.write_bytes(b"half")
    assert archive.digest(registry.fetch(version)) == version.digest


def test_a_version_that_waits_is_approved_if_asked_for(registry: SageMakerRegistry, run: Path) -> None:
    read = package.read(str(run))
    assert registry.add("dogs", read, package.PENDING).status == "PendingManualApproval"
    assert registry.add("dogs", read, package.APPROVED).status == "Approved"
    assert registry.add("dogs", read, package.PENDING).status == "Approved"
    assert [(v.number, v.status) for v in registry.versions("dogs")] == [(1, "Approved")]


def test_two_commands_at_a_time_register_one_version(
    registry: SageMakerRegistry, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = package.read(str(run))
    registry.add("dogs", read, package.PENDING)
    with monkeypatch.context() as context:
        context.setattr(registry, "versions", lambda _: [])  # as the other command saw it before
        assert registry.add("dogs", read, package.PENDING).number == 1
    assert [v.number for v in registry.versions("dogs")] == [1]


def test_a_folder_with_characters_that_aws_refuses(registry: SageMakerRegistry, run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lr=1,2 (a)~'x é"
    folder.mkdir()
    for name in ("model.tar.gz", "metrics.json"):
        shutil.copy(run / name, folder)
    read = package.read(str(folder))
    request = package_request("dogs", read, package.PENDING, "s3://kennel/m", registry.cloud, registry.aws)
    check("CreateModelPackage", request)
    assert request["CustomerMetadataProperties"]["run"] == "lr=1_2 _a___x é", "not the path on this machine"
    request["CustomerMetadataProperties"] |= {"run": folder.name}
    assert "does not have the form" in "".join(problems("CreateModelPackage", request))
    assert registry.add("dogs", read, package.PENDING).number == 1
