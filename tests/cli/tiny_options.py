"""A run on six tiny scenes of 48×64 pixels, and how the commands' tests start, kill and compare it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

TINY = """
    --synthetic-image-size 48 64 --region-size 16 16 --crop-size 32 32 --synthetic-images 2 4 6 2 2
    --pretrain-images 4 --batch-size 4 --max-epochs 2 --query-size 2 --pool-size 3 --budget 6 --episodes 2
    --budgets 3 6 --pool-size-uniform 4 --num-mc-samples 2 --num-seeds 2 --replay-capacity 20
""".split()


def start(command: str, *arguments: str, **environment: str) -> subprocess.Popen:
    """`train` or `experiment` in a process group of its own, with one CPU thread."""
    return subprocess.Popen(
        [sys.executable, "-m", f"ralx.cli.{command}", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        start_new_session=True,
        # A shell's background jobs, and so these tests if run as one, are started with Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def wait_until(happened: Callable[[], object], process: subprocess.Popen) -> None:
    while not happened():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)


def kill_after_artifacts(process: subprocess.Popen, out: Path, number: int) -> None:
    """SIGKILL the command and its processes once so many stages are finished, in the middle of the next."""
    wait_until(
        lambda: sum(len(list(out.glob(f"{each}/*"))) for each in ("store", "cache")) >= number, process
    )
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@contextlib.contextmanager
def killed_at(write: int, *, after: bool = False) -> Iterator[None]:
    """Stops what runs inside as it moves its `write`-th file into its place, or just `after`; no error where
    fewer are written."""
    replace, seen = os.replace, []

    def replace_or_die(source, target):
        seen.append(target)
        if len(seen) == write and not after:
            raise Killed
        replace(source, target)
        if len(seen) == write:
            raise Killed

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr("ralx.support.files.os.replace", replace_or_die)
        yield


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def records_by_place(path: Path) -> dict[tuple, dict]:
    """results.json or reference.json by method, budget and seed."""
    return {(r["method"], r.get("budget"), r["seed"]): r for r in json.loads(path.read_text())}
