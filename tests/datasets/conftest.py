"""Small trees of images in CamVid's layout."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dataset_trees import SIZE, write_image, write_label


@pytest.fixture
def camvid_tree(tmp_path) -> tuple[Path, Path]:
    """(root, split lists): CamVid's layout with 8 images to train, 2 in val, 2 in test."""
    root = tmp_path / "camvid"
    for part, count in (("train", 8), ("val", 2), ("test", 2)):
        for number in range(count):
            write_image(root / part / f"{part}_{number}.png", number)
            ids = (np.arange(SIZE[0])[:, None] // 2 + number) % 12
            write_label(root / f"{part}annot" / f"{part}_{number}.png", ids)
    lists = {
        "d_s": ["train_0", "train_1"],
        "d_t": ["train_2", "train_3", "train_4"],
        "d_v": ["train_5", "train_6", "train_7"],
    }
    path = tmp_path / "lists.json"
    path.write_text(json.dumps(lists))
    return root, path


@pytest.fixture
def shuffled_folders(monkeypatch) -> Callable[[], None]:
    """Makes every folder list its files backwards from then on."""
    listed = Path.iterdir

    def shuffle() -> None:
        monkeypatch.setattr(Path, "iterdir", lambda folder: iter(sorted(listed(folder), reverse=True)))

    return shuffle
