"""Writes small images and labels for trees in the layouts that data sets come in."""

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (24, 32)  # height, width of the trees' images


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A random image; returns its pixels as they are decoded."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)).save(path)
    return np.asarray(Image.open(path).convert("RGB"))


def write_label(path: Path, ids: np.ndarray | int, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.broadcast_to(np.asarray(ids, np.uint8), size).copy()).save(path)


def cut(path: Path, share: float = 0.6) -> None:
    """Cut a file off, as an interrupted download leaves it."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
