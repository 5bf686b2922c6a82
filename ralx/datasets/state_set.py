"""A state set for a data set that lists none: images with the class distribution of D_T and every class."""

import numpy as np

from ralx.datasets.scenes.noise import hash_integers

RESTARTS = 8


def draw_state_set(counts: np.ndarray, wanted: np.ndarray, size: int, seed: int) -> np.ndarray:
    """`size` of the images with class counts `counts` [N, C] close to `wanted` [C] in distribution.

    Every class that any image and `wanted` have is there if the search finds images for them.
    Closeness is the chi-square distance, so that a rare class counts as much as a common one.
    Swaps one image at a time until nothing improves, from several seeded starts; returns sorted indices.
    Same result on every machine: sums over classes run in class order. ValueError if there are fewer images.
    """
    if not 1 <= size <= len(counts):
        raise ValueError(f"size: expected 1..{len(counts)} (the number of candidate images), got {size}")
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)  # [N, C]
    target = wanted / max(int(wanted.sum()), 1)
    tries = []
    for restart in range(RESTARTS):
        keys = hash_integers(np.arange(len(counts)), seed, restart)
        start = sorted(np.argsort(keys, kind="stable")[:size].tolist())
        tries.append(_improve(start, shares, target))
    return np.array(min(tries)[1])


def _improve(chosen: list[int], shares: np.ndarray, target: np.ndarray) -> tuple[float, list[int]]:
    size = len(chosen)
    cost = float(_costs(shares[chosen].cumsum(0)[-1][None], target, size)[0])
    while True:
        total = shares[chosen].cumsum(0)[-1]
        swapped = total - shares[chosen][:, None] + shares[None]  # [size, N, C]
        swapped[:, chosen] = total  # an image that is chosen already can't come in again
        costs = _costs(swapped.reshape(-1, shares.shape[1]), target, size)
        best = int(costs.argmin())
        if not costs[best] < cost - 1e-9:
            return cost, sorted(chosen)
        cost = float(costs[best])
        chosen[best // len(shares)] = best % len(shares)


def _costs(totals: np.ndarray, target: np.ndarray, size: int) -> np.ndarray:
    """Chi-square distance of `totals` [n, C] (sums of `size` rows) to `target`; 1000 per missing class."""
    cost = np.zeros(len(totals))
    for klass, share in enumerate(target):
        if share > 0:
            mean = totals[:, klass] / size
            cost += (mean - share) * (mean - share) / share
            cost += 1000.0 * (mean <= 1e-12)
    return cost
