"""The processes that Lightning starts for several devices of this machine, which import as quickly as the run does.

A process of multiprocessing imports what the objects need that are sent to it, in their order. Lightning's launcher is
the first one, so this module is imported before timm. Otherwise timm would import wandb, and two processes took
17 s of processor time for a short run instead of 10 s.
"""

from sagehound.system.imports import importing

with importing():
    from lightning.pytorch.strategies import DDPStrategy, Strategy
    from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

_NAME = "ddp_spawn"
_UNUSED = "_find_unused_parameters_true"


def strategy(name: str) -> str | Strategy:
    """The strategy of a name that Lightning knows."""
    if name not in (_NAME, _NAME + _UNUSED):
        return name
    return _Spawned(start_method="spawn", find_unused_parameters=name.endswith(_UNUSED))


class _Launcher(_MultiProcessingLauncher):
    """Lightning's, but of this module."""


class _Spawned(DDPStrategy):
    """Lightning's, with the launcher of this module."""

    def _configure_launcher(self) -> None:
        self._launcher = _Launcher(self, start_method="spawn")
