"""The class of stages, and their registry."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from sagehound_launchers.config import Launch

Config = TypeVar("Config")

BEFORE_TRAINING = 0  # a stage of this order or a lower one runs before a model is trained


@dataclass(frozen=True)
class Stage(Generic[Config]):
    """Something that `launch.py` does with a model, or before its training."""

    name: str  # of the config group
    config: type[Config]  # the group's dataclass; its `name` is the option
    order: int  # a lower order runs first
    # called with the config, the stage's group, the models and the run's folder
    run: Callable[["Launch", Config, Sequence[str], Path], None]
    needs_model: bool = False  # without model=, a model is trained first
    remote: frozenset[str] = frozenset()  # options that send requests to AWS
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by option: an extra and its modules

    def sends(self, own: Config) -> bool:
        """Whether the chosen option sends requests to AWS."""
        return str(getattr(own, "name")) in self.remote  # noqa: B009 - every group has a name


@cache
def registry() -> tuple[Stage[Any], ...]:
    """The stages in their order: each module's ``STAGE`` in ``stages/``, and the entry points ``sagehound.stages``."""
    stages = importlib.import_module("sagehound_launchers.stages")
    modules = [importlib.import_module(f"{stages.__name__}.{m.name}") for m in pkgutil.iter_modules(stages.__path__)]
    ours = [module.STAGE for module in modules if hasattr(module, "STAGE")]
    theirs = [entry.load() for entry in entry_points(group="sagehound.stages")]
    return tuple(sorted([*ours, *theirs], key=lambda stage: (stage.order, stage.name)))
