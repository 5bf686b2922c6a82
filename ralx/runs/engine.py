"""What runs a plan, which is a list of stages: this process, or several of this machine.

`Engine` is the seam: whatever runs every stage of a plan after those that it needs will do.
"""

import contextlib
import functools
import hashlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console

from ralx.datasets import SegmentationDataset, Splits, load_splits
from ralx.runs.config import DataConfig, RunConfig
from ralx.runs.machine import machine
from ralx.runs.stage import Artifact, Images, Stage, all_needs, key_of
from ralx.runs.store import Store
from ralx.support.checkpoint import Checkpoint
from ralx.support.devices import find_device
from ralx.support.files import RunError
from ralx.support.folder import LostFolder
from ralx.support.monitor import Monitor
from ralx.version import __version__

FAILURES = (RunError, FloatingPointError, FileNotFoundError)  # of a stage; anything else is a defect of ralx


class Worker:
    """Does stages in this process: a `Place` with the store, the device, and data sets that are loaded
    once."""

    def __init__(self, store: Store, device: torch.device, monitor: Monitor):
        self.store = store
        self.device = device
        self.monitor = monitor
        self.show_steps: Callable[[Stage, list[dict[str, Any]]], None] = lambda stage, lines: None
        self._splits: dict[tuple[DataConfig, int], Splits] = {}
        self._contents: dict[Images | Path, str] = {}
        self._keys: dict[Stage, str] = {}
        self._notes: dict[Path, tuple[dict[str, Any], dict[str, Any]]] = {}

    @property
    def numerics(self) -> dict[str, Any]:
        """What the last bits of the results depend on, beside the config and the processor."""
        return {
            "ralx": __version__,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
        }

    @functools.cached_property
    def known_numerics(self) -> dict[str, Any]:
        """The numerics that the store's artifacts were made with, so that these are found again on any
        machine; this process's numerics where the store is empty."""
        return self.store.numerics or self.numerics

    # As stages see it

    def splits(self, config: RunConfig) -> Splits:
        return self._loaded(config.data, config.split_seed)

    def images(self, images: Images) -> SegmentationDataset:
        return getattr(self._loaded(images.data, images.seed), images.split)

    def _loaded(self, data: DataConfig, seed: int) -> Splits:
        if (data, seed) not in self._splits:
            self._splits[data, seed] = load_splits(**data.source(), seed=seed, device=self.device)
        return self._splits[data, seed]

    def artifact(self, stage: Stage) -> Artifact:
        return self.store.read(self._path(stage))[0]

    def checkpoint(self, stage: Stage) -> Checkpoint:
        return self.store.checkpoint(self.key(stage))

    # As engines see it

    def key(self, stage: Stage) -> str:
        key = self._keys.get(stage)  # one look-up: the hash of a stage is that of all its fields
        if key is None:
            key = key_of(stage, numerics=self.known_numerics, key=self.key, content=self._content)
            self._keys[stage] = key
        return key

    def finished(self, stage: Stage) -> bool:
        return self._path(stage).exists()

    def found(self, stage: Stage) -> dict[str, Any] | None:
        """The JSON values that the stage left, or None while it isn't finished."""
        path = self._path(stage)
        return self._notes_in(path)[0] if path.exists() else None

    def made(self, stage: Stage) -> dict[str, Any]:
        """How a finished stage was done: its kind, seconds and machine."""
        return self._notes_in(self._path(stage))[1]

    def do(self, stage: Stage) -> None:
        """Do the stage, going on where an earlier attempt was interrupted, and keep its artifact."""
        start = time.monotonic()
        self._refuse_changed_files()
        artifact = stage.run(self)
        seconds = round(time.monotonic() - start, 3)
        made = {"kind": stage.kind, "seconds": seconds, "machine": machine(self.device)}
        self.store.write(self._path(stage), artifact, made)
        self.checkpoint(stage).clear()

    def _path(self, stage: Stage) -> Path:
        return self.store.path(self.key(stage), shared=stage.is_pretraining)

    def _notes_in(self, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        if path not in self._notes:
            artifact, made = self.store.read(path)
            self._notes[path] = artifact.found, made
        return self._notes[path]

    def _content(self, given: Images | Path) -> str:
        if given not in self._contents:
            if isinstance(given, Images):
                self._contents[given] = self.images(given).fingerprint()
            else:
                self._contents[given] = _hash_of(given)
        return self._contents[given]

    def _refuse_changed_files(self) -> None:
        """RunError where a file is no longer what the keys say."""
        for given, content in self._contents.items():
            if isinstance(given, Path) and _hash_of(given) != content:
                raise RunError(f"{given}: was changed while the run uses it; begin again with it")


def _hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


Failures = dict[Stage, str]  # why each stage that failed did


class Engine(Protocol):
    def __call__(
        self,
        plan: Sequence[Stage],
        worker: Worker,
        *,
        on_finished: Callable[[Stage], object] = lambda stage: None,
        keep_going: bool = False,
    ) -> Failures:
        """Do the stages of a plan that aren't finished.

        Args:
            plan: stages in an order in which each comes after those that it needs.
            on_finished: gets every stage that this call did.
            keep_going: a stage that fails takes only those with it that need it; otherwise, or where the
                folder was lost, its error ends the plan.
        """


def run_here(
    plan: Sequence[Stage],
    worker: Worker,
    *,
    on_finished: Callable[[Stage], object] = lambda stage: None,
    keep_going: bool = False,
) -> Failures:
    """An `Engine`: one stage after the other, in this process."""
    failed: Failures = {}
    needs = all_needs(plan)
    for stage in plan:
        if worker.finished(stage) or needs[stage] & failed.keys():
            continue
        with _noting_failure(stage, failed, worker, keep_going):
            worker.do(stage)
        if stage not in failed:
            on_finished(stage)
    return failed


@contextlib.contextmanager
def _noting_failure(stage: Stage, failed: Failures, worker: Worker, keep_going: bool) -> Iterator[None]:
    """A stage that fails inside is noted in `failed` and on the screen where the plan goes on without it."""
    try:
        yield
    except FAILURES as error:
        if not keep_going or isinstance(error, LostFolder):
            raise
        failed[stage] = str(error)
        worker.monitor.say(f"{stage.name}: failed: {error}")


@dataclass(frozen=True)
class Processes:
    """An `Engine`: stages side by side, in processes of this machine, which take turns at its GPUs."""

    jobs: int
    device: str  # as `find_device` takes it

    def __call__(
        self,
        plan: Sequence[Stage],
        worker: Worker,
        *,
        on_finished: Callable[[Stage], object] = lambda stage: None,
        keep_going: bool = False,
    ) -> Failures:
        failed: Failures = {}
        needs = all_needs(plan)
        waiting = [stage for stage in plan if not worker.finished(stage)]
        running: dict[Future[None], Stage] = {}
        with self._pool(worker) as submit:
            while waiting or running:
                waiting = [stage for stage in waiting if not needs[stage] & failed.keys()]
                pending = {*waiting, *running.values()}
                ready = [stage for stage in waiting if not needs[stage] & pending]
                for stage in ready[: self.jobs - len(running)]:
                    waiting.remove(stage)
                    running[submit(stage)] = stage
                    left = f"{len(waiting) + len(running)} of {len(plan)} stages left"
                    worker.monitor.say(f"{stage.name} ({left})")
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    stage = running.pop(future)
                    with _noting_failure(stage, failed, worker, keep_going):
                        future.result()
                    if stage not in failed:
                        on_finished(stage)
        return failed

    @contextlib.contextmanager
    def _pool(self, worker: Worker) -> Iterator[Callable[[Stage], Future[None]]]:
        """Yields what hands a stage to a process. The processes end with this one, however it ends."""
        context, others = multiprocessing.get_context("spawn"), multiprocessing.active_children()
        setting = (worker.store, self.device, torch.get_num_threads(), context.Value("i", 0))
        pool = ProcessPoolExecutor(self.jobs, context, initializer=_start, initargs=setting)

        def submit(stage: Stage) -> Future[None]:
            # Processes are started here, and inherit that Ctrl-C is blocked: it is for this process, which
            # ends them, and in the middle of their import of torch it would be a page of traceback. Ctrl-C
            # that is pressed meanwhile is not lost: it comes as soon as it is no longer blocked.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                return pool.submit(_do, stage, worker.key(stage))
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

        try:
            yield submit
        except BaseException as error:
            for process in multiprocessing.active_children():
                if process not in others:
                    process.terminate()  # a stage goes on from its checkpoint
            if isinstance(error, BrokenProcessPool):
                raise RunError("--jobs: a process ended early; the same command goes on") from error
            raise
        finally:
            pool.shutdown(cancel_futures=True)


_worker: Worker  # of a process that `Processes` started


def _start(store: Store, device: str, threads: int, started: Any) -> None:
    global _worker
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    with started.get_lock():
        rank, started.value = started.value, started.value + 1
    if device == "auto" and torch.cuda.device_count() > 1:
        device = f"cuda:{rank % torch.cuda.device_count()}"
    # Several processes would draw their bars over each other.
    _worker = Worker(store, find_device(device), Monitor(console=Console(force_terminal=False)))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _do(stage: Stage, key: str) -> None:
    """Do a stage that the process which started this one calls `key`, and looks for by that."""
    if _worker.key(stage) != key:
        raise RunError(f"{stage.name}: a file or image that it is given was changed while a run uses it")
    _worker.do(stage)
