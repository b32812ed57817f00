"""Collects what `bias=local|sagemaker` measures, and writes the results beside the predictions."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sagehound.bias import facets, files, photo_rows
from sagehound.bias.analysis import analyse
from sagehound.bias.photo_rows import PhotoRows
from sagehound.config import as_dict
from sagehound.errors import ConfigError, InputError
from sagehound.system import console
from sagehound_launchers.config import Launch
from sagehound_launchers.endpoint_probe import test_photos

if TYPE_CHECKING:
    from sagehound_launchers.stages.bias import Bias

_PHOTOS = ("data", "data.root", "data.table", "data.source")  # overrides that choose photos


def measure(cfg: Launch, own: "Bias", model: str, folder: Path) -> None:
    """Measure bias and write bias.json and bias.csv.

    Args:
        cfg: the command's config.
        own: the stage's keys.
        model: a run, a model.tar.gz or a checkpoint.
        folder: of this command; the files are written to the run's folder if its predictions are measured.

    Raises:
        InputError: the model, predictions, photos or the table of groups cannot be used.
    """
    if cfg.dry_run and not Path(model).expanduser().exists():
        console.info("dry_run: bias=sagemaker sends CreateProcessingJob, once a model is trained")
        return
    photos, place = collect(cfg, own, model, folder)
    if own.name == "sagemaker":
        from sagehound_launchers.sagemaker import clarify

        found = clarify.measure(cfg, own, photos, folder)
        if found is None:
            return
        files.write(place, found, {"source": "SageMaker Clarify"})
    else:
        found = analyse(photos, own.split, own.group_by)
        files.write(place, found)
    for line in files.summary(found):
        console.info(line)
    console.info(f"every measure with its meaning: {place / files.CSV}, {place / files.JSON}")


def collect(cfg: Launch, own: "Bias", model: str, folder: Path) -> tuple[PhotoRows, Path]:
    """The photos with labels, predictions and groups, and the folder for results.

    The predictions are those of the run, or are computed if data= names other photos than the run's.
    """
    run = Path(model).expanduser()
    named = _names_photos()
    if not run.exists():
        raise InputError(f"model={model}: there is no such run and no such file (from {Path.cwd()})")
    if (run / photo_rows.PREDICTIONS).is_file() and not (named and _other_photos(cfg, run)):
        photos, place = photo_rows.of_run(run), run
    elif not named:
        raise InputError(f"model={model} has no predictions.csv: give photos to classify, data=folder data.root=PATH")
    else:
        listed, root = test_photos(cfg)
        photos, place = photo_rows.of_model(model, listed, root, own.split), folder
    return photos.with_facets(_facets(cfg, own, run, list(photos.files))), place


def _names_photos() -> bool:
    """Whether the command line names photos."""
    given = {override.partition("=")[0].lstrip("+~") for override in HydraConfig.get().overrides.task}
    return bool(given.intersection(_PHOTOS))


def _other_photos(cfg: Launch, run: Path) -> bool:
    """Whether the photos of the config are not the run's."""
    trained = _data_of(run)
    return any(_path(trained.get(name)) != _path(getattr(cfg.data, name)) for name in ("root", "table"))


def _data_of(run: Path) -> dict[str, Any]:
    """The keys data.* of a run; empty if there is no run."""
    try:
        return dict(OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))["data"])  # type: ignore[call-overload,index,arg-type]
    except (OSError, ValueError, LookupError, TypeError, OmegaConfBaseException):
        return {}


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text).expanduser().resolve()


def _facets(cfg: Launch, own: "Bias", run: Path, names: list[str]) -> dict[str, list[str]]:
    """The columns of groups: of bias.facets, of data.table, or of the run's photo table."""
    data = as_dict(cfg.data) if cfg.data.table else _data_of(run)
    columns = data.get("columns") or {}
    if own.facets:
        path, file, ignored = own.facets, "file", ["label", "split"]
    elif data.get("table"):
        path, file, ignored = data["table"], columns["file"], [columns[name] for name in ("label", "split", "weight")]
    elif own.columns or own.group_by:
        raise ConfigError(
            f"bias.columns and bias.group_by name columns, and {run} has no photo table: give bias.facets=FILE"
        )
    else:
        return {}
    wanted = [*own.columns, *([own.group_by] if own.group_by and own.columns else [])]
    found = facets.read(Path(path).expanduser(), names, file, list(dict.fromkeys(wanted)), ignored)
    if own.group_by and own.group_by not in found:
        raise InputError(f"bias.group_by={own.group_by}: no such column of groups; there are {', '.join(found)}")
    return found
