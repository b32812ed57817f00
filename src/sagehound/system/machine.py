"""What is asked of the machine and its C library, in training and in serving. Imports no torch."""

import atexit
import ctypes
import gc
import os
import platform
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from sagehound import interrupts


def cores() -> int:
    """Processor cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def memory() -> int:
    """Bytes of memory that this process may use: the machine's, or its container's where that has fewer."""
    limits = [_physical_memory()]
    for file in ("memory.max", "memory/memory.limit_in_bytes"):  # cgroups of version 2 and 1
        with suppress(OSError, ValueError):  # there is none, or it says "max"
            limits.append(int(Path("/sys/fs/cgroup", file).read_text()))
    return min(limits)


def _physical_memory() -> int:
    """Bytes of the machine's memory; 8 GB where the system has no way to ask, as Windows."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 8 * 10**9


def tune_allocator() -> None:
    """Make glibc keep freed memory instead of handing it back to the kernel after every operator.

    On two CPU cores mobilenetv2 took 9.2 ms a photo in evaluation, 18.6 to 22.7 ms without. In malloc.h M_MMAP_MAX is
    -4, M_TRIM_THRESHOLD -1, and M_ARENA_MAX -8: the heaps that threads have of their own are handed back all the same
    (7.6 ms a photo in two threads, 6.9 with one heap for all).
    """
    if glibc():
        libc = ctypes.CDLL(None)
        for parameter, value in ((-4, 0), (-1, 2**31 - 1), (-8, 1)):
            libc.mallopt(parameter, value)


def give_back_large_blocks() -> None:
    """Make glibc hand blocks of 4 MB and more back to the kernel when they are freed, however many there were.

    Without it, four photos of 7,000 x 7,000 pixels left a server at 1 GB for good. M_MMAP_THRESHOLD is -3 in malloc.h.
    """
    if glibc():
        ctypes.CDLL(None).mallopt(-3, 2**22)


def glibc() -> bool:
    """Whether the C library is glibc."""
    return platform.libc_ver()[0] == "glibc"


def end_quickly() -> NoReturn:
    """End a process that is done: what is registered for its end runs, and the rest is left to the system.

    Python would take torch, Lightning and a million objects apart, which takes two seconds.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # as Python does it: idle pools are told first, then joined
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


@contextmanager
def importing() -> Iterator[None]:
    """Switch garbage collection off while large packages are imported, and exclude their objects from it afterwards.

    Importing torch, timm and Lightning took 3.6 s instead of 4.4 s: a million objects, all of which stay.
    """
    gc.disable()
    try:
        with interrupts.delayed():
            yield
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(gc.unfreeze)  # nanobind's modules report objects that are still frozen at the end as leaks
