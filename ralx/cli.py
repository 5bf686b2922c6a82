"""`ralx-train`: one command from a data set to the comparison of the four methods.

Exit codes: 0 done, 1 the run failed, 2 wrong options or data, 130 interrupted (go on with --resume).
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import tyro
from rich.console import Console

from ralx.config import Config, preset
from ralx.datasets import DataError, SyntheticSizes, check_data, load_splits
from ralx.experiments import Experiment
from ralx.report import has_report, summary_table, write_report
from ralx.run_dir import RunDirectory, open_run
from ralx.support.files import RunError, load_tensors
from ralx.support.interrupts import noted_interrupts
from ralx.support.monitor import Monitor
from ralx.support.terminal import fit_to_terminal
from ralx.support.threads import usable_threads

Stage = Literal["pretrain", "learn", "evaluate", "report"]
STAGES: tuple[Stage, ...] = get_args(Stage)
REPORTED = ("reference.json", "steps.jsonl", "results.json")  # what a report can be made of


@dataclass(frozen=True)
class Command:
    """Learn which regions to label, then compare the policy with entropy, BALD and uniform sampling.

    OMP_NUM_THREADS sets the CPU threads, which results depend on in their last bits. Threads that wait spin
    only briefly (GOMP_SPINCOUNT=1000), which suits quiet and busy machines; OMP_WAIT_POLICY=active lets them
    spin.
    """

    out: Path | None = None
    """Folder for the results; made if it isn't there."""
    resume: tyro.conf.FlagCreatePairsOff[bool] = False
    """Go on with the run that `--out` holds."""
    stage: Literal["all"] | Stage = "all"
    """Run one stage alone, on a run that is there with `--resume`. It needs what the stages before it leave;
    only pretraining is made up for."""
    cache: Path | None = None
    """Folder for pretrained segmenters, shared by runs. Default: inside `--out`."""
    check_data: tyro.conf.FlagCreatePairsOff[bool] = False
    """Scan the data set, report what it holds and what is wrong, and stop."""
    tensorboard: tyro.conf.FlagCreatePairsOff[bool] = False
    """Write TensorBoard events into `--out`/tensorboard."""
    config: tyro.conf.OmitArgPrefixes[Config] = field(default_factory=lambda: preset("synthetic"))


def main(arguments: list[str] | None = None) -> int:
    """Run `ralx-train`; returns its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    return exit_code("ralx-train", lambda: run(parse(given)), interrupted="interrupted; go on with --resume")


def exit_code(program: str, command: Callable[[], int], *, interrupted: str) -> int:
    """That of `command`, or of the error that it raises, which is written as one line: 2 where an option or a
    file can't be used, 1 where a run failed, 130 where it was interrupted."""

    def fail(error: BaseException | str, code: int) -> int:
        text = f"{program}: {error}"
        Console(stderr=True).print(text, style="red", markup=False, highlight=False, soft_wrap=True)
        return code

    fit_to_terminal(sys.stdout, sys.stderr)
    with noted_interrupts() as was_interrupted:
        try:
            return command()
        except KeyboardInterrupt:
            return fail(interrupted, 130)
        except Exception as error:
            if was_interrupted():  # a library has made another error of it
                return fail(interrupted, 130)
            if isinstance(error, (WrongInput, DataError)):
                return fail(error, 2)
            if isinstance(error, (RunError, OSError, FloatingPointError)):
                return fail(error, 1)
            raise


class WrongInput(ValueError):
    """An option or a file that was named on the command line can't be used."""


@contextlib.contextmanager
def naming_wrong_input() -> Iterator[None]:
    """What is refused inside was given on the command line; a ValueError elsewhere is a defect of ralx."""
    try:
        yield
    except (ValueError, TypeError, FileNotFoundError, RunError) as error:
        raise WrongInput(error) from error


def parse(arguments: list[str]) -> Command:
    """The command line over its preset's values. WrongInput for values that no run could use."""
    return tyro.cli(
        Command, prog="ralx-train", args=arguments, default=Command(config=base_config(arguments))
    )


def base_config(arguments: list[str]) -> Config:
    """The preset that a command line's other options change."""
    with naming_wrong_input():
        return preset(_value_of("--preset", arguments) or "synthetic", published="--published" in arguments)


def _value_of(option: str, arguments: list[str]) -> str | None:
    for argument, following in zip(arguments, [*arguments[1:], None], strict=False):
        if argument == option:
            return following
        if argument.startswith(f"{option}="):
            return argument.partition("=")[2]
    return None


def run(command: Command) -> int:
    """Run the stages that are asked for, each as far as it isn't done yet."""
    config = command.config
    if config.dataset != "synthetic" and config.data is None:
        raise WrongInput(f"--data: the folder of {config.dataset} is needed, got none")
    if command.check_data:
        return _check_data(config)
    if command.out is None:
        raise WrongInput("--out: a folder for the results is needed")
    torch.set_num_threads(usable_threads())
    with open_run(command.out, config.to_json(), resume=command.resume) as folder:
        for name in folder.restore_records():
            say = f"{command.out / name}: was lost or changed; written again"
            Console().print(say, highlight=False, markup=False, soft_wrap=True)
        if command.stage == "all" and is_finished(folder, config):
            Console().print(f"{command.out}: finished already", highlight=False, markup=False, soft_wrap=True)
            return 0
        _refuse_early_stage(command.stage, folder, config)
        with naming_wrong_input():
            monitor = Monitor(command.out / "tensorboard" if command.tensorboard else None)
            splits = load_splits(config.dataset, config.data, **data_options(config))
            experiment = Experiment(config, splits, folder, command.cache or command.out / "cache", monitor)
            experiment.describe()
        folder.begin(config.to_json())
        if command.stage != "report":
            folder.refuse_other_numerics(**experiment.segmenters.numerics)
        try:
            for stage in STAGES if command.stage == "all" else (command.stage,):
                _run_stage(stage, experiment, folder, monitor)
        finally:
            monitor.close()
    return 0


def _refuse_early_stage(stage: str, folder: RunDirectory, config: Config) -> None:
    """WrongInput where `stage` is asked for alone before the stages that it lives on."""
    if stage == "report" and not any((folder.path / name).exists() for name in REPORTED):
        raise WrongInput(f"--stage report: needs results, {folder.path} has none of {', '.join(REPORTED)}")
    if stage == "evaluate" and config.uses_policy and config.policy is None:
        for seed in config.seeds:
            path = folder.policy_path(seed, config.seed)
            if not path.exists():
                raise WrongInput(
                    f"--stage evaluate: {path} is missing; --stage learn makes it, or give a --policy"
                )


def _run_stage(stage: Stage, experiment: Experiment, folder: RunDirectory, monitor: Monitor) -> None:
    if stage != "report":
        getattr(experiment, stage)()
        return
    try:
        page = write_report(folder.path, pictures=experiment.splits.eval_set)
    except ValueError as error:  # a damaged file of the run
        raise RunError(str(error)) from error
    if results := folder.records():
        monitor.console.print(summary_table(results, folder.records("reference.json")))
    monitor.say(f"report: {page}")


def is_finished(folder: RunDirectory, config: Config) -> bool:
    """Whether everything that a run leaves is there, and a report of it. RunError where a part is damaged."""
    results, report = folder.path / "results.json", folder.path / "report" / "index.html"
    wanted = {(method, b, seed) for method in config.methods for b in config.budgets for seed in config.seeds}
    references = {"theta0", "theta0_prime", "full_supervision"}
    if wanted != {(record["method"], record["budget"], record["seed"]) for record in folder.records()}:
        return False
    if references > {record["method"] for record in folder.records("reference.json")}:
        return False
    for seed in config.seeds:
        if config.uses_policy:
            policy = folder.policy_path(seed, config.seed)
            if not policy.exists():
                return False
            load_tensors(policy)
            if config.policy is None and folder.num_steps(seed) != config.steps_to_learn:
                return False
        for method in config.methods:
            if not folder.selection_path(method, seed).exists():
                return False
            folder.read_selection(method, seed)
    return has_report(folder.path) and report.stat().st_mtime_ns >= results.stat().st_mtime_ns


def data_options(config: Config) -> dict[str, Any]:
    """The options of `load_splits` and `check_data`, beside name and folder."""
    state_set, train_set, eval_set, reward_set, test_set = config.synthetic_images
    sizes = SyntheticSizes(
        image_size=config.synthetic_image_size,
        state_set=state_set,
        train_set=train_set,
        eval_set=eval_set,
        reward_set=reward_set,
        test_set=test_set,
        pretrain_set=config.pretrain_images,
    )
    return {"scale": config.scale, "gta5": config.gta5, "split_lists": config.split_lists, "sizes": sizes}


def _check_data(config: Config) -> int:
    with naming_wrong_input():
        region_size = config.region_size if config.edge == "drop" else None  # else no pixel is left out
        report = check_data(config.dataset, config.data, **data_options(config), region_size=region_size)
    Console().print(str(report), highlight=False, markup=False)
    return 2 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
