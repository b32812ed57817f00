"""Endpoints: what AWS accepts and answers; ``deployment.py`` runs their containers, ``invoke.py`` asks them."""

import itertools
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sagehound_launchers.emulator.deployment import Deployment
from sagehound_launchers.emulator.hosting import EndpointConfigs, Models
from sagehound_launchers.emulator.listing import page, pick, select
from sagehound_launchers.emulator.quotas import check_quota
from sagehound_launchers.emulator.tags import Tags
from sagehound_launchers.emulator.world import Failed, Record, Refused, World

KIND = "endpoint"
_SUMMARY = ("EndpointName", "EndpointArn", "CreationTime", "LastModifiedTime", "EndpointStatus")
_SERVED = ("InService", "Updating", "SystemUpdating")
_STOPPED = "the emulator was stopped"


class Endpoints:
    """Create, Describe, List, Update and Delete; ``serving`` is what requests are sent to."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._live: dict[str, Deployment] = {}
        self._lock = threading.Lock()  # around the above
        self._numbers = itertools.count(1)  # of folders

    def CreateEndpoint(self, request: Record) -> Record:
        """Start an endpoint's containers in the background."""
        name, config = request["EndpointName"], request["EndpointConfigName"]
        arn = self._world.arn(KIND, name)
        if self._world.find(KIND, name):
            raise _refused(f'Cannot create already existing endpoint "{arn}".')
        variants = self._planned(config)
        self._check_quotas(variants)
        self._world.service(Tags).put(arn, request.get("Tags", []))
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
        self._world.save(KIND, name, record)
        self._world.background(self._begin, name)
        return {"EndpointArn": arn}

    def DescribeEndpoint(self, request: Record) -> Record:
        """All that is known of an endpoint."""
        return self._found(request["EndpointName"])

    def ListEndpoints(self, request: Record) -> Record:
        """One page of endpoints, the newest first unless told otherwise."""
        found = select({"SortOrder": "Descending"} | request, self._world.all(KIND), "Endpoint")
        return page(request, "Endpoints", [pick(r, *_SUMMARY) for r in found])

    def UpdateEndpoint(self, request: Record) -> Record:
        """Start another configuration's containers, then let them take the place of the old ones."""
        record, config = self._changeable(request["EndpointName"]), request["EndpointConfigName"]
        variants = self._planned(config)
        if request.get("RetainAllVariantProperties"):
            kept = {v["VariantName"]: v for v in record["_Variants"]}
            for variant in variants:
                old = kept.get(variant["VariantName"], {})
                variant |= pick(old, "InitialVariantWeight", "InitialInstanceCount")
        self._check_quotas(variants)
        now = time.time()
        pending = {
            "EndpointConfigName": config,
            "ProductionVariants": [{"VariantName": v["VariantName"]} for v in variants],
            "StartTime": now,
        }
        self._world.change(
            KIND,
            record["EndpointName"],
            EndpointStatus="Updating",
            LastModifiedTime=now,
            PendingDeploymentSummary=pending,
            FailureReason=None,
            _Pending=variants,
        )
        self._world.background(self._replace, record["EndpointName"])
        return {"EndpointArn": record["EndpointArn"]}

    def UpdateEndpointWeightsAndCapacities(self, request: Record) -> Record:
        """Change what share of the requests variants get, and how many instances they claim to have."""
        record = self._changeable(request["EndpointName"])
        changed = [dict(v) for v in record["_Variants"]]
        variants = {v["VariantName"]: v for v in changed}
        for desired in request["DesiredWeightsAndCapacities"]:
            variant = variants.get(desired["VariantName"])
            if variant is None:
                raise _refused(f"Variant {desired['VariantName']} not found.")
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
        """End an endpoint's containers in the background; it is forgotten once they have ended."""
        record = self._found(request["EndpointName"])
        if record["EndpointStatus"] not in ("InService", "Failed"):
            raise _refused(f'Cannot update in-progress endpoint "{record["EndpointArn"]}".')
        self._world.change(KIND, record["EndpointName"], EndpointStatus="Deleting", LastModifiedTime=time.time())
        self._world.background(self._end, record["EndpointName"])

    @contextmanager
    def serving(self, name: str) -> Iterator[Deployment]:
        """What answers an endpoint's requests, for the time of one.

        Raises:
            Refused: there is no such endpoint, or it is not in service.
        """
        record = self._world.find(KIND, name)
        with self._lock:
            live = self._live.get(name)
            if record is None or live is None or record["EndpointStatus"] not in _SERVED:
                raise Refused("ValidationError", f"Endpoint {name} of account {self._world.account} not found.")
            live.begin()  # before an update can take it out of service
        try:
            yield live
        finally:
            live.finish()

    def recover(self) -> None:
        """Start again what was in service when the emulator ended."""
        shutil.rmtree(self._world.folder / "endpoints", ignore_errors=True)
        for record in self._world.all(KIND):
            name, status = record["EndpointName"], record["EndpointStatus"]
            if status == "Deleting":
                self._world.remove(KIND, name)
            elif status != "Failed":
                if status != "Creating":
                    why = _STOPPED if status == "Updating" else record.get("FailureReason")
                    gone = {"_Pending": None, "PendingDeploymentSummary": None} if "_Pending" in record else {}
                    self._world.change(KIND, name, EndpointStatus="SystemUpdating", **_some(FailureReason=why), **gone)
                self._world.background(self._begin, name)

    def close(self) -> None:
        """End all containers; the endpoints are in service again after the next start."""
        with self._lock:
            live, self._live = list(self._live.values()), {}
        for deployment in live:
            deployment.stop()

    # In the background

    def _begin(self, name: str) -> None:
        """Bring a new endpoint, or one that the emulator had when it ended, into service."""
        record = self._found(name)
        deployment = self._deployment(name, record["_Variants"])
        try:
            deployment.start()
        except Failed as failed:
            if not self._world.stopping.is_set():
                self._change(name, EndpointStatus="Failed", FailureReason=str(failed))
            return
        if self._put(name, deployment):
            self._in_service(name, record["_Variants"])

    def _replace(self, name: str) -> None:
        """Let the pending configuration take over; the old one stays where that fails."""
        record = self._found(name)
        variants, config = record["_Pending"], record["PendingDeploymentSummary"]["EndpointConfigName"]
        deployment = self._deployment(name, variants)
        done = {"_Pending": None, "PendingDeploymentSummary": None}
        try:
            deployment.start()
        except Failed as failed:
            if not self._world.stopping.is_set():
                self._change(name, EndpointStatus="InService", FailureReason=str(failed), **done)
            return
        with self._lock:
            old = self._live.get(name)
        if self._put(name, deployment):
            with self._world.lock:
                self._change(name, EndpointConfigName=config, **done)
                self._in_service(name, variants)
            if old:
                old.stop()

    def _end(self, name: str) -> None:
        with self._lock:
            deployment = self._live.pop(name, None)
        if deployment:
            deployment.stop()
        self._world.remove(KIND, name)

    def _put(self, name: str, deployment: Deployment) -> bool:
        """Let it answer from now on; False where the emulator ends, and it with it."""
        with self._lock:
            if not self._world.stopping.is_set():
                self._live[name] = deployment
                return True
        deployment.stop()
        return False

    def _in_service(self, name: str, variants: list[Record]) -> None:
        described = [_described(v) for v in variants]
        self._change(name, EndpointStatus="InService", ProductionVariants=described, _Variants=variants)

    def _change(self, name: str, **members: object) -> None:
        self._world.change(KIND, name, LastModifiedTime=time.time(), **members)

    def _deployment(self, name: str, variants: list[Record]) -> Deployment:
        folder = self._world.folder / "endpoints" / name / str(next(self._numbers))
        return Deployment(self._world, name, variants, folder)

    # Checks

    def _found(self, name: str) -> Record:
        record = self._world.find(KIND, name)
        if record is None:
            raise _refused(f'Could not find endpoint "{self._world.arn(KIND, name)}".')
        return record

    def _changeable(self, name: str) -> Record:
        record = self._found(name)
        if record["EndpointStatus"] == "Failed":
            raise _refused(f'Cannot update failed endpoint "{record["EndpointArn"]}"; it can only be deleted.')
        if record["EndpointStatus"] != "InService":
            raise _refused(f'Cannot update in-progress endpoint "{record["EndpointArn"]}".')
        return record

    def _planned(self, config: str) -> list[Record]:
        """A configuration's variants, each with what its model runs, so that both may be deleted."""
        found = self._world.service(EndpointConfigs).found(config)
        models = self._world.service(Models)
        return [dict(v) | {"_Container": models.container(v["ModelName"])} for v in found["ProductionVariants"]]

    def _check_quotas(self, variants: list[Record]) -> None:
        running = [
            v
            for r in self._world.all(KIND)
            if r["EndpointStatus"] != "Failed"
            for v in [*r["_Variants"], *r.get("_Pending", [])]
        ]
        for instance in sorted({v["InstanceType"] for v in variants if "InstanceType" in v}):
            used, count = (
                sum(v["InitialInstanceCount"] for v in some if v.get("InstanceType") == instance)
                for some in (running, variants)
            )
            check_quota(self._world, instance, count, used, "endpoint usage")


def _described(variant: Record) -> Record:
    """A variant as DescribeEndpoint tells it."""
    image = {"SpecifiedImage": variant["_Container"]["Image"], "ResolutionTime": time.time()}
    weight = variant["InitialVariantWeight"]
    found = {
        "VariantName": variant["VariantName"],
        "DeployedImages": [image],
        "CurrentWeight": weight,
        "DesiredWeight": weight,
    }
    if serverless := variant.get("ServerlessConfig"):
        return found | {"CurrentServerlessConfig": serverless, "DesiredServerlessConfig": serverless}
    count = variant["InitialInstanceCount"]
    return found | {"CurrentInstanceCount": count, "DesiredInstanceCount": count}


def _some(**members: object) -> dict[str, object]:
    return {k: v for k, v in members.items() if v is not None}


def _refused(message: str) -> Refused:
    return Refused("ValidationException", message)
