"""The folder of a run: its lock, its records and its checkpoint."""

import contextlib
import errno
import fcntl
import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from ralx.report.records import RECORD_FILES, Record, check_records, check_selection, read_steps
from ralx.support.files import (
    RunError,
    append_line,
    clear_torn,
    load_tensors,
    make_folder,
    read_json,
    read_sealed,
    save_tensors,
    write_json,
    write_sealed,
    write_whole,
)

SHOWN = 4  # differing options that a message names


class LostRun(RunError):
    """Another process has taken over what this one was at."""


class Checkpoint:
    """The state of each piece of work in progress, saved often enough to lose little.

    A piece is named and has a file of its own. Saving takes at most a twentieth of the time. `hold` is called
    before a file is touched, and raises where the work is no longer this process's.
    """

    def __init__(self, folder: Path, hold: Callable[[], None] = lambda: None):
        self.folder = folder
        self._hold = hold
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
        self._hold()
        save_tensors(self._path(piece), *state())
        self._saved_at = time.monotonic()
        self._cost = self._saved_at - start

    def clear(self, piece: str) -> None:
        self._hold()
        self._path(piece).unlink(missing_ok=True)

    def _path(self, piece: str) -> Path:
        return self.folder / f"{piece}.safetensors"


class RunDirectory:
    """One run's folder. Open it with `open_run`, which holds its lock.

    `is_ours` tells whether the folder still is this process's to write to: one that was stopped for long may
    wake to find another at its work.
    """

    def __init__(self, path: Path, is_ours: Callable[[], bool] = lambda: True):
        self.path = path
        self._is_ours = is_ours
        self.checkpoint = Checkpoint(path / "checkpoint", self.hold)

    def hold(self) -> None:
        """LostRun where another process has taken over. Whoever writes asks this first."""
        if not self._is_ours():
            raise LostRun(f"{self.path}: another process has taken over this work; nothing more is written")

    def begin(self, config: dict[str, Any]) -> None:
        """Note the config of a run that is about to compute, and clear what a kill left half-written."""
        self.hold()
        for folder in (self.path, *(self.path / name for name in ("checkpoint", "selections", "cache"))):
            clear_torn(folder)
        if not (self.path / "config.json").exists():
            write_json(self.path / "config.json", config)

    def refuse_other_numerics(self, **numerics: Any) -> None:
        """RunError where the run was started with another thread count, torch, device or ralx: going on would
        mix results that differ in their last bits."""
        path = self.path / "checkpoint" / "numerics.json"
        known = read_sealed(path) if path.exists() else numerics
        if known != numerics:
            differing = [name for name in numerics if known.get(name) != numerics[name]]
            raise RunError(
                f"{self.path}: was started with {', '.join(f'{n} {known.get(n)}' for n in differing)}, here "
                f"{', '.join(f'{n} {numerics[n]}' for n in differing)}: going on would change the results "
                "(OMP_NUM_THREADS sets the threads)"
            )
        self.hold()
        write_sealed(path, numerics)

    # Records of evaluation: one per method, budget and seed. The checkpoint's folder has a sealed copy,
    # and the files that people read are made from it.
    def records(self, name: str = "results.json") -> list[Record]:
        """RunError where they are damaged."""
        return self._all_records()[name]

    def add_record(self, record: Record, name: str = "results.json") -> None:
        records = self._all_records()
        records[name].append(record)
        self.hold()
        write_sealed(self._sealed_records, records)
        write_json(self.path / name, records[name])

    def restore_records(self) -> list[str]:
        """Write the files of records again that were lost or changed since; their names."""
        records = self._all_records()
        wrong = [name for name, known in records.items() if known and self._differs(name, known)]
        for name in wrong:
            self.hold()
            write_json(self.path / name, records[name])
        return wrong

    def _all_records(self) -> dict[str, list[Record]]:
        if self._sealed_records.exists():
            found = read_sealed(self._sealed_records)
        else:  # nothing is finished, or somebody removed the checkpoint's folder
            found = {name: read_json(path) for name in RECORD_FILES if (path := self.path / name).exists()}
        with _naming_damage():
            return {name: check_records(found.get(name, []), self.path / name) for name in RECORD_FILES}

    def _differs(self, name: str, known: list[Record]) -> bool:
        try:
            return read_json(self.path / name) != known
        except (RunError, FileNotFoundError):
            return True

    @property
    def _sealed_records(self) -> Path:
        return self.path / "checkpoint" / "records.json"

    # One line per step of learning.
    def append_step(self, line: dict[str, Any]) -> None:
        self.hold()
        append_line(self.path / "steps.jsonl", json.dumps(line, allow_nan=False))

    def cut_steps(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Drop the lines after the checkpoint, and a line that a kill cut short. RunError names a damaged
        one."""
        path = self.path / "steps.jsonl"
        if path.exists():
            self.hold()
            with _naming_damage():
                kept = [json.dumps(step) + "\n" for step in read_steps(path) if keep(step)]
            write_whole(path, "".join(kept).encode())

    def num_steps(self, seed: int) -> int:
        """How many steps of learning with `seed` steps.jsonl has. RunError where it is damaged."""
        with _naming_damage():
            return sum(step["seed"] == seed for step in read_steps(self.path / "steps.jsonl"))

    # What each stage leaves for the next.
    def policy_path(self, seed: int, first_seed: int) -> Path:
        return self.path / ("policy.safetensors" if seed == first_seed else f"policy-seed{seed}.safetensors")

    def selection_path(self, method: str, seed: int) -> Path:
        return self.path / "selections" / f"{method}-seed{seed}.json"

    def write_selection(self, selection: Record) -> None:
        self.hold()
        write_sealed(self.selection_path(selection["method"], selection["seed"]), selection)

    def read_selection(self, method: str, seed: int) -> Record:
        """RunError where it is damaged."""
        path = self.selection_path(method, seed)
        with _naming_damage():
            return check_selection(read_sealed(path), path)

    def segmenter_path(self, method: str, seed: int, budget: int) -> Path:
        """The segmenter as it stands when `budget` regions are labelled, waiting for its final training."""
        return self.path / "checkpoint" / f"{method}-seed{seed}-budget{budget}.safetensors"

    def save_segmenter(self, method: str, seed: int, budget: int, state: dict[str, Tensor]) -> None:
        self.hold()
        save_tensors(self.segmenter_path(method, seed, budget), state)


@contextlib.contextmanager
def _naming_damage() -> Iterator[None]:
    """A file of the run that is malformed ends the run with the words that name it."""
    try:
        yield
    except ValueError as error:
        raise RunError(str(error)) from error


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
        make_folder(path)
        lock = _open_lock(path / ".lock")
    except OSError as error:
        _remove_empty(made)
        raise RunError(f"--out {path}: can't be written: {error.strerror or error}") from error
    try:
        _take(lock, path)
        try:
            _refuse_foreign(path, config_path, config, resume)  # another process may have started in between
            yield RunDirectory(path, lambda: _is_still_there(lock, path / ".lock"))
        finally:
            if not config_path.exists():
                (path / ".lock").unlink(missing_ok=True)
                _remove_empty(made)
    finally:
        os.close(lock)


def _open_lock(path: Path) -> int:
    """A descriptor of the lock's file, made if it isn't there. RunError where anything else has its name."""
    try:
        # Nothing is cut, no link is followed, and a pipe of that name is not waited for.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
        raise RunError(
            f"{path}: must be a lock of ralx, which is an empty file, got a link, folder or pipe"
        ) from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_size:
        os.close(descriptor)
        raise RunError(f"{path}: must be a lock of ralx, which is an empty file, got something else")
    return descriptor


def _is_still_there(lock: int, path: Path) -> bool:
    """Whether the file that this process has locked is the one at `path`."""
    try:
        return os.path.samestat(os.fstat(lock), os.lstat(path))
    except OSError:  # removed, or given back already
        return False


def _take(lock: int, path: Path) -> None:
    """RunError unless this process gets the lock: the kernel frees it when the process dies."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise RunError(f"{path}/.lock: can't be locked: {error.strerror}") from error
        raise RunError(f"--out {path}: another process is running there") from error
    if not _is_still_there(lock, path / ".lock"):  # a process that was refused removed the file just now
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
            found = ", ".join(foreign[:3])
            raise RunError(f"--out {path}: must be empty or hold a run, got {found}, but no config.json")
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
