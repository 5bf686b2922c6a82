"""The ops as torch knows them, and what ralx._C was built for."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

import ralx._C as _C

# The kernels for GPUs; None where ralx was built without a CUDA compiler.
cuda_kernels: Any = getattr(_C, "cuda", None)


class BuildInfo(NamedTuple):
    """What `ralx._C` was built with and for."""

    compiler: str
    """Version of the C++ compiler."""
    isas: tuple[str, ...]
    """CPU instruction sets of this machine that the kernels are compiled for."""
    isa: str
    """The one in use."""
    cuda: str | None
    """Version of the CUDA compiler; None without CUDA kernels: on CUDA tensors plain torch then computes."""
    cuda_archs: tuple[int, ...]
    """GPU architectures that the kernels are compiled for: 90 is compute capability 9.0. On a GPU that can't
    run them plain torch computes."""


def build_info() -> BuildInfo:
    """What this installation of ralx was built with and for."""
    return BuildInfo(
        compiler=_C.compiler,
        isas=tuple(isa.name for isa in _C.Isa.__members__.values() if _C.runs_here(isa)),
        isa=_C.active_isa().name,
        cuda=cuda_kernels.version if cuda_kernels else None,
        cuda_archs=cuda_kernels.archs if cuda_kernels else (),
    )


def on_gpu(tensor: Tensor) -> bool:
    """Whether the kernels for GPUs take the tensor, and not those for the CPU."""
    return tensor.is_cuda


def scratch_of(tensor: Tensor, num_bytes: int) -> Tensor:
    """Memory on the tensor's device, for a kernel's own use."""
    return tensor.new_empty(num_bytes, dtype=torch.uint8)


def stream_of(tensor: Tensor) -> int:
    """The current CUDA stream of the tensor's device, as the kernels take it."""
    return torch.cuda.current_stream(tensor.device).cuda_stream


def runs_on(capability: tuple[int, int], archs: Sequence[int]) -> bool:
    """Whether kernels for `archs` run on a GPU of this compute capability: machine code does on its own
    generation from its own member on, and the newest can be translated for all that came later."""
    gpu = 10 * capability[0] + capability[1]
    return gpu >= max(archs) or any(arch // 10 == capability[0] and arch <= gpu for arch in archs)


@functools.cache
def _has_kernels(device: int) -> bool:
    return cuda_kernels is not None and runs_on(torch.cuda.get_device_capability(device), cuda_kernels.archs)


def register(
    schema: str, *, kernel: Callable, ref: Callable, fake: Callable, float64_on_gpu: bool = False
) -> Callable:
    """Registers `ralx::<schema>` with torch, so that torch.compile can trace it; returns the callable op.

    `kernel` computes on the CPU and on GPUs; `fake` gives outputs of the right shape and dtype from shapes
    alone; `ref`, in plain torch, serves CUDA tensors where there are no CUDA kernels for their GPU or for
    float64. The first argument is a tensor.
    """

    def cuda(first: Tensor, *others: Any, **named: Any) -> Any:
        known = float64_on_gpu or first.dtype != torch.float64
        return (kernel if known and _has_kernels(first.get_device()) else ref)(first, *others, **named)

    name = f"ralx::{schema.partition('(')[0]}"
    torch.library.define(name, schema[schema.index("(") :], tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.impl(name, "cpu")(kernel)
    torch.library.impl(name, "cuda")(cuda)
    torch.library.register_fake(name)(fake)
    return getattr(torch.ops.ralx, name.removeprefix("ralx::")).default
