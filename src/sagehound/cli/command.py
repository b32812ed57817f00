"""What stands between a shell and the library: one clear line for a wrong command, exit codes, and resuming.

Imports no torch, so that help, completion and errors come at once.
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

from sagehound import console, earlier, hints, interrupts, processes, program, run_folder
from sagehound.config import (
    Train,
    is_registered,
    refuse_overlap,
    register,
    registered,
    typed,
)
from sagehound.errors import ConfigError, SagehoundError
from sagehound.explain import explain, not_chosen
from sagehound.files import writing_failed
from sagehound.help import help_text
from sagehound.machine import end_quickly, importing
from sagehound.project import conf_folder


def run(app: Callable[[], Any], usage: str) -> None:
    """Run a ``hydra.main`` function; every error of the user's ends in one line on stderr and an exit code.

    ``--help`` prints ``usage``, the options of every group, and every key with its value and meaning. (Hydra's own help
    takes four times as long to list the groups; ``--hydra-help`` still prints the flags.)

    Exit codes: 0 done, 1 failed, 2 wrong command or config, 3 wrong input, 130 Ctrl-C, 141 closed pipe, 143 SIGTERM.
    """
    if not is_registered():
        register()
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 - closed by the shell's >&-
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors over instead of printing them
    with clear_errors():
        given = sys.argv[1:]
        program.remember(given)
        folders = [conf_folder(), *program.config_folders(given)]
        hints.check(given, *folders)
        sys.argv[1:] = hints.flags_first(earlier.resumed(earlier.with_best(given), *folders))
        if {"-h", "--help"} & set(sys.argv):
            sys.argv[1:] = [a for a in sys.argv[1:] if a not in ("-h", "--help", "-m", "--multirun")] + ["--cfg", "job"]
            with redirect_stdout(io.StringIO()) as config:
                app()
            print(help_text(program.named(usage), folders, config.getvalue()))
            return
        try:
            app()
        finally:
            run_folder.remove_empty()
            sys.stdout.flush()  # here, where a closed pipe is expected, not when Python ends
    if "torch" in sys.modules:
        end_quickly()


def train(config: DictConfig) -> dict[str, Any]:
    """Train in the folder that Hydra made for this run; returns metrics.json."""
    with job_errors():
        return train_typed(typed(config))
    raise AssertionError("clear_errors has ended the program")


def train_typed(cfg: Train) -> dict[str, Any]:
    """The same with a config that was checked."""
    hydra = HydraConfig.get()
    is_trial = hydra.mode == RunMode.MULTIRUN
    return run_training(cfg, Path(hydra.runtime.output_dir), given_overrides(), is_trial=is_trial)


def run_training(cfg: Train, folder: Path, overrides: Sequence[str], *, is_trial: bool = False) -> dict[str, Any]:
    """Train with a checked config; returns metrics.json.

    Args:
        cfg: the config.
        folder: of the run.
        overrides: the command line's, for overrides.yaml.
        is_trial: it is one run of a sweep, and leaves its scores alone unless ``results`` says otherwise.
    """
    if cfg.results is None:
        cfg.results = "scores" if is_trial else "all"
    if cfg.audit_only and processes.is_follower():
        return {}
    if cfg.audit_only:
        interrupts.raise_from_now_on()
        audit(cfg, folder, overrides)
        return {}
    from sagehound.verification import FreshProcesses, are_wanted_early

    with FreshProcesses() as fresh:
        if are_wanted_early(cfg) and not processes.is_follower():
            fresh.start()
        with importing():
            from sagehound.training import train  # torch, only once the config was found right

        interrupts.raise_from_now_on()
        return train(cfg, folder, overrides=overrides, fresh=fresh).metrics


@contextmanager
def composed(given: Sequence[str], config_dir: str | Path | None = None) -> Iterator[DictConfig]:
    """The config of one run that Python asked for, as Hydra composes it, with Hydra's own part.

    Args:
        given: overrides.
        config_dir: a folder with config groups of the user's.

    Raises:
        ConfigError: an override is wrong, or the run's folder is inside the photos' folder.
    """
    if config_dir and not Path(config_dir).expanduser().is_dir():
        raise ConfigError(f"config_dir={config_dir}: no such folder (from {Path.cwd()})")
    folders = [conf_folder(), *([Path(config_dir).expanduser()] if config_dir else [])]
    hints.check(given, *folders)
    overrides = earlier.resumed(earlier.with_best(list(given)), *folders)
    if config_dir:
        overrides.append(f"hydra.searchpath=[{hints.as_text(Path(config_dir).expanduser().resolve().as_uri())}]")
    before = HydraConfig.instance().cfg
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
        HydraConfig.instance().cfg = before


@contextmanager
def _own_hydra() -> Iterator[None]:
    """Compose though the program around us uses Hydra itself; afterwards its Hydra is as it was."""
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().hydra = None
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = before  # Hydra may have put another instance in its place


def audit(cfg: Train, folder: Path, overrides: Sequence[str]) -> None:
    """Look at the photos without training: audit.json and splits.csv in ``folder``, and a table of the classes."""
    from sagehound.data.photos import find_photos, show_classes

    with run_folder.opened(folder, cfg) as opened:
        photos = find_photos(cfg.data, Path(cfg.cache.dir).expanduser())
        opened.begin(overrides)
        photos.write(folder)
    show_classes(photos)
    console.say(f"results: {folder}")


def job_errors() -> AbstractContextManager[None]:
    """``clear_errors`` for a single run; a sweep's errors are for its sweeper to report."""
    return nullcontext() if HydraConfig.get().mode == RunMode.MULTIRUN else clear_errors()


def given_overrides() -> list[str]:
    """The overrides of the job that Hydra runs now, for overrides.yaml."""
    return list(HydraConfig.get().overrides.task)


class CheckConfig(Callback):
    """Hydra callback that refuses a wrong config before a folder is made for the run."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:  # noqa: ANN401 - Hydra's signature
        """Check the config of a single run, and give the run a folder of its own."""
        with clear_errors():
            typed(config)
            if not any(config.get(f.name) for f in dataclasses.fields(registered()) if f.metadata.get("stage")):
                refuse_overlap(config.data.root, Path(config.hydra.run.dir))
            claim_default(config, "run")


def claim_default(config: DictConfig, kind: str) -> None:
    """Make the default folder, with -2, -3, ... where another process began in the same second.

    A folder that the command line names stays as it is named.

    Args:
        config: with Hydra's own part, where the folder is noted.
        kind: of folder: run or sweep.
    """
    key = f"hydra.{kind}.dir"
    pattern = str(OmegaConf.to_container(config.hydra[kind], resolve=False)["dir"])  # type: ignore[index, call-overload]
    if "${now:" not in pattern or any(hints.override_key(o) == key for o in config.hydra.overrides.hydra):
        return
    folder = str(run_folder.claim(Path(config.hydra[kind].dir)))
    with read_write(config), open_dict(config):
        config.hydra[kind].dir = folder
        config.hydra.overrides.hydra.append(f"{key}={hints.as_text(folder)}")  # a sweep's jobs are composed with it


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn errors that a user can fix into one line and an exit code.

    Raises:
        SystemExit: with the exit code, after the line was printed.
    """
    try:
        with raised_errors():
            yield
    except SagehoundError as error:
        code, message = error.exit_code, str(error)
        if error.instead:
            message += f". To paste: {hints.instead(error.instead)}"
    except BrokenPipeError as error:
        if _nobody_reads():
            sys.exit(128 + 13)  # as a shell reports SIGPIPE, of `--help | head`
        failure = writing_failed(Path(str(error.filename or "a file")), error)
        code, message = failure.exit_code, str(failure)
    except KeyboardInterrupt:
        code, message = 130, "stopped by Ctrl-C"
    else:
        return
    print(f"sagehound: {program.named(message)}", file=sys.stderr)
    sys.exit(code)


@contextmanager
def raised_errors() -> Iterator[None]:
    """Turn errors of Hydra, OmegaConf and the disk into ours, of one line.

    Raises:
        ConfigError: Hydra or OmegaConf refused the overrides.
        SagehoundError: a file could not be written.
    """
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error
    except ValueError as error:
        if not re.search(
            "Config group override|Only one of --run", str(error)
        ):  # Hydra's own: optimizer=null, -m --cfg
            raise
        raise ConfigError(explain(error)) from error
    except AssertionError as error:
        if "Unexpected type for root: NoneType" not in str(error):  # OmegaConf's own, for a key of a group that is null
            raise
        raise ConfigError(not_chosen(sys.argv[1:])) from error
    except BrokenPipeError:
        raise
    except OSError as error:
        raise writing_failed(Path(str(error.filename or "a file")), error) from error


def _nobody_reads() -> bool:
    """Whether stdout is a pipe that was closed; what is left of the output is then dropped."""
    try:
        os.write(sys.stdout.fileno(), b"\n")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False
