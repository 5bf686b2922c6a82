"""What the ops are held against: the one thing that each can't do without, done by torch into memory that is
there already. Of logits that an op upsamples, this is done to the upsampled ones, which are there too."""

import torch
from eager import full_size
from results import BANDWIDTH
from sizes import Scene
from timings import Alternative
from torch import Tensor

GEMM_NUMBERS = 2**26  # of [M, L] that the products' memory holds; larger ones are written in chunks of rows
GEMM_NUMBERS_ON_GPU = 2**30
COPIED = 2**31  # bytes, much more than a GPU's cache holds; a small copy partly stays in it


def exp(logits: Tensor, scene: Scene) -> Alternative:
    """torch.exp(out=): every logit [..., N, C, h, w] is read, has its exponential taken, and is written."""
    logits = at_image_size(logits, scene)
    out = torch.empty_like(logits)
    return Alternative("torch.exp", lambda: torch.exp(logits, out=out))


def copy(logits: Tensor, scene: Scene) -> Alternative:
    """Every logit is read and written."""
    logits = at_image_size(logits, scene)
    out = torch.empty_like(logits)
    return Alternative("copy", lambda: out.copy_(logits))


def bandwidth(read: float, device: str, copied: int = COPIED) -> Alternative:
    """The time in which a copy moves `read` bytes, counting those that it reads and those that it writes."""
    source, out = torch.zeros(2, copied, dtype=torch.uint8, device=device)
    return Alternative(BANDWIDTH, lambda: out.copy_(source), share=2 * copied / read)


def at_image_size(logits: Tensor, scene: Scene) -> Tensor:
    """As they are at native size: in their dtype and layout."""
    if scene.size is None:
        return logits
    return full_size(logits.flatten(0, -4), scene.size).unflatten(0, logits.shape[:-3])


def gemm(p: Tensor, *references: Tensor, dtype: torch.dtype = torch.float32) -> Alternative:
    """torch.mm(out=) of p [M, C] with each reference [L, C]."""
    p, transposed = p.to(dtype), [q.to(dtype).T for q in references]
    numbers = GEMM_NUMBERS_ON_GPU if p.is_cuda else GEMM_NUMBERS
    out = torch.empty(min(numbers, len(p) * max(len(q) for q in references)), dtype=dtype)

    def run() -> None:
        for q in transposed:
            for rows in p.split(max(numbers // q.shape[1], 1)):
                torch.mm(rows, q, out=out[: len(rows) * q.shape[1]].view(len(rows), -1))

    name = "torch.mm" if dtype == torch.float32 else f"torch.mm {str(dtype).removeprefix('torch.')}"
    return Alternative(name, run)
