"""`deploy=local|sagemaker|serverless|async|multi_model`: an endpoint for a model, or for several."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import MISSING

from sagehound.config import key
from sagehound.config.fields import did_you_mean
from sagehound.errors import ConfigError
from sagehound_launchers.config.endpoint_names import FORM, RESERVED
from sagehound_launchers.config.stage import Stage

if TYPE_CHECKING:
    from sagehound_launchers.config import Launch

_MACHINES = {"instance_type", "instance_count"}
_SCALED = {"max_instances", "calls_per_instance"}
_UPDATED = {"update", "bake_seconds", "alarms"}
_KEYS = {  # the keys of each option
    "local": {
        *("host", "port", "allowed_hosts", "token", "token_file", "cert", "key", "rate", "keep_alive", "model_root"),
        *("model_gb", "max_requests", "timeout", "max_megapixels", "capture", "capture_percent", "feedback", "log"),
        *("workers", "device"),
    },
    "sagemaker": {"endpoint", "wait_minutes", "capture_percent", "shadow", *_MACHINES, *_SCALED, *_UPDATED},
    "multi_model": {"endpoint", "wait_minutes", "capture_percent", *_MACHINES, *_SCALED, *_UPDATED},
    "async": {"endpoint", "wait_minutes", "capture_percent", "max_concurrency", *_MACHINES, *_SCALED, *_UPDATED},
    # AWS's guide, "Deploy models with Amazon SageMaker Serverless Inference", feature exclusions: GPUs, multi-model
    # endpoints, VPC configuration, data capture, several variants
    "serverless": {"endpoint", "wait_minutes", "memory_mb", "max_concurrency"},
}
_REMOTE = frozenset(_KEYS) - {"local"}


@dataclass
class Deploy:
    """An endpoint for the model."""

    name: str = key("where it runs; sagemaker: real-time, one model", MISSING, choices=tuple(_KEYS))
    host: str = key("local: address to listen on; 0.0.0.0 lets other machines in", "127.0.0.1")
    port: int = key("local: 0 is any free one, which is printed", 8080, at_least=0, at_most=65535)
    allowed_hosts: list[str] = key("local: further names by which clients address it, as *.example.com; [*]: any", [])
    token: str | None = key("local: secret that clients send; null: of token_file or SAGEHOUND_TOKEN, or none", None)
    token_file: str | None = key("local: file that holds the token", None)
    cert: str | None = key("local: PEM file of a certificate, for https", None)
    rate: float | None = key("local: requests a second of one client, twice as many at once; null: any", None, above=0)
    keep_alive: float = key("local: seconds that a connection may be idle between requests", 75.0, at_least=1)
    model_root: str | None = key(
        "local: folder of models that POST /models may load; null: any on this machine, none for others", None
    )
    model_gb: float | None = key("local: memory that open models may hold, 10^9 bytes; null: half of it", None, above=0)
    max_requests: int = key("local: requests in progress, most of which wait; others get 503", 512, at_least=1)
    max_megapixels: float = key("local: largest size of a photo, 10^6 pixels", 50.0, above=0)
    log: str | None = key("local: json prints a line of JSON for each request; null: none", None, choices=("json",))
    workers: str = key(
        "local: server processes, among which cores, memory and max_requests are divided; auto: one for each core", "1"
    )
    device: str = key(
        "local: what computes the model; cuda: a GPU of NVIDIA; auto: one if it works",
        "auto",
        choices=("auto", "cpu", "cuda"),
    )
    timeout: float = key("local: seconds for a response, or to load a model; SageMaker waits 60", 55.0, at_least=0.1)
    endpoint: str | None = key("the endpoint's name; null: sagehound-<the model's name>", None)
    instance_type: str = key("the kind of machine", "ml.m5.large")
    instance_count: int = key("machines, between which calls are divided", 1, at_least=1)
    max_instances: int | None = key("autoscaling: most machines; null: none is added", None, at_least=1)
    calls_per_instance: float = key("autoscaling: calls a minute that one machine has", 60.0, above=0)
    memory_mb: int = key("serverless: memory, 2^20 bytes", 3072, choices=(1024, 2048, 3072, 4096, 5120, 6144))
    max_concurrency: int | None = key(
        "calls at a time, serverless in all (null: 5), async of a machine (null: AWS decides)", None, at_least=1
    )
    capture: str | None = key("local: folder for captured requests and responses, for monitor=local", None)
    feedback: str | None = key("local: folder for photos whose right class users tell on the page", None)
    capture_percent: int | None = key(
        "calls that are captured, percent: null is none on SageMaker, and all with deploy.capture", None,
        at_least=1, at_most=100,
    )  # fmt: skip
    shadow: str | None = key("another model, which gets a copy of each call and answers nobody", None)
    update: str = key(
        "how calls move to the new machines of an endpoint that exists", "all_at_once",
        choices=("all_at_once", "canary", "linear", "rolling"),
    )  # fmt: skip
    bake_seconds: int = key(
        "update: seconds after each move, in which an alarm rolls back", 0, at_least=0, at_most=3600
    )
    alarms: list[str] = key("update: CloudWatch alarms that roll back", [])
    wait_minutes: float = key("minutes until the endpoint must be in service", 30.0, above=0)
    # the last one, because its name hides the function
    key: str | None = key("local: PEM file of its private key; null: in the file of deploy.cert", None)

    def conflicts(self, cfg: "Launch") -> Iterator[str]:
        """Yield a message for each setting that contradicts another."""
        defaults = {f.name: f.default for f in fields(self)}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name not in {"name", *_KEYS[self.name]} and value not in (defaults[f.name], []):
                options = ", ".join(f"deploy={o}" for o, known in _KEYS.items() if f.name in known)
                yield f"deploy.{f.name}={value} is of {options}: drop it, or choose one of them"
        if self.name == "local":
            yield from self._local(cfg)
            return
        if self.name != "multi_model" and len(cfg.models) > 1:
            yield f"deploy={self.name} takes one model, not {len(cfg.models)}: choose deploy=multi_model"
        if self.name == "serverless" and cfg.aws.subnets:
            yield "deploy=serverless takes no VPC: drop aws.subnets and aws.security_groups"
        if self.name == "serverless" and (self.max_concurrency or 0) > 200:
            yield f"deploy.max_concurrency={self.max_concurrency}: a serverless endpoint takes 200 calls at most"
        if self.endpoint is not None and (self.endpoint in RESERVED or not FORM.fullmatch(self.endpoint)):
            yield (
                f"deploy.endpoint={self.endpoint}: a name has a-z, A-Z, 0-9 and hyphens between them, 63 at most, and "
                f"is not {' or '.join(RESERVED)}"
            )
        if self.name != "serverless" and self.instance_type not in instance_types():
            near = did_you_mean(self.instance_type, instance_types())
            yield f"deploy.instance_type={self.instance_type}: SageMaker has no endpoints on it{near}"
        if self.alarms and not self.bake_seconds:
            yield "deploy.alarms need time: give deploy.bake_seconds=300, or as many seconds as an alarm takes"
        if self.max_instances is not None and self.max_instances < self.instance_count:
            yield f"deploy.max_instances={self.max_instances} is below deploy.instance_count={self.instance_count}"

    def _local(self, cfg: "Launch") -> Iterator[str]:
        if not self.host:
            yield "deploy.host= is empty: give 127.0.0.1, or 0.0.0.0 to let other machines in"
        if self.key and not self.cert:
            yield "deploy.key is of a certificate: give deploy.cert too"
        if "probe" in {stage.name for stage, _ in cfg.stages}:
            yield (
                "deploy=local keeps this terminal: probe it from another, "
                f"python launch.py probe=local endpoint=http://127.0.0.1:{self.port}"
            )


def deploy(cfg: "Launch", own: Deploy, models: Sequence[str], folder: Path) -> None:
    """Serve the models in this process until a signal, or by an endpoint on SageMaker."""
    if own.name == "local":
        _serve(own, names(models, cfg.models))
    else:
        from sagehound_launchers.sagemaker import endpoint_deployment

        endpoint_deployment.deploy(cfg, own, names(models, cfg.models), folder)


def _serve(own: Deploy, models: Mapping[str, str]) -> None:
    from sagehound.serving.access import access_of
    from sagehound.serving.feedback import Feedback
    from sagehound.serving.request_capture import RequestCapture
    from sagehound.serving.request_handler import Limits
    from sagehound.serving.server import Address, serve
    from sagehound.serving.workers import number

    workers = number(own.workers)
    access = access_of(own.host, own.allowed_hosts, own.token, own.token_file, own.model_root, own.rate)
    address = Address(own.host, own.port, own.cert, own.key, own.keep_alive)
    capture = RequestCapture(Path(own.capture).expanduser(), own.capture_percent or 100) if own.capture else None
    limits = Limits(own.max_requests, round(own.max_megapixels * 1e6), seconds=own.timeout)
    memory = None if own.model_gb is None else round(own.model_gb * 1e9)
    feedback = Feedback(Path(own.feedback).expanduser()) if own.feedback else None
    serve(
        *(models, address, limits, memory, capture, access),
        feedback=feedback,
        log_json=own.log == "json",
        device=own.device,
        workers=workers,
    )


def instance_types() -> list[str]:
    """The machines that endpoints may have, as botocore's model lists them."""
    from sagemaker_emulator.request_validation import service_model

    return list(service_model("sagemaker").shape_for("ProductionVariantInstanceType").enum)


def names(models: Sequence[str], given: Sequence[str] = ()) -> Mapping[str, str]:
    """A name for each model: of its run's folder, its archive, or the registry's.

    Args:
        models: runs and archives.
        given: the models as the command names them; empty if one was just trained.

    Raises:
        ConfigError: two models would have one name.
    """
    folders: dict[str, str] = {}
    for model, asked in zip(models, given or models, strict=True):
        path = Path(model).expanduser().resolve()
        name = path.parent.name if path.name == "model.tar.gz" else path.name.removesuffix(".tar.gz")
        if asked.startswith("registry:"):  # its versions have one name, so that a new one replaces the former
            name = asked.removeprefix("registry:").rpartition("/")[2].partition("@")[0]
        if name in folders:
            raise ConfigError(f"model: {folders[name]} and {model} would both be called {name}; rename one")
        folders[name] = model
    return folders


# last, because deploy=local serves until it is stopped
STAGE = Stage(
    "deploy", Deploy, 100, deploy, needs_model=True, remote=_REMOTE,
    extra={"local": ("serve", "fastapi", "fastapi_offline", "uvicorn", "httptools", "prometheus_client")},
)  # fmt: skip
