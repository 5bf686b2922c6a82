"""Text for terminals that can't show every letter, and Ctrl-C while a command starts.

Importing this module comes before torch: an interrupt in the middle of torch's import is a page of traceback
or aborts in C++. Until `ralx.cli` heeds Ctrl-C, it ends a command by the signal.
"""

import codecs
import signal
import threading
from typing import Any, TextIO

from ralx.support.threads import IS_COMMAND

_SPELT = {
    "θ": "theta",
    "ε": "epsilon",
    "φ": "phi",
    "γ": "gamma",
    "′": "'",
    "±": "+-",
    "×": "x",
    "−": "-",
    "–": "-",
}


def heeds_interrupts() -> bool:
    """Whether Ctrl-C is this process's to handle: a shell's background jobs ignore it, and only the main
    thread may choose."""
    usual = signal.getsignal(signal.SIGINT) in (signal.default_int_handler, signal.SIG_DFL)
    return usual and threading.current_thread() is threading.main_thread()


if IS_COMMAND and heeds_interrupts():
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def fit_to_terminal(*streams: TextIO) -> None:
    """Make the streams spell a letter that their encoding lacks, or write its number, and go on."""
    codecs.register_error("ralx.spell", _spell)
    for stream in streams:
        if hasattr(stream, "reconfigure"):  # a test's or a notebook's may be of another kind
            stream.reconfigure(errors="ralx.spell")


def _spell(error: UnicodeError) -> tuple[Any, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    spelt = (_SPELT.get(letter) or letter.encode("ascii", "backslashreplace").decode() for letter in missing)
    return "".join(spelt), error.end
