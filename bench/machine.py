"""What the numbers depend on; not the host's name, nor where its files lie."""

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import torch

import ralx
from ralx import _C

LIBRARIES = ("torch", "numpy", "scipy")


def describe_machine(device: str = "cpu") -> dict[str, str | int]:
    installed = {each.name.lower() for each in metadata.distributions() if each.name}
    versions = {name: metadata.version(name) for name in LIBRARIES if name in installed}
    return describe_gpu(device) | {
        "CPU": cpu_model(),
        "architecture": platform.machine(),
        "instruction set": _C.active_isa().name,
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "ralx": ralx.__version__,
        **versions,
    }


def describe_gpu(device: str) -> dict[str, str | int]:
    """Nothing for the CPU."""
    if device == "cpu":
        return {}
    built = ralx.build_info()
    return {
        "GPU": torch.cuda.get_device_name(device),
        "driver": driver(),
        "CUDA of torch": torch.version.cuda or "",
        "CUDA of ralx": built.cuda or "none",
        "kernels for": " ".join(f"sm_{arch}" for arch in built.cuda_archs),
    }


def driver() -> str:
    if not shutil.which("nvidia-smi"):
        return "unknown"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    lines = subprocess.run(query, capture_output=True, text=True).stdout.split()
    return lines[0] if lines else "unknown"


def cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or "unknown"
