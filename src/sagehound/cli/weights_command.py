"""The command `sagehound weights pack`: writes pretrained weights into a file, for a machine without internet."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from sagehound.cli.command import clear_errors
from sagehound.errors import ConfigError, InputError
from sagehound.system import console, interrupts


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; sagehound weights pack NAME [--output FILE] [--weights FILE]")


def run(program: str, argv: Sequence[str]) -> None:
    """Pack the weights of a backbone, and print how to use the file.

    Args:
        program: the program's name, as the user types it.
        argv: the rest of the command line.

    Raises:
        SystemExit: with exit code 2 (wrong command) or 3 (the weights cannot be fetched or read).
    """
    with clear_errors():
        arguments = _parser(program).parse_args(argv)
        interrupts.restore_keyboard_interrupt()
        _pack(arguments.name, arguments.output, arguments.weights)
        sys.stdout.flush()


def _parser(program: str) -> _Parser:
    parser = _Parser(prog=program, description="Files of pretrained weights.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    about = "write weights with name, SHA-256, licence and preprocessing into one file, for a machine without internet"
    pack = commands.add_parser("pack", help=about, description=about)
    pack.add_argument("name", metavar="NAME", help="a backbone of timm, with or without a tag: resnet34.a1_in1k")
    pack.add_argument("--output", metavar="FILE", help="default: NAME.safetensors in the current folder")
    pack.add_argument("--weights", metavar="FILE", help="pack these weights, instead of those that timm downloads")
    return parser


def _pack(name: str, output: str | None, weights: str | None) -> None:
    """Write the file.

    Raises:
        ConfigError: timm has no such model, or ``output`` is not a .safetensors file.
        InputError: the weights cannot be fetched or read.
    """
    if output and not output.endswith(".safetensors"):
        raise ConfigError(f"--output {output}: give a name that ends with .safetensors")
    from sagehound.config import Backbone
    from sagehound.models import backbone, weights_pack

    try:
        model = backbone.build(Backbone(name, weights=weights))
    except InputError as error:
        if not error.instead:  # the weights are there, but cannot be read
            raise
        reason = str(error).partition(". Solutions: ")[0]
        raise InputError(f"{reason}: pack on a machine with internet, or give --weights FILE") from error
    about = weights_pack.describe(model, name if weights else None, Path(weights).name if weights else None)
    path = Path(output or f"{about.name}.safetensors").expanduser()
    weights_pack.write(model, about, path)
    console.info(f"{path}: {path.stat().st_size / 1e6:.1f} MB, licence: {about.licence or 'unknown'}")
    console.info(f"on the other machine: backbone.name={about.name} backbone.weights={path.name}")
