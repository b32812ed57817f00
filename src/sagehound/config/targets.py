"""Checks each ``_target_``, a class or function that a config names, before it is called. Imports no torch."""

import importlib
import inspect
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from sagehound.config import did_you_mean
from sagehound.errors import ConfigError, SagehoundError

TARGET = "_target_"
_OF_HYDRA = ("_target_", "_args_", "_partial_", "_recursive_", "_convert_")  # the other keys are arguments
_EXTRAS = {"mlflow": "mlflow", "wandb": "wandb"}  # module: the extra of Sagehound that installs it


def resolve(
    node: Any,  # noqa: ANN401 - whatever the user gave
    where: str,
    *,
    positional: int = 0,
    named: Sequence[str] = (),
) -> Callable[..., Any]:
    """Return a function that builds the object of a node's ``_target_``, with the node's other keys as arguments.

    The node and all nodes in it are checked first; nothing is called. Modules are searched in the installed packages,
    then in the current folder. Hydra builds the object (``hydra.utils.instantiate``).

    Args:
        node: ``_target_``, and arguments by name.
        where: the node's key for messages, such as callbacks.lr.
        positional: how many positional arguments the caller adds, before those of the node.
        named: arguments that the caller adds by name.

    Raises:
        ConfigError: a module, attribute or argument does not exist, or an argument is missing; names the key.
    """
    target = _target_of(node, where)
    node = {str(key): value for key, value in node.items()}
    call = import_target(target, where)
    arguments = {key: value for key, value in node.items() if key not in _OF_HYDRA}
    first = node.get("_args_") or []
    if not isinstance(first, list):
        raise ConfigError(f"{where}._args_={first}: give a list")
    for key, value in [*arguments.items(), *((f"_args_[{i}]", value) for i, value in enumerate(first))]:
        _check_inner(value, f"{where}.{key}")
    if node.get("_partial_"):  # the caller adds the other arguments
        check_arguments(call, dict.fromkeys(arguments), where, positional=len(first), is_partial=True)
    else:
        check_arguments(call, arguments, where, positional=positional + len(first), named=named)

    def build(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - of a class that the user names
        """Build the object.

        Raises:
            ConfigError: the class refuses its arguments.
        """
        try:
            config = {"_convert_": "all", **node}
            return instantiate(config | ({"_args_": [*args, *first]} if args and first else {}), *args, **kwargs)
        except InstantiationException as error:
            raise _refused(error, where, target) from error

    return build


def _target_of(node: Any, where: str) -> str:  # noqa: ANN401 - whatever the user gave
    """The ``_target_`` of a node; refuses a node without one."""
    if not isinstance(node, Mapping):
        raise ConfigError(f"{where}={node}: give a mapping with {TARGET}: {where}.{TARGET}=package.Class")
    target = node.get(TARGET)
    if not isinstance(target, str):
        setting = "" if target is None else f"{where}.{TARGET}={target}: "
        raise ConfigError(f"{setting}{where} needs a {TARGET}: give {where}.{TARGET}=package.Class")
    return target


def check_arguments(
    call: Callable[..., Any],
    arguments: Mapping[str, Any],
    where: str,
    *,
    positional: int = 0,
    named: Sequence[str] = (),
    is_partial: bool = False,
) -> None:
    """Check named arguments against a signature. One with ``**kwargs`` accepts all names.

    Args:
        call: a class or function.
        arguments: the arguments by name.
        where: the key of the arguments, for messages.
        positional: how many positional arguments the caller adds.
        named: arguments that the caller adds by name.
        is_partial: the caller may add more arguments later, so none counts as missing.

    Raises:
        ConfigError: names the first argument that is unknown, given twice or missing.
    """
    try:
        signature = inspect.signature(call)
    except (TypeError, ValueError):  # written in C, without a signature
        return
    parameters = list(signature.parameters.values())
    by_position = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    by_name = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    taken = {p.name for p in by_position[:positional]} | set(named)
    takes_any = any(p.kind == p.VAR_KEYWORD for p in parameters)
    name = getattr(call, "__qualname__", str(call))
    free = [p for p in by_name if p not in taken]
    for key in arguments:
        if key in taken:
            raise ConfigError(f"{where}.{key}: Sagehound gives {name} this argument itself: drop it")
        if key not in free and not takes_any:
            choices = f"choose from {', '.join(free)}" if free else "it takes none"
            raise ConfigError(f"{where}.{key}: {name} has no such argument{did_you_mean(key, free)}; {choices}")
    has_any = any(p.kind == p.VAR_POSITIONAL for p in parameters)
    if positional > len(by_position) and not has_any:
        raise ConfigError(f"{where}: {name} takes {len(by_position)} positional arguments, not {positional}")
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    for p in [] if is_partial else needed:
        if p.name not in taken and p.name not in arguments:
            raise ConfigError(f"{where}: {name} needs {p.name}: give {where}.{p.name}=...")


def import_from_here() -> None:
    """Add the current folder at the end of the import path; DDP processes inherit the path."""
    here = os.getcwd()  # noqa: PTH109 - sys.path has strings
    if not {"", here} & set(sys.path):
        sys.path.append(here)


def _check_inner(value: Any, where: str) -> None:  # noqa: ANN401 - whatever the user gave
    """Check every node with a ``_target_`` inside a value."""
    if isinstance(value, Mapping):
        if TARGET in value:
            resolve(value, where)
        else:
            for key, inner in value.items():
                _check_inner(inner, f"{where}.{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            _check_inner(inner, f"{where}[{number}]")


def import_target(target: str, where: str) -> Callable[..., Any]:
    """Import the class or function with a dotted name.

    Args:
        target: package.Class.
        where: the key of the node, for messages.

    Raises:
        ConfigError: it does not exist, or its module cannot be imported.
    """
    setting = f"{where}.{TARGET}={target}"
    parts = target.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise ConfigError(f"{setting}: give a module and a name in it, such as my_file.MyClass")
    import_from_here()
    value: Any = _import(parts[0], setting)
    for i, part in enumerate(parts[1:], start=1):
        before = ".".join(parts[:i])
        if hasattr(value, part):
            value = getattr(value, part)
        elif isinstance(value, ModuleType) and hasattr(value, "__path__") and i < len(parts) - 1:
            value = _import(f"{before}.{part}", setting)
        else:
            modules = [m.name for m in pkgutil.iter_modules(getattr(value, "__path__", []))]
            names = [name for name in dir(value) if not name.startswith("_")]
            raise ConfigError(f"{setting}: {before} has no {part}{did_you_mean(part, [*names, *modules])}")
    if not callable(value):
        raise ConfigError(f"{setting}: {target} is {type(value).__name__}, not a class or function")
    return value  # type: ignore[no-any-return]


def _import(name: str, setting: str) -> ModuleType:
    parent, _, leaf = name.rpartition(".")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            beside = pkgutil.iter_modules(sys.modules[parent].__path__ if parent else None)
            hint = did_you_mean(leaf, [m.name for m in beside])
            extra = f": pip install 'sagehound[{_EXTRAS[name]}]'" if name in _EXTRAS else ""
            where = "" if parent or extra else f", neither installed nor in {Path.cwd()}"
            raise ConfigError(f"{setting}: no module {name}{hint if not extra else ''}{where}{extra}") from error
        raise ConfigError(missing_module(str(error.name), setting)) from error
    except Exception as error:
        raise ConfigError(f"{setting}: {name} cannot be imported: {describe(error)}") from error


def missing_module(name: str, setting: str) -> str:
    """The message that a module is not installed, with the command that installs it."""
    top = name.partition(".")[0]
    how = f"pip install 'sagehound[{_EXTRAS[top]}]'" if top in _EXTRAS else f"pip install {top}"
    return f"{setting} needs {top}, which is not installed: {how}"


def _refused(error: InstantiationException, where: str, target: str) -> SagehoundError:
    """The error for a class that raised an exception when it was called."""
    cause = error.__cause__ or error
    if isinstance(cause, SagehoundError):
        return cause
    if isinstance(cause, ModuleNotFoundError):
        named = [module for module in _EXTRAS if module in str(cause)]  # Lightning's errors have no name
        if cause.name or named:
            return ConfigError(missing_module(str(cause.name or named[0]), f"{where}: {target}"))
    return ConfigError(f"{where}: {target} cannot be built: {describe(cause)}")


def describe(error: BaseException) -> str:
    """Describe an error of other code in one line: its type, its first line, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text}{place}"


def is_raised_in(error: BaseException, package: str) -> bool:
    """Whether an error was raised in the code of a package."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and package in Path(frames[-1].filename).parts
