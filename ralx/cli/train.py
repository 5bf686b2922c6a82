"""`ralx-train`: one command from a data set to the comparison of methods.

Exit codes: 0 done, 1 the run failed, 2 wrong options or data, 130 interrupted (go on with --resume).
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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
from ralx.datasets import check_data
from ralx.report import has_report, write_report
from ralx.report.records import read_run
from ralx.report.tables import summary_table
from ralx.runs.checks import refuse_impossible
from ralx.runs.config import RunConfig
from ralx.runs.engine import Worker, run_here
from ralx.runs.outputs import Outputs
from ralx.runs.plan import Stages
from ralx.runs.run_folder import begin, open_run
from ralx.runs.stage import Stage, in_order
from ralx.runs.studies import STUDIES, plan_of
from ralx.support.files import RunError
from ralx.support.monitor import Monitor
from ralx.support.threads import usable_threads

REPORTED = ("reference.json", "steps.jsonl", "results.json")  # what a report can be made of


@dataclass(frozen=True)
class TrainCommand(Command):
    """Learn which regions to label, then compare the policy with entropy, BALD and uniform sampling.

    OMP_NUM_THREADS sets the CPU threads, which results depend on in their last bits. Threads that wait spin
    only briefly (GOMP_SPINCOUNT=1000), which suits quiet and busy machines; OMP_WAIT_POLICY=active lets them
    spin.
    """

    resume: tyro.conf.FlagCreatePairsOff[bool] = False
    """Go on with the run that `--out` holds."""
    stage: Literal["all", "pretrain", "learn", "evaluate", "report"] = "all"
    """Run one group of stages alone, on a run that is there with `--resume`. A missing pretraining is run
    first; other missing stages are an error."""
    check_data: tyro.conf.FlagCreatePairsOff[bool] = False
    """Scan the data set, report what it holds and what is wrong, and stop."""
    tensorboard: tyro.conf.FlagCreatePairsOff[bool] = False
    """Write TensorBoard events into `--out`/tensorboard."""


def main(arguments: list[str] | None = None) -> int:
    """Run `ralx-train`; returns its exit code."""
    given = sys.argv[1:] if arguments is None else arguments

    def command() -> int:
        return run(parse(TrainCommand, "ralx-train", given))

    return exit_code("ralx-train", command, interrupted="interrupted; go on with --resume")


def run(command: TrainCommand) -> int:
    """Run the stages that are asked for, each as far as it isn't done yet."""
    config = command.config
    if command.check_data:
        return _check_data(command)
    out = output_folder(command)
    torch.set_num_threads(usable_threads())
    with open_run(out, config.to_json(), resume=command.resume) as lock:
        with naming_wrong_input():
            monitor = Monitor(out / "tensorboard" if command.tensorboard else None)
            worker = worker_in(out, command, lock, monitor)
            refuse_impossible(config, worker)
        try:
            return _run(command, out, worker)
        finally:
            monitor.close()


def _run(command: TrainCommand, out: Path, worker: Worker) -> int:
    config, say = command.config, worker.monitor.say
    outputs = Outputs(out, config, worker)
    plan = plan_of(STUDIES["budget-curve"], config, full_seeds=[config.seed])
    is_done = all(map(worker.finished, plan))
    if command.stage == "all" and is_done and outputs.are_complete() and _has_new_report(out):
        say(f"{out}: finished already")
        return 0
    _refuse_early_stage(command.stage, out, outputs, worker)
    describe(config, worker)
    is_new = not (out / "config.json").exists()
    begin(out, config.to_json(), worker.store.lock)
    if command.stage != "report":
        worker.store.clear_torn()
        if not is_done:
            worker.store.refuse_other_numerics(worker.numerics)
        for name in outputs.write():
            if not is_new:
                say(f"{out / name}: was not as the store has it; written again")
        run_here(
            _asked_for(command.stage, plan, config, outputs),
            worker,
            on_finished=lambda stage: outputs.write(),
        )
    if command.stage in ("all", "report"):
        _report(out, config, worker)
    return 0


def _asked_for(stage: str, plan: list[Stage], config: RunConfig, outputs: Outputs) -> list[Stage]:
    stages = Stages(config)
    wanted: dict[str, list[Stage]] = {
        "pretrain": [stages.theta0, stages.theta0_prime],
        "learn": [*outputs.policies],
    }
    return in_order(wanted.get(stage, plan))


def _refuse_early_stage(stage: str, out: Path, outputs: Outputs, worker: Worker) -> None:
    """WrongInput where `stage` is asked for alone before the stages that it lives on."""
    if stage == "report" and not any((out / name).exists() for name in REPORTED):
        raise WrongInput(f"--stage report: needs results, {out} has none of {', '.join(REPORTED)}")
    if stage == "evaluate" and outputs.config.evaluation.policy is None:
        for seed, policy in zip(outputs.config.seeds, outputs.policies, strict=False):  # none may need one
            if not worker.finished(policy):
                path = out / outputs.policy_name(seed)
                raise WrongInput(
                    f"--stage evaluate: {path} is missing; --stage learn makes it, or give a --policy"
                )


def _has_new_report(out: Path) -> bool:
    page, results = out / "report" / "index.html", out / "results.json"
    return has_report(out) and page.stat().st_mtime_ns >= results.stat().st_mtime_ns


def _report(out: Path, config: RunConfig, worker: Worker) -> None:
    try:
        page = write_report(out, pictures=worker.splits(config).eval_set)
        run = read_run(out)
    except ValueError as error:  # a damaged file of the run
        raise RunError(str(error)) from error
    if run.results:
        worker.monitor.console.print(summary_table(run.results, run.references))
    worker.monitor.say(f"report: {page}")


def _check_data(command: TrainCommand) -> int:
    data, regions = command.config.data, command.config.regions
    if data.dataset != "synthetic" and data.data is None:
        raise WrongInput(f"--data: the folder of {data.dataset} is needed, got none")
    with naming_wrong_input():
        region_size = regions.region_size if regions.edge == "drop" else None  # else no pixel is left out
        report = check_data(**data.source(), seed=command.config.split_seed, region_size=region_size)
    Console().print(str(report), highlight=False, markup=False)
    return 2 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
