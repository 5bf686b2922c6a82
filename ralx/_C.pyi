"""The C++ kernels; ralx.ops checks what they are given."""

from collections.abc import Sequence
from enum import Enum

from torch import Tensor

def bald(
    logits: Tensor,
    region_size: tuple[int, int],
    keep_edge: bool,
    align_corners: bool,
    bald_map: Tensor,
    region_sum: Tensor,
    class_hist: Tensor,
    threads: int,
) -> None: ...
def bald_update(
    logits: Tensor, align_corners: bool, sum_p: Tensor, sum_entropy: Tensor, threads: int
) -> None: ...
def bald_carry(sums: Tensor, totals: Tensor, threads: int) -> None: ...
def bald_compute(
    sum_p: Tensor,
    sum_entropy: Tensor,
    passes: int,
    region_size: tuple[int, int],
    keep_edge: bool,
    bald_map: Tensor,
    region_sum: Tensor,
    class_hist: Tensor,
    threads: int,
) -> None: ...
def confusion_matrix(
    prediction: Tensor, target: Tensor, counts: Tensor, ignore_index: int, align_corners: bool, threads: int
) -> tuple[str, int, int]: ...
def kl_histogram(
    p: Tensor,
    q: Tensor,
    histograms: Tensor,
    own_range: bool,
    low: float,
    high: float,
    eps: float,
    threads: int,
) -> None: ...
def region_features(
    logits: Tensor,
    region_size: tuple[int, int],
    keep_edge: bool,
    size: tuple[int, int],
    align_corners: bool,
    scores: Sequence[int],
    outputs: tuple[Tensor, ...],
    threads: int,
) -> None: ...
def label_map_features(
    logits: Tensor,
    regions: Tensor,
    align_corners: bool,
    scores: Sequence[int],
    outputs: tuple[Tensor, ...],
    threads: int,
) -> tuple[str, int, int]: ...

PASSES_AT_ONCE: int
compiler: str

class Isa(Enum):
    baseline = 0
    avx2 = 1
    avx512 = 2

def runs_here(isa: Isa) -> bool: ...
def active_isa() -> Isa: ...
def use_isa(isa: Isa) -> None: ...
