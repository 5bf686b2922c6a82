"""What the ops promise about the process they run in: memory, threads, and a build without Python."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

import ralx
from ralx import _C
from ralx.ops.registration import runs_on

ROOT = Path(__file__).parents[2]


def run_python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_one_openmp_runtime_is_mapped() -> None:
    # A second one would keep its own threads spinning beside torch's.
    out = run_python(
        "import ralx.ops, torch\n"
        "ralx.ops.region_features(torch.zeros(1, 3, 64, 64), (8, 8)); torch.zeros(1000, 1000).exp()\n"
        "lines = open('/proc/self/maps').read().splitlines()\n"
        "print(*{line.split()[-1] for line in lines if 'gomp' in line or 'libomp' in line or 'iomp' in line})"
    )
    runtimes = out.split()
    assert len(runtimes) == 1, runtimes


def growth(setup: str, call: str) -> int:
    """MiB by which the peak of resident memory grows during `call`."""
    return int(
        run_python(
            "import resource, torch, ralx.ops as ops\n"
            "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
            "ops.region_features(torch.zeros(1, 3, 64, 64), (8, 8)); ops.bald(torch.zeros(2, 1, 3, 64, 64))\n"
            "ops.confusion_matrix(torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8).long(), 3)\n"
            f"{setup}\nbefore = peak()\n{call}\nprint(peak() - before)"
        )
    )


CITYSCAPES = "x = torch.randn({}1, 19, 256, 512); size = (1024, 2048)"


@pytest.mark.parametrize(
    "call",
    [
        "ops.region_features(x, (128, 128), size=size)",
        "ops.confusion_matrix(x, torch.zeros(1, *size, dtype=torch.uint8), 19, size=size)",
        "ops.bald(x.expand(20, 1, 19, 256, 512), (128, 128), size=size)",
    ],
    ids=["region_features", "confusion_matrix", "bald"],
)
def test_upsampled_logits_never_exist_as_a_whole(call) -> None:
    full = 19 * 1024 * 2048 * 4 // 2**20  # MiB
    assert growth(CITYSCAPES.format(""), call) < full / 4


@pytest.mark.parametrize("layout", ["contiguous_format", "channels_last"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_are_not_copied(layout, dtype) -> None:
    setup = f"x = torch.randn(1, 20, 1024, 1024).to(torch.{dtype}).contiguous(memory_format=torch.{layout})"
    setup += "; target = torch.zeros(1, 1024, 1024, dtype=torch.uint8)"
    call = "ops.region_features(x, (128, 128)); ops.confusion_matrix(x, target, 20)"
    assert growth(setup, call) < 20


def test_memory_of_streamed_bald_does_not_grow_with_the_passes() -> None:
    call = "ops.bald((torch.randn(1, 19, 256, 512) for _ in range({})), size=(512, 1024))"
    few, many = (growth("", call.format(passes)) for passes in (2, 12))
    assert many - few < 20  # one pass is 10 MiB


def test_instruction_sets() -> None:
    assert _C.runs_here(_C.Isa.baseline) and _C.runs_here(_C.active_isa())
    unknown = _C.Isa(3)
    for isa in (unknown, *(isa for isa in (_C.Isa.avx2, _C.Isa.avx512) if not _C.runs_here(isa))):
        with pytest.raises(ValueError, match="isa must be a set that this CPU has"):
            _C.use_isa(isa)


def test_build_info_tells_what_was_built() -> None:
    info = ralx.build_info()
    assert info.isas[0] == "baseline" and info.isa == _C.active_isa().name in info.isas
    assert info.compiler.split(".")[0].isdigit()
    assert hasattr(_C, "cuda") == (info.cuda is not None) == bool(info.cuda_archs)
    assert all(80 <= arch < 200 for arch in info.cuda_archs)


@pytest.mark.parametrize(
    ("capability", "archs", "expected"),
    [
        ((8, 0), (80, 90), True),
        ((8, 6), (80, 90), True),  # of the same generation
        ((7, 5), (80, 90), False),
        ((8, 0), (90,), False),
        ((10, 0), (80, 90), True),  # translated from the newest
        ((9, 0), (80, 100), False),  # which alone can be translated
        ((12, 0), (80, 120), True),
    ],
)
def test_kernels_serve_the_gpus_that_can_run_them(capability, archs, expected) -> None:
    assert runs_on(capability, archs) is expected


def test_an_nvcc_that_does_not_work_is_named(tmp_path: Path) -> None:
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\nexit 1\n")
    nvcc.chmod(0o755)
    folders = [str(tmp_path), sysconfig.get_path("scripts"), os.environ["PATH"]]
    environment = os.environ | {"PATH": os.pathsep.join(folders)}
    for chosen in ("CUDACXX", "RALX_CUDA_ARCHS"):
        environment.pop(chosen, None)
    configure = ["cmake", "-S", str(ROOT), "-B", str(tmp_path / "build"), "-G", "Ninja", "-DRALX_PYTHON=ON"]
    configure += ["-DRALX_TESTS=OFF", f"-DPython_EXECUTABLE={sys.executable}"]
    result = subprocess.run(configure, capture_output=True, text=True, timeout=120, env=environment)
    assert result.returncode != 0 and str(nvcc) in result.stderr
    assert "RALX_CUDA_ARCHS=none" in result.stderr


@pytest.mark.parametrize("shape", [(2, 3, 4), (0, 3), (), (1,) * 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_a_tensor_of_too_many_axes_or_no_tensor_is_refused_at_the_boundary(shape, dtype) -> None:
    x = torch.zeros(shape, dtype=dtype)
    with pytest.raises(TypeError, match="incompatible function arguments"):
        _C.bald_update(x.expand(*(1,) * (9 - x.dim()), *x.shape), False, x, x, 1)
    with pytest.raises(TypeError, match="incompatible function arguments"):
        _C.bald_update(x, False, x, None, 1)


def test_kernels_build_and_pass_their_test_without_python(tmp_path: Path) -> None:
    # The tools may be installed for this Python only, in an environment that nobody activated.
    environment = os.environ | {"PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])}
    for command in (
        # Without optimisation it takes a third of the time, and inlining hides no function from the test.
        ["cmake", "-S", str(ROOT), "-B", str(tmp_path), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Debug"],
        ["cmake", "--build", str(tmp_path), "--parallel", "2", "--target", "test_kernels"],
        ["ctest", "--test-dir", str(tmp_path), "--output-on-failure", "-R", "kernels|symbols"],
    ):
        result = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment)
        assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "compile_commands.json").exists()
