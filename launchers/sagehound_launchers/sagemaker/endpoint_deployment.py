"""`deploy=sagemaker`, `serverless`, `async` and `multi_model`: endpoints on SageMaker, created or updated in place."""

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sagehound.errors import ConfigError, SagehoundError
from sagehound.storage.atomic import write_json
from sagehound.system import console
from sagehound_launchers.config import Aws, Launch
from sagehound_launchers.config.endpoint_names import endpoint_name
from sagehound_launchers.sagemaker import account, cost, hosting_requests, inventory, uploads
from sagehound_launchers.sagemaker.account import Cloud
from sagehound_launchers.sagemaker.aws_errors import RemoteError, Unreachable, aws_errors, code_of, failure
from sagehound_launchers.sagemaker.hosting_requests import SHADOW, VARIANT
from sagehound_launchers.sagemaker.job_client import Log, poll_until
from sagehound_launchers.sagemaker.requests import check
from sagehound_launchers.sagemaker.secret_patterns import refuse_secrets
from sagehound_launchers.search.runners import terminable

if TYPE_CHECKING:
    from sagehound_launchers.stages.deploy import Deploy

_BUSY = ("Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting")
_GPUS = re.compile(r"ml\.[gp]\d")  # instance types


def _warn_of_gpu(cfg: Launch, own: "Deploy") -> None:
    """Warn of a GPU that costs money and is idle, because the project's image computes on the CPU."""
    if own.name != "serverless" and _GPUS.match(own.instance_type) and cfg.aws.image is None:
        console.warn(
            f"deploy.instance_type={own.instance_type}: the image sagehound:latest computes on the CPU, and leaves the "
            "GPU idle: choose an instance without one, or give an image that uses it by aws.image (docs: Endpoints)"
        )


def deploy(cfg: Launch, own: "Deploy", models: Mapping[str, str], folder: Path) -> None:
    """Create the endpoint, or update it in place, and wait until it is in service. Done again, it changes nothing.

    Args:
        cfg: the config.
        own: the keys of the group ``deploy``.
        models: runs or archives by name; one, but for a multi-model endpoint.
        folder: gets endpoint.json, or with dry_run the requests.

    Raises:
        ConfigError: AWS needs a setting, or would refuse a request. Nothing was created.
        RemoteError: the endpoint failed. What this call has created is deleted again; an endpoint that was updated
            goes on as before.
    """
    cloud = account.connect(cfg.aws, dry_run=cfg.dry_run)
    kind = "" if own.name == "sagemaker" else f"-{own.name.replace('_', '-')}"
    name = own.endpoint or endpoint_name(f"{next(iter(models))}{kind}")
    refuse_secrets(cfg.aws.environment, "a model's environment")
    _warn_of_gpu(cfg, own)
    requests = _requests(cloud, cfg, own, name, models)
    config = requests["config"][1]["EndpointConfigName"]
    check("CreateEndpoint", hosting_requests.endpoint(name, config, cfg.aws))
    check("UpdateEndpoint", hosting_requests.update(name, config, own))
    for operation, request in requests.values():
        check(operation, request)
    if cfg.dry_run:
        path = folder / "deploy_requests.json"
        write_json(path, {operation: request for operation, request in requests.values()})
        console.info(f"dry_run: nothing was sent; the endpoint's requests: {path}")
        return
    if not cloud.emulated:
        console.info(f"cost: {_price(cloud, own)}; until: sagehound launch delete={name}")
    _Deployment(cloud, cfg.aws, own, name).run(requests)
    write_json(folder / "endpoint.json", {"endpoint": name, "region": cloud.region, "kind": own.name, "url": cloud.url})
    target = f" --target-model {next(iter(models))}" if own.name == "multi_model" else ""
    target += " --emulator" if cloud.emulated else ""
    emulated = " aws=emulator" if cloud.emulated else ""
    console.info(f"endpoint {name} is in service; test it: sagehound predict {name} PHOTO{target}")
    console.info(f"delete it: sagehound launch delete={name}{emulated}")
    if own.max_instances:
        _scale(cloud, name, own)
    elif own.name != "serverless":
        inventory.unscale(cloud, name)


def _requests(
    cloud: Cloud, cfg: Launch, own: "Deploy", name: str, models: Mapping[str, str]
) -> dict[str, tuple[str, dict[str, Any]]]:
    """The operation and the request of each model and of the endpoint's configuration; uploads the models."""
    aws, made = cfg.aws, {}
    many = own.name == "multi_model"
    if many:
        key = f"{aws.prefix}/multi-model/{name}/"
        if not cfg.dry_run:
            for model, run in models.items():
                uploads.model_named(cloud, key, model, run)
        addresses = {VARIANT: f"s3://{cloud.account.bucket}/{key}"}
    else:
        runs = {VARIANT: next(iter(models.values()))} | ({SHADOW: own.shadow} if own.shadow else {})
        addresses = {v: uploads.model(cloud, aws.prefix, run, dry_run=cfg.dry_run) for v, run in runs.items()}
    names = {}
    for variant, uri in addresses.items():
        request = hosting_requests.model("-", name, uri, cloud.account, aws, many=many)
        request["ModelName"] = names[variant] = hosting_requests.named(name, str(request))
        made[f"model {variant}"] = ("CreateModel", request)
    config = hosting_requests.endpoint_config(own, name, names, cloud.account, aws)
    return made | {"config": ("CreateEndpointConfig", config)}


def _price(cloud: Cloud, own: "Deploy") -> str:
    if own.name == "serverless":
        return f"a serverless endpoint is paid by the time of its calls, see {cost.PAGE}"
    count = own.instance_count * (2 if own.shadow else 1)
    price = cost.price(own.instance_type, cloud.region)
    known = f"${price.dollars * count:g} an hour ({price.region} list price)" if price else f"see {cost.PAGE}"
    scaled = f", with up to {own.max_instances} machines as many times more" if own.max_instances else ""
    return f"{own.instance_type} x {count}: {known}{scaled} for as long as the endpoint exists"


class NotSettled(SagehoundError):
    """It is not known how a deployment ends: it takes long, or another command is at work."""


class _Deployment:
    """One call's work on an endpoint."""

    def __init__(self, cloud: Cloud, aws: Aws, own: "Deploy", name: str) -> None:
        self.cloud, self.aws, self.own, self.name = cloud, aws, own, name
        self.sagemaker = cloud.client("sagemaker")
        self._made: list[tuple[str, dict[str, str]]] = []  # operations that undo this call's work
        self._log = Log(cloud, name, group="/aws/sagemaker/Endpoints")

    def run(self, requests: Mapping[str, tuple[str, dict[str, Any]]]) -> None:
        """Create what is missing, and wait."""
        config = requests["config"][1]["EndpointConfigName"]
        before = self.describe()
        if before and before["EndpointStatus"] == "Deleting":
            self._until_settled()
            before = None
        if before and self._foreign():
            raise ConfigError(
                f"deploy.endpoint={self.name}: the account has an endpoint of this name that Sagehound did not create: "
                "give another name"
            )
        if before and before["EndpointStatus"] == "Failed":
            console.info(f"endpoint {self.name} has failed before; it is created again")
            inventory.delete_endpoint(self.cloud, self.name)
            before = None
        try:
            for operation, request in requests.values():
                self._create(operation, request)
            self._bring(before, config)
            with terminable():
                self._wait(config)
        except (NotSettled, Unreachable):
            raise  # what was created may still come into service
        except SagehoundError:
            self._undo(config)
            raise
        except KeyboardInterrupt:
            console.warn(
                f"endpoint {self.name} goes on; the same command waits for it again, and sagehound launch "
                f"delete={self.name} deletes it"
            )
            raise

    def describe(self) -> dict[str, Any] | None:
        """DescribeEndpoint's response; None if there is none."""
        from botocore.exceptions import ClientError

        with aws_errors(f"looking at endpoint {self.name}"):
            try:
                return dict(self.sagemaker.describe_endpoint(EndpointName=self.name))
            except ClientError as error:
                if code_of(error) != "ValidationException":
                    raise
                return None

    def _foreign(self) -> bool:
        return inventory.owner(self.cloud, f"endpoint/{self.name}") is None

    def _create(self, operation: str, request: dict[str, Any]) -> None:
        """Create a model or a configuration, unless it exists: its name follows from its content."""
        kind = operation.removeprefix("Create")
        if inventory.create(self.cloud, operation, request):
            self._made.append((f"Delete{kind}", {f"{kind}Name": request[f"{kind}Name"]}))

    def _bring(self, before: dict[str, Any] | None, config: str) -> None:
        """Create or update the endpoint, unless it has the configuration."""
        if before and before["EndpointStatus"] in _BUSY:
            self._until_settled()
            before = self.describe()
        if before is None:
            with aws_errors(f"creating endpoint {self.name}"):
                self.sagemaker.create_endpoint(**hosting_requests.endpoint(self.name, config, self.aws))
            self._made.append(("DeleteEndpoint", {"EndpointName": self.name}))
        elif before["EndpointConfigName"] != config:
            console.info(f"endpoint {self.name} is updated; it answers meanwhile")
            with aws_errors(f"updating endpoint {self.name}"):
                self.sagemaker.update_endpoint(**hosting_requests.update(self.name, config, self.own))

    def _wait(self, config: str) -> None:
        """Wait until the endpoint is in service with the configuration.

        Raises:
            RemoteError: it failed, was rolled back, or took longer than deploy.wait_minutes.
        """
        described = self._until_settled()
        if described is None:
            raise NotSettled(f"endpoint {self.name} was deleted by another command")
        status, reason = described["EndpointStatus"], failure(described.get("FailureReason", ""))
        if status == "InService" and described["EndpointConfigName"] == config:
            return
        if described["EndpointConfigName"] != config and not reason:
            raise NotSettled(f"endpoint {self.name}: another command has updated it meanwhile, and it has its settings")
        self._log.print_new()
        state = "the former model goes on" if status == "InService" else f"its status is {status}"
        raise RemoteError(f"endpoint {self.name}: {reason or 'no reason was given'}; {state}")

    def _until_settled(self) -> dict[str, Any] | None:
        """Wait until the endpoint's status is final; returns its description, or None once it is deleted."""
        start, status = time.monotonic(), ""
        while True:
            described = poll_until(self.cloud, self.aws.patience_minutes, self.describe)
            if described is None:
                return None
            if described["EndpointStatus"] != status:
                status = described["EndpointStatus"]
                console.info(f"endpoint {self.name}: {status} ({time.monotonic() - start:.0f} s)")
            if status not in _BUSY:
                return described
            if time.monotonic() - start > 60 * self.own.wait_minutes:
                raise NotSettled(
                    f"endpoint {self.name} is still {status} after {self.own.wait_minutes:g} minutes: the same command "
                    f"waits again, sagehound launch delete={self.name} deletes it"
                )
            time.sleep(self.cloud.poll)

    def _undo(self, config: str) -> None:
        """Delete what this call has created, unless an endpoint uses it, which another command may have updated."""
        now = self.describe()
        if now and now["EndpointStatus"] != "Failed" and now["EndpointConfigName"] != config:
            self._made = [(operation, request) for operation, request in self._made if operation != "DeleteEndpoint"]
        for operation, request in reversed(self._made):
            try:
                if operation == "DeleteEndpoint":
                    inventory.delete_endpoint(self.cloud, self.name)
                else:
                    with aws_errors(operation):
                        getattr(self.sagemaker, _snake(operation))(**request)
            except SagehoundError as error:
                console.warn(f"{next(iter(request.values()))} could not be deleted: {error}")
        if self._made:
            console.info(f"deleted: {', '.join(next(iter(r.values())) for _, r in reversed(self._made))}")


def _scale(cloud: Cloud, name: str, own: "Deploy") -> None:
    target, policy = hosting_requests.autoscaling(name, own)
    scaling = cloud.client("application-autoscaling")
    with aws_errors(f"scaling endpoint {name}"):
        scaling.register_scalable_target(**target)
        scaling.put_scaling_policy(**policy)
    console.info(
        f"endpoint {name}: {own.instance_count} to {own.max_instances} instances, "
        f"{own.calls_per_instance:g} calls a minute for each"
    )


def _snake(operation: str) -> str:
    from botocore import xform_name

    return str(xform_name(operation))
