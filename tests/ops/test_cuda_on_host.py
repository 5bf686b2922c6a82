"""The CUDA kernels, and what Python gives them, without a GPU: the kernels as C++, run by the CPU.

The ops then keep, on CPU tensors, what the tests of this folder ask of the CPU's kernels.
"""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from logit_cases import HOST_GRID, OPS

ROOT = Path(__file__).parents[2]

# What is asked of the CPU alone, or of torch's dispatcher, which is left out.
OTHERS = ("opcheck", "compiles", "registered", "thread", "memory", "error", "named", "too_large", "device")
OTHERS += ("without_data", "negated")
OTHERS += ("every_reduced_precision_number", "finer_than_float32")  # half a minute each


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`ralx._C` whose CUDA kernels the CPU runs."""
    build = tmp_path_factory.mktemp("host_grid")
    environment = os.environ | {"PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])}
    configure = ["cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja"]
    # Optimised so far that it runs quickly and builds quickly.
    options = ["CMAKE_BUILD_TYPE=None", "CMAKE_CXX_FLAGS=-O1", f"Python_EXECUTABLE={sys.executable}"]
    options += ["RALX_HOST_GRID=ON", "RALX_PYTHON=ON", "RALX_TESTS=OFF"]
    for command in (
        [*configure, *(f"-D{option}" for option in options)],
        ["cmake", "--build", str(build), "--parallel", "2"],
    ):
        result = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment)
        assert result.returncode == 0, result.stdout + result.stderr
    [path] = build.glob("_C.*.so")
    return path


@pytest.mark.skipif(HOST_GRID is not None, reason="runs already on the host's grid")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("op", OPS)
def test_the_cuda_kernels_keep_what_the_cpus_keep(module: Path, op: str) -> None:
    files = [f"test_{op}.py"]
    if op == "region_features":
        files += ["test_ragged_edges.py", "test_scores.py", "test_every_op.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    command += ["-k", " and ".join(f"not {other}" for other in OTHERS)]
    result = subprocess.run(
        [*command, *(str(Path(__file__).with_name(name)) for name in files)],
        capture_output=True,
        text=True,
        env=os.environ | {"RALX_TEST_HOST_GRID": str(module), "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stdout + result.stderr
