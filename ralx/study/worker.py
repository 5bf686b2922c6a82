"""Doing the cells of a study, each by one process of all that share the store."""

import dataclasses
import hashlib
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from ralx.cli import data_options
from ralx.config import Config
from ralx.datasets import Splits, load_splits
from ralx.experiments import Experiment
from ralx.run_dir import LostRun, RunDirectory
from ralx.study.cells import Cell, Content, with_needs
from ralx.study.machine import machine
from ralx.study.store import Store
from ralx.support.files import RunError, clear_torn
from ralx.support.monitor import Monitor
from ralx.version import __version__

POLL_SECONDS = 1.0  # between two looks for a cell that others have made ready


class Workshop:
    """What one process works with: the store, the data sets and the experiments of the configs."""

    def __init__(self, store: Store, monitor: Monitor, rank: int = 0):
        self.store = store
        self.monitor = monitor
        self.rank = rank
        self._splits: dict[str, tuple[Splits, str]] = {}
        self._experiments: dict[Config, Experiment] = {}
        self._keys: dict[Cell, str] = {}

    def experiment(self, config: Config) -> Experiment:
        """ValueError, DataError where nothing can come of the config."""
        if config not in self._experiments:
            run = RunDirectory(self.store.path / "work")
            cache = self.store.path / "cache"
            here = dataclasses.replace(config, device=self._device(config))
            self._experiments[config] = Experiment(here, self._data(config)[0], run, cache, self.monitor)
        return self._experiments[config]

    def key(self, cell: Cell) -> str:
        if cell not in self._keys:
            config = cell.config
            content = Content(self._data(config)[1], _hash_of(config.weights), _hash_of(config.policy))
            self._keys[cell] = cell.key(content)
        return self._keys[cell]

    def finished(self, cell: Cell) -> bool:
        return self.store.finished(self.key(cell))

    def found(self, cell: Cell) -> dict[str, Any] | None:
        """What the cell found, or None while it isn't finished."""
        return self.store.read(self.key(cell)) if self.finished(cell) else None

    def work(self, cell: Cell) -> RunDirectory:
        return self.store.work(self.key(cell))

    def do(self, cell: Cell) -> None:
        """Do the cell, going on where an earlier attempt was interrupted, and note what it found."""
        start = time.monotonic()
        found = self._do(cell)
        self.store.finish(
            self.key(cell),
            {
                "cell": {"kind": cell.kind, "method": cell.method, "budget": cell.budget, "seed": cell.seed},
                **found,
                "seconds": round(time.monotonic() - start, 3),
                "machine": machine(self.experiment(cell.config).device),
                "options": cell.depends_on(),
                "version": __version__,
            },
        )
        if cell.kind not in ("learn", "select"):  # nothing is left there for other cells
            self.store.forget_work(self.key(cell))
        if cell.kind == "final":
            self._segmenter_path(cell).unlink(missing_ok=True)

    def _do(self, cell: Cell) -> dict[str, Any]:
        run = self.work(cell)
        for folder in (run.path, run.path / "checkpoint", run.path / "selections"):
            clear_torn(folder)
        experiment = self.experiment(cell.config).within(run)
        match cell.kind:
            case "theta0" | "theta0_prime" | "full_supervision":
                return _pretrain(experiment, cell)
            case "learn":
                experiment.learn_policy(cell.seed)
                return {}
            case "select":
                return self._select(experiment, cell, cell.config.budgets)
            case "final":
                (select,) = cell.needs
                if not self._segmenter_path(cell).exists():  # lost since the selection was finished
                    self._select(
                        self.experiment(cell.config).within(self.work(select)), select, [cell.budget]
                    )
                record, reward_miou = experiment.finish(
                    cell.method, cell.seed, cell.budget, selected=self.work(select)
                )
                return {"record": record, "reward_miou": reward_miou}

    def _select(self, experiment: Experiment, cell: Cell, wanted: Sequence[int]) -> dict[str, Any]:
        run = learned = self.work(cell)
        for need in cell.needs:
            if need.kind == "learn":
                learned = self.work(need)
                experiment.within(learned).learn_policy(cell.seed)  # again, if its file was lost
        experiment.select(cell.method, cell.seed, learned=learned, wanted=wanted)
        return {
            "selection": run.read_selection(cell.method, cell.seed),
            "selected": experiment.describe_selection(cell.method, cell.seed, selected=run),
        }

    def _segmenter_path(self, cell: Cell) -> Path:
        (select,) = cell.needs
        return self.work(select).segmenter_path(cell.method, cell.seed, cell.budget)

    def _data(self, config: Config) -> tuple[Splits, str]:
        """The config's data set and a hash of its content."""
        options = data_options(config)
        name = repr((config.dataset, config.data, options))
        if name not in self._splits:
            splits = load_splits(config.dataset, config.data, **options)
            content = repr([split and split.fingerprint() for split in splits])
            self._splits[name] = splits, hashlib.sha256(content.encode()).hexdigest()
        return self._splits[name]

    def _device(self, config: Config) -> str:
        """Processes of one machine take turns at its GPUs."""
        if config.device != "auto" or torch.cuda.device_count() < 2:
            return config.device
        return f"cuda:{self.rank % torch.cuda.device_count()}"


def _pretrain(experiment: Experiment, cell: Cell) -> dict[str, Any]:
    pretraining = experiment.pretraining
    state = {
        "theta0": lambda: pretraining.theta0,
        "theta0_prime": lambda: pretraining.theta0_prime,
        "full_supervision": lambda: pretraining.full_supervision(cell.seed),
    }[cell.kind]()
    trainer = experiment.segmenters.new_trainer(experiment.config.segmenter_lr)
    trainer.load_state_dict(state)
    records = experiment.run.records("reference.json")
    (record,) = (each for each in records if (each["method"], each["seed"]) == (cell.kind, cell.seed))
    return {"record": record, "reward_miou": experiment.segmenters.reward_miou(trainer)}


def _hash_of(path: Path | None) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path else None


def work_on(cells: Iterable[Cell], workshop: Workshop) -> None:
    """Do the cells and all that they need, together with every other process at the store.

    Returns when each is finished or has failed, here or elsewhere, or needs one that has.
    """
    open_cells = unique(with_needs(cells), workshop)
    total = len(open_cells)
    while open_cells := [cell for cell in open_cells if _is_open(cell, workshop)]:
        ready = [cell for cell in open_cells if all(map(workshop.finished, cell.needs))]
        first = workshop.rank % max(len(ready), 1)  # processes that start together look at different cells
        left = f"{len(open_cells)} of {total} cells left"
        if not any(_attempt(cell, workshop, left) for cell in ready[first:] + ready[:first]):
            time.sleep(POLL_SECONDS)


def unique(cells: Iterable[Cell], workshop: Workshop) -> list[Cell]:
    """The cells without those that another config makes the same work of."""
    by_key: dict[str, Cell] = {}
    for cell in cells:
        by_key.setdefault(workshop.key(cell), cell)
    return list(by_key.values())


def failures(cells: Iterable[Cell], workshop: Workshop) -> dict[Cell, str]:
    """Why each failed cell did."""
    reasons = {cell: workshop.store.failure(workshop.key(cell)) for cell in cells}
    return {cell: reason for cell, reason in reasons.items() if reason and not workshop.finished(cell)}


def _is_open(cell: Cell, workshop: Workshop) -> bool:
    if workshop.finished(cell):
        return False
    return not failures(with_needs([cell]), workshop)


def _attempt(cell: Cell, workshop: Workshop, left: str) -> bool:
    """Whether the cell was this process's to do; now it is finished or has failed."""
    key = workshop.key(cell)
    with workshop.store.claim(key) as mine:
        if mine:
            workshop.monitor.say(f"{key} ({left})")
            try:
                workshop.do(cell)
            except LostRun as error:  # the other process finishes the cell
                workshop.monitor.say(f"{cell.name}: {error}")
            except (RunError, FloatingPointError, FileNotFoundError) as error:
                workshop.monitor.say(f"{cell.name}: failed: {error}")
                workshop.store.fail(key, str(error))
        return mine
