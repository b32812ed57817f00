"""What a stage is, and which stages there are."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
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
    """Something that is done with a model, or around its training."""

    name: str  # of the config group
    config: type[Config]  # the group's dataclass; its `name` is the option
    order: int  # of two stages of one command, the one with the lower order runs first
    # the whole config, the stage's own group, the models, and the run's folder
    run: Callable[["Launch", Config, Sequence[str], Path], None]
    needs_model: bool = False  # without model=, one is trained first
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by option: an extra of ours, and its modules

    @property
    def example(self) -> str:
        """An override that chooses the stage."""
        (name,) = (f for f in fields(self.config) if f.name == "name")  # type: ignore[arg-type]
        return f"{self.name}={name.metadata['rule']['choices'][0]}"


@cache
def registry() -> tuple[Stage[Any], ...]:
    """The stages in their order: each module's ``STAGE`` in this folder, and the entry points ``sagehound.stages``."""
    here = __package__ or ""
    modules = [importlib.import_module(f"{here}.{m.name}") for m in pkgutil.iter_modules([str(Path(__file__).parent)])]
    ours = [module.STAGE for module in modules if hasattr(module, "STAGE")]
    theirs = [entry.load() for entry in entry_points(group="sagehound.stages")]
    return tuple(sorted([*ours, *theirs], key=lambda stage: (stage.order, stage.name)))
