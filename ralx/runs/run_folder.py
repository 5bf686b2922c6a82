"""The folder of one run, which holds nothing else: `ralx-train`'s `--out`."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ralx.support.files import RunError, clear_torn, read_json, write_json
from ralx.support.folder import FolderLock, locked

SHOWN = 4  # differing options that a message names


@contextlib.contextmanager
def open_run(path: Path, config: dict[str, Any], *, resume: bool) -> Iterator[FolderLock]:
    """Lock the folder for the run of `config`, made if it isn't there. `begin` makes it the run's; a folder
    that was made here is removed again unless `begin` was called.

    Raises RunError, and touches nothing, where the folder holds anything else: a file, foreign files, a run
    of another config, a run while `resume` is off, or a run that another process is at.
    """
    _refuse_foreign(path, config, resume)
    with locked(path) as lock:
        _refuse_foreign(path, config, resume)  # another process may have started in between
        yield lock


def begin(path: Path, config: dict[str, Any], lock: FolderLock) -> None:
    """Note the config of a run that is about to compute, and clear what a kill left half-written."""
    lock.hold()
    for folder in (path, path / "selections"):
        clear_torn(folder)
    if not (path / "config.json").exists():
        write_json(path / "config.json", config)


def _refuse_foreign(path: Path, config: dict[str, Any], resume: bool) -> None:
    config_path = path / "config.json"
    if not path.is_dir():
        return
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
