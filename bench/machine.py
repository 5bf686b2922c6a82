"""What the numbers depend on; not the host's name, nor where its files lie."""

import os
import platform
from importlib import metadata
from pathlib import Path

import torch

from ralx import _C


def describe_machine() -> dict[str, str | int]:
    versions = {name: metadata.version(name) for name in ("ralx", "torch", "numpy", "scipy")}
    return {
        "CPU": cpu_model(),
        "architecture": platform.machine(),
        "instruction set": _C.active_isa().name,
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **versions,
    }


def cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or "unknown"
