"""`registry=sagemaker`: model packages of SageMaker's Model Registry."""

import csv
import hashlib
import io
import json
import re
import tempfile
from pathlib import Path
from typing import Any

from sagehound.artifact import archive
from sagehound.config.machine_keys import default_cache
from sagehound.errors import ConfigError, InputError
from sagehound.storage.atomic import replacing
from sagehound_launchers.config import Aws
from sagehound_launchers.packages.package import APPROVED, Package, Version, with_status
from sagehound_launchers.sagemaker import uploads
from sagehound_launchers.sagemaker.account import Cloud
from sagehound_launchers.sagemaker.aws_errors import aws_errors, code_of
from sagehound_launchers.sagemaker.requests import check, tags

PLACE = "sagemaker/"  # in front of a name, in registry:sagemaker/NAME
TYPES = ["image/jpeg", "image/png", "application/x-image"]
_LONGEST = 256  # characters of a value of CustomerMetadataProperties: AWS's API reference
_NOT_ALLOWED = re.compile(r"[^\w \u00a0._:/=+\-@]")  # in such a value
_DIGEST = re.compile("[0-9a-f]{64}")
INSTANCES = ["ml.m5.large", "ml.m5.xlarge", "ml.c5.xlarge", "ml.g4dn.xlarge"]


class SageMakerRegistry:
    """Packages in a model package group."""

    def __init__(self, cloud: Cloud, aws: Aws, *, dry_run: bool = False) -> None:
        self.cloud, self.aws, self.dry_run = cloud, aws, dry_run
        self._sagemaker = cloud.client("sagemaker")

    def versions(self, name: str) -> list[Version]:
        """The versions of a name, newest first; none if there is no such name."""
        with aws_errors(f"listing the versions of {name}"):
            pages = self._sagemaker.get_paginator("list_model_packages").paginate(
                ModelPackageGroupName=name, SortBy="CreationTime", SortOrder="Descending"
            )
            try:
                summaries = [s for page in pages for s in page["ModelPackageSummaryList"]]
            except self._sagemaker.exceptions.ClientError as error:
                if code_of(error) not in ("ValidationException", "ResourceNotFound"):
                    raise
                return []
        return sorted(map(self._version, summaries), key=lambda version: -version.number)

    def add(self, name: str, package: Package, status: str) -> Version:
        """Store a package as the next version, or return the version that has the same model, approved if asked for."""
        versions = self.versions(name)
        if same := next((v for v in versions if v.digest == package.digest), None):
            return with_status(self, same, status)
        uri = uploads.model(self.cloud, self.aws.prefix, str(package.model), dry_run=False)
        base = uri.removesuffix(archive.NAME).removeprefix(f"s3://{self.cloud.account.bucket}/")
        self._put(f"{base}metrics.json", json.dumps(package.metrics).encode())
        if package.predictions:
            self._put(f"{base}predictions.csv", _as_csv(package.predictions))
        request = package_request(name, package, status, uri, self.cloud, self.aws)
        check("CreateModelPackage", request)
        with aws_errors(f"registering {name}"):
            try:
                self._sagemaker.create_model_package_group(ModelPackageGroupName=name, Tags=tags(self.aws, "registry"))
            except self._sagemaker.exceptions.ClientError as error:
                if "already exists" not in str(error):
                    raise
            newest = versions[0].number if versions else 0
            token = hashlib.sha256(f"{name} {newest} {package.digest}".encode()).hexdigest()[:36]
            # two commands at a time send the same token, with which AWS makes one version
            arn = self._sagemaker.create_model_package(**request, ClientToken=token)["ModelPackageArn"]
        return Version(name, int(arn.rpartition("/")[2]), status, package.digest, PLACE)

    def approve(self, version: Version) -> None:
        """Mark a version as approved."""
        with aws_errors(f"approving {version.address}"):
            self._sagemaker.update_model_package(ModelPackageArn=self._arn(version), ModelApprovalStatus=APPROVED)

    def fetch(self, version: Version) -> Path:
        """The version's model.tar.gz, downloaded once into the cache.

        Raises:
            InputError: the file in S3 is not the one that was registered.
        """
        bucket, key = self._place(version)
        path = Path(default_cache(), "registry", version.digest or self._etag(version, bucket, key), archive.NAME)
        if path.exists() and version.digest in ("", archive.digest(path)):
            return path
        with aws_errors(f"reading s3://{bucket}/{key}"), replacing(path) as temporary:
            self.cloud.client("s3").download_file(bucket, key, str(temporary))
            if version.digest not in ("", archive.digest(temporary)):
                raise InputError(f"s3://{bucket}/{key}: the registered model was changed: register it again")
        return path

    def _etag(self, version: Version, bucket: str, key: str) -> str:
        """What tells the file of a package without a SHA-256, which others may register, from all others."""
        with aws_errors(f"looking at s3://{bucket}/{key}"):
            found = self.cloud.client("s3").head_object(Bucket=bucket, Key=key)
        content = json.dumps([self._arn(version), bucket, key, found["ETag"], found["ContentLength"]])
        return hashlib.sha256(content.encode()).hexdigest()

    def predictions(self, version: Version) -> list[dict[str, str]]:
        """The version's predictions of its test photos; empty if they are not known."""
        bucket, key = self._place(version)
        key = f"{key.removesuffix(archive.NAME)}predictions.csv"
        with tempfile.TemporaryFile() as file, aws_errors(f"reading s3://{bucket}/{key}"):
            s3 = self.cloud.client("s3")
            try:
                s3.download_fileobj(bucket, key, file)
            except s3.exceptions.ClientError as error:
                if code_of(error) not in ("404", "NoSuchKey"):
                    raise
                return []
            file.seek(0)
            return list(csv.DictReader(io.TextIOWrapper(file, encoding="utf-8")))

    def _version(self, summary: dict[str, Any]) -> Version:
        described = self._describe(summary["ModelPackageArn"])
        digest = described.get("CustomerMetadataProperties", {}).get("sha256", "")
        if not _DIGEST.fullmatch(digest):  # whoever may register packages chooses it, and it names a folder
            digest = ""
        return Version(
            summary["ModelPackageGroupName"],
            summary["ModelPackageVersion"],
            summary["ModelApprovalStatus"],
            digest,
            PLACE,
        )

    def _describe(self, arn: str) -> dict[str, Any]:
        with aws_errors(f"looking at {arn}"):
            return dict(self._sagemaker.describe_model_package(ModelPackageName=arn))

    def _place(self, version: Version) -> tuple[str, str]:
        containers = self._describe(self._arn(version))["InferenceSpecification"]["Containers"]
        if len(containers) != 1 or "ModelDataUrl" not in containers[0]:
            raise ConfigError(f"{version.address}: Sagehound opens packages with one model.tar.gz only")
        bucket, _, key = containers[0]["ModelDataUrl"].removeprefix("s3://").partition("/")
        return bucket, key

    def _arn(self, version: Version) -> str:
        partition = self.cloud.account.role.split(":")[1]
        place = f"arn:{partition}:sagemaker:{self.cloud.region}:{self.cloud.account.number}"
        return f"{place}:model-package/{version.name}/{version.number}"

    def _put(self, key: str, content: bytes) -> None:
        with aws_errors(f"writing {key}"):
            self.cloud.client("s3").put_object(Bucket=self.cloud.account.bucket, Key=key, Body=content)


def package_request(name: str, package: Package, status: str, uri: str, cloud: Cloud, aws: Aws) -> dict[str, Any]:
    """CreateModelPackage.

    Args:
        name: of the group.
        package: the model.
        status: PendingManualApproval or Approved.
        uri: of model.tar.gz in S3; metrics.json lies beside it.
        cloud: image.
        aws: the keys of the group ``aws``.
    """
    about = package.facts() | {"run": _relative(package.run)}
    facts = {key: _NOT_ALLOWED.sub("_", str(value))[:_LONGEST] for key, value in about.items() if value is not None}
    metrics = {"ContentType": "application/json", "S3Uri": f"{uri.removesuffix(archive.NAME)}metrics.json"}
    lineage = {"CommitId": facts.get("code"), "GeneratedBy": package.job or None}
    return {
        "ModelPackageGroupName": name,
        "ModelPackageDescription": f"{facts.get('backbone')}, {facts.get('classes')} classes, by Sagehound",
        "ModelApprovalStatus": status,
        "InferenceSpecification": {
            "Containers": [{"Image": cloud.account.image, "ModelDataUrl": uri}],
            "SupportedContentTypes": TYPES,
            "SupportedResponseMIMETypes": ["application/json", "text/csv"],
            "SupportedRealtimeInferenceInstanceTypes": INSTANCES,
            "SupportedTransformInstanceTypes": INSTANCES,
        },
        "ModelMetrics": {"ModelQuality": {"Statistics": metrics}},
        "CustomerMetadataProperties": facts,
        "ModelCard": {"ModelCardContent": json.dumps(package.card(uri)), "ModelCardStatus": "Draft"},
        **({"MetadataProperties": given} if (given := {k: v for k, v in lineage.items() if v}) else {}),
    }


def _relative(run: str) -> str | None:
    """A run's folder without the place of the current one on this machine."""
    folder = Path(run)
    if not run:
        return None
    return str(folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder.name) or None


def _as_csv(rows: list[dict[str, str]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
