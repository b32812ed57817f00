"""Ctrl-C ends a command in one line, from its first import on.

Until a run begins there is nothing to clean up but an empty folder, so the process ends at once: a KeyboardInterrupt in
the middle of an import or of Hydra's work would come out as a traceback or as some other error. Imports little.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


def _end(signum: int, _: FrameType | None) -> None:
    if run_folder := sys.modules.get("sagehound.run_folder"):
        run_folder.remove_empty()
    os.write(2, b"sagehound: stopped by Ctrl-C\n")
    os._exit(128 + signum)


def end_at_once() -> None:
    """End this process at once on Ctrl-C; not where it is ignored, as in a shell's background job, nor in a child."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler and not _is_child():
        signal.signal(signal.SIGINT, _end)


def raise_from_now_on() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again, for work that has something to clean up or to report."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def delayed() -> Iterator[None]:
    """Raise the KeyboardInterrupt of a Ctrl-C in this block at its end: packages written in C lose it."""
    heard: list[int] = []
    here = threading.current_thread() is threading.main_thread()  # no other thread may set a handler
    if not here or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, lambda signum, _: heard.append(signum))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if heard:
        raise KeyboardInterrupt


def _is_child() -> bool:
    """Whether another process of ours started this one, which ends it as well."""
    process = sys.modules.get("multiprocessing.process")
    return bool(process and process.parent_process())
