"""Operations of endpoints. ``deployment.py`` runs their containers, ``invoke.py`` sends requests to them."""

import itertools
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sagemaker_emulator.aws_services import AwsServices
from sagemaker_emulator.control import Control
from sagemaker_emulator.errors import ApiError, JobFailed, invalid
from sagemaker_emulator.hosting.deployment import LOGS, Deployment
from sagemaker_emulator.hosting.endpoint_description import described
from sagemaker_emulator.hosting.models import EndpointConfigs, Models
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
    """Create, Describe, List, Update and Delete; ``serving`` gives the containers of an endpoint."""

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
        self._live: dict[str, Deployment] = {}
        self._lock = threading.Lock()  # guards the attribute above
        self._numbers = itertools.count(1)  # numbers of folders

    def CreateEndpoint(self, request: Record) -> Record:
        """Start an endpoint's containers in the background."""
        name, config = request["EndpointName"], request["EndpointConfigName"]
        arn = self._identity.arn(KIND, name)
        if self._records.find(KIND, name):
            raise invalid(f'Cannot create already existing endpoint "{arn}".')
        variants = self._planned(config)
        self._check_quotas(variants)
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
        }
        self._records.save(KIND, name, record)
        self._tasks.background(self._begin, name)
        return {"EndpointArn": arn}

    def DescribeEndpoint(self, request: Record) -> Record:
        """The description of an endpoint."""
        return self._found(request["EndpointName"])

    def ListEndpoints(self, request: Record) -> Record:
        """One page of endpoints, by default the newest first."""
        endpoints = select({"SortOrder": "Descending"} | request, self._records.all(KIND), "Endpoint")
        return page(request, "Endpoints", [pick(r, *_SUMMARY) for r in endpoints])

    def UpdateEndpoint(self, request: Record) -> Record:
        """Start the containers of another configuration, then replace the old ones."""
        record, config = self._changeable(request["EndpointName"]), request["EndpointConfigName"]
        variants = self._planned(config)
        if request.get("RetainAllVariantProperties"):
            existing = {v["VariantName"]: v for v in record["_Variants"]}
            for variant in variants:
                old = existing.get(variant["VariantName"], {})
                variant |= pick(old, "InitialVariantWeight", "InitialInstanceCount")
        self._check_quotas(variants)
        now = time.time()
        pending = {
            "EndpointConfigName": config,
            "ProductionVariants": [{"VariantName": v["VariantName"]} for v in variants],
            "StartTime": now,
        }
        self._records.change(
            KIND,
            record["EndpointName"],
            EndpointStatus="Updating",
            LastModifiedTime=now,
            PendingDeploymentSummary=pending,
            FailureReason=None,
            _Pending=variants,
        )
        self._tasks.background(self._replace, record["EndpointName"])
        return {"EndpointArn": record["EndpointArn"]}

    def UpdateEndpointWeightsAndCapacities(self, request: Record) -> Record:
        """Change the weights of variants and their number of instances."""
        record = self._changeable(request["EndpointName"])
        changed = [dict(v) for v in record["_Variants"]]
        variants = {v["VariantName"]: v for v in changed}
        for desired in request["DesiredWeightsAndCapacities"]:
            variant = variants.pop(desired["VariantName"], None)
            if variant is None:
                raise invalid(f"Variant {desired['VariantName']} not found, or given twice.")
            count = desired.get("DesiredInstanceCount")
            if count is not None:
                more = max(count - variant["InitialInstanceCount"], 0)
                self._check_quotas([variant | {"InitialInstanceCount": more}])
                variant["InitialInstanceCount"] = count
            if "DesiredWeight" in desired:
                variant["InitialVariantWeight"] = desired["DesiredWeight"]
        with self._lock:
            self._live[record["EndpointName"]].variants = changed
        self._in_service(record["EndpointName"], changed)
        return {"EndpointArn": record["EndpointArn"]}

    def DeleteEndpoint(self, request: Record) -> None:
        """Stop an endpoint's containers in the background, then delete it."""
        record = self._found(request["EndpointName"])
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
        with self._lock:
            live = self._live.get(name)
            if record is None or live is None or record["EndpointStatus"] not in _SERVED:
                raise ApiError("ValidationError", f"Endpoint {name} of account {self._identity.account} not found.")
            live.begin()  # before an update can replace it
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
        with self._lock:
            live, self._live = list(self._live.values()), {}
        for deployment in live:
            deployment.stop()

    # In threads

    def _begin(self, name: str) -> None:
        """Bring a new or recovered endpoint into service."""
        record = self._found(name)
        deployment = self._deployment(name, record["_Variants"])
        try:
            deployment.start()
        except JobFailed as failed:
            if not self._tasks.stopping.is_set():
                self._change(name, EndpointStatus="Failed", FailureReason=str(failed))
            return
        if self._put(name, deployment):
            self._in_service(name, record["_Variants"])

    def _replace(self, name: str) -> None:
        """Replace the configuration by the pending one; keep the old one if that fails."""
        record = self._found(name)
        variants, config = record["_Pending"], record["PendingDeploymentSummary"]["EndpointConfigName"]
        deployment = self._deployment(name, variants)
        done = {"_Pending": None, "PendingDeploymentSummary": None}
        try:
            deployment.start()
        except JobFailed as failed:
            if not self._tasks.stopping.is_set():
                self._change(name, EndpointStatus="InService", FailureReason=str(failed), **done)
            return
        with self._lock:
            old = self._live.get(name)
        if self._put(name, deployment):
            with self._records.lock:
                self._change(name, EndpointConfigName=config, **done)
                self._in_service(name, variants)
            if old:
                old.stop()

    def _end(self, name: str) -> None:
        with self._lock:
            deployment = self._live.pop(name, None)
        if deployment:
            deployment.stop()
        self._records.remove(KIND, name)

    def _put(self, name: str, deployment: Deployment) -> bool:
        """Put containers into service; returns False if the emulator ends."""
        with self._lock:
            if not self._tasks.stopping.is_set():
                self._live[name] = deployment
                return True
        deployment.stop()
        return False

    def _in_service(self, name: str, variants: list[Record]) -> None:
        self._change(name, EndpointStatus="InService", **described(variants), _Variants=variants)

    def _change(self, name: str, **members: object) -> None:
        self._records.change(KIND, name, LastModifiedTime=time.time(), **members)

    def _deployment(self, name: str, variants: list[Record]) -> Deployment:
        folder = self._containers.folder / "endpoints" / name / str(next(self._numbers))
        return Deployment(self._containers, self._transfers, self._aws, self._tasks, name, variants, folder)

    # Checks

    def _found(self, name: str) -> Record:
        record = self._records.find(KIND, name)
        if record is None:
            raise invalid(f'Could not find endpoint "{self._identity.arn(KIND, name)}".')
        return record

    def _changeable(self, name: str) -> Record:
        record = self._found(name)
        if record["EndpointStatus"] == "Failed":
            raise invalid(f'Cannot update failed endpoint "{record["EndpointArn"]}"; it can only be deleted.')
        if record["EndpointStatus"] != "InService":
            raise invalid(f'Cannot update in-progress endpoint "{record["EndpointArn"]}".')
        return record

    def _planned(self, config: str) -> list[Record]:
        """A configuration's variants with their models' containers, so that both may be deleted."""
        record = self._configs.get_record(config)
        settings = pick(record, "AsyncInferenceConfig", "DataCaptureConfig")
        return [
            dict(v) | {"_Container": self._models.container(v["ModelName"]), "_Config": settings}
            for v in record["ProductionVariants"]
        ]

    def _check_quotas(self, variants: list[Record]) -> None:
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


def _some(**members: object) -> dict[str, object]:
    return {k: v for k, v in members.items() if v is not None}
