"""Operations of models and endpoint configurations. ``endpoints.py`` runs them."""

import re
import time
from typing import Any

from sagemaker_emulator.aws_services import AwsServices
from sagemaker_emulator.errors import invalid
from sagemaker_emulator.hosting.model_registry import ModelRegistry
from sagemaker_emulator.identity import Identity
from sagemaker_emulator.storage.listing import page, pick, select
from sagemaker_emulator.storage.records import Record, Records
from sagemaker_emulator.storage.tags import Tags
from sagemaker_emulator.storage.transfers import Transfers, split_uri

MODEL = "model"
CONFIG = "endpoint-config"
_ECR = re.compile(r"\d{12}\.dkr\.ecr\.[\w-]+\.amazonaws\.com(\.cn)?/.+")
_NOT_HERE = {  # members of a container's definition that the emulator lacks
    "AdditionalModelDataSources": "additional model data",
    "InferenceSpecificationName": "additional inference specifications",
}


class Models:
    """Create, Describe, List and Delete; ``container`` is for endpoints and transform jobs."""

    def __init__(
        self,
        records: Records,
        identity: Identity,
        tags: Tags,
        registry: ModelRegistry,
        transfers: Transfers,
        aws: AwsServices,
    ) -> None:
        self._records, self._identity, self._tags, self._registry, self._transfers, self._aws = (
            records,
            identity,
            tags,
            registry,
            transfers,
            aws,
        )

    def CreateModel(self, request: Record) -> Record:
        """Store a model, if its role and its artifact in S3 exist."""
        name = request["ModelName"]
        arn = self._identity.arn(MODEL, name)
        if self._records.find(MODEL, name):
            raise invalid(f'Cannot create already existing model "{arn}".')
        if ("PrimaryContainer" in request) == bool(request.get("Containers")):
            raise invalid("One of PrimaryContainer and Containers must be given, and not both.")
        if len(request.get("Containers", [])) > 1:
            raise invalid("The emulator has no inference pipelines: give one container.")
        given = request["PrimaryContainer"] if "PrimaryContainer" in request else request["Containers"][0]
        given.setdefault("Mode", "SingleModel")
        container = self._resolved(given)
        self._check(container, request.get("ExecutionRoleArn"))
        record = {k: v for k, v in request.items() if k != "Tags"}
        record |= {"ModelArn": arn, "CreationTime": time.time(), "_Container": container}
        self._tags.put(arn, request.get("Tags", []))
        self._records.save(MODEL, name, record)
        return {"ModelArn": arn}

    def DescribeModel(self, request: Record) -> Record:
        """The description of a model."""
        return self._found(request["ModelName"])

    def ListModels(self, request: Record) -> Record:
        """One page of models, by default the newest first."""
        models = select({"SortOrder": "Descending"} | request, self._records.all(MODEL), "Model")
        return page(request, "Models", [pick(r, "ModelName", "ModelArn", "CreationTime") for r in models])

    def DeleteModel(self, request: Record) -> None:
        """Delete a model; endpoints that run it continue."""
        self._records.remove(MODEL, self._found(request["ModelName"])["ModelName"])

    def container(self, name: str) -> Record:
        """A model's container: Image, Mode, Environment, and the place of its artifact.

        Raises:
            ApiError: there is no such model.
        """
        container: Record = self._found(name)["_Container"]
        return container

    def _found(self, name: str) -> Record:
        record = self._records.find(MODEL, name)
        if record is None:
            raise invalid(f'Could not find model "{self._identity.arn(MODEL, name)}".')
        return record

    def _resolved(self, given: Record) -> Record:
        """A container's definition, completed from its model package."""
        if "ModelPackageName" not in given:
            return given
        package = self._registry.container(given["ModelPackageName"])
        environment = package.get("Environment", {}) | given.get("Environment", {})
        return package | given | {"Environment": environment}

    def _check(self, given: Record, role: str | None) -> None:
        for member, what in _NOT_HERE.items():
            if given.get(member):
                raise invalid(f"The emulator has no {what} ({member}).")
        image = given.get("Image")
        if not image:
            raise invalid("Either Image or ModelPackageName must be given.")
        platform = given.get("ImageConfig", {}).get("RepositoryAccessMode", "Platform")
        if platform == "Platform" and not _ECR.fullmatch(image):
            raise invalid(f'Using non-ECR image "{image}" without Vpc repository access mode is not supported.')
        source = given.get("ModelDataSource", {}).get("S3DataSource")
        if source and "ModelDataUrl" in given:
            raise invalid("ModelDataUrl and ModelDataSource cannot both be given.")
        uri = source["S3Uri"] if source else given.get("ModelDataUrl")
        many = given["Mode"] == "MultiModel"
        if many and "ModelDataUrl" not in given:
            raise invalid("ModelDataUrl must be given where Mode is MultiModel.")
        if uri is not None:
            prefix = many or bool(source and source["S3DataType"] == "S3Prefix")
            self._check_access(uri, role)
            bucket, key = split_uri(uri)
            there = self._transfers.keys(bucket, key) if prefix else self._transfers.path(f"s3://{bucket}/{key}")
            if not (there or many):  # models may be added to a multi-model endpoint later
                raise invalid(f"Could not find model data at {uri}.")

    def _check_access(self, uri: str, role: str | None) -> None:
        if not uri.startswith("s3://"):
            raise invalid(f"{uri}: the emulator reads only s3:// addresses.")
        bucket, _ = split_uri(uri)
        if role is None or not self._aws.has_role(role) or not self._transfers.has_bucket(bucket):
            raise invalid(
                f'Could not access model data at {uri}. Please ensure that the role "{role}" exists and that its trust '
                'relationship policy allows the action "sts:AssumeRole" for the service principal '
                '"sagemaker.amazonaws.com". Also ensure that the role has "s3:GetObject" permissions and that the '
                f"object is located in {self._identity.region}. If your Model uses multiple models or uncompressed "
                'models, please ensure that the role has "s3:ListBucket" permission.'
            )


class EndpointConfigs:
    """Create, Describe, List and Delete."""

    def __init__(self, records: Records, identity: Identity, tags: Tags, models: Models) -> None:
        self._records, self._identity, self._tags, self._models = records, identity, tags, models

    def CreateEndpointConfig(self, request: Record) -> Record:
        """Store a configuration, if its models exist and AWS would accept its variants."""
        name = request["EndpointConfigName"]
        arn = self._identity.arn(CONFIG, name)
        if self._records.find(CONFIG, name):
            raise invalid(f'Cannot create already existing endpoint configuration "{arn}".')
        if request.get("ExplainerConfig"):
            raise invalid("The emulator has no endpoints with ExplainerConfig.")
        variants = [{"InitialVariantWeight": 1.0} | v for v in request["ProductionVariants"]]
        shadows = [{"InitialVariantWeight": 1.0} | v for v in request.get("ShadowProductionVariants", [])]
        names = [v["VariantName"] for v in [*variants, *shadows]]
        if len(set(names)) < len(names):
            raise invalid("Production variants' names must be unique within an endpoint configuration.")
        for variant in [*variants, *shadows]:
            self._check(variant, len(variants))
        if shadows:
            self._check_shadow(variants, shadows, "AsyncInferenceConfig" in request)
        if any("ServerlessConfig" in v for v in variants):
            for member in ("AsyncInferenceConfig", "DataCaptureConfig"):
                if request.get(member):
                    raise invalid(f"Serverless endpoints do not support {member}.")  # AWS's wording is not known
        is_async = "AsyncInferenceConfig" in request
        if is_async and any(self._models.container(v["ModelName"])["Mode"] == "MultiModel" for v in variants):
            raise invalid("Asynchronous endpoints do not support multi-model containers.")  # from memory
        self._tags.put(arn, request.get("Tags", []))
        record = {k: v for k, v in request.items() if k != "Tags"}
        record |= {"EndpointConfigArn": arn, "CreationTime": time.time(), "ProductionVariants": variants}
        if shadows:
            record["ShadowProductionVariants"] = shadows
        self._records.save(CONFIG, name, record)
        return {"EndpointConfigArn": arn}

    def DescribeEndpointConfig(self, request: Record) -> Record:
        """The description of a configuration."""
        return self.get_record(request["EndpointConfigName"])

    def ListEndpointConfigs(self, request: Record) -> Record:
        """One page of configurations, by default the newest first."""
        configurations = select({"SortOrder": "Descending"} | request, self._records.all(CONFIG), "EndpointConfig")
        members = ("EndpointConfigName", "EndpointConfigArn", "CreationTime")
        return page(request, "EndpointConfigs", [pick(r, *members) for r in configurations])

    def DeleteEndpointConfig(self, request: Record) -> None:
        """Delete a configuration; endpoints that run it continue."""
        self._records.remove(CONFIG, self.get_record(request["EndpointConfigName"])["EndpointConfigName"])

    def get_record(self, name: str) -> Record:
        """The record.

        Raises:
            ApiError: it does not exist.
        """
        record = self._records.find(CONFIG, name)
        if record is None:
            raise invalid(f'Could not find endpoint configuration "{self._identity.arn(CONFIG, name)}".')
        return record

    def _check(self, variant: Record, count: int) -> None:
        if "ModelName" not in variant or "InstancePools" in variant:
            raise invalid("The emulator has no endpoints with inference components or instance pools: give ModelName.")
        container = self._models.container(variant["ModelName"])
        serverless: dict[str, Any] | None = variant.get("ServerlessConfig")
        if serverless is None:
            if "InstanceType" not in variant or "InitialInstanceCount" not in variant:
                raise invalid("InstanceType and InitialInstanceCount, or else ServerlessConfig, must be given.")
            return
        if "InstanceType" in variant or "InitialInstanceCount" in variant:
            raise invalid("ServerlessConfig and InstanceType cannot both be given.")
        if serverless["MemorySizeInMB"] % 1024:
            raise invalid("MemorySizeInMB must be one of 1024, 2048, 3072, 4096, 5120 and 6144.")
        if serverless.get("ProvisionedConcurrency", 0) > serverless["MaxConcurrency"]:
            raise invalid("ProvisionedConcurrency must be less than or equal to MaxConcurrency.")
        if container["Mode"] == "MultiModel":
            raise invalid("Serverless endpoints do not support multi-model containers.")
        if count > 1:
            raise invalid("A serverless endpoint takes one production variant.")

    def _check_shadow(self, variants: list[Record], shadows: list[Record], is_async: bool) -> None:
        if len(variants) > 1 or len(shadows) > 1:
            raise invalid("With ShadowProductionVariants, there can be one production variant and one shadow variant.")
        both = [*variants, *shadows]
        unfit = {
            "serverless variants": any("ServerlessConfig" in v for v in both),
            "asynchronous endpoints": is_async,
            "multi-model containers": any(self._models.container(v["ModelName"])["Mode"] == "MultiModel" for v in both),
            "ml.inf1 instances": any(v.get("InstanceType", "").startswith("ml.inf1.") for v in both),
        }
        for what, is_used in unfit.items():
            if is_used:
                raise invalid(f"Shadow variants do not support {what}.")
