"""The model registry: groups of model packages, whose versions count up, and what was approved."""

import time

from sagehound_launchers.emulator.listing import page, pick, select
from sagehound_launchers.emulator.tags import Tags
from sagehound_launchers.emulator.world import Record, Refused, World

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
_CHANGED = ("ModelApprovalStatus", "ApprovalDescription", "InferenceSpecification", "SourceUri", "ModelLifeCycle")


class Registry:
    """Create, Describe, List, Update and Delete of packages and of their groups."""

    def __init__(self, world: World) -> None:
        self._world = world

    def CreateModelPackageGroup(self, request: Record) -> Record:
        """Make a group without packages."""
        name = request["ModelPackageGroupName"]
        arn = self._world.arn(GROUP, name)
        if self._world.find(GROUP, name):
            raise _refused(f"Model Package Group already exists: {arn}")
        self._world.service(Tags).put(arn, request.get("Tags", []))
        record = {k: v for k, v in request.items() if k != "Tags"}
        record |= {"ModelPackageGroupArn": arn, "CreationTime": time.time(), "ModelPackageGroupStatus": "Completed"}
        self._world.save(GROUP, name, record | {"CreatedBy": {}, "_Versions": 0})
        return {"ModelPackageGroupArn": arn}

    def DescribeModelPackageGroup(self, request: Record) -> Record:
        """All that is known of a group."""
        return self._group(request["ModelPackageGroupName"])

    def ListModelPackageGroups(self, request: Record) -> Record:
        """One page of groups, the oldest first unless told otherwise."""
        found = select(request, self._world.all(GROUP), "ModelPackageGroup")
        return page(request, "ModelPackageGroupSummaryList", [pick(r, *_GROUP_SUMMARY) for r in found])

    def DeleteModelPackageGroup(self, request: Record) -> None:
        """Forget a group that has no packages any more."""
        name = self._group(request["ModelPackageGroupName"])["ModelPackageGroupName"]
        if any(r.get("ModelPackageGroupName") == name for r in self._world.all(PACKAGE)):
            raise Refused("ConflictException", f"Model Package Group {name} still has model packages.")
        self._world.remove(GROUP, name)

    def CreateModelPackage(self, request: Record) -> Record:
        """Keep a package; in a group it gets the next version, which is never given again."""
        group, name = request.get("ModelPackageGroupName"), request.get("ModelPackageName")
        if group and name:
            raise _refused(
                "Both ModelPackageName and ModelPackageGroupName are provided in the input. Cannot determine which one "
                "to use."
            )
        record = {k: v for k, v in request.items() if k not in ("Tags", "ClientToken")}
        if group:
            if request.get("Tags"):
                raise _refused("A versioned model package cannot have tags; give them to its group.")
            found = self._group(group)
            group, version = found["ModelPackageGroupName"], found["_Versions"] + 1
            self._world.change(GROUP, group, _Versions=version)
            name = f"{group}/{version}"
            record |= {"ModelPackageGroupName": group, "ModelPackageVersion": version}
            record.setdefault("ModelApprovalStatus", "PendingManualApproval")
        elif not name:
            raise _refused("Missing ARN.")
        elif self._world.find(PACKAGE, name.lower()):
            raise _refused(f"Model Package already exists: {self._world.arn(PACKAGE, name.lower())}")
        arn = self._world.arn(PACKAGE, name.lower())
        record |= {
            "ModelPackageArn": arn,
            "CreationTime": time.time(),
            "ModelPackageStatus": "Completed",
            "ModelPackageStatusDetails": {"ValidationStatuses": [], "ImageScanStatuses": []},
        }
        self._world.service(Tags).put(arn, request.get("Tags", []))
        self._world.save(PACKAGE, name.lower(), record)
        return {"ModelPackageArn": arn}

    def DescribeModelPackage(self, request: Record) -> Record:
        """All that is known of a package."""
        return self._package(request["ModelPackageName"])

    def ListModelPackages(self, request: Record) -> Record:
        """One page of packages, the oldest first unless told otherwise: a group's, or those of no group."""
        kind, group = request.get("ModelPackageType"), request.get("ModelPackageGroupName")
        group = _short(group, GROUP) if group else None

        def passes(record: Record) -> bool:
            own = record.get("ModelPackageGroupName")
            fits = own == group if group else kind == "Both" or bool(own) == (kind == "Versioned")
            return fits and request.get("ModelApprovalStatus") in (None, record.get("ModelApprovalStatus"))

        fitting = [r for r in self._world.all(PACKAGE) if passes(r)]
        named = [r | {"ModelPackageName": _key(r), "_Name": r.get("ModelPackageName")} for r in fitting]
        found = [r | {"ModelPackageName": r["_Name"]} for r in select(request, named, "ModelPackage")]
        told = [pick({k: v for k, v in r.items() if v is not None}, *_SUMMARY) for r in found]
        return page(request, "ModelPackageSummaryList", told)

    def UpdateModelPackage(self, request: Record) -> Record:
        """Change the approval, or what else may change."""
        record = self._package(request["ModelPackageArn"])
        properties = record.get("CustomerMetadataProperties", {}) | request.get("CustomerMetadataProperties", {})
        for key in request.get("CustomerMetadataPropertiesToRemove", []):
            properties.pop(key, None)
        changed = pick(request, *_CHANGED) | {"LastModifiedTime": time.time()}
        if properties or "CustomerMetadataProperties" in record:
            changed["CustomerMetadataProperties"] = properties or None
        self._world.change(PACKAGE, _key(record), **changed)
        return {"ModelPackageArn": record["ModelPackageArn"]}

    def DeleteModelPackage(self, request: Record) -> None:
        """Forget a package; models that were made of it are of no use any more."""
        self._world.remove(PACKAGE, _key(self._package(request["ModelPackageName"])))

    def container(self, name: str) -> Record:
        """What a package runs, for CreateModel.

        A versioned package must be approved first, as AWS's SDK says of CreateModel; the words are ours.

        Raises:
            Refused: there is no such package, it is not approved, or it says nothing of inference.
        """
        package = self._package(name)
        arn, approval = package["ModelPackageArn"], package.get("ModelApprovalStatus", "Approved")
        if approval != "Approved":
            raise _refused(
                f"Model package {arn} has the approval status {approval}; only Approved ones can be deployed."
            )
        containers = package.get("InferenceSpecification", {}).get("Containers", [])
        if len(containers) != 1:
            raise _refused(f"Model package {arn} has {len(containers)} containers; the emulator runs exactly one.")
        return pick(containers[0], "Image", "ModelDataUrl", "ModelDataSource", "Environment")

    def _group(self, name: str) -> Record:
        short = _short(name, GROUP)
        record = self._world.find(GROUP, short)
        if record is None:
            raise _refused(f"ModelPackageGroup {self._world.arn(GROUP, short)} does not exist.")
        return record

    def _package(self, name: str) -> Record:
        short = _short(name, PACKAGE).lower()
        record = self._world.find(PACKAGE, short)
        if record is None:
            raise _refused(f"ModelPackage {self._world.arn(PACKAGE, short)} does not exist.")
        return record


def _short(name: str, kind: str) -> str:
    """The name in an ARN, or the name itself."""
    return name.partition(f":{kind}/")[2] or name


def _key(record: Record) -> str:
    return _short(record["ModelPackageArn"], PACKAGE)


def _refused(message: str) -> Refused:
    return Refused("ValidationException", message)
