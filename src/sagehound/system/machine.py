"""The machine's cores and memory, its C library's allocator, and the end of a process. Imports no torch."""

import atexit
import ctypes
import gc
import os
import platform
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from sagehound.system import interrupts


def cores() -> int:
    """Number of CPU cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def memory() -> int:
    """Bytes of memory that this process may use: the smaller of the machine's memory and the container's limit."""
    limits = [_physical_memory()]
    for file in ("memory.max", "memory/memory.limit_in_bytes"):  # cgroups of version 2 and 1
        with suppress(OSError, ValueError):  # no such file, or it contains "max"
            limits.append(int(Path("/sys/fs/cgroup", file).read_text()))
    return min(limits)


def _physical_memory() -> int:
    """Bytes of the machine's memory; 8 GB if the system does not report it (Windows)."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 8 * 10**9


def tune_allocator() -> None:
    """Make glibc keep freed memory instead of returning it to the kernel after every operator.

    On two CPU cores, evaluating mobilenetv2 took 9.2 ms per photo, and 18.6 to 22.7 ms without this setting. In
    malloc.h M_MMAP_MAX is -4, M_TRIM_THRESHOLD -1 and M_ARENA_MAX -8. All threads share one heap, because glibc returns
    the memory of per-thread heaps (6.9 ms per photo in two threads, instead of 7.6).
    """
    if glibc():
        libc = ctypes.CDLL(None)
        for parameter, value in ((-4, 0), (-1, 2**31 - 1), (-8, 1)):
            libc.mallopt(parameter, value)


def give_back_large_blocks() -> None:
    """Make glibc return freed blocks of 4 MB and more to the kernel.

    Without it, a server kept 1 GB after four photos of 7,000 x 7,000 pixels. In malloc.h M_MMAP_THRESHOLD is -3.
    """
    if glibc():
        ctypes.CDLL(None).mallopt(-3, 2**22)


def glibc() -> bool:
    """Whether the C library is glibc."""
    return platform.libc_ver()[0] == "glibc"


def end_quickly() -> NoReturn:
    """End a finished process: run the functions registered with atexit, then exit without freeing memory.

    Python would need two seconds to free torch, Lightning and a million objects.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # as at Python's own exit: notify idle thread pools, then join them
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


@contextmanager
def importing() -> Iterator[None]:
    """Disable garbage collection while large packages are imported, and exclude their objects from it afterwards.

    Importing torch, timm and Lightning took 3.6 s instead of 4.4 s: they create a million objects that stay alive.
    """
    gc.disable()
    warnings.filterwarnings("ignore", "IProgress not found")  # tqdm's, in a notebook without ipywidgets
    try:
        with interrupts.delayed():
            yield
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(gc.unfreeze)  # nanobind reports objects that are still frozen at exit as leaks
