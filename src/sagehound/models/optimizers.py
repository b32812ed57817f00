"""Optimizers by name, of torch.optim and timm.optim, or your own class."""

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import timm.optim
import torch
from torch import nn
from torch.optim import Optimizer

from sagehound.config import did_you_mean, targets
from sagehound.errors import ConfigError

Make = Callable[..., Optimizer]

# they need a closure, sparse gradients, or only matrices
_UNFIT = {"lbfgs", "sparseadam", "muon"}


def find(name: str) -> Make:
    """The class of an optimizer by its name in lower case: torch's, or else timm's.

    Raises:
        ConfigError: neither has it.
    """
    of_torch = {k.lower(): v for k, v in vars(torch.optim).items() if inspect.isclass(v) and issubclass(v, Optimizer)}
    del of_torch["optimizer"]
    if name.lower() in of_torch and name.lower() not in _UNFIT:
        return of_torch[name.lower()]
    names = [str(n) for n in timm.optim.list_optimizers(exclude_filters=sorted(_UNFIT))]
    if name.lower() in names:
        make: Make = timm.optim.get_optimizer_class(name.lower(), bind_defaults=True)
        if isinstance(make, partial):
            make.__qualname__ = make.func.__qualname__  # type: ignore[attr-defined]
        return make
    if "." in name:
        raise ConfigError(f"the checkpoint was trained with the optimizer {name}: give it as optimizer=...")
    known = sorted({*of_torch, *names} - _UNFIT)
    raise ConfigError(
        f"optimizer.name={name}: neither torch.optim nor timm.optim has it{did_you_mean(name, known)}; "
        "timm.optim.list_optimizers() names all; give your own class as optimizer._target_=package.Class"
    )


def build(name: str, make: Make, groups: Iterable[dict[str, Any]], arguments: dict[str, Any]) -> Optimizer:
    """An optimizer over parameter groups.

    Args:
        name: for error messages.
        make: the class.
        groups: parameters, each group with its lr and weight_decay.
        arguments: lr, weight_decay and other arguments of the class.

    Raises:
        ConfigError: the class does not take an argument, or refuses its value.
    """
    if not arguments.get("weight_decay") and "weight_decay" not in inspect.signature(make).parameters:
        arguments = {key: value for key, value in arguments.items() if key != "weight_decay"}
    targets.check_arguments(make, arguments, "optimizer", positional=1)
    try:
        return make(list(groups), **arguments)
    except (TypeError, ValueError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"optimizer={name}: {reason}; fix the optimizer's settings") from error


def check(name: str, make: Make, arguments: dict[str, Any]) -> None:
    """Check the settings early, by building the optimizer over one matrix and one vector.

    Raises:
        ConfigError: the class does not take an argument, or refuses its value.
    """
    matrix, vector = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))
    common: dict[str, Any] = {k: arguments[k] for k in ("lr", "weight_decay") if k in arguments}
    build(name, make, [{"params": [p], **common} for p in (matrix, vector)], arguments)


def qualified_name(given: object) -> str:
    """Module and name of a class, of a function, or of an object's class."""
    kind = given if isinstance(given, type) or (callable(given) and hasattr(given, "__qualname__")) else type(given)
    return f"{kind.__module__}.{kind.__qualname__}"
