"""Proves ralx on the GPU of this machine, and measures it: one command, some seven minutes, offline.

python bench/gpu_check.py [--device cuda] [--out bench/results] [--minutes 8] [--only PART ...] [--small]

Builds ralx._C into ralx/, runs the tests that need a GPU, compute-sanitizer on some of them, the main job at
its smallest setting, a few active-learning steps and a few pieces of the paper's protocol, then times every
op. Each part is a process of its own with a time limit; what fails is told at the end, and the other parts go
on. Needs torch with CUDA, nvcc of the same major version with compute-sanitizer, cmake, ninja, pybind11 and
what ralx and its tests are installed with (`.[test]`).

Writes after each part, named by the GPU: NAME.json (results.py), NAME.txt, the tables, and NAME.log with
everything that the parts printed; with --only or --small into bench/results/partial, so that nothing whole is
replaced. Exit code 1 where a part failed; a missed bar is a number, no failure.
--device cpu --small tries all of it out where there is no GPU.
"""

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from results import Check, Report, load, save
from table import as_text  # nothing that is imported here needs ralx, which isn't built yet

ROOT = Path(__file__).resolve().parent.parent
# As setup.py looks for nvcc.
CHOSEN = os.environ.get("CUDA_HOME", "")
FOLDERS = [sysconfig.get_path("scripts"), CHOSEN and f"{CHOSEN}/bin", os.environ.get("PATH", "")]
ENVIRONMENT = os.environ | {
    "PATH": os.pathsep.join(filter(None, [*FOLDERS, "/usr/local/cuda/bin"])),
    "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    "PYTHONUNBUFFERED": "1",
    "COLUMNS": "160",
}
# Of what a failed part prints, the lines that say why.
TELLING = re.compile(
    r"FAILED|ERROR |CMake Error|E   \S|(\w|[.])*(Error|Exception)\b|=+ (Error|Invalid|ERROR|RACE)|.*: error"
)
MOST_TOLD = 20  # lines
EACH_OP = 12.0  # seconds that are kept for each op that is still to be timed
TIMED = (
    "region_features",
    "label_map_features",
    "bald",
    "kl_histogram",
    "confusion_matrix",
    "action",
    "step",
)
PARTS = ("environment", "build", "tests", "sanitizer", "job", "step", "protocol", "timings")

# Each has its tests in a process of its own: after one bad access to memory no CUDA call works any more.
OPS = ("bald", "confusion_matrix", "kl_histogram")
ON_DEVICE = "tests/ops/test_cuda.py"
OTHER_TESTS = (
    "tests/agent/test_dqn.py",
    "tests/support/test_devices.py",
    "tests/datasets/test_dataset.py",
    "tests/segmentation",
)
SANITIZED = (
    "waits and (float32 or bfloat16)"  # every op once, on inputs whose sizes are no multiples of a block
)


@dataclass(frozen=True)
class Part:
    """A command. `must_say`: what stands in its output if it passed; `kept`: seconds left to what follows;
    `lines`: how many of its last lines are told."""

    name: str
    command: list[str]
    limit: float = 150.0  # seconds
    environment: dict[str, str] = field(default_factory=dict)
    must_say: str = ""
    kept: float = 0.0
    lines: int = 1


def main() -> int:
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        record = Record(options, Path(folder))
        for stage in stages(options, Path(folder)):
            wanted = [part for part in stage if part.name.split(":")[0] in options.only]
            with ThreadPoolExecutor(len(stage)) as pool:
                for check, output in pool.map(lambda part: run(part, record.time_left()), wanted):
                    record.add(check, output)
        print(record.as_text())
    failed = [check.name for check in record.checks if not check.passed]
    print(f"\nFAILED: {'; '.join(failed)}" if failed else "\nAll parts passed.")
    return 1 if failed else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--out", type=Path, help="folder of the results")
    parser.add_argument("--minutes", type=float, default=8.0, help="after which nothing runs any more")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="some of the parts")
    parser.add_argument("--small", action="store_true", help="small inputs and few tests")
    options = parser.parse_args()
    results = ROOT / "bench" / "results"
    partial = options.small or options.only != PARTS
    options.out = options.out or (results / "partial" if partial else results)
    return options


class Record:
    """What is known so far, on disk after each part. The timings leave their own files in `folder`."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.end = time.monotonic() + 60 * options.minutes
        self.small = options.small
        self.folder = folder
        self.checks: list[Check] = []
        self.file = options.out / gpu_name(options.device)
        self.file.with_suffix(".log").write_text("", encoding="utf-8")

    def time_left(self) -> float:
        return self.end - time.monotonic()

    def add(self, check: Check, output: str) -> None:
        self.checks.append(check)
        print(f"{'passed' if check.passed else 'FAILED'} {check.name}, {check.seconds:.0f} s", flush=True)
        with self.file.with_suffix(".log").open("a", encoding="utf-8") as log:
            log.write(f"\n===== {check.name}\n{output}")
        self.file.with_suffix(".txt").write_text(self.as_text() + "\n", encoding="utf-8")
        save(self.report(), self.file.with_suffix(".json"))

    def report(self) -> Report:
        timed = [load(path) for path in (self.folder / f"{op}.json" for op in TIMED) if path.exists()]
        machine = timed[0].machine if timed else {}
        return Report(machine, self.small, [each for one in timed for each in one.results], self.checks)

    def as_text(self) -> str:
        return as_text(self.report())


def gpu_name(device: str) -> str:
    """As files are called: nvidia-h200."""
    if device == "cpu":
        return "dry-run"
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    names = subprocess.run(query, capture_output=True, text=True).stdout if shutil.which(query[0]) else ""
    return re.sub(r"[^a-z0-9]+", "-", (names or "gpu").splitlines()[0].lower()).strip("-")


def stages(options: argparse.Namespace, folder: Path) -> Iterator[list[Part]]:
    """The parts of a stage run beside each other; what is timed runs alone."""
    device, small = options.device, ["--small"] * options.small
    yield [environment(device)]
    yield [build(device, folder)]
    yield [*tests(device, options.small), *sanitizers(device), python("job", "gpu_job.py", "run", device)]
    yield [python("step", "gpu_job.py", "step", device, *small)]
    # It draws some 470 scenes of CamVid's size first.
    yield [replace(python("protocol", "gpu_job.py", "protocol", device, *small), limit=200.0, lines=14)]
    for place, op in enumerate(TIMED, 1):
        to_file = ["--json", str(folder / f"{op}.json"), *small]
        part = python(f"timings: {op}", "gpu_timings.py", op, device, *to_file)
        yield [replace(part, limit=300.0, kept=EACH_OP * (len(TIMED) - place))]


def environment(device: str) -> Part:
    """The line that says what this ran on; fails where torch sees no GPU."""
    torch = f"import torch; print('torch', torch.__version__); torch.zeros(1, device={device!r})"
    lines = [
        "nvidia-smi --query-gpu=name,driver_version,memory.total,compute_cap --format=csv,noheader",
        "nvcc --version | grep release",
        "cmake --version | head -n 1",
        shlex.join([sys.executable, "--version"]),
        shlex.join([sys.executable, "-c", torch]),
    ]
    return Part("environment", ["sh", "-c", "\n".join(lines)], lines=len(lines))


def build(device: str, folder: Path) -> Part:
    """Into ralx/, where `pip install -e .` puts it too, but without setuptools."""
    wanted = f"ralx.build_info().cuda or {device!r} == 'cpu'"
    script = f"import ralx; print(ralx.build_info()); assert {wanted}, 'built without CUDA kernels'"
    configure = [
        *("cmake", "-S", ".", "-B", str(folder / "build"), "-G", "Ninja"),
        *("-DRALX_PYTHON=ON", "-DRALX_TESTS=OFF", f"-DPython_EXECUTABLE={sys.executable}"),
        f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={ROOT / 'ralx'}",
    ]
    steps = (configure, ["cmake", "--build", str(folder / "build")], [sys.executable, "-c", script])
    return Part("build", ["sh", "-c", " && ".join(shlex.join(step) for step in steps)], 240.0)


def tests(device: str, small: bool) -> list[Part]:
    if small:
        return [pytest_part("tests", device, ON_DEVICE, "-k", "finite or nothing")]
    parts = [pytest_part(f"tests: {op}", device, ON_DEVICE, "-k", op) for op in OPS]
    others = " and ".join(f"not {op}" for op in OPS)
    parts.append(pytest_part("tests: region_features", device, ON_DEVICE, "-k", others))
    if device != "cpu":
        parts.append(pytest_part("tests: agent, data", device, *OTHER_TESTS, "-k", "cuda or device or waits"))
    return parts


def pytest_part(name: str, device: str, *arguments: str, before: tuple[str, ...] = ()) -> Part:
    command = [
        *before,
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--tb=short",
        "-p",
        "no:cacheprovider",
        *arguments,
    ]
    # Several run beside each other, and the CPU has cores for all.
    variables = {"RALX_TEST_DEVICE": device, "OMP_NUM_THREADS": "2"}
    return Part(name, command, 200.0, variables, must_say=" passed")


def sanitizers(device: str) -> list[Part]:
    """compute-sanitizer looks at ralx's kernels. Tensors are allocated one by one: it sees where they end."""
    if device == "cpu":
        return []
    tool = shutil.which("compute-sanitizer", path=ENVIRONMENT["PATH"])
    if not tool:
        return [Part("sanitizer", ["sh", "-c", "echo compute-sanitizer is not installed; exit 1"])]
    known = subprocess.run([tool, "--help"], capture_output=True, text=True).stdout
    only_ours = ["--kernel-name", "kernel_substring=ralx"] if "--kernel-name" in known else []
    parts = []
    for kind in ("memcheck", "racecheck"):
        before = (tool, "--tool", kind, "--error-exitcode", "9", *only_ours)
        part = pytest_part(f"sanitizer: {kind}", device, ON_DEVICE, "-k", SANITIZED, before=before)
        parts.append(replace(part, environment=part.environment | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}))
    return parts


def python(name: str, script: str, what: str, device: str, *arguments: str) -> Part:
    return Part(name, [sys.executable, str(ROOT / "bench" / script), what, "--device", device, *arguments])


def run(part: Part, time_left: float) -> tuple[Check, str]:
    """The check and everything that the part printed."""
    limit = min(part.limit, time_left - part.kept)
    if limit <= 0:
        return Check(part.name, False, 0.0, ["not run: no time was left"]), ""
    start = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as printed:
        try:
            code = wait_for(part, printed, limit)
        except OSError as error:
            code = -1
            printed.write(f"{type(error).__name__}: {error}\n")
        printed.seek(0)
        output = anonymous(printed.read())
    told = telling(output, part.lines, code == 0)
    if code is None:
        told.append(f"stopped after {limit:.0f} s")
    return Check(part.name, code == 0 and part.must_say in output, time.monotonic() - start, told), output


def wait_for(part: Part, printed: IO[str], limit: float) -> int | None:
    """The exit code; None where the time ran out, and the part's processes were ended."""
    environment = ENVIRONMENT | part.environment
    options = {"cwd": ROOT, "env": environment, "stdout": printed, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(part.command, **options, start_new_session=True)
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return None


def telling(output: str, count: int, passed: bool) -> list[str]:
    """The last lines, and where something failed those that name it."""
    lines = [line.strip()[:300] for line in output.splitlines() if line.strip()]
    named = [] if passed else [line for line in lines[:-count] if TELLING.match(line)]
    return [*list(dict.fromkeys(named))[:MOST_TOLD], *lines[-count:]]


def anonymous(output: str) -> str:
    """Without the folders of this machine."""
    for folder in (str(ROOT), tempfile.gettempdir(), sys.prefix, sys.base_prefix, str(Path.home())):
        output = output.replace(f"{folder}/", "")
    return output


if __name__ == "__main__":
    sys.exit(main())
