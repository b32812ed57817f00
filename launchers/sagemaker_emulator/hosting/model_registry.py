"""The model registry: groups of model packages with versions and approvals."""

import time

from sagemaker_emulator.errors import ApiError, invalid
from sagemaker_emulator.identity import Identity
from sagemaker_emulator.storage.listing import page, pick, select
from sagemaker_emulator.storage.records import Record, Records
from sagemaker_emulator.storage.tags import Tags

GROUP = "model-package-group"
PACKAGE = "model-package"
_SUMMARY = (
    "ModelPackageName",
    "ModelPackageGroupName",
    "ModelPackageVersion",
    "ModelPackageArn",
    "ModelPackageDescription",
    "CreationTime",
    "ModelPackageStatus",
    "ModelApprovalStatus",
)
_GROUP_SUMMARY = (
    "ModelPackageGroupName",
    "ModelPackageGroupArn",
    "ModelPackageGroupDescription",
    "CreationTime",
    "ModelPackageGroupStatus",
)
_CHANGED = (
    "ModelApprovalStatus",
    "ModelPackageRegistrationType",
    "ApprovalDescription",
    "InferenceSpecification",
    "SourceUri",
    "ModelCard",
    "ModelLifeCycle",
)
_MOST_SPECIFICATIONS = 15


class ModelRegistry:
    """Create, Describe, List, Update and Delete of packages and of their groups."""

    def __init__(self, records: Records, identity: Identity, tags: Tags) -> None:
        self._records, self._identity, self._tags = records, identity, tags

    def CreateModelPackageGroup(self, request: Record) -> Record:
        """Create an empty group."""
        name = request["ModelPackageGroupName"]
        arn = self._identity.arn(GROUP, name)
        if self._records.find(GROUP, name):
            raise invalid(f"Model Package Group already exists: {arn}")
        self._tags.put(arn, request.get("Tags", []))
        record = {k: v for k, v in request.items() if k != "Tags"}
        record |= {"ModelPackageGroupArn": arn, "CreationTime": time.time(), "ModelPackageGroupStatus": "Completed"}
        self._records.save(GROUP, name, record | {"CreatedBy": {}, "_Versions": 0})
        return {"ModelPackageGroupArn": arn}

    def DescribeModelPackageGroup(self, request: Record) -> Record:
        """The description of a group."""
        return self._group(request["ModelPackageGroupName"])

    def ListModelPackageGroups(self, request: Record) -> Record:
        """One page of groups, by default the oldest first."""
        shared = request.get("CrossAccountFilterOption") == "CrossAccount"  # no other account shares any
        groups = [] if shared else select(request, self._records.all(GROUP), "ModelPackageGroup")
        return page(request, "ModelPackageGroupSummaryList", [pick(r, *_GROUP_SUMMARY) for r in groups])

    def DeleteModelPackageGroup(self, request: Record) -> None:
        """Delete a group without packages."""
        name = self._group(request["ModelPackageGroupName"])["ModelPackageGroupName"]
        if any(r.get("ModelPackageGroupName") == name for r in self._records.all(PACKAGE)):
            raise ApiError("ConflictException", f"Model Package Group {name} still has model packages.")
        self._records.remove(GROUP, name)

    def CreateModelPackage(self, request: Record) -> Record:
        """Store a package. In a group it gets the next version; versions are never reused.

        The same ClientToken creates it once.
        """
        token = request.get("ClientToken")
        for record in self._records.all(PACKAGE):
            if token and record.get("_Token") == token:
                return pick(record, "ModelPackageArn")
        group, name = request.get("ModelPackageGroupName"), request.get("ModelPackageName")
        if group and name:
            raise invalid(
                "Both ModelPackageName and ModelPackageGroupName are provided in the input. Cannot determine which one "
                "to use."
            )
        record = {k: v for k, v in request.items() if k not in ("Tags", "ClientToken")}
        if group:
            if request.get("Tags"):
                raise invalid("A versioned model package cannot have tags; give them to its group.")
            group_record = self._group(group)
            group, version = group_record["ModelPackageGroupName"], group_record["_Versions"] + 1
            self._records.change(GROUP, group, _Versions=version)
            name = f"{group}/{version}"
            record |= {"ModelPackageGroupName": group, "ModelPackageVersion": version}
            record.setdefault("ModelApprovalStatus", "PendingManualApproval")
        elif not name:
            raise invalid("Missing ARN.")
        elif self._records.find(PACKAGE, name.lower()):
            raise invalid(f"ModelPackage already exists: {self._identity.arn(PACKAGE, name.lower())}")
        arn = self._identity.arn(PACKAGE, name.lower())
        record |= {
            "_Token": token,
            "ModelPackageArn": arn,
            "CreationTime": time.time(),
            "ModelPackageStatus": "Completed",
            "ModelPackageStatusDetails": {"ValidationStatuses": [], "ImageScanStatuses": []},
        }
        self._tags.put(arn, request.get("Tags", []))
        self._records.save(PACKAGE, name.lower(), record)
        return {"ModelPackageArn": arn}

    def DescribeModelPackage(self, request: Record) -> Record:
        """The description of a package."""
        return self._package(request["ModelPackageName"])

    def ListModelPackages(self, request: Record) -> Record:
        """One page of packages, by default the oldest first: of a group, or without a group."""
        kind, group = request.get("ModelPackageType"), request.get("ModelPackageGroupName")
        group = _short(group, GROUP) if group else None

        def passes(record: Record) -> bool:
            own = record.get("ModelPackageGroupName")
            fits = own == group if group else kind == "Both" or bool(own) == (kind == "Versioned")
            return fits and request.get("ModelApprovalStatus") in (None, record.get("ModelApprovalStatus"))

        fitting = [r for r in self._records.all(PACKAGE) if passes(r)]
        named = [r | {"ModelPackageName": _key(r), "_Name": r.get("ModelPackageName")} for r in fitting]
        packages = [r | {"ModelPackageName": r["_Name"]} for r in select(request, named, "ModelPackage")]
        summaries = [pick({k: v for k, v in r.items() if v is not None}, *_SUMMARY) for r in packages]
        return page(request, "ModelPackageSummaryList", summaries)

    def UpdateModelPackage(self, request: Record) -> Record:
        """Change the approval or another changeable member."""
        record = self._package(request["ModelPackageArn"])
        added = request.get("AdditionalInferenceSpecificationsToAdd", [])
        additional = record.get("AdditionalInferenceSpecifications", []) + added
        if len(additional) > _MOST_SPECIFICATIONS:
            raise invalid(f"A model package has at most {_MOST_SPECIFICATIONS} additional inference specifications.")
        properties = record.get("CustomerMetadataProperties", {}) | request.get("CustomerMetadataProperties", {})
        for key in request.get("CustomerMetadataPropertiesToRemove", []):
            properties.pop(key, None)
        changed = pick(request, *_CHANGED) | {"LastModifiedTime": time.time()}
        if added:
            changed["AdditionalInferenceSpecifications"] = additional
        if properties or "CustomerMetadataProperties" in record:
            changed["CustomerMetadataProperties"] = properties or None
        self._records.change(PACKAGE, _key(record), **changed)
        return {"ModelPackageArn": record["ModelPackageArn"]}

    def DeleteModelPackage(self, request: Record) -> None:
        """Delete a package; its models cannot be used any more."""
        self._records.remove(PACKAGE, _key(self._package(request["ModelPackageName"])))

    def container(self, name: str) -> Record:
        """A package's container, for CreateModel.

        A versioned package must be approved first, as AWS's SDK documents for CreateModel.

        Raises:
            ApiError: there is no such package, it is not approved, or it has no inference specification.
        """
        package = self._package(name)
        arn, approval = package["ModelPackageArn"], package.get("ModelApprovalStatus", "Approved")
        if approval != "Approved":
            raise invalid(
                f"Model package {arn} has the approval status {approval}; only Approved ones can be deployed."
            )
        containers = package.get("InferenceSpecification", {}).get("Containers", [])
        if len(containers) != 1:
            raise invalid(f"Model package {arn} has {len(containers)} containers; the emulator runs exactly one.")
        return pick(containers[0], "Image", "ModelDataUrl", "ModelDataSource", "Environment")

    def _group(self, name: str) -> Record:
        short = _short(name, GROUP)
        record = self._records.find(GROUP, short)
        if record is None:
            raise invalid(f"ModelPackageGroup {self._identity.arn(GROUP, short)} does not exist.")
        return record

    def _package(self, name: str) -> Record:
        short = _short(name, PACKAGE).lower()
        record = self._records.find(PACKAGE, short)
        if record is None:
            raise invalid(f"ModelPackage {self._identity.arn(PACKAGE, short)} does not exist.")
        return record


def _short(name: str, kind: str) -> str:
    """The name in an ARN, or the name itself."""
    return name.partition(f":{kind}/")[2] or name


def _key(record: Record) -> str:
    return _short(record["ModelPackageArn"], PACKAGE)
