"""Handles Ctrl-C. Imports little.

Before a run begins, Ctrl-C ends the process at once: a KeyboardInterrupt during an import or inside Hydra would show a
traceback or turn into another error. Only an empty folder may have to be removed.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_before_exit: set[Callable[[], None]] = set()


def before_exit(clean_up: Callable[[], None]) -> None:
    """Call ``clean_up`` if Ctrl-C ends the process at once."""
    _before_exit.add(clean_up)


def _end(signum: int, _: FrameType | None) -> None:
    for clean_up in tuple(_before_exit):
        clean_up()
    os.write(2, b"sagehound: stopped by Ctrl-C\n")
    os._exit(128 + signum)


def exit_on_ctrl_c() -> None:
    """End this process at once on Ctrl-C, except in a child process, and where Ctrl-C is ignored (a background job)."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler and not _is_child():
        signal.signal(signal.SIGINT, _end)


def restore_keyboard_interrupt() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again, for work that must clean up or report."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def delayed() -> Iterator[None]:
    """Delay a KeyboardInterrupt until the end of this block, because imports of C extensions lose it."""
    received: list[int] = []
    is_main = threading.current_thread() is threading.main_thread()  # no other thread may set a handler
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, lambda signum, _: received.append(signum))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if received:
        raise KeyboardInterrupt


def _is_child() -> bool:
    """Whether multiprocessing started this process; its parent then ends it."""
    process = sys.modules.get("multiprocessing.process")
    return bool(process and process.parent_process())
