"""What the ops are held against: the one thing that each can't do without, done by torch into memory that is
there already. Of logits that an op upsamples, this is done to the upsampled ones, which are there too."""

import torch
from eager import full_size
from sizes import Scene
from timings import Alternative
from torch import Tensor

GEMM_NUMBERS = 2**26  # of [M, L] that the products' memory holds; larger ones are written in chunks of rows


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


def at_image_size(logits: Tensor, scene: Scene) -> Tensor:
    """As they are at native size: in their dtype and layout."""
    if scene.size is None:
        return logits
    return full_size(logits.flatten(0, -4), scene.size).unflatten(0, logits.shape[:-3])


def gemm(p: Tensor, *references: Tensor, dtype: torch.dtype = torch.float32) -> Alternative:
    """torch.mm(out=) of p [M, C] with each reference [L, C]."""
    p, transposed = p.to(dtype), [q.to(dtype).T for q in references]
    out = torch.empty(GEMM_NUMBERS, dtype=dtype)

    def run() -> None:
        for q in transposed:
            for rows in p.split(max(GEMM_NUMBERS // q.shape[1], 1)):
                torch.mm(rows, q, out=out[: len(rows) * q.shape[1]].view(len(rows), -1))

    name = "torch.mm" if dtype == torch.float32 else f"torch.mm {str(dtype).removeprefix('torch.')}"
    return Alternative(name, run)
