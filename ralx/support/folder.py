"""A folder that one process at a time works in."""

import contextlib
import errno
import fcntl
import glob
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ralx.support.files import RunError, make_folder, sync_folder


class LostFolder(RunError):
    """Another process has taken over the folder that this one worked in."""


@dataclass(frozen=True)
class FolderLock:
    """The lock of a folder, for whoever writes there: also for the processes that its owner starts."""

    path: Path  # of the lock's file
    device: int
    inode: int

    def hold(self) -> None:
        """LostFolder where the lock is no longer this process's: one that was stopped for long may wake to
        find another at its work. Whoever writes asks this first."""
        try:
            found = os.lstat(self.path)
        except OSError:  # removed, or given back already
            found = None
        if found is None or (found.st_dev, found.st_ino) != (self.device, self.inode):
            folder = self.path.parent
            raise LostFolder(f"{folder}: another process has taken over this work; nothing more is written")


@contextlib.contextmanager
def locked(folder: Path, what: str = "--out ") -> Iterator[FolderLock]:
    """Make the folder if it isn't there and lock it; `what` stands before its name in messages. What is still
    empty at the end, and was made here, goes again.

    Raises RunError, and touches nothing, where the folder is a file, can't be written, or another process is
    at work there. The kernel frees the lock when its process dies.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{what}{folder}: must be a folder, got a file")
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    path = folder / ".lock"
    try:
        make_folder(folder)
        lock = _open_lock(path)
    except OSError as error:
        _remove_empty(made)
        raise RunError(f"{what}{folder}: can't be written: {error.strerror or error}") from error
    try:
        taken = _take(lock, path, what)
        try:
            yield taken
        finally:
            with contextlib.suppress(OSError, LostFolder):
                taken.hold()
                if [entry.name for entry in folder.iterdir()] == [path.name]:
                    path.unlink()
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


def _take(descriptor: int, path: Path, what: str) -> FolderLock:
    """RunError unless this process gets the lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise RunError(f"{path}: can't be locked: {error.strerror}") from error
        raise RunError(f"{what}{path.parent}: another process is running there") from error
    found = os.fstat(descriptor)
    lock = FolderLock(path, found.st_dev, found.st_ino)
    try:
        lock.hold()
    except LostFolder as error:  # a process that was refused removed the file just now
        raise RunError(f"{what}{path.parent}: another process was there a moment ago; try again") from error
    return lock


def _remove_empty(folders: list[Path]) -> None:
    """Remove the empty ones of `folders`, the innermost first."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yields a new folder to fill, which takes the place of `folder` at the end, or, after an error, is gone.

    ValueError where `folder` is a file, has files already, or is the one that this process runs in; RunError
    where it can't be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        found = "one with files" if folder.is_dir() else "a file"
        raise ValueError(f"{folder}: must be an empty folder or none yet, got {found}")
    folder = folder.resolve()
    if folder == Path.cwd():  # nobody would be in the new one
        raise ValueError(f"{folder}: must not be the folder that the command runs in")
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.*.tmp"):
        if (process := left.suffixes[-2][1:]).isdecimal() and not _is_alive(int(process)):
            shutil.rmtree(left, ignore_errors=True)
    work = folder.parent / f".{folder.name}.{os.getpid()}.tmp"
    try:
        make_folder(work)
        yield work
        if folder.exists():
            folder.rmdir()
        os.replace(work, folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise RunError(f"{folder}: can't be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True
