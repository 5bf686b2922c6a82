"""The state of one piece of work in progress, as a file, so that a killed process loses little."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ralx.support.files import load_tensors, save_tensors
from ralx.support.folder import FolderLock


class Checkpoint:
    """One file, saved often enough to lose little: saving takes at most a twentieth of the time."""

    def __init__(self, path: Path, lock: FolderLock):
        self.path = path
        self.lock = lock
        self._cost = 0.0
        self._saved_at = time.monotonic()

    def load(self) -> tuple[dict[str, Any], Any] | None:
        """The tensors and the note that were saved, or None."""
        return load_tensors(self.path) if self.path.exists() else None

    def save(self, state: Callable[[], tuple[dict[str, Any], Any]]) -> None:
        """Save what `state()` gives, unless the last save was too short a while ago."""
        if time.monotonic() - self._saved_at < 20 * self._cost:
            return
        start = time.monotonic()
        self.lock.hold()
        save_tensors(self.path, *state())
        self._saved_at = time.monotonic()
        self._cost = self._saved_at - start

    def clear(self) -> None:
        self.lock.hold()
        self.path.unlink(missing_ok=True)
