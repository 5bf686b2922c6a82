"""The alternatives in plain torch, as one writes them without ralx: float32, no Python loop over pixels or
regions. Each is written the way that was fastest here; `compiled` gives it to torch.compile.

Labels come from max(1).indices, which on the CPU is several times as fast as argmax(1).
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from sizes import Scene
from timings import CannotCompile
from torch import Tensor
from torch.nn import functional as F

# Numbers of [rows, L] at a time. Eager torch is fastest where they stay in cache; compiled code, which makes
# fewer of them, where calls are few.
EAGER_CHUNK = 2**17
COMPILED_CHUNK = 2**20
GPU_CHUNK = 2**25  # of either, on a GPU, which is faster the fewer calls there are


def full_size(logits: Tensor, size: tuple[int, int] | None) -> Tensor:
    """float32; upsampled as the paper's network does it, with align_corners."""
    logits = logits.float()
    return logits if size is None else F.interpolate(logits, size, mode="bilinear", align_corners=True)


def region_tiles(maps: Tensor, region: tuple[int, int]) -> Tensor:
    """[N, H, W] → [N, R, rh, rw]"""
    (rh, rw), (rows, cols) = region, (maps.shape[1] // region[0], maps.shape[2] // region[1])
    tiles = maps[:, : rows * rh, : cols * rw].reshape(-1, rows, rh, cols, rw)
    return tiles.transpose(2, 3).flatten(1, 2)


def class_hist(labels: Tensor, region: tuple[int, int], classes: int) -> Tensor:
    """[N, H, W] → [N, R, C]"""
    tiles = region_tiles(labels, region).flatten(2)
    counts = torch.zeros(*tiles.shape[:2], classes, device=labels.device)
    return counts.scatter_add_(2, tiles, counts.new_ones(()).expand(tiles.shape)) / tiles.shape[2]


def region_features(logits: Tensor, scene: Scene, cells: tuple[int, int] = (8, 8)) -> tuple[Tensor, ...]:
    """class_hist, entropy_min, entropy_avg, entropy_max, entropy_sum"""
    logits = full_size(logits, scene.size)
    log_p = logits.log_softmax(1)
    entropy = -(log_p.exp() * log_p).sum(1)
    tiles = region_tiles(entropy, scene.region)
    cell = scene.region[0] // cells[0], scene.region[1] // cells[1]
    return (
        class_hist(logits.max(1).indices, scene.region, scene.classes),
        -F.max_pool2d(-tiles, cell),
        F.avg_pool2d(tiles, cell),
        F.max_pool2d(tiles, cell),
        tiles.sum((2, 3)),
    )


def kl_rows(p: Tensor, log_q: Tensor, bins: int, range: tuple[float, float] | None) -> Tensor:
    """One matrix product for all pairs [rows, L], then one scatter."""
    values = (p * p.log()).sum(1, keepdim=True) - p @ log_q.T
    if range is None:
        low, high = values.aminmax(dim=1, keepdim=True)
    else:
        low, high = range
    bin = ((values - low) * (bins / (high - low))).long().clamp_(0, bins - 1)
    counts = p.new_zeros(len(p), bins).scatter_add_(1, bin, p.new_ones(()).expand(bin.shape))
    return counts / len(log_q)


def kl_histogram(
    p: Tensor,
    q: Tensor,
    bins: int,
    range: tuple[float, float] | None,
    eps: float = 1e-7,
    chunk: int = EAGER_CHUNK,
    rows: Callable[..., Tensor] = kl_rows,
) -> Tensor:
    """`rows` over chunks of p."""
    p, q = p.float() + eps, q.float() + eps
    p, log_q = p / p.sum(1, keepdim=True), (q / q.sum(1, keepdim=True)).log()
    # A power of two, so that chunks are equally large where the number of rows has it as a factor.
    chunk = GPU_CHUNK if p.is_cuda else chunk
    at_a_time = 1 << max(chunk // len(q), 1).bit_length() - 1
    return torch.cat([rows(part, log_q, bins, range) for part in p.split(at_a_time)])


def compiled_kl_histogram() -> Callable[..., Tensor]:
    """Chunk by chunk too: a graph of all of them would take minutes to compile."""
    return functools.partial(kl_histogram, chunk=COMPILED_CHUNK, rows=compiled(kl_rows))


def bald(logits: Tensor, scene: Scene) -> tuple[Tensor, Tensor, Tensor]:
    """bald_map, region_sum, class_hist of passes [T, N, C, h, w]; Σp and ΣH are kept, one pass at a time."""
    mean, entropy = 0, 0
    for each in logits:
        log_p = full_size(each, scene.size).log_softmax(1)
        p = log_p.exp()
        mean += p  # in place, but for the first pass
        entropy -= p.mul_(log_p).sum(1)
    return bald_scores(mean / len(logits), entropy / len(logits), scene)


def bald_at_once(logits: Tensor, scene: Scene) -> tuple[Tensor, Tensor, Tensor]:
    """The same with all passes in one tensor, from which torch.compile makes the faster code."""
    passes = full_size(logits.flatten(0, 1), scene.size).unflatten(0, logits.shape[:2])
    log_p = passes.log_softmax(2)
    p = log_p.exp()
    return bald_scores(p.mean(0), -(p * log_p).sum(2).mean(0), scene)


def bald_scores(mean: Tensor, entropy: Tensor, scene: Scene) -> tuple[Tensor, Tensor, Tensor]:
    bald_map = -torch.xlogy(mean, mean).sum(1) - entropy
    return (
        bald_map,
        region_tiles(bald_map, scene.region).sum((2, 3)),
        class_hist(mean.max(1).indices, scene.region, scene.classes),
    )


def confusion_matrix(logits: Tensor, target: Tensor, scene: Scene, ignore_index: int = 255) -> Tensor:
    """On a GPU bincount reads the extremes back to the host: compare with ralx as the host sees it."""
    classes = scene.classes
    prediction = full_size(logits, scene.size).max(1).indices
    cell = torch.where(target != ignore_index, target.long() * classes + prediction, classes**2)
    return torch.bincount(cell.flatten(), minlength=classes**2 + 1)[:-1].view(classes, classes)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Inductor's code for `function`, whole and for these shapes alone; compiled at the first call.

    Raises CannotCompile where there is none.
    """
    compile_once = functools.cache(lambda: torch.compile(function, fullgraph=True, dynamic=False))

    def call(*args: Any) -> Any:
        try:
            return compile_once()(*args)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise CannotCompile(str(error).splitlines()[0]) from error

    return call
