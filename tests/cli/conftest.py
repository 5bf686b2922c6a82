"""One thread, so that bytes can be compared, and a finished run of `ralx-train`."""

from pathlib import Path

import pytest
import torch
from tiny_options import TINY, start


@pytest.fixture(autouse=True, scope="module")
def with_one_thread():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> tuple[Path, str]:
    """The folder of a finished tiny run, and what it printed."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    process = start("train", "--out", str(out), *TINY)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return out, output
