"""Writes small images, labels and split lists for trees in the layouts that data sets come in."""

import json
import struct
import zlib
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


def change_lists(path: Path, **lists: list[str] | None) -> None:
    """Replace lists of a file of split lists; None leaves one out."""
    changed = json.loads(path.read_text()) | lists
    path.write_text(json.dumps({key: names for key, names in changed.items() if names is not None}))


def cut(path: Path, share: float = 0.6) -> None:
    """Cut a file off, as an interrupted download leaves it."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(samples, depth: int, colour: int = 0, *, before: bytes = b"", behind: bytes = b"") -> bytes:
    """A PNG of samples [h, w] or [h, w, channels], with chunks around its pixels."""
    samples = np.asarray(samples)
    rows = samples.reshape(len(samples), -1).astype(">u2")
    bits = np.unpackbits(rows.view(np.uint8).reshape(*rows.shape, 2), axis=2)[..., 16 - depth :]
    packed = np.packbits(bits.reshape(len(rows), -1), axis=1)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed))
    header = struct.pack(">IIBBBBB", samples.shape[1], len(samples), depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header), before, chunk(b"IDAT", pixels), behind, chunk(b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
