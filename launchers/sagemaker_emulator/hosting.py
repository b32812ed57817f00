"""Models and endpoint configurations: what AWS accepts and answers; ``endpoint.py`` runs them."""

import re
import time
from typing import Any

from sagehound_launchers.emulator.listing import page, pick, select
from sagehound_launchers.emulator.registry import Registry
from sagehound_launchers.emulator.tags import Tags
from sagehound_launchers.emulator.world import Record, Refused, World, split_uri

MODEL = "model"
CONFIG = "endpoint-config"
_ECR = re.compile(r"\d{12}\.dkr\.ecr\.[\w-]+\.amazonaws\.com(\.cn)?/.+")
_NOT_HERE = {  # members of a container's definition that the emulator does not do
    "AdditionalModelDataSources": "additional model data",
    "InferenceSpecificationName": "additional inference specifications",
}


class Models:
    """Create, Describe, List and Delete; ``container`` is what endpoints and transform jobs run."""

    def __init__(self, world: World) -> None:
        self._world = world

    def CreateModel(self, request: Record) -> Record:
        """Keep a model, if its role and its artefact in S3 are there."""
        name = request["ModelName"]
        arn = self._world.arn(MODEL, name)
        if self._world.find(MODEL, name):
            raise _refused(f'Cannot create already existing model "{arn}".')
        if ("PrimaryContainer" in request) == bool(request.get("Containers")):
            raise _refused("One of PrimaryContainer and Containers must be given, and not both.")
        if len(request.get("Containers", [])) > 1:
            raise _refused("The emulator has no inference pipelines: give one container.")
        given = request["PrimaryContainer"] if "PrimaryContainer" in request else request["Containers"][0]
        given.setdefault("Mode", "SingleModel")
        container = self._resolved(given)
        self._check(container, request.get("ExecutionRoleArn"))
        record = {k: v for k, v in request.items() if k != "Tags"}
        record |= {"ModelArn": arn, "CreationTime": time.time(), "_Container": container}
        self._world.service(Tags).put(arn, request.get("Tags", []))
        self._world.save(MODEL, name, record)
        return {"ModelArn": arn}

    def DescribeModel(self, request: Record) -> Record:
        """All that is known of a model."""
        return self._found(request["ModelName"])

    def ListModels(self, request: Record) -> Record:
        """One page of models, the newest first unless told otherwise."""
        found = select({"SortOrder": "Descending"} | request, self._world.all(MODEL), "Model")
        return page(request, "Models", [pick(r, "ModelName", "ModelArn", "CreationTime") for r in found])

    def DeleteModel(self, request: Record) -> None:
        """Forget a model; endpoints that run it go on."""
        self._world.remove(MODEL, self._found(request["ModelName"])["ModelName"])

    def container(self, name: str) -> Record:
        """What a model runs: Image, Mode, Environment, and where its artefact lies if it has one.

        Raises:
            Refused: there is no such model.
        """
        found: Record = self._found(name)["_Container"]
        return found

    def _found(self, name: str) -> Record:
        record = self._world.find(MODEL, name)
        if record is None:
            raise _refused(f'Could not find model "{self._world.arn(MODEL, name)}".')
        return record

    def _resolved(self, given: Record) -> Record:
        """A container's definition, with what its model package says."""
        if "ModelPackageName" not in given:
            return given
        package = self._world.service(Registry).container(given["ModelPackageName"])
        environment = package.get("Environment", {}) | given.get("Environment", {})
        return package | given | {"Environment": environment}

    def _check(self, given: Record, role: str | None) -> None:
        for member, what in _NOT_HERE.items():
            if given.get(member):
                raise _refused(f"The emulator has no {what} ({member}).")
        image = given.get("Image")
        if not image:
            raise _refused("Either Image or ModelPackageName must be given.")
        platform = given.get("ImageConfig", {}).get("RepositoryAccessMode", "Platform")
        if platform == "Platform" and not _ECR.fullmatch(image):
            raise _refused(f'Using non-ECR image "{image}" without Vpc repository access mode is not supported.')
        source = given.get("ModelDataSource", {}).get("S3DataSource")
        if source and "ModelDataUrl" in given:
            raise _refused("ModelDataUrl and ModelDataSource cannot both be given.")
        uri = source["S3Uri"] if source else given.get("ModelDataUrl")
        many = given["Mode"] == "MultiModel"
        if many and "ModelDataUrl" not in given:
            raise _refused("ModelDataUrl must be given where Mode is MultiModel.")
        if uri is not None:
            prefix = many or bool(source and source["S3DataType"] == "S3Prefix")
            self._check_artefact(uri, prefix, role)

    def _check_artefact(self, uri: str, prefix: bool, role: str | None) -> None:
        if not uri.startswith("s3://"):
            raise _refused(f"{uri}: the emulator reads only s3:// addresses.")
        bucket, key = split_uri(uri)
        if role is None or not self._world.cloud.has_role(role) or not self._world.objects.has_bucket(bucket):
            raise _refused(
                f'Could not access model data at {uri}. Please ensure that the role "{role}" exists and that its trust '
                'relationship policy allows the action "sts:AssumeRole" for the service principal '
                '"sagemaker.amazonaws.com". Also ensure that the role has "s3:GetObject" permissions and that the '
                f"object is located in {self._world.region}. If your Model uses multiple models or uncompressed "
                'models, please ensure that the role has "s3:ListBucket" permission.'
            )
        there = self._world.objects.keys(bucket, key) if prefix else self._world.objects.path(bucket, key)
        if not there:
            raise _refused(f"Could not find model data at {uri}.")


class EndpointConfigs:
    """Create, Describe, List and Delete."""

    def __init__(self, world: World) -> None:
        self._world = world

    def CreateEndpointConfig(self, request: Record) -> Record:
        """Keep a configuration, if its models are there and its variants are such as AWS takes."""
        name = request["EndpointConfigName"]
        arn = self._world.arn(CONFIG, name)
        if self._world.find(CONFIG, name):
            raise _refused(f'Cannot create already existing endpoint configuration "{arn}".')
        for member in ("ShadowProductionVariants", "ExplainerConfig", "AsyncInferenceConfig"):
            if request.get(member):
                raise _refused(f"The emulator has no endpoints with {member}.")
        variants = [{"InitialVariantWeight": 1.0} | v for v in request["ProductionVariants"]]
        names = [v["VariantName"] for v in variants]
        if len(set(names)) < len(names):
            raise _refused("Production variants' names must be unique within an endpoint configuration.")
        for variant in variants:
            self._check(variant, len(variants))
        self._world.service(Tags).put(arn, request.get("Tags", []))
        record = {k: v for k, v in request.items() if k != "Tags"}
        record |= {"EndpointConfigArn": arn, "CreationTime": time.time(), "ProductionVariants": variants}
        self._world.save(CONFIG, name, record)
        return {"EndpointConfigArn": arn}

    def DescribeEndpointConfig(self, request: Record) -> Record:
        """All that is known of a configuration."""
        return self.found(request["EndpointConfigName"])

    def ListEndpointConfigs(self, request: Record) -> Record:
        """One page of configurations, the newest first unless told otherwise."""
        found = select({"SortOrder": "Descending"} | request, self._world.all(CONFIG), "EndpointConfig")
        members = ("EndpointConfigName", "EndpointConfigArn", "CreationTime")
        return page(request, "EndpointConfigs", [pick(r, *members) for r in found])

    def DeleteEndpointConfig(self, request: Record) -> None:
        """Forget a configuration; endpoints that run it go on."""
        self._world.remove(CONFIG, self.found(request["EndpointConfigName"])["EndpointConfigName"])

    def found(self, name: str) -> Record:
        """The record.

        Raises:
            Refused: there is none.
        """
        record = self._world.find(CONFIG, name)
        if record is None:
            raise _refused(f'Could not find endpoint configuration "{self._world.arn(CONFIG, name)}".')
        return record

    def _check(self, variant: Record, count: int) -> None:
        if "ModelName" not in variant or "InstancePools" in variant:
            raise _refused("The emulator has no endpoints with inference components or instance pools: give ModelName.")
        container = self._world.service(Models).container(variant["ModelName"])
        serverless: dict[str, Any] | None = variant.get("ServerlessConfig")
        if serverless is None:
            if "InstanceType" not in variant or "InitialInstanceCount" not in variant:
                raise _refused("InstanceType and InitialInstanceCount, or else ServerlessConfig, must be given.")
            return
        if "InstanceType" in variant or "InitialInstanceCount" in variant:
            raise _refused("ServerlessConfig and InstanceType cannot both be given.")
        if serverless["MemorySizeInMB"] % 1024:
            raise _refused("MemorySizeInMB must be one of 1024, 2048, 3072, 4096, 5120 and 6144.")
        if container["Mode"] == "MultiModel":
            raise _refused("Serverless endpoints do not support multi-model containers.")
        if count > 1:
            raise _refused("A serverless endpoint takes one production variant.")


def _refused(message: str) -> Refused:
    return Refused("ValidationException", message)
