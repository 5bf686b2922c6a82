"""Runs on six tiny scenes of 48×64 pixels, for the tests of what a run is made of."""

from pathlib import Path
from typing import Any

from ralx.runs.config import RunConfig
from ralx.runs.engine import Worker
from ralx.runs.presets import preset
from ralx.runs.store import Store
from ralx.support.devices import find_device
from ralx.support.folder import FolderLock
from ralx.support.monitor import Monitor

TINY: dict[str, Any] = dict(
    device="cpu",
    synthetic_image_size=(48, 64),
    synthetic_images=(2, 4, 6, 2, 2),
    pretrain_images=3,
    region_size=(16, 16),
    crop_size=(32, 32),
    batch_size=4,
    max_epochs=1,
    query_size=2,
    pool_size=3,
    budget=6,
    episodes=2,
    budgets=(3, 6),
    num_seeds=1,
)


def tiny_config(published: bool = False, **changes: Any) -> RunConfig:
    return preset("synthetic", published=published).changed(**(TINY | changes))


def worker_in(folder: Path, config: RunConfig | None = None) -> Worker:
    """A worker with its store and its cache in `folder`, on the config's device or else the CPU. It has the
    folder's lock file but doesn't lock it, so that any number of workers may share the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    path.touch()
    found = path.stat()
    store = Store(folder, folder / "cache", FolderLock(path, found.st_dev, found.st_ino))
    return Worker(store, find_device(config.device if config else "cpu"), Monitor())
