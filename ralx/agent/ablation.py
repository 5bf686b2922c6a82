"""What the query network doesn't see, to learn what each feature is worth (the paper's appendix E.1)."""

from collections.abc import Sequence
from typing import Literal, get_args

from torch import Tensor

from ralx.metrics import kl_divergence

Feature = Literal[
    "state-entropy", "state-classes", "action-entropy", "action-classes", "kl-labelled", "kl-unlabelled"
]
FEATURES: tuple[Feature, ...] = get_args(Feature)
KLSummary = Literal["histogram", "max", "sum"]


class Ablation:
    """Turns assembled features into what is left of them; nothing changes unless asked for.

    Args:
        num_classes: C, the first numbers of each row.
        kl_bins: B, the last 2·B numbers of an action: labelled, then unlabelled.
        hidden: what becomes zeros.
        kl_summary: "max" or "sum" of the divergences in nats, instead of their histogram: the first bin holds
            it, the others are 0; nothing labelled gives 0.
    """

    def __init__(
        self,
        num_classes: int,
        kl_bins: int,
        hidden: Sequence[Feature] = (),
        kl_summary: KLSummary = "histogram",
    ) -> None:
        self.num_classes, self.kl_bins = num_classes, kl_bins
        self.hidden, self.kl_summary = frozenset(hidden), kl_summary

    def state(self, rows: Tensor) -> Tensor:
        """[R, Ds] → [R, Ds], a copy where something is hidden."""
        parts = {"state-classes": slice(self.num_classes), "state-entropy": slice(self.num_classes, None)}
        return self._without(rows, parts)

    def actions(self, rows: Tensor, labelled: Tensor) -> Tensor:
        """[K, M, Da] → [K, M, Da], a copy where something changes. labelled: [L, C] class distributions."""
        classes, bins = self.num_classes, self.kl_bins
        to_labelled, to_unlabelled = slice(-2 * bins, -bins), slice(-bins, None)
        if self.kl_summary != "histogram":
            predicted = rows[..., :classes]
            rows = rows.clone()
            rows[..., to_labelled] = self._summary(predicted, labelled)
            rows[..., to_unlabelled] = self._summary(predicted, predicted.flatten(0, 1))
        parts = {"action-classes": slice(classes), "action-entropy": slice(classes, -2 * bins)}
        return self._without(rows, parts | {"kl-labelled": to_labelled, "kl-unlabelled": to_unlabelled})

    def _without(self, rows: Tensor, parts: dict[str, slice]) -> Tensor:
        hidden = [part for name, part in parts.items() if name in self.hidden]
        rows = rows.clone() if hidden else rows
        for part in hidden:
            rows[..., part] = 0
        return rows

    def _summary(self, p: Tensor, q: Tensor) -> Tensor:
        """Of KL(p ‖ q) from each row of p [..., C] to all rows of q [L, C]: [..., B]."""
        summary = p.new_zeros(*p.shape[:-1], self.kl_bins)
        if len(q):
            divergence = kl_divergence(p, q)
            summary[..., 0] = divergence.amax(-1) if self.kl_summary == "max" else divergence.sum(-1)
        return summary
