"""Runs the library from the command line: checks the command, prints errors in one line, and sets exit codes.

Imports no torch, so that help, completion and errors are fast.
"""

import dataclasses
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from sagehound.cli import composition, hints, previous_runs
from sagehound.cli.help import help_text
from sagehound.cli.hydra_errors import explain, not_chosen
from sagehound.config import (
    Train,
    is_registered,
    refuse_overlap,
    register,
    registered,
    typed,
)
from sagehound.config.overrides import as_text, override_key
from sagehound.errors import ConfigError, SagehoundError
from sagehound.runs import run_folder
from sagehound.storage.atomic import writing_failed
from sagehound.system import console, interrupts, process_group, program
from sagehound.system.imports import importing
from sagehound.system.machine import end_quickly
from sagehound.system.project import conf_folder


def run(app: Callable[[], Any], usage: str) -> None:
    """Run a ``hydra.main`` function. Each user error prints one line on stderr and sets an exit code.

    ``--help`` prints ``usage``, the options of every group, and every key with its value and meaning. Hydra's own help
    takes four times as long to list the groups; ``--hydra-help`` still prints the flags.

    Exit codes: 0 success, 1 failed, 2 wrong command or config, 3 wrong input, 130 Ctrl-C, 141 closed pipe, 143 SIGTERM.
    """
    if not is_registered():
        register()
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 - the shell's >&- has closed it
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them
    with clear_errors():
        argv = sys.argv[1:]
        program.remember(argv)
        folders = [conf_folder(), *program.config_folders(argv)]
        hints.check(argv, *folders)
        sys.argv[1:] = hints.flags_first(previous_runs.resumed(previous_runs.with_best(argv), *folders))
        if {"-h", "--help"} & set(sys.argv):
            sys.argv[1:] = [a for a in sys.argv[1:] if a not in ("-h", "--help", "-m", "--multirun")] + ["--cfg", "job"]
            with redirect_stdout(io.StringIO()) as config:
                app()
            print(help_text(program.named(usage), folders, config.getvalue()))
            return
        try:
            with composition.once():
                app()
        finally:
            run_folder.remove_empty()
            sys.stdout.flush()  # here, where a closed pipe is handled, not at Python's exit
    if "torch" in sys.modules:
        end_quickly()


def train(config: DictConfig) -> dict[str, Any]:
    """Train in the folder that Hydra created for this run; returns metrics.json."""
    with job_errors():
        return train_typed(typed(config))
    raise AssertionError("clear_errors has ended the program")


def train_typed(cfg: Train) -> dict[str, Any]:
    """Train with a checked config in the folder that Hydra created; returns metrics.json."""
    hydra = HydraConfig.get()
    is_trial = hydra.mode == RunMode.MULTIRUN
    return run_training(cfg, Path(hydra.runtime.output_dir), given_overrides(), is_trial=is_trial)


def run_training(cfg: Train, folder: Path, overrides: Sequence[str], *, is_trial: bool = False) -> dict[str, Any]:
    """Train with a checked config; returns metrics.json.

    Args:
        cfg: the config.
        folder: the run's folder.
        overrides: the command line's overrides, for overrides.yaml.
        is_trial: the run is part of a sweep. It writes only scores, unless the config sets ``results``.
    """
    _require_photos(cfg)
    if cfg.results is None:
        cfg.results = "scores" if is_trial else "all"
    if cfg.audit_only and process_group.is_follower():
        return {}
    if cfg.audit_only:
        interrupts.restore_keyboard_interrupt()
        audit(cfg, folder, overrides)
        return {}
    if not process_group.is_follower():
        with run_folder.opened(folder, cfg):
            pass  # another run's folder is refused here; train() locks it after the imports
    from sagehound.artifact.fresh_processes import FreshProcesses, are_wanted_early

    with FreshProcesses() as fresh:
        if are_wanted_early(cfg) and not process_group.is_follower():
            fresh.start()
        with importing():
            from sagehound.training.train import train  # imports torch, so only after all checks

        interrupts.restore_keyboard_interrupt()
        return train(cfg, folder, overrides=overrides, fresh=fresh).metrics


def _require_photos(cfg: Train) -> None:
    """Refuse a folder that does not exist before torch and the weights are loaded, which takes seconds."""
    from sagehound.data.folders import require_folder

    root = Path(cfg.data.root or ".").expanduser()
    if cfg.data.name == "folder" and not root.exists():
        require_folder(root)


@contextmanager
def composed(argv: Sequence[str], config_dir: str | Path | None = None) -> Iterator[DictConfig]:
    """Compose the config of one run for the Python API, including Hydra's own part.

    Args:
        argv: overrides.
        config_dir: a folder with the user's config groups.

    Raises:
        ConfigError: an override is wrong, or the run's folder is inside the photos' folder.
    """
    if config_dir and not Path(config_dir).expanduser().is_dir():
        raise ConfigError(f"config_dir={config_dir}: no such folder (from {Path.cwd()})")
    folders = [conf_folder(), *([Path(config_dir).expanduser()] if config_dir else [])]
    hints.check(argv, *folders)
    overrides = previous_runs.resumed(previous_runs.with_best(list(argv)), *folders)
    if config_dir:
        overrides.append(f"hydra.searchpath=[{as_text(Path(config_dir).expanduser().resolve().as_uri())}]")
    previous = HydraConfig.instance().cfg
    with _own_hydra(), initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("train", overrides=overrides, return_hydra_config=True)
    typed(config)
    refuse_overlap(config.data.root, Path(config.hydra.run.dir))
    claim_default(config, "run")
    HydraConfig.instance().set_config(config)
    try:
        yield config
        run_folder.remove_empty()
    finally:
        HydraConfig.instance().cfg = previous


@contextmanager
def _own_hydra() -> Iterator[None]:
    """Clear Hydra's global state for this block, and restore the calling program's state afterwards."""
    previous = GlobalHydra.instance().hydra
    GlobalHydra.instance().hydra = None
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = previous  # Hydra may have replaced the instance


def audit(cfg: Train, folder: Path, overrides: Sequence[str]) -> None:
    """Check the photos without training: write audit.json and splits.csv, and print a table of the classes."""
    from sagehound.data.photo_report import show_classes
    from sagehound.data.photos import find_photos

    with run_folder.opened(folder, cfg) as opened:
        photos = find_photos(cfg.data, Path(cfg.cache.dir).expanduser())
        opened.begin(overrides)
        photos.write(folder)
    show_classes(photos.audit)
    console.info(f"results: {folder}")


def job_errors() -> AbstractContextManager[None]:
    """``clear_errors`` for a single run; in a sweep, the sweeper reports the errors."""
    return nullcontext() if HydraConfig.get().mode == RunMode.MULTIRUN else clear_errors()


def given_overrides() -> list[str]:
    """The overrides of the current Hydra job, for overrides.yaml."""
    return list(HydraConfig.get().overrides.task)


class CheckConfig(Callback):
    """Hydra callback that refuses a wrong config before the run's folder is created."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:  # noqa: ANN401 - Hydra's signature
        """Check the config of a single run, and create its folder."""
        with clear_errors():
            typed(config)
            if not any(config.get(f.name) for f in dataclasses.fields(registered()) if f.metadata.get("stage")):
                refuse_overlap(config.data.root, Path(config.hydra.run.dir))
            claim_default(config, "run")


def claim_default(config: DictConfig, kind: str) -> None:
    """Create the default folder, with -2, -3, ... if another process started in the same second.

    A folder named on the command line is not changed.

    Args:
        config: the config with Hydra's own part, which is updated with the folder.
        kind: run or sweep.
    """
    key = f"hydra.{kind}.dir"
    pattern = str(OmegaConf.to_container(config.hydra[kind], resolve=False)["dir"])  # type: ignore[index, call-overload]
    if "${now:" not in pattern or any(override_key(o) == key for o in config.hydra.overrides.hydra):
        return
    folder = str(run_folder.claim(Path(config.hydra[kind].dir)))
    with read_write(config), open_dict(config):
        config.hydra[kind].dir = folder
        config.hydra.overrides.hydra.append(f"{key}={as_text(folder)}")  # for the jobs of a sweep


@contextmanager
def clear_errors() -> Iterator[None]:
    """Print errors that a user can fix in one line, and exit.

    Raises:
        SystemExit: with the exit code.
    """
    try:
        with raised_errors():
            yield
    except SagehoundError as error:
        code, message = error.exit_code, str(error)
        if error.instead:
            message += f". Run instead: {program.instead(error.instead)}"
    except BrokenPipeError as error:
        if _stdout_is_closed():
            sys.exit(128 + 13)  # the shell's code for SIGPIPE, as after `--help | head`
        failure = writing_failed(Path(str(error.filename or "a file")), error)
        code, message = failure.exit_code, str(failure)
    except KeyboardInterrupt:
        code, message = 130, "stopped by Ctrl-C"
    else:
        return
    print(console.printable(f"sagehound: {program.named(message)}"), file=sys.stderr)
    sys.exit(code)


@contextmanager
def raised_errors() -> Iterator[None]:
    """Convert errors of Hydra, OmegaConf and the disk to Sagehound's errors, which have one line.

    Raises:
        ConfigError: Hydra or OmegaConf rejected the overrides.
        SagehoundError: a file could not be written.
    """
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error
    except ValueError as error:
        hydra_errors = "Config group override|Only one of --run"  # for optimizer=null, and for -m --cfg
        if not re.search(hydra_errors, str(error)):
            raise
        raise ConfigError(explain(error)) from error
    except AssertionError as error:
        if "Unexpected type for root: NoneType" not in str(error):  # OmegaConf's, for a key of a group that is null
            raise
        raise ConfigError(not_chosen(sys.argv[1:])) from error
    except BrokenPipeError:
        raise
    except OSError as error:
        raise writing_failed(Path(str(error.filename or "a file")), error) from error


def _stdout_is_closed() -> bool:
    """Whether stdout is a closed pipe; the rest of the output is then discarded."""
    try:
        os.write(sys.stdout.fileno(), b"\n")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False
