"""A folder of finished pieces of work that many processes and machines may write to at once.

    cells/KEY.json     what a finished cell found; written whole, never written again
    claims/KEY.N       who is at an unfinished cell
    work/KEY/          what it needs while it works, and what other cells take from it
    failed/KEY.json    why the last attempt ended
    setting.json       what the last bits of all results depend on

A cell is claimed by making claims/KEY.N with a number N one above the highest there: the file system lets one
process do so. Its owner keeps the file's time of change fresh; one that is stale is dead, and the next owner
makes the next number. Nothing is deleted that another process could rely on, so there is no moment at which
two owners both hold the highest number.
"""

import contextlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ralx.run_dir import RunDirectory
from ralx.support.files import (
    RunError,
    clear_torn,
    make_folder,
    read_bytes,
    read_sealed,
    write_sealed,
)

FRESH_SECONDS = 10.0  # between two signs of life
STALE_SECONDS = 120.0  # without one: shared folders may show a change a minute late
_NUMBERED = re.compile(r"\.[0-9]{1,18}", re.ASCII)  # else an editor's copy, or a stranger's


class Store:
    def __init__(self, path: Path):
        self.path = path
        self._own: dict[str, Path] = {}  # key → the claim of this process

    def begin(self) -> None:
        """Clear what killed processes left half-written."""
        for name in ("cells", "failed", "cache"):
            clear_torn(self.path / name)

    def finished(self, key: str) -> bool:
        return self._cell(key).exists()

    def read(self, key: str) -> dict[str, Any]:
        """What the finished cell found. RunError where the file is damaged."""
        return read_sealed(self._cell(key))

    def finish(self, key: str, found: dict[str, Any]) -> None:
        """Note what a cell found; its claims are no longer needed. LostRun where another process is at it."""
        self.work(key).hold()
        write_sealed(self._cell(key), found)
        for claim in self._claims(key):
            claim.unlink(missing_ok=True)

    def work(self, key: str) -> RunDirectory:
        """The folder that the cell works in; written to as long as this process's claim is the one that
        counts, if it has one."""
        return RunDirectory(self.path / "work" / key, lambda: self._is_ours(key))

    def _is_ours(self, key: str) -> bool:
        claim = self._own.get(key)
        return claim is None or self._claims(key)[-1:] == [claim]

    def forget_work(self, key: str) -> None:
        shutil.rmtree(self.path / "work" / key, ignore_errors=True)

    # Failures: a cell that failed is not tried again until a new command forgets it.
    def fail(self, key: str, reason: str) -> None:
        if self._is_ours(key):  # else another process may finish it yet
            write_sealed(self._failure(key), {"reason": reason})

    def failure(self, key: str) -> str | None:
        path = self._failure(key)
        return read_sealed(path).get("reason") if path.exists() else None

    def forget_failure(self, key: str) -> None:
        self._failure(key).unlink(missing_ok=True)

    def refuse_other_setting(self, setting: dict[str, Any]) -> None:
        """RunError where the folder's results were made in another setting: theirs would differ from those
        here in the last bits."""
        path = self.path / "setting.json"
        known = read_sealed(path) if path.exists() else setting
        differing = [name for name in setting if known.get(name) != setting[name]]
        if differing:
            there = ", ".join(f"{name} {known.get(name)}" for name in differing)
            here = ", ".join(f"{name} {setting[name]}" for name in differing)
            raise RunError(f"--out {self.path}: holds results of {there}, here it is {here}")
        if not path.exists():
            write_sealed(path, setting)

    # Claims

    @contextlib.contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Whether the cell is this process's to work on, as long as the block runs."""
        path = self._take(key)
        if path is None:
            yield False
            return
        self._own[key] = path
        stop = threading.Event()
        keeper = threading.Thread(target=_keep_fresh, args=(path, stop), daemon=True)
        keeper.start()
        try:
            yield True
        finally:
            stop.set()
            keeper.join()
            del self._own[key]
            with contextlib.suppress(FileNotFoundError):  # gone where the cell is finished
                os.utime(path, (0, 0))  # stale from now on

    def _take(self, key: str) -> Path | None:
        """The new claim of this process; None where another is at the cell."""
        folder = self.path / "claims"
        make_folder(folder)
        claims = self._claims(key)
        if claims and not self._is_dead(claims[-1]):
            return None
        path = folder / f"{key}.{_number(claims[-1]) + 1 if claims else 0}"
        try:
            with path.open("x") as file:
                json.dump(_process(os.getpid()), file)
        except FileExistsError:
            return None
        if self.finished(key):  # while this process was looking
            path.unlink()
            return None
        return path if self._claims(key)[-1] == path else None

    def _claims(self, key: str) -> list[Path]:
        """The claims of a cell, the one that counts last."""
        found = (self.path / "claims").glob(f"{key}.*")
        return sorted((path for path in found if _NUMBERED.fullmatch(path.suffix)), key=_number)

    def _is_dead(self, claim: Path) -> bool:
        """Whether a claim's owner has given it up, died here, or shown no sign of life for too long."""
        try:
            age = self._now() - claim.stat().st_mtime
            content = read_bytes(claim)
        except FileNotFoundError:  # finished just now
            return False
        try:
            owner = json.loads(content)
        except (ValueError, RecursionError):  # being written, or cut short by a kill
            owner = None
        return age > STALE_SECONDS or _died_here(owner)

    def _now(self) -> float:
        """The time of the file system's clock, which need not be this machine's."""
        clock = self.path / "claims" / f".clock.{os.getpid()}.{threading.get_ident()}"
        clock.touch()
        now = clock.stat().st_mtime
        clock.unlink()
        return now

    def _cell(self, key: str) -> Path:
        return self.path / "cells" / f"{key}.json"

    def _failure(self, key: str) -> Path:
        return self.path / "failed" / f"{key}.json"


def _number(claim: Path) -> int:
    return int(claim.suffix[1:])


def _keep_fresh(claim: Path, stop: threading.Event) -> None:
    while not stop.wait(FRESH_SECONDS):
        with contextlib.suppress(OSError):  # a shared folder may be away for a while
            os.utime(claim)


def _process(pid: int) -> dict[str, Any]:
    """What tells this process from every other, also from a later one of the same number."""
    return {"system": _system(), "pid": pid, "started": _started(pid)}


def _died_here(owner: Any) -> bool:
    """Whether the owner was a process of this system that is no longer there."""
    if not isinstance(owner, dict) or owner.keys() != {"system", "pid", "started"}:
        return False
    return owner["system"] == _system() is not None and _started(owner["pid"]) != owner["started"]


def _system() -> str | None:
    """This boot of this machine and its view of process numbers; None where the system doesn't tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """When the process started, in ticks since boot; None where there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state == "Z" else fields[18]
