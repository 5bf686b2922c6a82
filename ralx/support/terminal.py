"""Text for terminals that can't show every letter."""

import codecs
from typing import Any, TextIO

_SPELT = {"θ": "theta", "ε": "epsilon", "′": "'", "±": "+-", "×": "x", "−": "-", "–": "-"}


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
