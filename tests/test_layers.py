"""Dependencies point one way: `cli → labelling → runs → game, report → agent, acquisition, segmentation,
datasets → features, regions, metrics → ops → _C`; `support` is below all.

Read from the sources, so that a rule is broken where the import is written and not where it happens to run.
"""

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ralx"
CSRC = ROOT / "csrc"

# A module imports from its own layer or one below. A new module gets a line here.
LAYERS = {
    "_C": 0,
    "support": 0,
    "version": 0,
    "ops": 1,
    "regions": 2,
    "metrics": 2,
    "features": 3,
    "segmentation": 3,
    "datasets": 3,
    "acquisition": 4,
    "agent": 4,
    "compat": 5,
    "game": 5,
    "report": 5,
    "runs": 6,
    "labelling": 7,
    "cli": 8,
}
NO_DATASETS = "support ops regions metrics features compat segmentation acquisition agent".split()


def sources():
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path):
    """The layer's name of a file: the module, or the subpackage that it lies in."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported_modules(tree, path):
    """Full names of what a file imports, wherever in the file; `from a import b` gives `a.b`."""
    package = ("ralx", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            base = ".".join(filter(None, [above, node.module]))
            yield from (f"{base}.{alias.name}" for alias in node.names)


def ralx_imports(path):
    """The parts of ralx that a file imports, itself left out."""
    names = [name.split(".") for name in imported_modules(parsed(path), path)]
    known = {part_of(p) for p in sources()} | {"_C"}
    # `from ralx import x` for a name that is no module imports what `ralx/__init__.py` gathers.
    parts = {n[1] if len(n) > 1 and n[1] in known else "__init__" for n in names if n[0] == "ralx"}
    return parts - {part_of(path)}


@functools.cache
def edges():
    return frozenset((part_of(path), part) for path in sources() for part in ralx_imports(path))


def test_every_module_has_a_layer():
    parts = {part_of(path) for path in sources()} - {"__init__"}
    assert parts <= LAYERS.keys(), (
        f"give these a layer in {Path(__file__).name}: {sorted(parts - LAYERS.keys())}"
    )


def test_imports_point_down():
    wrong = [
        f"{user} imports {used}"
        for user, used in edges()
        if user != "__init__" and (used == "__init__" or LAYERS[used] > LAYERS[user])
    ]
    assert not wrong, wrong


def test_imports_form_no_circle():
    remaining = set(edges())
    while remaining:
        leaves = {used for _, used in remaining} - {user for user, _ in remaining}
        assert leaves, f"a circle among {sorted(remaining)}"
        remaining = {edge for edge in remaining if edge[1] not in leaves}


def test_only_ops_touches_the_extension_and_ops_nothing_else():
    assert [user for user, used in edges() if used == "_C"] == ["ops"]
    assert {used for user, used in edges() if user == "ops"} <= {"_C"}


def test_the_extension_is_reached_by_import_statements_only():
    # importlib, torch.ops or a string would slip past the rules above.
    hidden = [
        path.relative_to(ROOT).as_posix()
        for path in sources()
        if part_of(path) != "ops" and "ralx._C" in path.read_text(encoding="utf-8")
    ]
    assert not hidden


@pytest.mark.parametrize("part", NO_DATASETS)
def test_what_learns_and_scores_knows_no_data_set(part):
    reached, front = set(), {part}
    while front:
        reached |= front
        front = {used for user, used in edges() if user in front} - reached
    assert "datasets" not in reached, f"{part} reaches ralx.datasets by way of {sorted(reached)}"


def test_heavy_packages_are_imported_where_they_are_used():
    """torchvision may not load beside a CPU-only torch, and no featurizer needs matplotlib."""
    late = {
        "torchvision",
        "timm",
        "matplotlib",
        "tensorboard",
        "scipy",
        "jinja2",
        "torchmetrics",
        "skimage",
        "tifffile",
        "segmentation_models_pytorch",
        "transformers",
    }
    wrong = []
    for path in sources():
        top = ast.Module(
            body=[n for n in parsed(path).body if not isinstance(n, ast.FunctionDef)], type_ignores=[]
        )
        names = {name.split(".")[0] for name in imported_modules(top, path)}
        if part_of(path) == "report":
            names.discard("matplotlib")
        wrong += [f"{path.name} imports {name}" for name in sorted(names & late)]
    assert not wrong, wrong


def c_sources():
    return sorted(p for p in CSRC.rglob("*") if p.suffix in {".h", ".cpp", ".cu", ".cuh"})


def included(path):
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(encoding="utf-8"), re.MULTILINE)


def test_csrc_knows_no_torch():
    wrong = [
        f"{path.relative_to(CSRC)} includes {header}"
        for path in c_sources()
        for header in included(path)
        if re.match(r"(torch|ATen|c10|caffe2)/", header)
    ]
    assert c_sources() and not wrong, wrong


def test_only_the_bindings_know_python():
    wrong = [
        path.relative_to(CSRC).as_posix()
        for path in c_sources()
        if any(re.match(r"pybind11/|Python\.h", header) for header in included(path))
    ]
    assert wrong == ["bindings.cpp"]


def test_no_op_includes_another_op():
    ops = {path.name for path in CSRC.iterdir() if path.is_dir()} - {"common"}
    wrong = []
    for path in c_sources():
        own = path.relative_to(CSRC).parts[0]
        if own == "bindings.cpp":
            continue
        for header in included(path):
            # As written from csrc, or relative to the file.
            local = (path.parent / header).resolve()
            folder = local.relative_to(CSRC).parts[0] if local.is_relative_to(CSRC) else ""
            used = {Path(header).parts[0], folder} & ops
            if used - {own}:
                wrong.append(f"{path.relative_to(CSRC)} includes {header}")
    assert ops and not wrong, wrong


def test_the_backends_of_csrc_stay_apart():
    """What one backend needs lies in common/cpu or common/gpu, and what both need in common itself."""
    wrong, used = [], {"cpu": set(), "gpu": set()}
    for path in c_sources():
        place = path.relative_to(CSRC).as_posix()
        if place.startswith("common/cpu/") or place.endswith("_cpu.cpp"):
            own, barred = ["cpu"], ("common/gpu/",)
        elif place.startswith("common/gpu/") or place.endswith(".cu"):
            own, barred = ["gpu"], ("common/cpu/",)
        elif place.startswith("common/"):
            own, barred = [], ("common/cpu/", "common/gpu/")
        elif path.suffix == ".h":  # an op's contract declares the kernels of both backends
            own, barred = ["cpu", "gpu"], ()
        else:
            continue
        headers = included(path)
        wrong += [f"{place} includes {header}" for header in headers if header.startswith(barred)]
        for backend in own:
            used[backend] |= set(headers)
    assert not wrong, wrong
    shared = {path.relative_to(CSRC).as_posix() for path in (CSRC / "common").glob("*.h")}
    assert shared and shared <= used["cpu"] & used["gpu"]


def test_every_op_has_its_five_places():
    """csrc, ralx/ops, tests/ops and bench, under one name."""
    ops = {path.name for path in CSRC.iterdir() if path.is_dir()} - {"common"}
    for op in ops:
        for place in (
            f"csrc/{op}/{op}.h",
            f"ralx/ops/{op}.py",
            f"tests/ops/test_{op}.py",
            f"bench/bench_{op}.py",
        ):
            assert (ROOT / place).is_file(), f"{place} is missing"
