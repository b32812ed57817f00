"""The rules, one file each. ``registry()`` finds them; a rule of your own is named by ``_target_``."""

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any

from sagehound.config.targets import TARGET, resolve
from sagehound.debugger.rules.rule import Facts, Rule
from sagehound.errors import ConfigError

PROFILES = ("calibrated", "aws")


@cache
def registry() -> dict[str, type[Rule]]:
    """Every rule of Sagehound by its name in the config, such as vanishing_gradient."""
    rules = {}
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
        for value in vars(importlib.import_module(f"{__name__}.{module}")).values():
            is_rule = isinstance(value, type) and issubclass(value, Rule) and value.__module__.endswith(f".{module}")
            if is_rule and hasattr(value, "name"):
                rules[module] = value
    return rules


def make(chosen: Mapping[str, Mapping[str, Any]] | None, profile: str, facts: Facts) -> dict[str, Rule]:
    """The rules of a run by their names in the config.

    Args:
        chosen: parameters by rule, without ``action``; None: every rule of Sagehound with the profile's parameters.
        profile: ``calibrated`` or ``aws``, for parameters that are not given.
        facts: what is known of the run.

    Raises:
        ConfigError: no such rule, parameter or class.
    """
    known = registry()
    wanted = {name: {} for name in known} if chosen is None else chosen
    return {name: _make(name, dict(given), profile, facts) for name, given in wanted.items()}


def _make(name: str, given: dict[str, Any], profile: str, facts: Facts) -> Rule:
    where = f"debugger.rules.{name}"
    given.pop("action", None)
    if TARGET in given:
        rule = resolve(given, where)()
        if not isinstance(rule, Rule):
            raise ConfigError(f"{where}: {type(rule).__name__} is not a sagehound.debugger.rules.rule.Rule")
        rule.facts = facts
        return rule
    if name not in registry():
        raise ConfigError(f"{where}: no such rule; choose from {', '.join(registry())}, or give {where}._target_=CLASS")
    kind = registry()[name]
    parameters = kind.parameters(profile)
    if wrong := sorted(set(given) - set(parameters)):
        choices = ", ".join(parameters) or "none"
        raise ConfigError(f"{where}.{wrong[0]}: the rule {kind.name} has no such parameter; it has {choices}")
    return kind(**(parameters | {key: _number(value, where, key) for key, value in given.items()}), facts=facts)


def _number(value: Any, where: str, key: str) -> Any:  # noqa: ANN401 - AWS sends every parameter as text
    if not isinstance(value, str):
        return value
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    try:
        return float(value)
    except ValueError:
        raise ConfigError(f"{where}.{key}={value}: give a number") from None


def describe() -> list[tuple[str, str, dict[str, Any], dict[str, Any], str]]:
    """Config name, AWS's name, documented and calibrated parameters, and the first line of what it finds; for docs."""
    return [
        (key, r.name, r.parameters("aws"), r.parameters(), (r.__doc__ or "").splitlines()[0])
        for key, r in registry().items()
        if fields(r)
    ]
