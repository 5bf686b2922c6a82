"""What both commands share: the help, presets, wrong options, and exit codes."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from tiny_options import TINY, start, wait_until

from ralx.cli import experiment, train
from ralx.cli.command import exit_code, parse
from ralx.cli.train import TrainCommand
from ralx.runs.config import RunConfig

COMMANDS = {"train": train.main, "experiment": experiment.main}
NAMES = {"train": [], "experiment": ["budget-curve"]}


@pytest.fixture(params=COMMANDS)
def command(request) -> str:
    return request.param


def help_of(command: str, option: str) -> str:
    arguments = [sys.executable, "-m", f"ralx.cli.{command}", option]
    environment = {**os.environ, "COLUMNS": "80"}
    result = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=120)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def test_the_help_shows_what_most_people_need(command):
    text = help_of(command, "--help")
    assert len(text.splitlines()) < 100
    own = ["--resume", "--stage", "--check-data"] if command == "train" else ["--jobs", "--report"]
    for option in ["--help-all", "--out", "--preset", "--dataset", "--data", "--methods", "--budgets", *own]:
        assert re.search(rf"{option}\b", text), option
    assert "--dqn-lr" not in text


def test_the_whole_help_explains_every_option_with_its_default(command):
    text = re.sub(r"[│╭╰─╮╯]", " ", help_of(command, "--help-all"))
    options = {f"--{name.replace('_', '-')}": name for name in RunConfig().options()}
    explained = re.split(r"\n +(?=--[a-z])", text)
    for option in options:
        (about,) = (part for part in explained if re.match(rf"{option}[ ,\n]", part))
        words = about.partition("(default:")[0].split()
        assert "(default:" in about and len(words) >= 4, about


def test_the_command_line_starts_from_its_preset():
    def options(*arguments: str) -> dict:
        return parse(TrainCommand, "ralx-train", [*arguments]).config.options()

    assert options().items() >= {"dataset": "synthetic", "query_size": 8}.items()
    changed = options("--preset", "cityscapes", "--seed", "3")
    assert changed.items() >= {"dataset": "cityscapes", "query_size": 256, "seed": 3}.items()
    assert options("--preset=camvid", "--published")["kl_range"] == "minmax"


WRONG_FOR_BOTH = [
    ("--query-size 0", "query_size: must be positive, got 0"),
    ("--preset pascal", "preset: must be one of"),
    ("--no-such-option 1", "Unrecognized options: --no-such-option"),
    ("--budgets 3 6000", "budgets: must be at most the 72 regions of .*, got 6000"),
    ("--methods badge", "methods: must be among ralis"),
    ("--dataset nonsense", "dataset: must be among synthetic, camvid, cityscapes.*, got 'nonsense'"),
    ("--preset camvid", "--data: the folder of camvid is needed, got none"),
    ("--data x", "data: must not be given with dataset synthetic"),
    ("--data /nonexistent --dataset camvid", "/nonexistent"),
    ("--segmenter no_such_module:Net", "can't import 'no_such_module'"),
    ("--device quantum", "device: must be auto, cpu, cuda or cuda:N, got 'quantum'"),
]
WRONG_FOR_EXPERIMENTS = [
    ("budget-curve --jobs 0", "--jobs: must be at least 1, got 0"),
    ("budget-curve --threads 0", "--threads: must be at least 1, got 0"),
    ("ablate-regions", "query_size: must be at most the first of budgets|region_size|budgets"),
    ("best-curve", "invalid choice|best-curve"),
]


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        *(("train", *wrong) for wrong in WRONG_FOR_BOTH),
        *(("experiment", f"budget-curve {options}", message) for options, message in WRONG_FOR_BOTH),
        *(("experiment", *wrong) for wrong in WRONG_FOR_EXPERIMENTS),
    ],
)
def test_wrong_options_end_with_code_2_and_say_why(tmp_path, capsys, command, options, message):
    # Given last, they override the tiny run's; an experiment's name may stand anywhere.
    try:
        code = COMMANDS[command]([*TINY, "--out", str(tmp_path / "out"), *options.split()])
    except SystemExit as error:  # the option parser's own
        code = error.code
    assert code == 2
    error = " ".join(capsys.readouterr().err.split())
    assert re.search(message, error), error
    assert not list(tmp_path.iterdir())


def test_a_folder_is_needed(command, capsys):
    assert COMMANDS[command]([*NAMES[command], *TINY]) == 2
    assert "--out: a folder for the results is needed" in " ".join(capsys.readouterr().err.split())


def test_a_second_command_in_the_folder_is_refused(tmp_path, capsys, command):
    out = tmp_path / "out"
    arguments = [*NAMES[command], "--out", str(out), *TINY]
    process = start(command, *arguments)
    wait_until((out / "checkpoint").exists, process)
    assert COMMANDS[command](arguments if command == "experiment" else [*arguments, "--resume"]) == 1
    assert f"--out {out}: another process is running there" in " ".join(capsys.readouterr().err.split())
    assert process.poll() is None
    process.kill()
    process.communicate()


@pytest.fixture
def interrupts_are_heeded():
    """Also where these tests run in the background; and a command leaves the handler as it was."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(10)


def test_a_second_interrupt_ends_by_the_signal(interrupts_are_heeded):
    def pressed_once():
        with contextlib.suppress(KeyboardInterrupt):
            interrupt()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
        return 0

    assert exit_code("ralx-train", pressed_once, interrupted="") == 0


def test_an_interrupt_that_a_library_turns_into_another_error_is_one(interrupts_are_heeded, capsys):
    def interrupted_inside_a_library():
        try:
            interrupt()
        except KeyboardInterrupt as error:
            raise ValueError("could not determine the shape of object type 'UntypedStorage'") from error

    assert exit_code("ralx-train", interrupted_inside_a_library, interrupted="interrupted") == 130
    assert capsys.readouterr().err == "ralx-train: interrupted\n"


def test_a_defect_of_ralx_keeps_its_traceback():
    def defect():
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        exit_code("ralx-train", defect, interrupted="")
