"""The real CamVid, where it is."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_camvid() -> Path:
    default = Path(__file__).parents[1].parent / "shared" / "data" / "camvid"
    root = Path(os.environ.get("RALX_CAMVID", default))
    if not root.is_dir():
        # Not switched off: the tests run wherever the photographs are, as where CI runs. They are for
        # research use and never part of this repository.
        pytest.skip("CamVid's images are not here: set RALX_CAMVID to their folder")
    return root
