"""How the commands wait: chosen before torch is loaded, and for the commands alone."""

import os
import subprocess
import sys

import pytest
import torch

from ralx.support import threads

SHOW = "import os, ralx; print(os.environ.get('GOMP_SPINCOUNT'))"


@pytest.mark.parametrize(
    ("words", "environment", "spins"),
    [
        (["own.py"], {}, "None"),
        (["own.py", "ralx-train"], {}, "None"),  # a user's program of any arguments
        (["ralx-train"], {}, "1000"),
        (["-X", "dev", "-u", "ralx-experiment", "own.py"], {}, "1000"),
        (["ralx-train"], {"OMP_WAIT_POLICY": "active"}, "None"),
        (["ralx-train"], {"GOMP_SPINCOUNT": "7"}, "7"),
    ],
)
def test_the_commands_spin_briefly_unless_told_otherwise(tmp_path, words, environment, spins):
    chosen = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in chosen} | environment
    for name in ("own.py", "ralx-train", "ralx-experiment"):
        (tmp_path / name).write_text(SHOW)
    command = [sys.executable, *words]
    result = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=True
    )
    assert result.stdout.strip() == spins


@pytest.mark.parametrize(
    ("program", "handler"), [("own.py", "default_int_handler"), ("ralx-train", "SIG_DFL")]
)
def test_a_command_that_is_interrupted_while_it_loads_ends_by_the_signal(tmp_path, program, handler):
    code = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
class Look:
    def find_spec(name, path, target=None):
        if name == "torch":
            print(repr(signal.getsignal(signal.SIGINT)))
sys.meta_path.insert(0, Look)
import ralx
"""
    (tmp_path / program).write_text(code)
    command = [sys.executable, str(tmp_path / program)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert handler in result.stdout


def test_the_choice_comes_before_torch():
    code = "import sys, ralx; print([m for m in sys.modules if m in ('torch', 'ralx.support.threads')])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "['ralx.support.threads', 'torch']"


@pytest.mark.parametrize(("quota", "wanted"), [(float("inf"), 4), (2.5, 2), (0.3, 1), (64.0, 4)])
def test_no_more_threads_than_the_container_may_use(monkeypatch, quota, wanted):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(threads, "_cpu_quota", lambda: quota)
    assert threads.usable_threads() == wanted
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert threads.usable_threads() == 4
