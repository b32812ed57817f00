"""`sagehound`: finds the subcommand, and leaves the rest of the command line to it. Imports little."""

from sagehound import starting  # noqa: F401 - before the other imports, for Ctrl-C

# isort: split
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

COMMANDS = {
    "train": "fine-tune a classifier on a folder of photos, and test it",
    "launch": "tune, train on SageMaker, serve, predict folders, test endpoints",
    "serve": "serve a model: a server, and a page to drop photos on",
    "predict": "classify single photos",
    "audit": "check the photos without training",
}
_USAGE = {
    "serve": """\
Serve a model until Ctrl-C. MODEL is a run's folder or a model.tar.gz. Several models are served by name.

sagehound serve MODEL... [key=value ...]    the same as: sagehound launch deploy=local model=MODEL key=value ...
sagehound serve RUN deploy.port=9000        at another port than 8080; 0 takes any free one
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
        name: of the program, as a user types it.

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


def _run(name: str, chosen: str, given: list[str]) -> None:
    if chosen in _USAGE and {"-h", "--help"} & set(given):
        _print(_USAGE[chosen])
    elif given[:1] and given[0] in _COMPLETION:
        _complete(name, given)
    elif chosen == "predict":
        from sagehound.cli.predict import predict

        predict(f"{name} predict", given)
    elif chosen == "serve":
        _hydra(name, "launch", _served(name, given))
    elif chosen == "audit":
        _hydra(name, "train", ["audit_only=true", *given])
    else:
        _hydra(name, chosen, given)


def script(command: str) -> None:
    """What train.py and launch.py run."""
    _hydra(None, command, sys.argv[1:])


def _hydra(name: str | None, command: str, given: Sequence[str]) -> None:
    """Run one of the two Hydra apps; under the name of a script where ``name`` is None."""
    sys.argv[:] = [f"{name} {command}" if name else sys.argv[0], *given]
    if command == "train":
        from sagehound.cli.train import run
    else:
        from sagehound.cli.launch import run
    run()


def _served(name: str, given: list[str]) -> list[str]:
    """The overrides of `launch` for `serve MODEL... key=value ...`."""
    models: list[str] = []
    overrides: list[str] = []
    for i, word in enumerate(given):
        if word.startswith("-"):  # a flag, perhaps with a value
            overrides += given[i:]
            break
        (overrides if "=" in word and not Path(word).exists() else models).append(word)
    if not models:
        _refuse(f"which model? {name} serve MODEL [key=value ...]; MODEL is a run's folder or a model.tar.gz")
    from sagehound.hints import as_text

    texts = [as_text(model) for model in models]
    model = texts[0] if len(texts) == 1 else f"[{','.join(texts)}]"
    return ["deploy=local", f"model={model}", *overrides]


def _complete(name: str, arguments: Sequence[str]) -> None:
    """Hydra's own completion; its scripts call `sagehound -sc query=SHELL`, the line so far in COMP_LINE."""
    if not (arguments[1:] and arguments[1].startswith("query=")):
        sys.argv[:] = [name, *arguments]
        from sagehound.cli.train import run

        run()
        return
    line = os.environ.get("COMP_LINE", "")
    words = line.split(maxsplit=2)
    chosen = words[1] if len(words) > 1 else ""
    if len(words) < 2 or (len(words) == 2 and not line.endswith(" ")):
        found = [c for c in (*COMMANDS, "--help", "--version") if c.startswith(chosen)]
        _print(("\n" if arguments[1] == "query=fish" else " ").join(found))
        return
    app = {"train": "train", "audit": "train", "launch": "launch", "serve": "launch"}.get(chosen)
    if app is None:
        return  # the shell completes files
    rest = words[2] if len(words) > 2 else ""
    if chosen == "serve":
        *before, word = rest.split(" ")
        if not before:
            return  # the model
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
