"""What results were made on: models and versions, no names of machines."""

import os
import platform
from pathlib import Path
from typing import Any

import torch

from ralx.ops import build_info


def machine(device: torch.device) -> dict[str, Any]:
    """JSON values: CPU model and cores, GPU if `device` is one, versions, and the instruction set that the
    CPU kernels were chosen for."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "kernels": build_info().isa,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )
