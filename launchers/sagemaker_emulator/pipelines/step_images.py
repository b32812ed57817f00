"""Images of a pipeline's steps, checked before its first step runs."""

from collections.abc import Iterator, Mapping

from sagemaker_emulator.errors import JobFailed, invalid
from sagemaker_emulator.pipelines.definition import Definition, Json, Step
from sagemaker_emulator.pipelines.references import References
from sagemaker_emulator.processes.images import Images


def check_images(definition: Definition, parameters: Mapping[str, Json], done: set[str], images: Images) -> None:
    """Refuse an execution with a step whose image the emulator cannot run, before hours of other steps have run.

    The user need not know the image: SDK 2 adds a training step to a model that is registered with its code. An image
    that follows from the results of other steps is not known yet; its job checks it.

    Args:
        definition: of the pipeline.
        parameters: values of this execution.
        done: names of steps that will not run.
        images: the commands that are known.

    Raises:
        ApiError: with the step, its image and what to do.
    """
    references = References(parameters, {}, _not_yet, _not_yet, _not_yet)
    for step in definition.steps.values():
        for value, verb in _used(step) if step.name not in done else ():
            try:
                image = str(references.resolve(value))
            except JobFailed:
                continue
            try:
                images.command(image, verb)
            except JobFailed as error:
                raise invalid(f"Step {step.name}: {str(error).removeprefix('ClientError: ')}") from error


def _used(step: Step) -> Iterator[tuple[Json, str]]:
    """The images of a step's jobs, with references, and what they have to do; not those with a command of their own."""
    arguments = step.arguments
    if step.type == "Processing":
        used = [(arguments.get("AppSpecification"), "ImageUri", "process")]
    elif step.type == "Training":
        used = [(arguments.get("AlgorithmSpecification"), "TrainingImage", "train")]
    elif step.type == "Tuning":
        found = [arguments.get("TrainingJobDefinition"), *(arguments.get("TrainingJobDefinitions") or [])]
        used = [(d.get("AlgorithmSpecification"), "TrainingImage", "train") for d in found if isinstance(d, Mapping)]
    else:
        used = []
    for content, member, verb in used:
        if isinstance(content, Mapping) and content.get(member) and not content.get("ContainerEntrypoint"):
            yield content[member], verb


def _not_yet(*_: str) -> str:
    raise JobFailed("no step has run")
