"""What tests of several folders take: the real CamVid where it is, a locked folder, one thread."""

import os
from pathlib import Path

if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # one of several processes: a thread each, chosen before torch is loaded
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from ralx.support.checkpoint import Checkpoint
from ralx.support.folder import locked

# Begun first, so that at the end no process works on one of them alone.
LONGEST = ("test_contributing.py", "test_cuda_on_host.py", "test_train.py", "test_experiment.py")


def pytest_configure(config):
    if hasattr(config.option, "loadscopereorder"):  # pytest-xdist would begin with the files of most tests
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def real_camvid() -> Path:
    default = Path(__file__).parents[1].parent / "shared" / "data" / "camvid"
    root = Path(os.environ.get("RALX_CAMVID", default))
    if not root.is_dir():
        # Not switched off: the tests run wherever the photographs are, as where CI runs. They are for
        # research use and never part of this repository.
        pytest.skip("CamVid's images are not here: set RALX_CAMVID to their folder")
    return root


@pytest.fixture
def lock(tmp_path):
    """The lock of a folder that the test works in."""
    with locked(tmp_path / "work") as lock:
        yield lock


@pytest.fixture
def checkpoint(lock):
    """Of one piece of work, with nothing saved."""
    return Checkpoint(lock.path.parent / "checkpoint.safetensors", lock)


@pytest.fixture
def one_thread(monkeypatch):
    """One CPU thread, as runs have that are compared byte by byte: with two, oneDNN's gradient of a strided
    convolution on a 2×2 map differs in its last bits from call to call."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    torch.set_num_threads(threads)
