"""The published algorithm, as research code writes it: NumPy and SciPy, a Python loop over regions, classes
or rows. float32, as there. SciPy is imported by what needs it: a GPU is measured without these loops."""

from collections.abc import Iterator

import numpy as np
import torch
from eager import full_size
from sizes import Scene
from torch import Tensor


def region_features(logits: Tensor, scene: Scene, cells: tuple[int, int] = (8, 8)) -> tuple[Tensor, ...]:
    """class_hist, entropy_min, entropy_avg, entropy_max, entropy_sum, region by region."""
    from scipy import special

    rows = []
    for image in full_size(logits, scene.size).numpy():
        p = special.softmax(image, axis=0)
        entropy, labels = entropy_of(p, axis=0), p.argmax(0)
        for window in region_windows(scene):
            rows.append((class_shares(labels[window], scene.classes), *pooled(entropy[window], cells)))
    return tuple(stacked(column, scene) for column in zip(*rows, strict=True))


def bald(logits: Tensor, scene: Scene) -> tuple[Tensor, Tensor, Tensor]:
    """bald_map, region_sum, class_hist, image by image from all passes' probabilities."""
    from scipy import special

    maps, rows = [], []
    for image in range(scene.images):
        passes = full_size(logits[:, image], scene.size).numpy()
        p = np.stack([special.softmax(each, axis=0) for each in passes])
        mean = p.mean(0)
        bald_map = entropy_of(mean, axis=0) - entropy_of(p, axis=1).mean(0)
        labels = mean.argmax(0)
        maps.append(torch.from_numpy(bald_map))
        for window in region_windows(scene):
            rows.append((bald_map[window].sum(), class_shares(labels[window], scene.classes)))
    region_sum, class_hist = (stacked(column, scene) for column in zip(*rows, strict=True))
    return torch.stack(maps), region_sum, class_hist


def confusion_matrix(logits: Tensor, target: Tensor, scene: Scene, ignore_index: int = 255) -> Tensor:
    """One masked sum for each pair of classes."""
    labels, target = full_size(logits, scene.size).numpy().argmax(1), target.numpy()
    kept = target != ignore_index
    labels, target = labels[kept], target[kept]
    counts = np.zeros((scene.classes, scene.classes), dtype=np.int64)
    for i in range(scene.classes):
        of_class = target == i
        for j in range(scene.classes):
            counts[i, j] = np.sum(of_class & (labels == j))
    return torch.from_numpy(counts)


def kl_histogram(p: Tensor, q: Tensor, bins: int, range: tuple[float, float] | None) -> Tensor:
    """Row by row: scipy.stats.entropy against all of q, then numpy.histogram."""
    from scipy import stats

    reference = q.float().numpy().T + 1e-7
    histograms = []
    for row in p.float().numpy() + 1e-7:
        values = stats.entropy(row[:, None], reference)
        histograms.append(np.histogram(values, bins, range)[0] / len(q))
    return torch.from_numpy(np.stack(histograms)).float()


def entropy_of(p: np.ndarray, axis: int) -> np.ndarray:
    return -(p * np.log(p)).sum(axis)


def region_windows(scene: Scene) -> Iterator[tuple[slice, slice]]:
    (rh, rw), (height, width) = scene.region, scene.image
    for top in range(0, height - rh + 1, rh):
        for left in range(0, width - rw + 1, rw):
            yield slice(top, top + rh), slice(left, left + rw)


def class_shares(labels: np.ndarray, classes: int) -> np.ndarray:
    shares = np.zeros(classes, dtype=np.float32)
    present, counts = np.unique(labels, return_counts=True)
    shares[present] = counts / labels.size
    return shares


def pooled(entropy: np.ndarray, cells: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Minimum, average, maximum of each cell; sum of the whole region."""
    height, width = entropy.shape[0] // cells[0], entropy.shape[1] // cells[1]
    parts = entropy[: cells[0] * height, : cells[1] * width].reshape(cells[0], height, cells[1], width)
    return parts.min((1, 3)), parts.mean((1, 3)), parts.max((1, 3)), entropy.sum()


def stacked(column: tuple[np.ndarray, ...], scene: Scene) -> Tensor:
    """One array per region → [N, R, ...]"""
    return torch.from_numpy(np.stack(column)).unflatten(0, (scene.images, -1))
