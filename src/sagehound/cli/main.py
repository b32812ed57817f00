"""The command `sagehound`: runs the subcommand with the rest of the command line. Imports little."""

from sagehound.system import stop_on_ctrl_c  # noqa: F401 - before the other imports, for Ctrl-C

# isort: split
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

COMMANDS = {
    "train": "fine-tune a classifier on a folder of photos, and test it",
    "launch": "tune, train on SageMaker, serve, predict folders, test endpoints",
    "serve": "serve a model, with a web page for photos",
    "predict": "classify single photos",
    "audit": "check the photos without training",
    "doctor": "find wrong labels, near-duplicates and poor photos, on a page with thumbnails",
    "debugger": "evaluate rules over the tensors that a run has saved",
    "compare": "test whether two runs differ on the same photos",
    "weights": "pack pretrained weights into a file, for a machine without internet",
    "report": "write a page about a run, a search, or the difference of several runs",
}
_USAGE = {
    "serve": """\
Serve a model until Ctrl-C. MODEL is a run's folder or a model.tar.gz. Several models are served by name.

sagehound serve MODEL... [key=value ...]    the same as: sagehound launch deploy=local model=MODEL key=value ...
sagehound serve RUN deploy.port=9000        on another port than 8080; 0 chooses a free one
sagehound launch --help                     lists every key""",
    "audit": """\
Check the photos without training: audit.json and splits.csv in the run's folder, and a table of the classes.

sagehound audit data=folder data.root=PATH  the same as: sagehound train audit_only=true data=folder data.root=PATH
sagehound train --help                      lists every key""",
}
_COMPLETION = ("-sc", "--shell-completion")


def main(name: str = "sagehound") -> None:
    """Run a subcommand of ``sys.argv``.

    Args:
        name: the program's name, as a user types it.

    Raises:
        SystemExit: with the exit code.
    """
    arguments = sys.argv[1:]
    chosen = arguments[0] if arguments else "--help"
    if chosen in ("-h", "--help", "help"):
        _print(_help(name))
    elif chosen == "--version":
        import sagehound

        _print(f"sagehound {sagehound.__version__}")
    elif chosen in _COMPLETION:
        _complete(name, arguments)
    elif chosen in COMMANDS:
        _run(name, chosen, arguments[1:])
    else:
        _refuse(_unknown(name, arguments))


def _run(name: str, chosen: str, arguments: list[str]) -> None:
    if chosen in _USAGE and {"-h", "--help"} & set(arguments):
        _print(_USAGE[chosen])
    elif arguments[:1] and arguments[0] in _COMPLETION:
        _complete(name, arguments)
    elif chosen == "predict":
        from sagehound.cli.predict_command import predict

        predict(f"{name} predict", arguments)
    elif chosen == "debugger":
        from sagehound.cli.debugger_command import evaluate

        evaluate(f"{name} debugger", arguments)
    elif chosen == "report":
        from sagehound.cli.report_command import write

        write(f"{name} report", arguments)
    elif chosen == "compare":
        from sagehound.cli.compare_command import compare

        compare(f"{name} compare", arguments)
    elif chosen == "weights":
        from sagehound.cli.weights_command import run

        run(f"{name} weights", arguments)
    elif chosen == "serve":
        _hydra(name, "launch", _serve_overrides(name, arguments))
    elif chosen == "doctor":
        from sagehound.cli.doctor_command import with_folder

        _hydra(name, "doctor", with_folder(arguments))
    elif chosen == "audit":
        _hydra(name, "train", ["audit_only=true", *arguments])
    else:
        _hydra(name, chosen, arguments)


def script(command: str) -> None:
    """Run train.py or launch.py."""
    _hydra(None, command, sys.argv[1:])


def _hydra(name: str | None, command: str, arguments: Sequence[str]) -> None:
    """Run one of the Hydra apps; ``name`` None keeps the script's name."""
    sys.argv[:] = [f"{name} {command}" if name else sys.argv[0], *arguments]
    if command == "train":
        from sagehound.cli.train_command import run
    elif command == "doctor":
        from sagehound.cli.doctor_command import run
    else:
        from sagehound.cli.launch_command import run
    run()


def _serve_overrides(name: str, arguments: list[str]) -> list[str]:
    """Convert `serve MODEL... key=value ...` to the overrides of `launch`."""
    models: list[str] = []
    overrides: list[str] = []
    for i, word in enumerate(arguments):
        if word.startswith("-"):  # a flag, maybe with a value
            overrides += arguments[i:]
            break
        (overrides if "=" in word and not Path(word).exists() else models).append(word)
    if not models:
        _refuse(f"which model? {name} serve MODEL [key=value ...]; MODEL is a run's folder or a model.tar.gz")
    from sagehound.config.overrides import as_text

    texts = [as_text(model) for model in models]
    model = texts[0] if len(texts) == 1 else f"[{','.join(texts)}]"
    return ["deploy=local", f"model={model}", *overrides]


def _complete(name: str, arguments: Sequence[str]) -> None:
    """Run Hydra's completion; its scripts call `sagehound -sc query=SHELL` with the current line in COMP_LINE."""
    if not (arguments[1:] and arguments[1].startswith("query=")):
        sys.argv[:] = [name, *arguments]
        from sagehound.cli.train_command import run

        run()
        return
    line = os.environ.get("COMP_LINE", "")
    words = line.split(maxsplit=2)
    chosen = words[1] if len(words) > 1 else ""
    if len(words) < 2 or (len(words) == 2 and not line.endswith(" ")):
        commands = [c for c in (*COMMANDS, "--help", "--version") if c.startswith(chosen)]
        _print(("\n" if arguments[1] == "query=fish" else " ").join(commands))
        return
    app = {"train": "train", "audit": "train", "doctor": "train", "launch": "launch", "serve": "launch"}.get(chosen)
    if app is None:
        return  # the shell completes files
    rest = words[2] if len(words) > 2 else ""
    if chosen == "serve":
        *before, word = rest.split(" ")
        if not before:
            return  # MODEL is a file, which the shell completes
        rest = " ".join(["deploy=local", *(w for w in before if "=" in w), word])
    os.environ["COMP_LINE"] = f"sagehound {rest}"
    _hydra(name, app, arguments)


def _help(name: str) -> str:
    commands = "\n".join(f"  {command:<9}{about}" for command, about in COMMANDS.items())
    return f"""Fine-tune an image classifier on your own photos, on your machine or on Amazon SageMaker.

{name} COMMAND ...

{commands}

{name} COMMAND --help                    the settings of a command, and examples
{name} --version                         the version
eval "$({name} -sc install=bash)"        completion in bash; install=fish for fish"""


def _unknown(name: str, arguments: Sequence[str]) -> str:
    from difflib import get_close_matches

    word = arguments[0]
    if "=" in word:
        import shlex

        return f"{word}: which command? Did you mean {shlex.join([name, 'train', *arguments])}?".replace(
            f"'{name}'", name
        )
    near = get_close_matches(word, (*COMMANDS, "--help", "--version"), 1, 0.75 if word.startswith("-") else 0.6)
    meant = f" (did you mean {near[0]}?)" if near else ""
    return f"{word}: no such command{meant}; choose from {', '.join(COMMANDS)}"


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # as of `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(128 + 13)


def _refuse(message: str) -> NoReturn:
    print(f"sagehound: {message}", file=sys.stderr)
    sys.exit(2)
