"""What stands between a shell and the library: one clear line for a wrong command, exit codes, and resuming.

Imports no torch, so that help, completion and errors come at once.
"""

import dataclasses
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from sagehound import console, earlier, hints, interrupts, run_folder
from sagehound.config import (
    Train,
    group_of,
    is_registered,
    meant,
    refuse_overlap,
    register,
    registered,
    typed,
    unknown_key,
)
from sagehound.errors import ConfigError, SagehoundError
from sagehound.files import writing_failed
from sagehound.machine import end_quickly, importing


def run(app: Callable[[], Any], usage: str) -> None:
    """Run a ``hydra.main`` function; every error of the user's ends in one line on stderr and an exit code.

    ``--help`` prints ``usage``, the options of every group and the config that the command line makes. (Hydra's own
    help takes four times as long to list the groups; ``--hydra-help`` still prints the flags.)

    Exit codes: 0 done, 1 failed, 2 wrong command or config, 3 wrong input, 130 Ctrl-C, 141 closed pipe, 143 SIGTERM.
    """
    if not is_registered():
        register()
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 - closed by the shell's >&-
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors over instead of printing them
    with clear_errors():
        given = sys.argv[1:]
        conf = Path(sys.argv[0]).parent / "conf"
        hints.check(given, conf)
        sweep = [a for a in given if a in ("-m", "--multirun")]
        # argparse takes -m before or after the overrides, not among them
        sys.argv[1:] = earlier.resumed(earlier.with_best([*sweep[:1], *(a for a in given if a not in sweep)]), conf)
        if {"-h", "--help"} & set(sys.argv):
            print(f"{usage}\nChoices (group=option)\n\n{_groups(conf)}\n")
            print("Keys (key=value), as this command line sets them; src/sagehound/config.py has units and meanings\n")
            sys.argv[1:] = [a for a in sys.argv[1:] if a not in ("-h", "--help", "-m", "--multirun")] + ["--cfg", "job"]
        try:
            app()
        finally:
            run_folder.remove_empty()
            sys.stdout.flush()  # here, where a closed pipe is expected, not when Python ends
    if "torch" in sys.modules:
        end_quickly()


def _groups(conf: Path) -> str:
    known = {f.name for f in dataclasses.fields(registered())} | {"experiment"}
    folders = [d for d in sorted(conf.iterdir()) if d.is_dir() and d.name in known]
    options = {d.name: sorted(f.stem for f in d.glob("*.yaml")) for d in folders}
    return "\n".join(f"{group}: {', '.join(names)}" for group, names in options.items())


def train(composed: DictConfig) -> dict[str, Any]:
    """Train in the folder that Hydra made for this run; returns metrics.json."""
    with job_errors():
        return train_typed(typed(composed))
    raise AssertionError("clear_errors has ended the program")


def train_typed(cfg: Train) -> dict[str, Any]:
    """The same with a checked config."""
    if cfg.results is None:
        cfg.results = "scores" if HydraConfig.get().mode == RunMode.MULTIRUN else "all"
    folder = Path(HydraConfig.get().runtime.output_dir)
    if cfg.audit_only:
        interrupts.raise_from_now_on()
        audit(cfg, folder)
        return {}
    from sagehound.verification import FreshProcesses, are_wanted_early

    with FreshProcesses() as fresh:
        if are_wanted_early(cfg):
            fresh.start()
        with importing():
            from sagehound.training import train  # torch, only once the config was found right

        interrupts.raise_from_now_on()
        return train(cfg, folder, overrides=given_overrides(), fresh=fresh).metrics


def audit(cfg: Train, folder: Path) -> None:
    """Look at the photos without training: audit.json and splits.csv in ``folder``, and a table of the classes."""
    from sagehound.data.photos import find_photos, show_classes

    with run_folder.opened(folder, cfg) as opened:
        photos = find_photos(cfg.data, Path(cfg.cache.dir).expanduser())
        opened.begin(given_overrides())
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
    """Turn errors that a user can mend into one line and an exit code.

    Raises:
        SystemExit: with the exit code, after the line was printed.
    """
    try:
        yield
    except SagehoundError as error:
        code, message = error.exit_code, str(error)
        if error.instead:
            message += f". To paste: {hints.instead(error.instead)}"
    except (HydraException, OmegaConfBaseException) as error:
        code, message = ConfigError.exit_code, explain(error)
    except ValueError as error:
        if not re.search(
            "Config group override|Only one of --run", str(error)
        ):  # Hydra's own: optimizer=null, -m --cfg
            raise
        code, message = ConfigError.exit_code, explain(error)
    except AssertionError as error:
        if "Unexpected type for root: NoneType" not in str(error):  # OmegaConf's own, for a key of a group that is null
            raise
        code, message = ConfigError.exit_code, _not_chosen(sys.argv[1:])
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            sys.exit(128 + 13)  # as a shell reports SIGPIPE, of `--help | head`
        failure = writing_failed(Path(str(error.filename or "a file")), error)
        code, message = failure.exit_code, str(failure)
    except KeyboardInterrupt:
        code, message = 130, "stopped by Ctrl-C"
    else:
        return
    print(f"sagehound: {message}", file=sys.stderr)
    sys.exit(code)


def _nobody_reads() -> bool:
    """Whether stdout is a pipe that was closed; what is left of the output is then dropped."""
    try:
        os.write(sys.stdout.fileno(), b"\n")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def explain(error: Exception) -> str:
    """One line for an error of Hydra's or OmegaConf's: the override, what is wrong with it, the choices."""
    text = str(error)
    cause = str(error.__cause__ or error)
    if found := re.search(r"Could not find '(.+)/(.+)'", text):
        group, option = found.groups()
        options = re.findall(r"^\t(\S+)$", text, flags=re.MULTILINE)
        also = ", or any name of timm.list_models() as backbone.name=..." if group == "backbone" else ""
        return f"{group}={option}: no such option{meant(option, options)}; choose from {', '.join(options)}{also}"
    if re.search(r"Key '\w+' (not in|is not in struct)", cause) and (found := re.search(r"full_key: (\S+)", cause)):
        key = found.group(1)
        if hints.is_free(key):
            return f"{key}: no such key yet; +{key}=... adds it"
        return unknown_key(key, list(_keys_beside(key)))
    if found := re.search(r"Ambiguous value for argument '(\S+?)=(.*)'", text):
        key, value = found.groups()
        return f"{key}={value}: several values are a sweep: add -m; or write {key}=[{value}] if a list is meant"
    if isinstance(error, OverrideParseException):
        key, _, value = error.override.partition("=")
        if hints.is_text(hints.override_key(key)) and "missing EQUAL" not in text:
            return (
                f"{error.override}: quote the value twice, for Hydra and for the shell: "
                f"{hints.quoted(f'{key}={hints.as_text(value)}')}"
            )
    given = re.search(r"override '?([^'\n]+)'?", text)
    override = f"{given.group(1).rstrip('.')}: " if given else ""
    if "mismatched input" in text or "token recognition" in text:
        return f"""{override}quote the value twice, for Hydra and for the shell: "key='a=b (c)'" """.rstrip()
    if "LexerNoViableAlt" in text:
        return f"""{text.partition(": ")[2].splitlines()[0]}: quote the value for Hydra too: "key='~/a'" """.rstrip()
    if "missing EQUAL" in text or "viable alternative" in text or "no such override" in text:
        return f"{override}not an override: write key=value, quoted for the shell: '{'key=[a,b]'}'"
    reason = cause.splitlines()[0]
    for pattern, plain in _PLAIN.items():
        if re.search(pattern, reason):
            reason = plain
    key = found.group(1) if (found := re.search(r"full_key: (\S+)", cause)) else ""
    return f"{override or (key and key + ': ')}{reason}"


def _not_chosen(argv: list[str]) -> str:
    """The message for a key of a group of which no option was chosen."""
    keys = [hints.override_key(o) for o in argv if "=" in o]
    for key in keys:
        group = key.partition(".")[0]
        if group != key and group not in keys and any(f.name == group for f in dataclasses.fields(registered())):
            return f"{key}: no {group} was chosen: add {group}=..., one of those that --help lists"
    return "a key of a group of which no option was chosen; --help lists them"


# what OmegaConf says of a value, and how a user would say it
_PLAIN = {
    "converted to Float": "must be a number",
    "converted to Integer": "must be a whole number",
    "not a valid bool": "must be true or false",
    "is not a ListConfig": "must be a list, such as [512,256]",
    "is not Optional": "must have a value, not null",
    "Cannot convert .* to string": "must be text",
    "group override must be": "a config group takes the name of an option, not null",
}


def _keys_beside(key: str) -> Iterator[str]:
    """The keys that could have been meant: those of the same group, or the groups."""
    node = registered()
    *parents, _ = key.split(".")
    for parent in parents:
        groups = [group for f in dataclasses.fields(node) if f.name == parent and (group := group_of(f))]
        if not groups:
            return
        node = groups[0]
    yield from (".".join([*parents, f.name]) for f in dataclasses.fields(node))
