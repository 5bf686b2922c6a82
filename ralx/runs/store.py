"""Where a run keeps what it computes.

store/KEY.safetensors        the artifacts of finished stages, written whole and never again
store/numerics.json          what the last bits of all artifacts depend on
cache/KEY.safetensors        the artifacts of pretraining, which runs may share
checkpoint/KEY.safetensors   the state of stages in progress
"""

from pathlib import Path
from typing import Any

from ralx.runs.stage import Artifact
from ralx.support.checkpoint import Checkpoint
from ralx.support.files import RunError, clear_torn, load_tensors, read_sealed, save_tensors, write_sealed
from ralx.support.folder import FolderLock


class Store:
    """Artifacts by key, in a folder that this process, or the one that started it, has locked."""

    def __init__(self, folder: Path, cache: Path, lock: FolderLock):
        self.folder = folder
        self.cache = cache
        self.lock = lock
        self._numerics = folder / "store" / "numerics.json"

    def clear_torn(self) -> None:
        """Remove what killed processes left half-written, and checkpoints of stages that they finished."""
        artifacts, checkpoints = (self.folder / "store", self.cache), self.folder / "checkpoint"
        for folder in (*artifacts, checkpoints):
            clear_torn(folder)
        for path in checkpoints.glob("*.safetensors"):
            if any((folder / path.name).exists() for folder in artifacts):
                path.unlink()

    def path(self, key: str, *, shared: bool) -> Path:
        """Of a finished stage's artifact, in the cache where it may be `shared`."""
        return (self.cache if shared else self.folder / "store") / f"{key}.safetensors"

    def read(self, path: Path) -> tuple[Artifact, dict[str, Any]]:
        """An artifact, and how it was made. RunError where the file is damaged."""
        tensors, note = load_tensors(path)
        return Artifact(tensors, note["found"]), note["made"]

    def write(self, path: Path, artifact: Artifact, made: dict[str, Any]) -> None:
        self.lock.hold()
        save_tensors(path, artifact.tensors, {"found": artifact.found, "made": made})

    def checkpoint(self, key: str) -> Checkpoint:
        return Checkpoint(self.folder / "checkpoint" / f"{key}.safetensors", self.lock)

    @property
    def numerics(self) -> dict[str, Any] | None:
        """What the last bits of the artifacts that are there depend on; None where there are none."""
        return read_sealed(self._numerics) if self._numerics.exists() else None

    def refuse_other_numerics(self, numerics: dict[str, Any]) -> None:
        """RunError where the folder's artifacts were made with another thread count, torch, device or ralx:
        going on would mix results that differ in their last bits."""
        known = self.numerics
        if known is None:
            self.lock.hold()
            write_sealed(self._numerics, numerics)
        elif known != numerics:
            differing = [name for name in numerics if known.get(name) != numerics[name]]
            there, here = (", ".join(f"{n} {each.get(n)}" for n in differing) for each in (known, numerics))
            raise RunError(
                f"{self.folder}: was started with {there}, here {here}: going on would change the results "
                "(OMP_NUM_THREADS sets the threads)"
            )
