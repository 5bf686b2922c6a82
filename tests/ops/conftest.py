"""Every instruction set of this CPU; or, instead of the CPU's kernels, those for CUDA on the host's grid."""

import importlib.util
from collections.abc import Iterator

import pytest
from logit_cases import HOST_GRID, ISAS, instruction_set

from ralx import _C
from ralx.ops import registration


@pytest.fixture(params=ISAS, ids=lambda isa: isa.name)
def isa(request: pytest.FixtureRequest) -> Iterator[_C.Isa]:
    with instruction_set(request.param):
        yield request.param


def _use_cuda_kernels(path: str) -> None:
    spec = importlib.util.spec_from_file_location("host_grid._C", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    registration.cuda_kernels = module.cuda
    registration.on_gpu = registration._has_kernels = lambda _: True
    registration.stream_of = lambda tensor: 0


if HOST_GRID:
    _use_cuda_kernels(HOST_GRID)
