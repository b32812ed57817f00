"""The folders of a workflow's steps, and what decides their results."""

import hashlib
from pathlib import Path
from typing import Any

from sagehound.config.overrides import override, override_key
from sagehound_launchers.config.stage import registry
from sagehound_launchers.workflow.plan import Step, Workflow, digest

# what looks at an endpoint or at new requests, and so may give another result each time
_ALWAYS = ("deploy", "monitor", "probe")


def place(workflow: Workflow, step: Step) -> list[str]:
    """The overrides that give a step its folder and its model."""
    folder = workflow.folder
    if step.name == "search":
        return [override("hydra.sweep.dir", str(_keyed(workflow, "search")))]
    if step.name != "train":
        model = [override("model", workflow.model)] if workflow.model and needs_model(step) else []
        return [*model, override("hydra.run.dir", str(folder / step.name))]
    run = _keyed(workflow, "train")
    place = [override("hydra.run.dir", str(run))]
    if any(one.name == "search" for one in workflow.steps):
        place.append(override("best", str(_keyed(workflow, "search"))))
    if run.is_dir() and any(run.iterdir()) and not step.sends:  # it was stopped; a job is followed
        resumes = (run / "checkpoints/last.ckpt").exists()
        place.append(override("resume", str(run)) if resumes else "overwrite=true")
    return place


def needs_model(step: Step) -> bool:
    """Whether a step is a stage that takes a model."""
    return any(stage.needs_model for stage in registry() if stage.name == step.name)


def _keyed(workflow: Workflow, name: str) -> Path:
    """The folder of the search or the training. It depends on their inputs, so that a change replaces nothing."""
    step = next(step for step in workflow.steps if step.name == name)
    return workflow.folder / f"{name}-{step.key[:8]}"


def trained(workflow: Workflow) -> str:
    """The run of the training step, once its key is known."""
    return str(_keyed(workflow, "train"))


def has_output(workflow: Workflow, step: Step) -> bool:
    """Whether a step that is done need not be done again: its result is there, and nothing else can have changed it."""
    from sagehound.artifact import archive  # imported here, as it needs numpy: launch.py starts in half a second

    if step.name == "search":
        return (_keyed(workflow, "search") / "best.yaml").exists()
    if step.name == "train":
        return (_keyed(workflow, "train") / archive.NAME).exists()
    return step.name not in _ALWAYS


def key(workflow: Workflow, step: Step, session: Any) -> str:  # noqa: ANN401 - an AwsSession, or None
    """SHA-256 of what decides a step's result: its overrides, the files that they name, and the step's inputs.

    Args:
        workflow: with the keys of the steps before.
        step: the step.
        session: the account, for photos in S3.
    """
    from sagehound.artifact import archive

    inputs: list[Any] = [sorted(step.overrides), [_file(word) for word in sorted(step.overrides)]]
    if step.name not in ("registry", "deploy", "image"):
        inputs.append(_photos(workflow, session))
    if step.name == "train" and any(one.name == "search" for one in workflow.steps):
        inputs.append((_keyed(workflow, "search") / "best.yaml").read_text())
    if step.name not in ("search", "train") and workflow.model and needs_model(step):
        is_file = not workflow.model.startswith(("registry:", "["))
        inputs.append(archive.digest(workflow.model) if is_file else workflow.model)
    return digest(inputs)


def _file(word: str) -> str:
    """The digest of the file that an override names; empty if it names none, or one that the step writes."""
    if override_key(word).endswith(".output"):
        return ""
    path = Path(word.partition("=")[2].strip("'\"")).expanduser()
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    except (OSError, ValueError):
        return ""


def _photos(workflow: Workflow, session: Any) -> str:  # noqa: ANN401 - as above
    """A digest of the names and contents of the photos in data.root, or of the objects in data.s3."""
    from sagehound.data.folders import LeftOut, photos_below

    known = hashlib.sha256()
    if workflow.cfg.data.s3 and session is not None:
        bucket, _, prefix = workflow.cfg.data.s3.removeprefix("s3://").partition("/")
        for page in session.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for item in page.get("Contents", []):
                known.update(f"{item['Key']}\0{item['ETag']}\n".encode())
        return known.hexdigest()
    folder = Path(workflow.cfg.data.root).expanduser() if workflow.cfg.data.root else None
    if folder is None or not folder.is_dir():
        return ""
    for name in photos_below(folder, LeftOut()):
        try:
            content = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except OSError:
            content = ""  # a broken link; the step reports it
        known.update(f"{name}\0{content}\n".encode(errors="surrogateescape"))
    return known.hexdigest()
