"""Operations of endpoints. ``endpoint_updates.py`` updates them, ``deployment.py`` runs their containers."""

import itertools
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sagemaker_emulator.aws_services import AwsServices
from sagemaker_emulator.control import Control
from sagemaker_emulator.errors import ApiError, JobFailed, invalid
from sagemaker_emulator.hosting.deployment import LOGS, Deployment
from sagemaker_emulator.hosting.endpoint_description import described
from sagemaker_emulator.hosting.fleets import Fleets
from sagemaker_emulator.hosting.models import EndpointConfigs, Models
from sagemaker_emulator.hosting.update_policy import make_plan
from sagemaker_emulator.identity import Identity
from sagemaker_emulator.processes.containers import Containers
from sagemaker_emulator.processes.tasks import Tasks
from sagemaker_emulator.quotas import check_quota
from sagemaker_emulator.storage.listing import page, pick, select
from sagemaker_emulator.storage.records import Record, Records
from sagemaker_emulator.storage.tags import Tags
from sagemaker_emulator.storage.transfers import Transfers

KIND = "endpoint"
_SUMMARY = ("EndpointName", "EndpointArn", "CreationTime", "LastModifiedTime", "EndpointStatus")
_SERVED = ("InService", "Updating", "SystemUpdating")
_STOPPED = "the emulator was stopped"


class Endpoints:
    """Create, Describe, List and Delete; ``serving`` gives the containers of an endpoint."""

    def __init__(
        self,
        records: Records,
        identity: Identity,
        tags: Tags,
        control: Control,
        tasks: Tasks,
        models: Models,
        configs: EndpointConfigs,
        containers: Containers,
        transfers: Transfers,
        aws: AwsServices,
    ) -> None:
        self._records, self._identity, self._tags, self._control, self._tasks = records, identity, tags, control, tasks
        self._models, self._configs = models, configs
        self._containers, self._transfers, self._aws = containers, transfers, aws
        self.fleets = Fleets(tasks)
        self._numbers = itertools.count(1)  # numbers of folders

    def CreateEndpoint(self, request: Record) -> Record:
        """Start an endpoint's containers in the background."""
        name, config = request["EndpointName"], request["EndpointConfigName"]
        arn = self._identity.arn(KIND, name)
        if self._records.find(KIND, name):
            raise invalid(f'Cannot create already existing endpoint "{arn}".')
        variants = self.planned(config)
        make_plan(request.get("DeploymentConfig", {}), variants, variants)  # check it: updates may retain it
        self.check_quotas(variants)
        self._tags.put(arn, request.get("Tags", []))
        now = time.time()
        record = {
            "EndpointName": name,
            "EndpointArn": arn,
            "EndpointConfigName": config,
            "EndpointStatus": "Creating",
            "CreationTime": now,
            "LastModifiedTime": now,
            "_Variants": variants,
            **({"LastDeploymentConfig": request["DeploymentConfig"]} if "DeploymentConfig" in request else {}),
        }
        self._records.save(KIND, name, record)
        self._tasks.background(self._begin, name)
        return {"EndpointArn": arn}

    def DescribeEndpoint(self, request: Record) -> Record:
        """The description of an endpoint."""
        return self.found(request["EndpointName"])

    def ListEndpoints(self, request: Record) -> Record:
        """One page of endpoints, by default the newest first."""
        endpoints = select({"SortOrder": "Descending"} | request, self._records.all(KIND), "Endpoint")
        return page(request, "Endpoints", [pick(r, *_SUMMARY) for r in endpoints])

    def DeleteEndpoint(self, request: Record) -> None:
        """Stop an endpoint's containers in the background, then delete it."""
        record = self.found(request["EndpointName"])
        if record["EndpointStatus"] not in ("InService", "Failed"):
            raise invalid(f'Cannot update in-progress endpoint "{record["EndpointArn"]}".')
        self._records.change(KIND, record["EndpointName"], EndpointStatus="Deleting", LastModifiedTime=time.time())
        self._tasks.background(self._end, record["EndpointName"])

    @contextmanager
    def serving(self, name: str) -> Iterator[Deployment]:
        """Yield an endpoint's containers for one request.

        Raises:
            ApiError: there is no such endpoint, or it is not in service.
        """
        record = self._records.find(KIND, name)
        served = record is not None and record["EndpointStatus"] in _SERVED
        live = self.fleets.begin(name) if served else None
        if live is None:
            raise ApiError("ValidationError", f"Endpoint {name} of account {self._identity.account} not found.")
        try:
            yield live
        finally:
            live.finish()

    def exists(self, name: str) -> bool:
        """Whether there is such an endpoint, in whatever state."""
        return self._records.find(KIND, name) is not None

    def log(self, name: str, line: str) -> None:
        """Add a line of the emulator itself to an endpoint's log."""
        self._aws.log(f"{LOGS}/{name}", "emulator", [(int(time.time() * 1000), line)])

    def recover(self) -> None:
        """Restart the endpoints that were in service when the emulator ended."""
        shutil.rmtree(self._containers.folder / "endpoints", ignore_errors=True)
        for record in self._records.all(KIND):
            name, status = record["EndpointName"], record["EndpointStatus"]
            if status == "Deleting":
                self._records.remove(KIND, name)
            elif status != "Failed":
                if status != "Creating":
                    why = _STOPPED if status == "Updating" else record.get("FailureReason")
                    gone = {"_Pending": None, "PendingDeploymentSummary": None} if "_Pending" in record else {}
                    self._records.change(
                        KIND, name, EndpointStatus="SystemUpdating", **_some(FailureReason=why), **gone
                    )
                self._tasks.background(self._begin, name)

    def close(self) -> None:
        """Stop all containers; the endpoints are in service again after a restart."""
        self.fleets.close()

    # For updates

    def found(self, name: str) -> Record:
        """The record of an endpoint.

        Raises:
            ApiError: there is no such endpoint.
        """
        record = self._records.find(KIND, name)
        if record is None:
            raise invalid(f'Could not find endpoint "{self._identity.arn(KIND, name)}".')
        return record

    def changeable(self, name: str) -> Record:
        """The record of an endpoint that may be updated.

        Raises:
            ApiError: there is no such endpoint, or it is not in service.
        """
        record = self.found(name)
        if record["EndpointStatus"] == "Failed":
            raise invalid(f'Cannot update failed endpoint "{record["EndpointArn"]}"; it can only be deleted.')
        if record["EndpointStatus"] != "InService":
            raise invalid(f'Cannot update in-progress endpoint "{record["EndpointArn"]}".')
        return record

    def planned(self, config: str) -> list[Record]:
        """A configuration's variants with their models' containers, so that both may be deleted."""
        record = self._configs.get_record(config)
        settings = pick(record, "EndpointConfigName", "AsyncInferenceConfig", "DataCaptureConfig")
        shadows = [v | {"_Shadow": True} for v in record.get("ShadowProductionVariants", [])]
        return [
            v | {"_Container": self._models.container(v["ModelName"]), "_Config": settings}
            for v in [*record["ProductionVariants"], *shadows]
        ]

    def check_quotas(self, variants: list[Record]) -> None:
        """Check the instances of variants against the quotas.

        Raises:
            ApiError: with ResourceLimitExceeded.
        """
        running = [
            v
            for r in self._records.all(KIND)
            if r["EndpointStatus"] != "Failed"
            for v in [*r["_Variants"], *r.get("_Pending", [])]
        ]
        for instance in sorted({v["InstanceType"] for v in variants if "InstanceType" in v}):
            used, count = (
                sum(v["InitialInstanceCount"] for v in some if v.get("InstanceType") == instance)
                for some in (running, variants)
            )
            check_quota(self._control, instance, count, used, "endpoint usage")

    def in_service(self, name: str, variants: list[Record]) -> None:
        """Describe an endpoint as in service with these variants."""
        self.change(name, EndpointStatus="InService", **described(variants), _Variants=variants)

    def change(self, name: str, **members: object) -> None:
        """Change members of an endpoint's record."""
        self._records.change(KIND, name, LastModifiedTime=time.time(), **members)

    def deployment(self, name: str, variants: list[Record]) -> Deployment:
        """New containers for an endpoint, not yet started."""
        folder = self._containers.folder / "endpoints" / name / str(next(self._numbers))
        return Deployment(self._containers, self._transfers, self._aws, self._tasks, name, variants, folder)

    # In threads

    def _begin(self, name: str) -> None:
        """Bring a new or recovered endpoint into service."""
        record = self.found(name)
        deployment = self.deployment(name, record["_Variants"])
        try:
            deployment.start()
        except JobFailed as failed:
            if not self._tasks.stopping.is_set():
                self.change(name, EndpointStatus="Failed", FailureReason=str(failed))
            return
        if self.fleets.put(name, deployment):
            self.in_service(name, record["_Variants"])

    def _end(self, name: str) -> None:
        if deployment := self.fleets.pop(name):
            deployment.stop()
        self._records.remove(KIND, name)


def _some(**members: object) -> dict[str, object]:
    return {k: v for k, v in members.items() if v is not None}
