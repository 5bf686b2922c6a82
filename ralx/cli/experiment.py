"""`ralx-experiment NAME --out DIR`: the paper's experiments, as far as they aren't done yet.

Started again, the same command goes on with what is left. Exit codes: 0 done, 1 a part failed, 2 wrong
options or data, 130 interrupted (the same command goes on).
"""

import sys
from dataclasses import dataclass

import torch
import tyro
from rich.console import Console

from ralx.cli.command import (
    Command,
    WrongInput,
    describe,
    exit_code,
    naming_wrong_input,
    output_folder,
    parse,
    worker_in,
)
from ralx.report.records import MeasuredOn
from ralx.runs.checks import refuse_impossible
from ralx.runs.engine import Engine, Processes, Worker, run_here
from ralx.runs.stage import Stage
from ralx.runs.studies import STUDIES, StudyName, plan_of
from ralx.runs.study_folder import write_study
from ralx.support.files import RunError
from ralx.support.folder import locked
from ralx.support.monitor import Monitor
from ralx.support.threads import usable_threads


@dataclass(frozen=True)
class ExperimentCommand(Command):
    """One of the paper's experiments: compute what is missing, then write its table, figures and files.

    Experiments may share `--out`: nothing is computed twice. Threads that wait spin only briefly
    (GOMP_SPINCOUNT=1000), which suits quiet and busy machines; OMP_WAIT_POLICY=active lets them spin.
    """

    name: tyro.conf.Positional[StudyName] = "budget-curve"
    """Which experiment. budget-curve: Fig. 4; per-class: Table 1; selected-classes: Fig. 3, App. C;
    selections: Fig. 1, App. D; upper-bound: full supervision; ablate-features, ablate-regions, ablate-k:
    App. E; ablate-mc: BALD's passes; pool-sizes: N, which the paper chooses with `--split validation`;
    published-switches: each departure of the published code."""
    jobs: int = 1
    """Parts that are computed at once, each in a process of its own."""
    threads: int | None = None
    """CPU threads of each process. Default: as many as the folder's results have, else the cores by
    `--jobs`."""
    split: MeasuredOn = "test"
    """Images that the table and the figures are about. validation: D_R, for choosing settings without a look
    at the test set; it is written into a folder of its own."""
    report: tyro.conf.FlagCreatePairsOff[bool] = False
    """Compute nothing: write the table and the figures of what is finished."""


def main(arguments: list[str] | None = None) -> int:
    """Run `ralx-experiment`; returns its exit code."""
    given = sys.argv[1:] if arguments is None else arguments

    def command() -> int:
        return run(parse(ExperimentCommand, "ralx-experiment", given, name=tyro.MISSING))

    interrupted = "interrupted; the same command goes on"
    return exit_code("ralx-experiment", command, interrupted=interrupted)


def run(command: ExperimentCommand) -> int:
    """Compute what is missing, and write the study's folder."""
    config, study, out = command.config, STUDIES[command.name], output_folder(command)
    if command.jobs < 1:
        raise WrongInput(f"--jobs: must be at least 1, got {command.jobs}")
    if command.threads is not None and command.threads < 1:
        raise WrongInput(f"--threads: must be at least 1, got {command.threads}")
    if out.exists() and not out.is_dir():
        raise WrongInput(f"--out {out}: must be a folder, got a file")
    with locked(out) as lock:
        # Several processes would draw their bars over each other.
        monitor = Monitor(console=Console(force_terminal=False) if command.jobs > 1 else None)
        with naming_wrong_input():
            worker = worker_in(out, command, lock, monitor)
            _set_threads(command, worker)
            for each in (config, *(arm.config for arm in study.arms(config))):
                refuse_impossible(each, worker)
            if not command.report:  # which is possible on any machine
                worker.store.refuse_other_numerics(worker.numerics)
        describe(config, worker)
        plan = plan_of(study, config, full_seeds=config.seeds)
        failed: dict[Stage, str] = {}
        if not command.report:
            worker.store.clear_torn()
            failed = _engine(command)(plan, worker, keep_going=True)
        folder = out / (command.name if command.split == "test" else f"{command.name}-{command.split}")
        text = write_study(command.name, config, plan, worker, folder, command.split)
        monitor.say(f"\n{text}\n{folder}")
    if failed:
        reasons = "; ".join(f"{stage.name}: {reason}" for stage, reason in failed.items())
        raise RunError(f"{len(failed)} of {len(plan)} stages failed: {reasons}")
    return 0


def _engine(command: ExperimentCommand) -> Engine:
    return run_here if command.jobs == 1 else Processes(command.jobs, command.config.device)


def _set_threads(command: ExperimentCommand, worker: Worker) -> None:
    known = (worker.store.numerics or {}).get("threads")
    torch.set_num_threads(command.threads or known or max(1, usable_threads() // command.jobs))


if __name__ == "__main__":
    sys.exit(main())
