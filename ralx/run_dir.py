"""The folder of a run: its lock, its records and its checkpoint. Files are written whole or not at all."""

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

SHOWN = 4  # differing options that a message names


class RunError(RuntimeError):
    """A run can't start or go on; the text says which file or option and why."""


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary sibling, then move it onto `path`: readers see the old file or the new."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise RunError(f"{path}: can't be written: {error.strerror or error}") from error
    except SafetensorError as error:  # a full disk reaches us as text
        raise RunError(f"{path}: can't be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; NaN and infinities are refused."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    write_whole(path, lambda temporary: temporary.write_text(text))


def read_json(path: Path) -> Any:
    """Read a JSON file; RunError names the file where it is damaged."""
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: expected JSON, got {error}") from error


def save_tensors(path: Path, tensors: dict[str, Tensor], note: Any = None) -> None:
    """Write a flat dict of tensors and a JSON value as one safetensors file."""
    stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_whole(path, lambda temporary: save_file(stored, temporary, {"note": json.dumps(note)}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    """Read what `save_tensors` wrote; RunError names a damaged file."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, json.loads((file.metadata() or {}).get("note", "null"))
    except (SafetensorError, ValueError, RecursionError) as error:  # of damaged, long or deep JSON
        raise RunError(f"{path}: expected a safetensors file of ralx, got {error}") from error


class Checkpoint:
    """The state of each piece of work in progress, saved often enough to lose little.

    A piece is named and has a file of its own. Saving takes at most a twentieth of the time.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._cost = 0.0
        self._saved_at = time.monotonic()

    def load(self, piece: str) -> tuple[dict[str, Tensor], Any] | None:
        """What was saved of `piece`, or None."""
        path = self._path(piece)
        return load_tensors(path) if path.exists() else None

    def save(self, piece: str, state: Callable[[], tuple[dict[str, Tensor], Any]]) -> None:
        """Save what `state()` gives, unless the last save was too short a while ago."""
        if time.monotonic() - self._saved_at < 20 * self._cost:
            return
        start = time.monotonic()
        save_tensors(self._path(piece), *state())
        self._saved_at = time.monotonic()
        self._cost = self._saved_at - start

    def clear(self, piece: str) -> None:
        self._path(piece).unlink(missing_ok=True)

    def _path(self, piece: str) -> Path:
        return self.folder / f"{piece}.safetensors"


class RunDirectory:
    """One run's folder. Open it with `open_run`, which holds its lock."""

    def __init__(self, path: Path):
        self.path = path
        self.checkpoint = Checkpoint(path / "checkpoint")

    def begin(self, config: dict[str, Any]) -> None:
        """Note the config of a run that is about to compute, and clear what a kill left half-written."""
        for temporary in self.path.rglob(".*.tmp"):
            temporary.unlink(missing_ok=True)
        if not (self.path / "config.json").exists():
            write_json(self.path / "config.json", config)

    def refuse_other_numerics(self, **numerics: Any) -> None:
        """RunError where the run was started with another thread count, torch or device: going on would mix
        results that differ in their last bits."""
        path = self.path / "checkpoint" / "numerics.json"
        known = read_json(path) if path.exists() else numerics
        if known != numerics:
            differing = [name for name in numerics if known.get(name) != numerics[name]]
            raise RunError(
                f"{self.path}: was started with {', '.join(f'{n} {known.get(n)}' for n in differing)}, here "
                f"{', '.join(f'{n} {numerics[n]}' for n in differing)}: going on would change the results "
                "(OMP_NUM_THREADS sets the threads)"
            )
        write_json(path, numerics)

    # Records of evaluation: one per method, budget and seed.
    def records(self, name: str = "results.json") -> list[dict[str, Any]]:
        path = self.path / name
        return read_json(path) if path.exists() else []

    def add_record(self, record: dict[str, Any], name: str = "results.json") -> None:
        write_json(self.path / name, [*self.records(name), record])

    # One line per step of learning.
    def append_step(self, line: dict[str, Any]) -> None:
        path = self.path / "steps.jsonl"
        try:
            with path.open("a") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
        except OSError as error:
            raise RunError(f"{path}: can't be written: {error.strerror or error}") from error

    def cut_steps(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Drop the lines after the checkpoint, and a line that a kill cut short."""
        path = self.path / "steps.jsonl"
        if not path.exists():
            return
        kept = []
        for line in path.read_text().splitlines(keepends=True):
            try:
                step = json.loads(line)
            except json.JSONDecodeError:
                break
            if line.endswith("\n") and keep(step):
                kept.append(line)
        write_whole(path, lambda temporary: temporary.write_text("".join(kept)))

    def policy_path(self, seed: int, first_seed: int) -> Path:
        return self.path / ("policy.safetensors" if seed == first_seed else f"policy-seed{seed}.safetensors")

    def selection_path(self, method: str, seed: int) -> Path:
        return self.path / "selections" / f"{method}-seed{seed}.json"

    def segmenter_path(self, method: str, seed: int, budget: int) -> Path:
        """The segmenter as it stands when `budget` regions are labelled, waiting for its final training."""
        return self.path / "checkpoint" / f"{method}-seed{seed}-budget{budget}.safetensors"


@contextlib.contextmanager
def open_run(path: Path, config: dict[str, Any], *, resume: bool) -> Iterator[RunDirectory]:
    """Lock and yield the folder for the run of `config`, made if it isn't there; `begin` makes it the run's,
    and without `begin` nothing of it stays.

    Raises RunError, and touches nothing, where the folder holds anything else: a file, foreign files, a run
    of another config, a run while `resume` is off, or a run that another process is at.
    """
    config_path = path / "config.json"
    _refuse_foreign(path, config_path, config, resume)
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / ".lock").open("w")
    except OSError as error:
        _remove_empty(made)
        raise RunError(f"--out {path}: can't be written: {error.strerror or error}") from error
    with lock:
        _take(lock, path)
        try:
            _refuse_foreign(path, config_path, config, resume)  # another process may have started in between
            yield RunDirectory(path)
        finally:
            if not config_path.exists():
                (path / ".lock").unlink(missing_ok=True)
                _remove_empty(made)


def _take(lock: IO[str], path: Path) -> None:
    """RunError unless this process gets the lock: the kernel frees it when the process dies."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise RunError(f"{path}/.lock: can't be locked: {error.strerror}") from error
        raise RunError(f"--out {path}: another process is running there") from error
    if os.fstat(lock.fileno()).st_nlink == 0:  # a process that was refused removed the file just now
        raise RunError(f"--out {path}: another process was there a moment ago; try again")


def _remove_empty(folders: list[Path]) -> None:
    """Remove what is there and empty of `folders`, the innermost first."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _refuse_foreign(path: Path, config_path: Path, config: dict[str, Any], resume: bool) -> None:
    if not path.exists():
        return
    if not path.is_dir():
        raise RunError(f"--out {path}: must be a folder, got a file")
    if not config_path.exists():
        foreign = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
        if foreign and foreign != ["cache"]:
            raise RunError(f"--out {path}: must be empty or hold a run, got {', '.join(foreign[:3])}")
        return
    if not resume:
        raise RunError(f"--out {path}: holds a run already; go on with --resume or choose another folder")
    stored = read_json(config_path)
    if not isinstance(stored, dict) or stored.keys() != config.keys():
        raise RunError(f"--out {path}: its config.json is damaged or of another version of ralx")
    differing = [key for key in config if stored[key] != config[key]]
    if differing:
        changes = [f"{key}: {stored[key]!r} there, {config[key]!r} here" for key in differing[:SHOWN]]
        changes += [f"and {len(differing) - SHOWN} options more"] if len(differing) > SHOWN else []
        raise RunError(f"--out {path}: holds another run ({', '.join(changes)})")
