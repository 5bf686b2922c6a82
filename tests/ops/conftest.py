"""Every instruction set of this CPU; or, instead of the CPU's kernels, those for CUDA on the host's grid."""

import importlib.util
import sys
from collections.abc import Iterator

import pytest
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
        python |= {"cuda_kernels": module.cuda, "stream_of": lambda tensor: 0}
        # _op calls _cuda, _update_op calls _update_cuda.
        python |= {
            name: python[f"{name.removesuffix('op')}cuda"] for name in list(python) if name.endswith("_op")
        }


if HOST_GRID:
    assert ralx.ops
    _use_cuda_kernels(HOST_GRID)
