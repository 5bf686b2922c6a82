"""The ops as torch knows them, and what ralx._C was built for."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

import ralx._C as _C
from ralx.ops.arguments import threads_for

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


class Call(NamedTuple):
    """A call of an op, as its kernels take it."""

    outputs: Any
    """What the op returns: a tensor, a tuple of them, or None where it changes its arguments; not filled."""
    given: tuple[Any, ...]
    """The kernel's arguments on either device, the outputs among them."""
    work: int
    """On how many logits, or factors, it computes: see `threads_for`."""
    scratch: tuple[Any, ...] = ()
    """The function of `_C.cuda` that tells how many bytes a GPU's kernel needs for its own use, and its
    arguments; () where it needs none."""
    refuse: Callable[[str, int, int], None] | None = None
    """Raises the error of a wrong label that the CPU's kernel found, given its map, position and value."""


def register(schema: str, *, call: Callable, ref: Callable, float64_on_gpu: bool = False) -> Callable:
    """Registers `ralx::<schema>` with torch, so that torch.compile can trace it; returns the callable op.

    `call` makes a `Call` of the op's arguments, by their shapes alone, for the kernels of the schema's name;
    `ref`, in plain torch, serves CUDA tensors where there are no CUDA kernels for their GPU or for float64.
    The first argument is a tensor.
    """
    name = schema.partition("(")[0]
    cpu_kernel = getattr(_C, name)

    def run(first: Tensor, *others: Any) -> Any:
        if on_gpu(first):
            known = float64_on_gpu or first.dtype != torch.float64
            if not known or not _has_kernels(first.get_device()):
                return ref(first, *others)
            outputs, given, _, scratch, _ = call(first, *others)
            if scratch:
                needed = getattr(cuda_kernels, scratch[0])(*scratch[1:])
                given = *given, first.new_empty(needed, dtype=torch.uint8)
            getattr(cuda_kernels, name)(*given, stream_of(first))
        else:
            outputs, given, work, _, refuse = call(first, *others)
            wrong = cpu_kernel(*given, threads_for(work))
            if refuse and wrong[0]:
                refuse(*wrong)
        return outputs

    torch.library.define(f"ralx::{name}", schema.removeprefix(name), tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.impl(f"ralx::{name}", ("cpu", "cuda"))(run)
    torch.library.register_fake(f"ralx::{name}")(lambda *arguments: call(*arguments).outputs)
    return getattr(torch.ops.ralx, name).default
