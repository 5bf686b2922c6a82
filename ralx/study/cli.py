"""`ralx-experiment NAME --out DIR`: the paper's experiments, as far as they aren't done yet.

Started again, or at the same time elsewhere on the same folder, the same command goes on with what is left.
Exit codes: 0 done, 1 a part failed, 2 wrong options or data, 130 interrupted (the same command goes on).
"""

import multiprocessing
import os
import signal
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro
from rich.console import Console

from ralx.cli import WrongInput, base_config, exit_code, naming_wrong_input
from ralx.config import Config, preset
from ralx.study.cells import Cell, with_needs
from ralx.study.report import write_study
from ralx.study.results import Split
from ralx.study.store import Store
from ralx.study.studies import STUDIES, StudyName, cells_of
from ralx.study.worker import Workshop, failures, unique, work_on
from ralx.support.files import RunError, read_sealed
from ralx.support.monitor import Monitor
from ralx.support.threads import usable_threads

INTERRUPTED = "interrupted; the same command goes on"


@dataclass(frozen=True)
class Command:
    """One of the paper's experiments: compute what is missing, then write its table, figures and files.

    Threads that wait spin only briefly (GOMP_SPINCOUNT=1000), which suits quiet and busy machines;
    OMP_WAIT_POLICY=active lets them spin.
    """

    name: tyro.conf.Positional[StudyName]
    """Which experiment. budget-curve: Fig. 4; per-class: Table 1; selected-classes: Fig. 3, App. C;
    selections: Fig. 1, App. D; upper-bound: full supervision; ablate-features, ablate-regions, ablate-k:
    App. E; ablate-mc: BALD's passes; pool-sizes: N, which the paper chooses with `--split validation`;
    published-switches: each departure of the published code."""
    out: Path | None = None
    """Folder of results. Experiments, processes and machines may share it: nothing is computed twice."""
    jobs: int = 1
    """Processes on this machine."""
    threads: int | None = None
    """CPU threads of each process. Default: what the folder's results have, else the cores by `--jobs`."""
    split: Split = "test"
    """Images that the table and the figures are about. validation: D_R, for choosing settings without a look
    at the test set; it is written into a folder of its own."""
    report: tyro.conf.FlagCreatePairsOff[bool] = False
    """Compute nothing: write the table and the figures of what is finished."""
    config: tyro.conf.OmitArgPrefixes[Config] = field(default_factory=lambda: preset("synthetic"))


def main(arguments: list[str] | None = None) -> int:
    """Run `ralx-experiment`; returns its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    return exit_code("ralx-experiment", lambda: run(parse(given)), interrupted=INTERRUPTED)


def parse(arguments: list[str]) -> Command:
    """The command line over its preset's values."""
    default = Command(name=tyro.MISSING, config=base_config(arguments))
    return tyro.cli(Command, prog="ralx-experiment", args=arguments, default=default)


def run(command: Command) -> int:
    """Compute what is missing, with others if there are any, and write the study's folder."""
    out, cells, workshop = prepare(command, _rank())
    workshop.experiment(command.config).describe()
    if not command.report:
        for cell in cells:
            workshop.store.forget_failure(workshop.key(cell))
        workshop.store.begin()
        _compute(command, cells, workshop)
    folder = out / (command.name if command.split == "test" else f"{command.name}-{command.split}")
    with workshop.store.claim(f"report-{folder.name}") as mine:
        if mine:  # else another process is writing it
            text = write_study(command.name, command.config, workshop, folder, command.split)
            workshop.monitor.say(f"\n{text}\n{folder}")
    failed = failures(cells, workshop)
    if failed:
        reasons = "; ".join(f"{cell.name}: {reason}" for cell, reason in failed.items())
        raise RunError(f"{len(failed)} of {len(cells)} cells failed: {reasons}")
    return 0


def prepare(command: Command, rank: int) -> tuple[Path, list[Cell], Workshop]:
    """The study's cells and what the process `rank` does them with. WrongInput, before anything is written,
    for what can't be."""
    config = command.config
    if command.out is None:
        raise WrongInput("--out: a folder for the results is needed")
    if config.dataset != "synthetic" and config.data is None:
        raise WrongInput(f"--data: the folder of {config.dataset} is needed, got none")
    if command.jobs < 1:
        raise WrongInput(f"--jobs: must be at least 1, got {command.jobs}")
    if command.threads is not None and command.threads < 1:
        raise WrongInput(f"--threads: must be at least 1, got {command.threads}")
    if command.out.exists() and not command.out.is_dir():
        raise WrongInput(f"--out {command.out}: must be a folder, got a file")
    store = Store(command.out)
    torch.set_num_threads(_threads(command, store))
    # Several processes would draw their bars over each other.
    console = Console(force_terminal=False) if command.jobs > 1 else Console()
    workshop = Workshop(store, Monitor(console=console), rank)
    with naming_wrong_input():
        cells = unique(with_needs(cells_of(STUDIES[command.name], config)), workshop)
        for cell in cells:
            workshop.experiment(cell.config)  # refuses what can't be computed
        if not command.report:  # which is possible on any machine
            store.refuse_other_setting(workshop.experiment(config).segmenters.numerics)
    return command.out, cells, workshop


def _threads(command: Command, store: Store) -> int:
    setting = store.path / "setting.json"
    known = read_sealed(setting).get("threads") if setting.exists() else None
    return command.threads or known or max(1, usable_threads() // command.jobs)


def _rank() -> int:
    """This process's place among those that a launcher such as torchrun has started."""
    return int(os.environ.get("RANK", "0"))


def _compute(command: Command, cells: list[Cell], workshop: Workshop) -> None:
    if command.jobs == 1:
        work_on(cells, workshop)
        return
    context = multiprocessing.get_context("spawn")
    first = _rank() * command.jobs
    heeds = signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
    processes = [
        context.Process(target=_work, args=(command, first + job, heeds)) for job in range(command.jobs)
    ]
    # They inherit that Ctrl-C is ignored: in the middle of torch's import it would be a page of traceback.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for process in processes:
            process.start()
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        for process in processes:
            process.join()
    finally:
        for process in processes:  # alive only where this process was interrupted alone
            process.terminate()
    if any(process.exitcode == 130 for process in processes):
        raise KeyboardInterrupt
    if any(process.exitcode for process in processes):
        raise RunError(f"--jobs: {sum(1 for p in processes if p.exitcode)} of the processes ended early")


def _work(command: Command, rank: int, heeds: bool) -> None:
    """One of several processes, which ends with the one that started it; `heeds` Ctrl-C or not, as that."""
    if heeds:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def work() -> int:
        _, cells, workshop = prepare(command, rank)
        work_on(cells, workshop)
        return 0

    sys.exit(exit_code("ralx-experiment", work, interrupted=INTERRUPTED))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # what is unfinished goes on from its checkpoint


if __name__ == "__main__":
    sys.exit(main())
