"""Which device a run uses, and how tensors get there."""

import torch
from torch import Tensor


def find_device(name: str) -> torch.device:
    """The device called `name`; auto is CUDA where there is one. ValueError where there is no such device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device: must be auto, cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device: this machine has {torch.cuda.device_count()} CUDA devices, got {name!r}")
    return device


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`. From the host to CUDA it goes through pinned memory: `Tensor.to` alone would wait
    for all that runs there. A tensor that is pinned already must not change until the device has read it."""
    if tensor.device.type == "cpu" and device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
