"""Ctrl-C, from the start of a command to its end.

Importing this module comes before torch: an interrupt in the middle of torch's import is a page of traceback,
or aborts in C++. So until `noted_interrupts` takes over, Ctrl-C ends a command by the signal.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from ralx.support.threads import IS_COMMAND


def _heeds_interrupts() -> bool:
    """Whether Ctrl-C is this process's to handle: a shell's background jobs ignore it, and only the main
    thread may choose."""
    usual = signal.getsignal(signal.SIGINT) in (signal.default_int_handler, signal.SIG_DFL)
    return usual and threading.current_thread() is threading.main_thread()


if IS_COMMAND and _heeds_interrupts():
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def noted_interrupts() -> Iterator[Callable[[], bool]]:
    """Yields what tells whether Ctrl-C was pressed. It raises KeyboardInterrupt as ever; pressed again, it
    ends the process by the signal."""
    pressed = False

    def note(number: int, frame: Any) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.default_int_handler(number, frame)

    before, ours = signal.getsignal(signal.SIGINT), _heeds_interrupts()
    if ours:
        signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    finally:
        if ours:
            signal.signal(signal.SIGINT, before)
