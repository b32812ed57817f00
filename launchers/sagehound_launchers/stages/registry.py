"""`registry=local|sagemaker|mlflow`: registers a model with its scores and its origin, if it passes a gate."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import MISSING

from sagehound.config import key
from sagehound.errors import ConfigError
from sagehound.storage.atomic import write_json
from sagehound.system import console
from sagehound_launchers.config.stage import Stage

if TYPE_CHECKING:
    from sagehound_launchers.config import Launch
    from sagehound_launchers.packages.sagemaker_registry import SageMakerRegistry


@dataclass
class Registry:
    """The registry of models; registry_dir is the folder of the local one. model=registry:NAME[@VERSION] takes one."""

    name: str = key("a folder, SageMaker's registry, or MLflow's", MISSING, choices=("local", "sagemaker", "mlflow"))
    group: str = key("the name under which versions are registered", "sagehound")
    approved: bool = key("register as approved; false: it waits for approve=NAME@VERSION", False)
    require: str | None = key("scores that a model must have: test.top1>=0.85,valid.loss<1", None)
    better_than_approved: bool = key(
        "register only what McNemar's test shows to be better than the approved one", False
    )

    @property
    def rules(self) -> list[str]:
        """The rules of ``require``."""
        return self.require.split(",") if self.require else []

    def conflicts(self, cfg: "Launch") -> Iterator[str]:
        """Yield a message for each setting that contradicts another."""
        from sagehound_launchers.packages.find import NAME
        from sagehound_launchers.packages.gate import parse

        if len(cfg.models) > 1:
            yield f"registry takes one model, not {len(cfg.models)}: give model=RUN"
        if not NAME.fullmatch(self.group):
            yield f"registry.group={self.group}: AWS allows a-z, A-Z, 0-9 and hyphens between them, 63 at most"
        for rule in self.rules:
            try:
                parse(rule)
            except ConfigError as error:
                yield str(error)


def register(cfg: "Launch", own: Registry, models: Sequence[str], folder: Path) -> None:
    """Register the model, unless its version exists.

    Raises:
        NotGoodEnough: the model does not pass the gate.
    """
    from sagehound_launchers.packages import gate, package
    from sagehound_launchers.packages.folder_registry import FolderRegistry

    if own.name == "sagemaker":
        from sagehound_launchers.packages.sagemaker_registry import SageMakerRegistry
        from sagehound_launchers.sagemaker import account

        there = SageMakerRegistry(account.connect(cfg.aws, dry_run=cfg.dry_run), cfg.aws)
        if cfg.dry_run:
            return _show(there, own, models[0], folder)
        registry: package.Registry = there
    elif own.name == "mlflow":
        from sagehound_launchers.packages.mlflow_registry import MlflowRegistry

        registry = MlflowRegistry()
    else:
        registry = FolderRegistry(Path(cfg.registry_dir))
    read = package.read(models[0])
    gate.check(read, own.rules)
    if own.better_than_approved:
        gate.check_better(read, registry, own.group)
    version = registry.add(own.group, read, package.APPROVED if own.approved else package.PENDING)
    console.info(f"registered: {version.address} ({version.status})")
    if version.status != package.APPROVED:
        emulated = " aws=emulator" if own.name == "sagemaker" and cfg.aws.name == "emulator" else ""
        console.info(f"approve it: sagehound launch approve={version.address.removeprefix('registry:')}{emulated}")
    return None


def _show(registry: "SageMakerRegistry", own: Registry, model: str, folder: Path) -> None:
    """Write the request; a model that is not trained yet has none."""
    from sagehound_launchers.packages import package
    from sagehound_launchers.packages.sagemaker_registry import package_request
    from sagehound_launchers.sagemaker import uploads
    from sagehound_launchers.sagemaker.requests import check

    if not Path(model).expanduser().exists():
        console.info("dry_run: registry=sagemaker sends CreateModelPackage with the scores, once a model is trained")
        return
    uri = uploads.model(registry.cloud, registry.aws.prefix, model, dry_run=True)
    read = package.read(model)
    request = package_request(own.group, read, package.PENDING, uri, registry.cloud, registry.aws)
    check("CreateModelPackage", request)
    path = folder / "registry_request.json"
    write_json(path, request)
    console.info(f"dry_run: nothing was sent; CreateModelPackage: {path}")


STAGE = Stage(
    "registry", Registry, 5, register, needs_model=True, remote=frozenset({"sagemaker"}),
    extra={"sagemaker": ("sagemaker", "boto3"), "mlflow": ("mlflow", "mlflow")},
)  # fmt: skip
