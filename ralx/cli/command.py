"""What both commands share: options, their help, errors and exit codes."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from rich.console import Console

from ralx.datasets import DataError
from ralx.datasets.geometry import size_span
from ralx.runs.config import RunConfig
from ralx.runs.engine import Worker
from ralx.runs.plan import Stages
from ralx.runs.presets import PresetName, preset
from ralx.runs.store import Store
from ralx.support.devices import find_device
from ralx.support.files import RunError
from ralx.support.folder import FolderLock
from ralx.support.interrupts import noted_interrupts
from ralx.support.monitor import Monitor
from ralx.support.terminal import fit_to_terminal

COMMON = (
    "out resume stage name jobs report preset dataset data segmenter weights device methods budgets "
    "episodes seed num_seeds check_data help_all"
).split()  # the options that --help shows


@dataclass(frozen=True)
class Command:
    """The options of both commands."""

    help_all: tyro.conf.FlagCreatePairsOff[bool] = False
    """Show every option and exit; --help shows those that most people need."""
    out: Path | None = None
    """Folder for the results: needed, and made if it isn't there."""
    preset: PresetName = "synthetic"
    """Values that the other options start from. synthetic: generated scenes, minutes on two cores."""
    published: bool = False
    """Run as the paper prints it and its code behaves: turns every departure that is called published on."""
    cache: Path | None = None
    """Folder for pretrained segmenters, shared by runs. Default: inside `--out`."""
    config: Annotated[RunConfig, tyro.conf.arg(name=""), tyro.conf.OmitArgPrefixes] = field(
        default_factory=lambda: preset("synthetic")
    )


C = TypeVar("C", bound=Command)


def parse(command: type[C], program: str, arguments: list[str], **given: Any) -> C:
    """The command line over its preset's values. WrongInput for values that no run could use."""
    with naming_wrong_input():
        base = preset(_value_of("--preset", arguments) or "synthetic", published="--published" in arguments)
    default = command(config=base, **given)
    if "--help-all" in arguments:
        arguments = ["--help"]
    elif {"-h", "--help"} & set(arguments):
        default = _in_short(default)
    return tyro.cli(type(default), prog=program, args=arguments, default=default)


def _in_short(value: Any) -> Any:
    """A dataclass's value, as one of a class whose help leaves out the options that few need."""
    types: dict[str, Any] = {}
    values = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    for each in dataclasses.fields(value):
        if dataclasses.is_dataclass(values[each.name]):
            values[each.name] = _in_short(values[each.name])
            marked = getattr(each.type, "__metadata__", ())
            types[each.name] = Annotated[(type(values[each.name]), *marked, tyro.conf.OmitArgPrefixes)]
        elif each.name not in COMMON:
            types[each.name] = Annotated[(each.type, tyro.conf.Suppress)]
    kind: type[Any] = type(value)
    body = {"__annotations__": types, "__doc__": kind.__doc__, **{name: values[name] for name in types}}
    shown: Any = type(kind.__name__, (kind,), body)
    return dataclass(frozen=True)(shown)(**values)


def _value_of(option: str, arguments: list[str]) -> str | None:
    for argument, following in zip(arguments, [*arguments[1:], None], strict=False):
        if argument == option:
            return following
        if argument.startswith(f"{option}="):
            return argument.partition("=")[2]
    return None


class WrongInput(ValueError):
    """An option or a file that was named on the command line can't be used."""


@contextlib.contextmanager
def naming_wrong_input() -> Iterator[None]:
    """What is refused inside was given on the command line; a ValueError elsewhere is a defect of ralx."""
    try:
        yield
    except (ValueError, TypeError, FileNotFoundError, RunError) as error:
        raise WrongInput(error) from error


def output_folder(command: Command) -> Path:
    """WrongInput where a folder that the command needs was not given."""
    data = command.config.data
    if data.dataset != "synthetic" and data.data is None:
        raise WrongInput(f"--data: the folder of {data.dataset} is needed, got none")
    if command.out is None:
        raise WrongInput("--out: a folder for the results is needed")
    return command.out


def worker_in(folder: Path, command: Command, lock: FolderLock, monitor: Monitor) -> Worker:
    store = Store(folder, command.cache or folder / "cache", lock)
    return Worker(store, find_device(command.config.device), monitor)


def describe(config: RunConfig, worker: Worker) -> None:
    """Say what is compared."""
    data = worker.splits(config).eval_set
    grid = Stages(config).sees.regions.grid(data)
    worker.monitor.say(
        f"{data.name}: {len(data)} images of {size_span(data.sizes)} pixels, "
        f"{len(grid.existing())} regions of {grid.region_size[0]}x{grid.region_size[1]}; "
        f"{grid.dropped_share:.1%} of the pixels lie in edge strips that belong to no region"
    )


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
