"""The query network: how much is it worth to label this region, given the state of the segmenter?"""

import math
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ENCODED_STATE = 128  # numbers that the state of a whole step is reduced to
ENCODED_ACTION = 128  # numbers that one candidate is reduced to


class RowNorm(nn.BatchNorm1d):
    """BatchNorm over the rows of ``[rows, D]`` that also learns from a single row.

    One row has no variance to normalise by: the running statistics stand in, and stay as they are.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.shape[0] == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


def _linear(inputs: int, outputs: int, generator: torch.Generator | None, device: str) -> nn.Linear:
    """``nn.Linear`` with its usual initial weights, drawn from ``generator``."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs, device=device)
    bound = 1.0 / math.sqrt(inputs)
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer


def _layers(dims: tuple[int, ...], generator: torch.Generator | None, device: str) -> nn.Sequential:
    """BN, ReLU, linear from each width to the next. A linear map of rows is the authors' 1×1 convolution."""
    steps: list[nn.Module] = []
    for inputs, outputs in pairwise(dims):
        steps += [RowNorm(inputs, device=device), nn.ReLU(), _linear(inputs, outputs, generator, device)]
    return nn.Sequential(*steps)


def _norm_linear(inputs: int, generator: torch.Generator | None, device: str) -> nn.Sequential:
    return nn.Sequential(RowNorm(inputs, device=device), _linear(inputs, 1, generator, device))


class QueryNetwork(nn.Module):
    """Q(s, a) of the paper's section 3.2, with the layers of the authors' published code.

    The state's regions go D_s→256→128→1 each, then all of them together →128; a candidate's features without
    its KL bins go D→512→256→128. Both are joined, normalised and mapped to one number, which a gate computed
    from the KL bins alone scales by something between 0 and 1.

    Args:
        num_regions: R, regions of the whole state set.
        state_dim: D_s, features of one of them.
        action_dim: D_a, features of a candidate; the last ``kl_dim`` are its KL histograms.
        kl_dim: number of KL bins, both histograms together.
        dueling: Q = V(s) + A(s, a) − mean of A over the pool, with V from the encoded state alone and A from
            the published layers.
        generator: draws the initial weights, on the CPU; None takes torch's global one.
        device: where the weights are made: "cpu", or "meta" for their shapes alone.

    Raises:
        ValueError: a size below 1, or ``kl_dim`` not below ``action_dim``.
    """

    def __init__(
        self,
        num_regions: int,
        state_dim: int,
        action_dim: int,
        *,
        kl_dim: int = 64,
        dueling: bool = False,
        generator: torch.Generator | None = None,
        device: Literal["cpu", "meta"] = "cpu",
    ):
        super().__init__()
        for name, size in (("num_regions", num_regions), ("state_dim", state_dim), ("kl_dim", kl_dim)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if action_dim <= kl_dim:
            raise ValueError(
                f"action_dim must be more than kl_dim = {kl_dim}, which it counts, got {action_dim}"
            )
        self.num_regions, self.state_dim = num_regions, state_dim
        self.action_dim, self.kl_dim, self.dueling = action_dim, kl_dim, dueling
        self.region_path = _layers((state_dim, 256, 128, 1), generator, device)
        self.state_path = _layers((num_regions, ENCODED_STATE), generator, device)
        self.action_path = _layers((action_dim - kl_dim, 512, 256, ENCODED_ACTION), generator, device)
        joined = ENCODED_ACTION + ENCODED_STATE
        self.head = _norm_linear(joined, generator, device)
        self.gate = _layers((kl_dim, 1), generator, device)
        if dueling:
            self.value = _norm_linear(ENCODED_STATE, generator, device)

    def encode_state(self, state: Tensor) -> Tensor:
        """``[B, R, D_s]`` → ``[B, 128]``, independent of the candidates: once per step is enough."""
        if state.dim() != 3 or state.shape[1:] != (self.num_regions, self.state_dim):
            raise ValueError(
                f"state must be [B, {self.num_regions}, {self.state_dim}], got {list(state.shape)}"
            )
        batch = state.shape[0]
        per_region = self.region_path(state.reshape(batch * self.num_regions, self.state_dim))
        return self.state_path(per_region.view(batch, self.num_regions))

    def q_values(self, encoded: Tensor, action: Tensor, mask: Tensor | None = None) -> Tensor:
        """Q of every candidate.

        Args:
            encoded: ``[B, 128]`` from ``encode_state``.
            action: ``[B, M, D_a]``.
            mask: bool ``[B, M]``, False where a short pool is filled up. Only the mean over the pool of the
                dueling variant needs it.

        Returns:
            ``[B, M]``.
        """
        if action.dim() != 3 or action.shape[2] != self.action_dim:
            raise ValueError(f"action must be [B, M, {self.action_dim}], got {list(action.shape)}")
        if encoded.shape != (action.shape[0], ENCODED_STATE):
            raise ValueError(
                f"encoded must be [{action.shape[0]}, {ENCODED_STATE}], one row per pool of action, "
                f"got {list(encoded.shape)}"
            )
        batch, pool = action.shape[:2]
        own, kl = action.flatten(0, 1).split((self.action_dim - self.kl_dim, self.kl_dim), dim=1)
        state_rows = encoded.repeat_interleave(pool, dim=0)
        joined = torch.cat((self.action_path(own), state_rows), dim=1)
        q = (torch.sigmoid(self.gate(kl)) * self.head(joined)).view(batch, pool)
        if not self.dueling:
            return q
        return self.value(encoded) + q - _pool_mean(q, mask)

    def forward(self, state: Tensor, action: Tensor, mask: Tensor | None = None) -> Tensor:
        """Q ``[B, M]`` of the candidates ``[B, M, D_a]`` in the states ``[B, R, D_s]``."""
        return self.q_values(self.encode_state(state), action, mask)


def _pool_mean(q: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of ``q [B, M]`` over each pool, ``[B, 1]``."""
    if mask is None:
        return q.mean(dim=1, keepdim=True)
    return (q * mask).sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True)
