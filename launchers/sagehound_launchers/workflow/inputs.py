"""The folders of a workflow's steps, and what decides their results."""

import hashlib
from pathlib import Path
from typing import Any

from sagehound.artifact import archive
from sagehound.config.overrides import override
from sagehound_launchers.config.stage import registry
from sagehound_launchers.workflow.plan import Step, Workflow, digest


def place(workflow: Workflow, step: Step, *, is_same: bool) -> list[str]:
    """The overrides that give a step its folder and its model."""
    folder = workflow.folder
    if step.name == "search":
        return [override("hydra.sweep.dir", str(_search_folder(workflow)))]
    if step.name != "train":
        model = [f"model={workflow.model}"] if workflow.model and needs_model(step) else []
        return [*model, override("hydra.run.dir", str(folder / step.name))]
    place = [override("hydra.run.dir", str(folder / "train"))]
    if any(one.name == "search" for one in workflow.steps):
        place.append(override("best", str(_search_folder(workflow))))
    begun = (folder / "train").is_dir() and any((folder / "train").iterdir())
    if begun and not is_same:
        place.append("overwrite=true")
    elif begun and not step.sends:
        resumes = (folder / "train/checkpoints/last.ckpt").exists()
        place.append(override("resume", str(folder / "train")) if resumes else "overwrite=true")
    return place


def needs_model(step: Step) -> bool:
    """Whether a step is a stage that takes a model."""
    return any(stage.needs_model for stage in registry() if stage.name == step.name)


def _search_folder(workflow: Workflow) -> Path:
    """A folder for each search, because it may be searched again with other settings."""
    search = next(step for step in workflow.steps if step.name == "search")
    return workflow.folder / f"search-{(search.key or digest(search.overrides))[:8]}"


def has_output(workflow: Workflow, step: Step) -> bool:
    """Whether what a step has made is still there."""
    if step.name == "search":
        return (_search_folder(workflow) / "best.yaml").exists()
    if step.name == "train":
        return (workflow.folder / "train" / archive.NAME).exists()
    return step.name != "deploy"  # which looks for its endpoint, and changes nothing if it is there


def key(workflow: Workflow, step: Step) -> str:
    """SHA-256 of what decides a step's result: its overrides, and the photos, the best trial or the model."""
    inputs: list[Any] = [sorted(step.overrides)]
    root = workflow.cfg.data.root if workflow.cfg else None
    if step.name in ("search", "train", "transform", "bias", "monitor"):
        inputs.append(_photos(root))
    if step.name == "train" and any(one.name == "search" for one in workflow.steps):
        inputs.append((_search_folder(workflow) / "best.yaml").read_text())
    if step.name not in ("search", "train") and workflow.model and needs_model(step):
        inputs.append(_digest(workflow.model))
    return digest(inputs)


def _digest(model: str) -> str:
    return archive.digest(model) if not model.startswith(("registry:", "[")) else model


def _photos(root: str | None) -> str:
    """A digest of the names, sizes and times of the photos; empty if they are not a folder of this machine."""
    from sagehound.data.folders import LeftOut, photos_below

    folder = Path(root).expanduser() if root else None
    if folder is None or not folder.is_dir():
        return ""
    known = hashlib.sha256()
    for name in photos_below(folder, LeftOut()):
        status = (folder / name).lstat()
        known.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return known.hexdigest()
