"""Peak memory that a call takes beyond its input and output, measured on Linux in a process of its own.

Each case gets a fresh process, forked from a server that has imported torch and ralx and run nothing: no
memory freed by earlier cases lies ready to be used again. There the kernel's high-water mark of resident
memory is reset when the inputs are there, and read after the call; the difference, less the output, is the
peak of whatever was touched, whoever allocated it: torch, NumPy or ralx's kernels. malloc is told to give
every freed block from 64 KiB on back at once, and a small case has paid for threads and code before. Good to
about 1 MB.

Only ralx and eager torch are measured: compiled code comes with its compiler, and the loops do a share of the
work.
"""

import importlib
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from typing import Any
from unittest import mock

import sizes
import torch
from checks import tensors_of
from results import EAGER
from timings import OP

MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}  # bytes
CLEAR_REFS = Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # see proc_pid_clear_refs(5)


def extra_bytes(op: str, case: sizes.Case, threads: int) -> dict[str, int]:
    """Of ralx and of eager torch, by name; nothing on systems that don't tell."""
    if not CLEAR_REFS.exists():
        return {}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "ralx", "scipy.stats"])
    with mock.patch.dict(os.environ, MALLOC):
        ensure_running()
    with ProcessPoolExecutor(1, mp_context=context) as process:
        return process.submit(in_own_process, op, case, threads).result()


def in_own_process(op: str, case: sizes.Case, threads: int) -> dict[str, int]:
    torch.set_num_threads(threads)
    make = importlib.import_module(f"bench_{op}").make
    for run in measured(make(sizes.SMALL[op][0])).values():
        run()
    return {name: peak_of(run) for name, run in measured(make(case)).items()}


def measured(comparison: Any) -> dict[str, Any]:
    eager = {each.name: each.run for each in comparison.alternatives if each.name == EAGER}
    return {OP: comparison.run} | eager


def peak_of(run: Any) -> int:
    CLEAR_REFS.write_text(RESET_PEAK)
    before = peak()
    output = run()
    return max(peak() - before - bytes_of(output), 0)


def peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    kilobytes = next(line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(kilobytes) * 1024


def bytes_of(output: Any) -> int:
    return sum(each.nbytes for each in tensors_of(output))
