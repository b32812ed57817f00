"""The loggers of a run: Lightning's or the user's own, from the group ``logger``.

Lightning gives each of them the metrics of every epoch and the loss of steps. Each also gets the learning rate, the
hyperparameters, the final scores, the figures and the run's folder. ``tensorboard.py`` writes these for TensorBoard.
The user's own logger gets the figures if it has ``log_image(key, images)``, as Lightning's WandbLogger has; images are
paths of PNG files.
"""

import inspect
import json
import logging
import netrc
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger
from torch.utils.tensorboard import SummaryWriter

from sagehound.config import Train, did_you_mean
from sagehound.config.targets import describe, import_target, missing_module, resolve
from sagehound.errors import ConfigError, SagehoundError
from sagehound.evaluation import tensorboard
from sagehound.storage.atomic import write_json
from sagehound.system import console, hardware

IDS = "loggers.json"  # ids of the runs in MLflow and W&B, which a resume continues

Makers = dict[str, Callable[..., Logger]]


def check(cfg: Train) -> Makers:
    """Check the class and arguments of each logger; returns functions that build them. Nothing is built now.

    Raises:
        ConfigError: there is no such class or argument, an extra is missing, or W&B would prompt for an API key.
    """
    makers = {}
    for name, node in cfg.logger.items():
        where = f"logger.{name}"
        adds = isinstance(node, Mapping) and "save_dir" not in node
        make = resolve(node, where, named=["save_dir"] if adds else [])
        kind = import_target(node["_target_"], where)
        if isinstance(kind, type) and not issubclass(kind, Logger):
            raise ConfigError(f"{where}: {kind.__name__} is not a subclass of lightning.pytorch.loggers.Logger")
        if kind is TensorBoardLogger:
            _check_rest(TensorBoardLogger, SummaryWriter, node, where)
        elif kind is WandbLogger:
            _check_wandb(node, where)
        elif kind is MLFlowLogger:
            _require("mlflow", where)
        makers[name] = make
    return makers


def _require(module: str, where: str) -> Any:  # noqa: ANN401 - mlflow or wandb
    """Import the package that a logger of Lightning needs.

    Raises:
        ConfigError: it is not installed, or cannot be imported.
    """
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_CONSOLE", "off")  # it would redirect the stdout of the progress bars
    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        return __import__(module)
    except ModuleNotFoundError as error:
        raise ConfigError(missing_module(str(error.name), where)) from error
    except Exception as error:
        raise ConfigError(f"{where}: {module} cannot be imported: {describe(error)}") from error


def _check_rest(kind: type, takes_rest: Callable[..., Any], node: Mapping[str, Any], where: str) -> None:
    """Refuse arguments that neither the logger nor the function to which it passes them has."""
    own = inspect.signature(kind).parameters
    rest = {k: v for k, v in node.items() if k not in own and not k.startswith("_")}
    for key in rest:
        known = [k for k in (*own, *inspect.signature(takes_rest).parameters) if k != "kwargs"]
        if key not in known:
            raise ConfigError(f"{where}.{key}: {kind.__name__} has no such argument{did_you_mean(key, known)}")


def _check_wandb(node: Mapping[str, Any], where: str) -> None:
    wandb = _require("wandb", where)
    _check_rest(WandbLogger, wandb.init, node, where)
    mode = "offline" if node.get("offline") else node.get("mode", os.environ.get("WANDB_MODE"))
    if mode == "online" and not _has_key():
        raise ConfigError(
            f"{where}: W&B would ask for an API key: set WANDB_API_KEY, run `wandb login` once, or give "
            f"{where}.mode=offline"
        )


def _has_key() -> bool:
    """Whether W&B can log in without a prompt."""
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        saved = netrc.netrc(os.environ.get("NETRC")).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        saved = None
    return bool(saved or os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"))


class Loggers:
    """The loggers of one run, by their names in the config."""

    def __init__(self, made: dict[str, Logger], folder: Path) -> None:
        self.made, self._folder = made, folder

    @property
    def all(self) -> list[Logger]:
        """For Lightning's Trainer."""
        return list(self.made.values())

    @property
    def _boards(self) -> list[TensorBoardLogger]:
        """TensorBoard's loggers."""
        return [logger for logger in self.made.values() if isinstance(logger, TensorBoardLogger)]

    @property
    def _others(self) -> dict[str, Logger]:
        return {name: logger for name, logger in self.made.items() if not isinstance(logger, TensorBoardLogger)}

    def begin(self, cfg: Train) -> None:
        """Log the hyperparameters and the run's folder. This starts the runs in MLflow and W&B.

        Raises:
            ConfigError: a logger cannot start, for example because its server does not respond.
        """
        columns = tensorboard.hyperparameters(cfg) | {"run_folder": str(self._folder)}
        ids = {}
        for name, logger in self._others.items():
            try:
                new = _continue(logger, columns) if isinstance(logger, MLFlowLogger) else columns
                logger.log_hyperparams(new)
                if isinstance(logger, MLFlowLogger):
                    logger.experiment.set_tag(logger.run_id, "run_folder", str(self._folder))
                if isinstance(logger, MLFlowLogger | WandbLogger):
                    ids[name] = str(logger.version)
            except Exception as error:
                resumed = f"; remove {self._folder / IDS} to log to a new one" if cfg.resume else ""
                raise ConfigError(f"logger.{name} cannot start: {describe(error)}{resumed}") from error
        if ids:
            write_json(self._folder / IDS, ids)

    def scores(self, cfg: Train, scores: dict[str, dict[str, Any]], best_epoch: int) -> None:
        """Log the final scores of every split as final/test/top1, ..., and the best epoch."""
        numbers = {
            f"final/{split}/{name}": float(value)
            for split, of_split in scores.items()
            for name, value in of_split.items()
            if isinstance(value, int | float)
        }
        for board in self._boards:
            tensorboard.log_hyperparameters(board, cfg, scores, self._folder)
        for name, logger in self._others.items():
            with _not_fatal(name):
                logger.log_metrics(numbers | {"final/best_epoch": float(best_epoch)})
                logger.save()

    def profile(self, phases: Mapping[str, float], step: Mapping[str, float]) -> None:
        """Log seconds of each phase so far and milliseconds of the parts of a mean step: profile/step_ms/data, ..."""
        numbers = {f"profile/seconds/{name}": seconds for name, seconds in phases.items()}
        numbers |= {f"profile/step_ms/{name}": ms for name, ms in step.items()}
        for board in self._boards:
            tensorboard.show_table(board, "profile", ("of", "value"), numbers)
        for name, logger in self._others.items():
            with _not_fatal(name):
                logger.log_metrics(numbers)
                logger.save()

    def figures(self, files: dict[str, Path], cfg: Train) -> None:
        """Log the figures, PNG files by name."""
        for board in self._boards:
            tensorboard.show_figures(board, files, cfg)
        for name, logger in self._others.items():
            with _not_fatal(name):
                for key, path in files.items():
                    if isinstance(logger, MLFlowLogger):
                        logger.experiment.log_artifact(str(logger.run_id), str(path), "plots")
                    elif hasattr(logger, "log_image"):
                        logger.log_image(key=key, images=[str(path)])

    def end(self, status: str) -> None:
        """Close what Lightning leaves open. Otherwise W&B would log the next run of this process into this one."""
        for name, logger in self.made.items():
            with _not_fatal(name):
                if status == "success" or name in self._others:
                    logger.finalize(status)
                if isinstance(logger, WandbLogger) and logger._experiment is not None:
                    _finish(logger, status)


@contextmanager
def opened(cfg: Train, folder: Path, makers: Makers, *, is_dry: bool = False) -> Iterator[Loggers]:
    """Make the loggers of a run, and close them at its end, also after an error.

    The process that writes the results logs for all. A dry run logs nothing.

    Raises:
        ConfigError: a logger cannot be built, or cannot start.
    """
    if is_dry or not hardware.writes_results():
        yield Loggers({name: DummyLogger() for name in makers}, folder)
        return
    ids = _earlier(cfg, folder)
    made = {}
    for name, make in makers.items():
        made[name] = logger = make(**_defaults(cfg.logger[name], folder, ids.get(name)))
        if not isinstance(logger, Logger):
            raise ConfigError(f"logger.{name}: {type(logger).__name__} is not a lightning.pytorch.loggers.Logger")
        if isinstance(logger, WandbLogger):
            logger._wandb_init.pop("anonymous", None)  # W&B warns of it, whatever its value
    loggers = Loggers(made, folder)
    status = "failed"
    try:
        loggers.begin(cfg)
        yield loggers
        status = "success"
    finally:
        loggers.end(status)


def _finish(logger: WandbLogger, status: str) -> None:
    """End W&B's run, and print its address."""
    run = logger.experiment
    run.finish(exit_code=int(status != "success"))
    if run.settings._offline:
        console.info(f"wandb: nothing was sent; `wandb sync {run.settings.sync_dir}` does that")
    elif run.url:
        console.info(f"wandb: {run.url}")


def _defaults(node: Mapping[str, Any], folder: Path, earlier: str | None) -> dict[str, Any]:
    """Defaults of arguments that depend on the run."""
    kind = import_target(node["_target_"], "logger")
    title = "/".join(folder.parts[-2:])
    defaults: dict[str, Any] = {}
    if "save_dir" in inspect.signature(kind).parameters:
        defaults["save_dir"] = str(folder)
    if kind is MLFlowLogger:
        defaults |= {"run_name": title, "run_id": earlier}
    if kind is WandbLogger:
        defaults |= {"name": title, "id": earlier}
        if "offline" not in node and "WANDB_MODE" not in os.environ:
            defaults["mode"] = "online" if _has_key() else "offline"
    return {key: value for key, value in defaults.items() if key not in node}


def _earlier(cfg: Train, folder: Path) -> dict[str, str]:
    """The ids of the runs in MLflow and W&B that a resume in the same folder continues.

    Raises:
        ConfigError: the file holds something else than ids, such as a ``_target_`` that Hydra would build.
    """
    if not cfg.resume:
        return {}
    path = folder / IDS
    refused = ConfigError(f"{path} holds no ids of runs: remove it to log to new ones")
    try:
        ids = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:  # the run had no such logger
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise refused from error
    if not isinstance(ids, dict) or not all(isinstance(value, str) for value in ids.values()):
        raise refused
    return ids


def _continue(logger: MLFlowLogger, columns: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters that MLflow's run lacks. Changed ones become a tag, because MLflow refuses changes."""
    client, run = logger.experiment, str(logger.run_id)
    known = client.get_run(run).data.params
    if known:
        client.update_run(run, status="RUNNING")
        changed = [f"{k}={v}" for k, v in columns.items() if known.get(k, str(v)[:250]) != str(v)[:250]]
        client.set_tag(run, "resumed_with", " ".join(changed))
    return {k: v for k, v in columns.items() if k not in known}


@contextmanager
def _not_fatal(name: str) -> Iterator[None]:
    """Turn errors of a logger after the training into a warning, so that the results are kept."""
    try:
        yield
    except SagehoundError:
        raise
    except Exception as error:
        console.warn(f"logger.{name}: {describe(error)}; the run's folder holds all results")
