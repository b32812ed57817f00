"""``_target_``: a class or function that a config names, checked before anything is built. Imports no torch."""

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

from sagehound.config import meant
from sagehound.errors import ConfigError, SagehoundError

TARGET = "_target_"
_OF_HYDRA = ("_target_", "_args_", "_partial_", "_recursive_", "_convert_")  # the other keys are arguments
_EXTRAS = {"mlflow": "mlflow", "wandb": "wandb"}  # modules that an extra of ours installs


def resolve(
    node: Any,  # noqa: ANN401 - whatever the user gave
    where: str,
    *,
    positional: int = 0,
    named: Sequence[str] = (),
) -> Callable[..., Any]:
    """The class or function that a node's ``_target_`` names, bound to the node's other keys.

    Nothing is called yet. Modules are also looked for in the current folder, after all installed ones. Nodes within the
    node that have a ``_target_`` are checked as well. Hydra builds the object (``hydra.utils.instantiate``).

    Args:
        node: ``_target_``, and arguments by name.
        where: the node's key, for messages: callbacks.lr.
        positional: how many positional arguments the caller adds, before those of the node.
        named: arguments that the caller adds by name.

    Raises:
        ConfigError: no such module, attribute or argument, or an argument is missing; names the key.
    """
    if not isinstance(node, Mapping):
        raise ConfigError(f"{where}={node}: give a mapping with {TARGET}: {where}.{TARGET}=package.Class")
    node = {str(key): value for key, value in node.items()}
    target = node.get(TARGET)
    if not isinstance(target, str):
        given = "" if target is None else f"{where}.{TARGET}={target}: "
        raise ConfigError(f"{given}{where} needs a {TARGET}: give {where}.{TARGET}=package.Class")
    call = import_target(target, where)
    arguments = {key: value for key, value in node.items() if key not in _OF_HYDRA}
    first = node.get("_args_") or []
    if not isinstance(first, list):
        raise ConfigError(f"{where}._args_={first}: give a list")
    for key, value in [*arguments.items(), *((f"_args_[{i}]", value) for i, value in enumerate(first))]:
        _check_inner(value, f"{where}.{key}")
    if node.get("_partial_"):  # the one who calls it gives the other arguments
        check_arguments(call, dict.fromkeys(arguments), where, positional=len(first), is_partial=True)
    else:
        check_arguments(call, arguments, where, positional=positional + len(first), named=named)

    def make(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - of a class that the user names
        """Build the object.

        Raises:
            ConfigError: the class refuses its arguments.
        """
        try:
            made = {"_convert_": "all", **node}
            return instantiate(made | ({"_args_": [*args, *first]} if args and first else {}), *args, **kwargs)
        except InstantiationException as error:
            raise _refused(error, where, target) from error

    return make


def check_arguments(
    call: Callable[..., Any],
    arguments: Mapping[str, Any],
    where: str,
    *,
    positional: int = 0,
    named: Sequence[str] = (),
    is_partial: bool = False,
) -> None:
    """Check arguments, given by name, against a signature; one that takes any keyword is taken at its word.

    Args:
        call: a class or function.
        arguments: by name.
        where: the key that they stand under.
        positional: how many positional arguments the caller adds.
        named: arguments that the caller adds by name.
        is_partial: others may be added later, so that none is missing.

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
            raise ConfigError(f"{where}.{key}: {name} has no such argument{meant(key, free)}; {choices}")
    has_any = any(p.kind == p.VAR_POSITIONAL for p in parameters)
    if positional > len(by_position) and not has_any:
        raise ConfigError(f"{where}: {name} takes {len(by_position)} positional arguments, not {positional}")
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    for p in [] if is_partial else needed:
        if p.name not in taken and p.name not in arguments:
            raise ConfigError(f"{where}: {name} needs {p.name}: give {where}.{p.name}=...")


def import_from_here() -> None:
    """Let Python find modules of the current folder, after all others; DDP's processes inherit it."""
    here = os.getcwd()  # noqa: PTH109 - as sys.path has strings
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
    """The class or function that a dotted name stands for.

    Args:
        target: package.Class.
        where: the key of the node, for messages.

    Raises:
        ConfigError: there is none, or its module cannot be imported.
    """
    given = f"{where}.{TARGET}={target}"
    parts = target.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise ConfigError(f"{given}: give a module and a name in it, such as my_file.MyClass")
    import_from_here()
    found: Any = _import(parts[0], given)
    for i, part in enumerate(parts[1:], start=1):
        before = ".".join(parts[:i])
        if hasattr(found, part):
            found = getattr(found, part)
        elif isinstance(found, ModuleType) and hasattr(found, "__path__") and i < len(parts) - 1:
            found = _import(f"{before}.{part}", given)
        else:
            modules = [m.name for m in pkgutil.iter_modules(getattr(found, "__path__", []))]
            names = [name for name in dir(found) if not name.startswith("_")]
            raise ConfigError(f"{given}: {before} has no {part}{meant(part, [*names, *modules])}")
    if not callable(found):
        raise ConfigError(f"{given}: {target} is {type(found).__name__}, not a class or function")
    return found  # type: ignore[no-any-return]


def _import(name: str, given: str) -> ModuleType:
    parent, _, leaf = name.rpartition(".")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            beside = pkgutil.iter_modules(sys.modules[parent].__path__ if parent else None)
            hint = meant(leaf, [m.name for m in beside])
            extra = f": pip install 'sagehound[{_EXTRAS[name]}]'" if name in _EXTRAS else ""
            where = "" if parent or extra else f", neither installed nor in {Path.cwd()}"
            raise ConfigError(f"{given}: no module {name}{hint if not extra else ''}{where}{extra}") from error
        raise ConfigError(missing_module(str(error.name), given)) from error
    except Exception as error:
        raise ConfigError(f"{given}: {name} cannot be imported: {describe(error)}") from error


def missing_module(name: str, given: str) -> str:
    """The message for something that needs a module that is not installed."""
    top = name.partition(".")[0]
    how = f"pip install 'sagehound[{_EXTRAS[top]}]'" if top in _EXTRAS else f"pip install {top}"
    return f"{given} needs {top}, which is not installed: {how}"


def _refused(error: InstantiationException, where: str, target: str) -> SagehoundError:
    """What a class raised when it was built, in one line."""
    cause = error.__cause__ or error
    if isinstance(cause, SagehoundError):
        return cause
    if isinstance(cause, ModuleNotFoundError):
        named = [module for module in _EXTRAS if module in str(cause)]  # Lightning's own errors have no name
        if cause.name or named:
            return ConfigError(missing_module(str(cause.name or named[0]), f"{where}: {target}"))
    return ConfigError(f"{where}: {target} cannot be built: {describe(cause)}")


def describe(error: BaseException) -> str:
    """An error of other code in one line: its kind, its first line, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text}{place}"


def is_raised_in(error: BaseException, package: str) -> bool:
    """Whether an error was raised by a package's own code."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and package in Path(frames[-1].filename).parts
