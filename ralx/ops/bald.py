"""bald: how much the dropout passes of a network disagree, by pixel and by region."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

import ralx._C as _C
from ralx.ops._reference import (
    class_hist_by_id,
    computed,
    entropy_ref,
    pool_by_id,
    region_ids,
    split_regions,
    upsample_ref,
)
from ralx.ops.arguments import (
    Edge,
    Pair,
    check_edge,
    check_flag,
    check_logits,
    check_pair,
    check_region_size,
    check_size,
    num_tiles,
)
from ralx.ops.registration import Call, register

Outputs = tuple[Tensor, Tensor, Tensor]  # of BaldScores, in its order


class BaldScores(NamedTuple):
    """Mutual information between prediction and network weights, in nats; float32."""

    bald_map: Tensor
    """[N, H, W]: of each pixel."""
    region_sum: Tensor | None = None
    """[N, R]: summed over each region; None without region_size."""
    class_hist: Tensor | None = None
    """[N, R, C]: fraction of the region's pixels whose mean prediction is c; None without region_size."""


def bald(
    logits: Tensor | Iterable[Tensor],
    region_size: tuple[int, int] | None = None,
    *,
    size: tuple[int, int] | None = None,
    align_corners: bool = False,
    edge: Edge = "drop",
) -> BaldScores:
    """Bayesian active learning by disagreement: H(mean p) - mean H(p) over T passes (Houlsby et al. 2011).

    Args:
        logits: [T, N, C, h, w], or an iterable of T passes [N, C, h, w], taken one at a time; float32,
            float16, bfloat16 (computed in float32) or float64, of any strides.
        region_size: (rh, rw) in pixels of the image, tiled from the top left.
        size: (H, W) of the image; the logits are bilinearly upsampled to it inside the pass. Default (h, w).
        align_corners: as in torch.nn.functional.interpolate.
        edge: a remainder at the right or bottom is in no region ("drop"), or makes smaller ones ("keep").

    Returns:
        BaldScores, whose tensors never require grad. Beyond input and output, memory doesn't grow with T; an
        iterable needs the running mean [N, C, H, W].

    Raises:
        TypeError, ValueError: naming the argument, the rule and what was given.
    """
    if not isinstance(logits, Tensor):
        return _bald_of_passes(logits, region_size, size, align_corners, edge)
    logits = check_logits("logits", logits, "T, N, C, h, w")
    if logits.shape[0] < 1:
        raise ValueError(f"logits must hold at least one pass, got shape {list(logits.shape)}")
    size = check_size(size, logits)
    check_flag("align_corners", align_corners)
    keep_edge = check_edge(edge)
    region = size if region_size is None else check_region_size(region_size, size)
    return _scores(_op(logits.detach(), region, size, align_corners, keep_edge), region_size)


def _scores(outputs: Outputs, region_size: Pair | None) -> BaldScores:
    """Without regions the whole image was taken for one, which nobody asked for."""
    return BaldScores(*outputs) if region_size is not None else BaldScores(outputs[0])


def _bald_of_passes(
    passes: Iterable[Tensor], region_size: Pair | None, size: Pair | None, align_corners: bool, edge: Edge
) -> BaldScores:
    try:
        each = iter(passes)
    except TypeError as error:  # a NumPy array without axes is an Iterable, and none
        rule = "logits must be a tensor [T, N, C, h, w] or an iterable of passes [N, C, h, w]"
        raise TypeError(f"{rule}, got {type(passes).__name__}") from error
    accumulator = BaldAccumulator(region_size, size=size, align_corners=align_corners, edge=edge)
    for logits in each:
        accumulator.update(logits)
    if accumulator.passes == 0:
        raise ValueError("logits must hold at least one pass, got an empty iterable")
    return accumulator.compute()


class BaldAccumulator:
    """`bald` for passes that come one after another: `update` with each, `compute` at any time.

    Holds the sums over the passes of p [N, C, H, W] and of its entropy [N, H, W]; after 32 passes, however
    many follow, as much again, which keeps float32 from losing what later passes add.
    Arguments and errors are those of `bald`.
    """

    def __init__(
        self,
        region_size: tuple[int, int] | None = None,
        *,
        size: tuple[int, int] | None = None,
        align_corners: bool = False,
        edge: Edge = "drop",
    ) -> None:
        self.region_size = None if region_size is None else check_pair("region_size", region_size)
        self.size = None if size is None else check_pair("size", size)
        self.align_corners = check_flag("align_corners", align_corners)
        self.keep_edge = check_edge(edge)
        self.passes = 0

    def update(self, logits: Tensor) -> None:
        """Adds one pass [N, C, h, w]; all must have the same shape, dtype and device."""
        logits = check_logits("logits", logits)
        if self.passes == 0:
            self._start(logits)
        elif (logits.shape, logits.dtype, logits.device) != self._like:
            shape, dtype, device = self._like
            raise ValueError(
                f"logits of all passes must have the same shape, dtype and device, got {list(logits.shape)} "
                f"{logits.dtype} on {logits.device} after {list(shape)} {dtype} on {device}"
            )
        if self.passes > 0 and self.passes % _C.PASSES_AT_ONCE == 0:
            self._carry()
        _update_op(logits.detach() if logits.requires_grad else logits, self.align_corners, *self._sums)
        self.passes += 1

    def compute(self) -> BaldScores:
        """The scores of the passes so far. Changes nothing: more passes may follow."""
        if self.passes == 0:
            raise ValueError("compute() needs at least one pass, got none: call update() first")
        sums = self._sums
        if self._totals is not None:
            sums = self._totals[0] + sums[0], self._totals[1] + sums[1]
        region = self.region_size or (sums[0].shape[2], sums[0].shape[3])
        return _scores(_compute_op(*sums, self.passes, region, self.keep_edge), self.region_size)

    def _start(self, logits: Tensor) -> None:
        size = check_size(self.size, logits)
        if self.region_size is not None:
            check_region_size(self.region_size, size)
        self._like = logits.shape, logits.dtype, logits.device
        with torch.inference_mode(False):  # a later pass may come outside inference mode
            self._sums = _zero_sums(logits, size)
        self._totals: tuple[Tensor, Tensor] | None = None

    def _carry(self) -> None:
        """Moves the sums into the totals, and leaves in them what rounding takes from the totals."""
        if self._totals is None:
            with torch.inference_mode(False):
                sum_p, sum_entropy = self._totals = self._sums
                self._sums = torch.zeros_like(sum_p), torch.zeros_like(sum_entropy)
            return
        for sums, totals in zip(self._sums, self._totals, strict=True):
            _carry_op(sums, totals)


def bald_ref(
    logits: Tensor,
    region_size: Pair,
    size: Pair | None = None,
    align_corners: bool = False,
    keep_edge: bool = False,
) -> Outputs:
    """The same in plain torch, for stacked passes."""
    sums = _zero_sums(logits[0], size or (logits.shape[-2], logits.shape[-1]), torch.float64)
    for one_pass in logits:
        _update_ref(one_pass, align_corners, *sums)
    return _compute_ref(*sums, len(logits), region_size, keep_edge)


def _zero_sums(logits: Tensor, size: Pair, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    images, classes = logits.shape[:2]
    dtype = dtype or (torch.float64 if logits.dtype == torch.float64 else torch.float32)
    return logits.new_zeros(images, classes, *size, dtype=dtype), logits.new_zeros(images, *size, dtype=dtype)


def _empty(like: Tensor, region_size: Pair, size: Pair, keep_edge: bool) -> Outputs:
    """Memory for the outputs; `like` is logits, or the sum of p."""
    images, classes = like.shape[-4], like.shape[-3]
    regions = num_tiles(size, region_size, keep_edge)
    return (
        like.new_empty((images, *size), dtype=torch.float32),
        like.new_empty((images, regions), dtype=torch.float32),
        like.new_empty((images, regions, classes), dtype=torch.float32),
    )


def _call(logits: Tensor, region_size: Pair, size: Pair, align_corners: bool, keep_edge: bool) -> Call:
    passes, images, classes, _, _ = logits.shape
    outputs = _empty(logits, region_size, size, keep_edge)
    given = logits, region_size, keep_edge, align_corners, *outputs
    scratch = "bald_scratch", passes, images, classes, size, region_size, keep_edge
    return Call(outputs, given, passes * classes * outputs[0].numel(), scratch)


_op = register(
    "bald(Tensor logits, SymInt[2] region_size, SymInt[2] size, bool align_corners, bool keep_edge) "
    "-> (Tensor, Tensor, Tensor)",
    call=_call,
    ref=bald_ref,
)


def _update_ref(logits: Tensor, align_corners: bool, sum_p: Tensor, sum_entropy: Tensor) -> None:
    logits = upsample_ref(computed(logits), (sum_p.shape[2], sum_p.shape[3]), align_corners)
    sum_p += logits.softmax(1)
    sum_entropy += entropy_ref(logits)


_update_op = register(
    "bald_update(Tensor logits, bool align_corners, Tensor(a!) sum_p, Tensor(b!) sum_entropy) -> ()",
    call=lambda *given: Call(None, given, given[2].numel()),
    ref=_update_ref,
)


def _carry_ref(sums: Tensor, totals: Tensor) -> None:
    before = totals.clone()
    totals += sums
    sums -= totals - before


_carry_op = register(
    "bald_carry(Tensor(a!) sums, Tensor(b!) totals) -> ()",
    call=lambda *given: Call(None, given, given[0].numel()),
    ref=_carry_ref,
)


def _compute_ref(
    sum_p: Tensor, sum_entropy: Tensor, passes: int, region_size: Pair, keep_edge: bool
) -> Outputs:
    images, classes, *size = sum_p.shape
    mean_p = sum_p / passes
    bald_map = torch.special.entr(mean_p).sum(1) - sum_entropy / passes
    ids, _, regions = region_ids(images, size, region_size, (1, 1), keep_edge, sum_p.device)
    if keep_edge:
        region_sum = pool_by_id(bald_map, ids, regions).total
    else:
        region_sum = split_regions(bald_map, region_size).sum((2, 3))
    class_hist = class_hist_by_id(sum_p.argmax(1), ids, regions, classes)
    return bald_map.float(), region_sum.float(), class_hist


def _compute_call(
    sum_p: Tensor, sum_entropy: Tensor, passes: int, region_size: Pair, keep_edge: bool
) -> Call:
    images, classes, height, width = sum_p.shape
    outputs = _empty(sum_p, region_size, (height, width), keep_edge)
    given = sum_p, sum_entropy, passes, region_size, keep_edge, *outputs
    scratch = "bald_scratch", 1, images, classes, (height, width), region_size, keep_edge
    return Call(outputs, given, sum_p.numel(), scratch)


_compute_op = register(
    "bald_compute(Tensor sum_p, Tensor sum_entropy, SymInt passes, SymInt[2] region_size, bool keep_edge) "
    "-> (Tensor, Tensor, Tensor)",
    call=_compute_call,
    ref=_compute_ref,
)
