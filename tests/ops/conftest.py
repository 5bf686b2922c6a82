"""Every instruction set of this CPU; or, instead of the CPU's kernels, those for CUDA on the host's grid."""

import importlib.util
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from logit_cases import HOST_GRID, ISAS, OPS, instruction_set

import ralx.ops
from ralx import _C


@pytest.fixture(params=ISAS, ids=lambda isa: isa.name)
def isa(request: pytest.FixtureRequest) -> Iterator[_C.Isa]:
    with instruction_set(request.param):
        yield request.param


def _use_cuda_kernels(path: str) -> None:
    spec = importlib.util.spec_from_file_location("host_grid._C", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for op in OPS:
        python = vars(sys.modules[f"ralx.ops.{op}"])
        python |= {"cuda_kernels": module.cuda, "stream_of": lambda tensor: 0, "on_gpu": lambda tensor: True}
        if op == "kl_histogram":  # whose kernels take float64
            python["_op"] = python["_kernel"]
            continue
        for name in [name for name in python if name.endswith("_op")]:  # _update_op → _update_kernel
            part = name.removesuffix("op")
            ref = python[f"{op}_ref" if part == "_" else f"{part}ref"]
            python[name] = _without_float64(python[f"{part}kernel"], ref)


def _without_float64(kernel: Callable, ref: Callable) -> Callable:
    return lambda first, *others: (ref if first.dtype == torch.float64 else kernel)(first, *others)


if HOST_GRID:
    assert ralx.ops
    _use_cuda_kernels(HOST_GRID)
