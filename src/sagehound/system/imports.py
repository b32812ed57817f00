"""Imports the large packages quickly: without garbage collection, and without what they import and do not use here."""

import atexit
import gc
import importlib
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from sagehound.system import interrupts


@contextmanager
def importing() -> Iterator[None]:
    """Import torch, timm and torchmetrics quickly; the block imports the rest of what training needs.

    Garbage collection is off meanwhile, and excludes the imported objects afterwards: importing torch, timm and
    Lightning took 3.6 s instead of 4.4 s, because they create a million objects that stay alive.
    """
    if {"timm", "torchmetrics", "lightning"} <= sys.modules.keys():
        yield
        return
    share_cores()
    gc.disable()
    warnings.filterwarnings("ignore", "IProgress not found")  # tqdm's, in a notebook without ipywidgets
    try:
        with interrupts.delayed():
            import_lean()
            yield
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(gc.unfreeze)  # nanobind reports objects that are still frozen at exit as leaks


def share_cores() -> None:
    """Let threads of an operator that wait for each other sleep soon, unless the environment says how they wait.

    GNU OpenMP reads this when torch is imported. By default waiting threads keep their cores busy for milliseconds. If
    other programs use these cores, the thread that they wait for gets none: with ten other processes on two cores, a
    pass of mobilenetv2 took five times as long and six times the processor time.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "1000"  # some microseconds


def import_lean() -> None:
    """Import timm without wandb, and torchmetrics without scipy.signal. Both can still be imported afterwards.

    timm imports wandb, if it is installed, for a function of its training script; torchmetrics imports scipy.signal
    only to add a name to it. They take a second and half a second.
    """
    if "timm" not in sys.modules:
        with _absent("wandb"):
            importlib.import_module("timm")
    if "torchmetrics" not in sys.modules:
        with _delayed_signal():
            importlib.import_module("torchmetrics")


@contextmanager
def _absent(name: str) -> Iterator[None]:
    """Let ``import name`` raise ImportError in this block, as if the package were not installed.

    Other threads would see it too, so it does nothing if there are some.
    """
    if name in sys.modules or threading.active_count() > 1:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # as the documentation of sys.modules describes it
    try:
        yield
    finally:
        del sys.modules[name]


@contextmanager
def _delayed_signal() -> Iterator[None]:
    """Delay the import of scipy.signal in this block until something else than its old name `hamming` is read."""
    name = "scipy.signal"
    if name in sys.modules:
        yield
        return
    placeholder = ModuleType(name)

    def read(attribute: str) -> Any:  # noqa: ANN401 - any object of scipy.signal
        sys.modules.pop(name, None)
        return getattr(importlib.import_module(name), attribute)

    vars(placeholder).update(hamming=None, __getattr__=read)
    sys.modules[name] = placeholder
    try:
        yield
    finally:
        if sys.modules.get(name) is placeholder:
            del sys.modules[name]
