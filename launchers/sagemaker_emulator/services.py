"""The services of SageMaker, each given the parts that its constructor names."""

import inspect
from typing import Any

from sagemaker_emulator.hosting.alarms import Alarms
from sagemaker_emulator.hosting.async_inference import AsyncInference
from sagemaker_emulator.hosting.endpoint_updates import EndpointUpdates
from sagemaker_emulator.hosting.endpoints import Endpoints
from sagemaker_emulator.hosting.invocation_metrics import InvocationMetrics
from sagemaker_emulator.hosting.model_registry import ModelRegistry
from sagemaker_emulator.hosting.models import EndpointConfigs, Models
from sagemaker_emulator.hosting.runtime import Runtime
from sagemaker_emulator.hosting.shadow_variants import ShadowVariants
from sagemaker_emulator.jobs.processing_jobs import ProcessingJobs
from sagemaker_emulator.jobs.resource_search import Search
from sagemaker_emulator.jobs.training_jobs import TrainingJobs
from sagemaker_emulator.jobs.transform_jobs import TransformJobs
from sagemaker_emulator.jobs.tuning_jobs import TuningJobs
from sagemaker_emulator.pipelines.execution_operations import PipelineExecutions
from sagemaker_emulator.pipelines.pipeline_operations import Pipelines
from sagemaker_emulator.storage.tags import Tags

# in an order in which each may use those before it
SERVICES: tuple[type, ...] = (
    Tags,
    TrainingJobs,
    TuningJobs,
    ModelRegistry,
    Models,
    EndpointConfigs,
    Endpoints,
    Alarms,
    EndpointUpdates,
    InvocationMetrics,
    ShadowVariants,
    Runtime,
    AsyncInference,
    TransformJobs,
    ProcessingJobs,
    Pipelines,
    PipelineExecutions,
    Search,
)
# their operations act on jobs and endpoints that really run; those of the others only store records
EXECUTED: frozenset[type] = frozenset(
    {
        TrainingJobs,
        TuningJobs,
        Endpoints,
        EndpointUpdates,
        Runtime,
        AsyncInference,
        TransformJobs,
        ProcessingJobs,
        PipelineExecutions,
    }
)


def make_services(*parts: object) -> list[Any]:
    """Make all services. A constructor's parameters are filled by their types, from the parts and earlier services.

    Args:
        parts: Records, Identity, Control, Tasks, Containers, Transfers and AwsServices.
    """
    known: dict[type, object] = {type(part): part for part in parts}
    for kind in SERVICES:
        parameters = inspect.signature(kind).parameters
        known[kind] = kind(**{name: known[parameter.annotation] for name, parameter in parameters.items()})
    return [known[kind] for kind in SERVICES]
