"""How the commands use the CPU: how many threads, and how these wait for each other.

Importing this module chooses the waiting, so it comes before torch: libgomp, the OpenMP runtime of torch,
reads its environment as it is loaded. Unless told otherwise, its threads spin for milliseconds before they
sleep. That is fastest where every thread has a core of its own. Beside other work it costs a multiple of the
time: a thread that spins keeps the core from the one that it waits for. So ralx's commands let threads spin
as briefly as libgomp itself does where it knows that its own threads outnumber the cores.
"""

import math
import os
import sys
from pathlib import Path

# As a command line names them.
COMMANDS = (
    "ralx-train ralx-experiment ralx-label ralx.cli ralx.cli.train ralx.cli.experiment ralx.cli.label"
).split()
_CHOSEN_BY_USER = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def _program() -> str:
    """What Python was started to run: the name of a script, or of a module."""
    words = iter(sys.orig_argv[1:])
    for word in words:
        if word == "-m":
            return next(words, "")
        if word in ("-X", "-W"):
            next(words, "")
        elif not word.startswith("-"):
            return Path(word).name
    return ""


IS_COMMAND = _program() in COMMANDS  # other programs that import ralx have their own wishes
if IS_COMMAND and not any(name in os.environ for name in _CHOSEN_BY_USER):
    os.environ["GOMP_SPINCOUNT"] = "1000"


def usable_threads() -> int:
    """torch's number of threads, which OMP_NUM_THREADS sets, or fewer where this container may use less."""
    import torch  # not before the environment is set

    if os.environ.get("OMP_NUM_THREADS"):
        return torch.get_num_threads()
    return max(1, math.floor(min(torch.get_num_threads(), _cpu_quota())))


def _cpu_quota() -> float:
    """The CPUs that the control group may keep busy; infinite without a limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # no control group, or "max": no limit
        return math.inf
