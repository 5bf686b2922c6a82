"""The published code's features, under its function names, computed by ralx's ops.

For people who run the code published with "Reinforced Active Learning for Image Segmentation"
(github.com/ArantxaCasanova/ralis): import these functions from `ralx.compat` in place of its
`models.model_utils`, and `confusion_matrix_pytorch` in place of the one in its `utils.final_utils`. Names,
arguments and the layout of what is returned are the same.

What the layout means, and how `ralx.Featurizer`, which follows the paper's text, differs:

- Class bins are pixel *counts*, with 1e-7 for an absent class. There is one more than there are classes: it
  would count void, which is never predicted, so it holds 1e-7. The Featurizer gives C fractions.
- Each KL histogram spans its own row's minimum to maximum. The Featurizer's bins are fixed unless told
  otherwise.
- A region size is (width, height) and a candidate is (image, x, y), in pixels.
- Candidates are shuffled by torch's global generator before they are split into pools.

Differences from the published code, none of which changes the layout: the network runs once per image, not
twice, and on the device that it is on; KL divergences are computed in float64 throughout; where the number of
candidates is no multiple of `num_groups`, the pools are equally large and the rest is left out, where
that code fails; a network without dropout is refused for BALD. Loading, training, choosing and the replay
memory are not here: `ralx.agent.dqn` and `ralx-train` do those in their own way.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ralx.ops import bald, confusion_matrix, kl_histogram, region_features
from ralx.ops.arguments import (
    check_floating,
    check_integer,
    check_label_map,
    check_logits,
    check_pair,
    check_rank,
    check_tensor,
)
from ralx.segmentation.modes import device_of, set_mode

ABSENT = 1e-7  # what a class bin holds where no pixel has the class
KL_BINS = 32
CELLS = 8  # entropy maps are pooled to 8 × 8


def compute_state(
    args: Any,
    net: nn.Module,
    region_candidates: list[tuple[int, int, int]],
    candidate_set: Any,
    train_set: Any,
    num_groups: int = 5,
    reg_sz: tuple[int, int] = (128, 128),
) -> tuple[dict[str, Tensor | None], np.ndarray]:
    """State and candidates of one step, for the algorithm named by `args.al_algorithm`: 268 numbers per
    candidate of "ralis" on CamVid, 276 on Cityscapes.

    Args:
        args: `al_algorithm` is "ralis", "entropy", "bald" or "random"; `bald_iter` the number of passes.
        net: the segmenter; returns (logits at the images' size, anything), and with `bayesian=True, n_iter=T`
            (a list of T such logits, anything). Left in eval mode.
        region_candidates: (image, x, y) of each candidate, x and y multiples of the region's size.
        candidate_set: `get_specific_item(image)` gives (image, ...); for "ralis" also `state_subset`, the
            state set's images, and `get_subset_state(i)`, which gives (image, _, _, _, [(x, y), ...]).
        train_set: `num_classes`, and `balance_cl`, the class distributions of the labelled regions,
            [L][C + 1].
        num_groups: K, how many pools.
        reg_sz: (width, height).

    Returns:
        A dict and the candidates in the same order, int64 [K, M, 3]. "pool" of the dict is float32 [K, M,
        D] on the CPU, "subset" float32 [regions of the state set, C + 1 + 192], or None where the
        algorithm is not "ralis". D = C + 1 + 192 + 64 for "ralis", else 1: the mean entropy or BALD of
        the region's pixels, or 0 for "random".

    Raises:
        TypeError, ValueError: naming the argument, the rule and what was given, as every function here does.
    """
    set_mode(_check_net(net), False)
    candidates = _sorted_candidates(region_candidates)
    num_groups = check_integer("num_groups", num_groups)
    reg_sz = check_pair("reg_sz", reg_sz, "(width, height)")
    rows_by = partial(_candidate_rows, net, candidates, candidate_set, reg_sz)
    if args.al_algorithm == "random":
        rows = torch.zeros(len(candidates), 1, device="cpu")
    elif args.al_algorithm == "entropy":
        rows = rows_by(_mean_entropy)
    elif args.al_algorithm == "bald":
        rows = rows_by(partial(_mean_bald, check_integer("args.bald_iter", args.bald_iter)))
    elif args.al_algorithm == "ralis":
        rows = rows_by(_region_features)
        labelled = _labelled_rows(train_set.balance_cl, train_set.num_classes)
        rows = torch.cat([rows, _kl_bins(rows[:, : train_set.num_classes + 1], labelled)], dim=1)
    else:
        raise ValueError(
            f"args.al_algorithm must be random, entropy, bald or ralis, got {args.al_algorithm!r}"
        )

    # Candidates come sorted by image: without a shuffle, those of one image would share a pool.
    num_groups = min(num_groups, len(candidates))
    pool_size = len(candidates) // num_groups
    order = torch.randperm(len(candidates), device="cpu")[: num_groups * pool_size]
    pool = rows[order].unflatten(0, (num_groups, pool_size))
    arranged = candidates[order.numpy()].reshape(num_groups, pool_size, 3)
    subset = None
    if args.al_algorithm == "ralis":
        pool = add_kl_pool2(pool, n_cl=train_set.num_classes)
        subset = _subset_rows(net, candidate_set, reg_sz)
    return {"subset": subset, "pool": pool}, arranged


def create_feature_vector_3H_region_kl(
    pred_region: Tensor, ent_region: Tensor, num_classes: int = 19, reg_sz: tuple[int, int] = (128, 128)
) -> list[float]:
    """C + 1 class bins and three pooled entropy maps of one region.

    `pred_region` [h, w] holds predicted class ids, `ent_region` [h, w] the pixels' entropy in nats;
    `reg_sz` is (width, height).
    """
    num_classes = check_integer("num_classes", num_classes)
    cell = _cell_size(reg_sz)
    predicted = _region_map("pred_region", pred_region, reg_sz).flatten().long()
    entropy = _region_map("ent_region", ent_region, reg_sz).detach()[None]
    if predicted.min() < 0 or predicted.max() > num_classes:
        raise ValueError(
            f"pred_region must hold class ids in 0..{num_classes}, "
            f"got {int(predicted.min())}..{int(predicted.max())}"
        )
    counts = torch.bincount(predicted, minlength=num_classes + 1).double()
    pooled = [-F.max_pool2d(-entropy, cell), F.avg_pool2d(entropy, cell), F.max_pool2d(entropy, cell)]
    return torch.cat([_present(counts), *[p.flatten().double().cpu() for p in pooled]]).tolist()


def create_feature_vector_3H_region_kl_sim(
    pred_region: Tensor,
    ent_region: Tensor,
    train_set: Any,
    num_classes: int = 19,
    reg_sz: tuple[int, int] = (128, 128),
) -> list[float]:
    """`create_feature_vector_3H_region_kl`, then the histogram of the KL divergences to the labelled regions,
    `train_set.balance_cl` [L][C + 1]: 32 zeros while nothing is labelled."""
    features = create_feature_vector_3H_region_kl(pred_region, ent_region, num_classes, reg_sz)
    predicted = torch.tensor(features[: num_classes + 1], dtype=torch.float64, device="cpu")
    return features + _kl_bins(predicted, _labelled_rows(train_set.balance_cl, num_classes)).tolist()


def add_kl_pool2(state: Tensor, n_cl: int = 19) -> Tensor:
    """Adds to every candidate of `state` [K, M, D], whose first n_cl + 1 numbers are class bins, the
    histogram of the KL divergences to all K·M candidates, itself included: [K, M, D + 32]."""
    check_floating("state", check_tensor("state", state))
    check_rank("state", state, "K, M, D")
    if state.shape[2] <= check_integer("n_cl", n_cl):
        raise ValueError(f"state must begin with n_cl + 1 = {n_cl + 1} bins, got shape {list(state.shape)}")
    predicted = state[:, :, : n_cl + 1]
    return torch.cat([state, _kl_bins(predicted, predicted.flatten(0, 1)).to(state.dtype)], dim=2)


def compute_entropy_seg(args: Any, im_t: Tensor, net: nn.Module) -> Tensor:
    """Entropy of every pixel in nats, float32 [N, H, W] on the CPU, for one image [3, H, W] or several
    [N, 3, H, W]. `args` is not used. Leaves `net` in eval mode."""
    if check_tensor("im_t", im_t).dim() not in (3, 4):
        raise ValueError(f"im_t must be [3, H, W] or [N, 3, H, W], got shape {list(im_t.shape)}")
    set_mode(_check_net(net), False)
    logits = _logits(net, im_t if im_t.dim() == 4 else im_t.unsqueeze(0))
    pixels = (logits.shape[2], logits.shape[3])
    # One region of one cell per pixel: any of the three pooled maps is the entropy itself.
    return region_features(logits, pixels, cells=pixels).entropy_avg.squeeze(1).cpu()


def compute_bald(predictions: Tensor) -> tuple[Tensor, Tensor]:
    """Mutual information in nats [1, H, W] and the class of the mean prediction, int64 [1, H, W], from the
    probabilities [T, C, H, W] of T passes over one image."""
    check_logits("predictions", predictions, "T, C, H, W")
    passes = predictions.log().unsqueeze(1)  # softmax turns the logarithm of a probability back into it
    return bald(passes).bald_map, predictions.mean(0).argmax(0).unsqueeze(0)


def apply_dropout(m: nn.Module) -> None:
    """For `net.apply`: a dropout module goes into training mode."""
    if type(m) is nn.Dropout:
        m.train()


def confusion_matrix_pytorch(
    cm: Tensor, output_flatten: Tensor, target_flatten: Tensor, num_classes: int
) -> Tensor:
    """Adds to `cm` [C, C], in place, how many pixels were predicted as row i and are labelled column j.

    `output_flatten` and `target_flatten` are integer tensors of one length; pixels where either lies outside
    0..C-1, void among them, are left out. Returns `cm`.
    """
    num_classes = check_integer("num_classes", num_classes)
    for name, value in (("output_flatten", output_flatten), ("target_flatten", target_flatten)):
        check_label_map(name, value, "pixels")
    if len(output_flatten) != len(target_flatten):
        raise ValueError(
            "output_flatten and target_flatten must have one length, "
            f"got {len(output_flatten)} and {len(target_flatten)}"
        )
    if check_tensor("cm", cm).shape != (num_classes, num_classes):
        raise ValueError(f"cm must be [{num_classes}, {num_classes}], got shape {list(cm.shape)}")
    known = (target_flatten >= 0) & (target_flatten < num_classes)
    known &= (output_flatten >= 0) & (output_flatten < num_classes)
    target = target_flatten.long().where(known, num_classes)
    output = output_flatten.long().where(known, 0)
    counts = confusion_matrix(
        output.view(1, 1, -1), target.view(1, 1, -1), num_classes, ignore_index=num_classes
    )
    return cm.add_(counts.T.to(cm))


def _check_net(net: nn.Module) -> nn.Module:
    if not isinstance(net, nn.Module):
        raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
    return net


def _sorted_candidates(region_candidates: list[tuple[int, int, int]]) -> np.ndarray:
    """int64 [number of candidates, 3]."""
    candidates = sorted(tuple(candidate) for candidate in region_candidates)
    if not candidates:
        raise ValueError("region_candidates must hold at least one candidate, got none")
    for candidate in candidates:
        if len(candidate) != 3:
            raise ValueError(f"region_candidates must be (image, x, y) each, got {candidate}")
    return np.asarray(candidates, dtype=np.int64)


def _region_map(name: str, value: Tensor, reg_sz: tuple[int, int]) -> Tensor:
    """What one region's pixels hold, of reg_sz = (width, height); NumPy arrays may stand for tensors."""
    pixels = check_tensor(name, torch.from_numpy(value) if isinstance(value, np.ndarray) else value)
    if pixels.shape != tuple(reg_sz[::-1]):
        raise ValueError(f"{name} must be [{reg_sz[1]}, {reg_sz[0]}] as reg_sz, got {list(pixels.shape)}")
    return pixels


def _candidate_rows(net, candidates, candidate_set, reg_sz, compute) -> Tensor:
    """`_rows` of the candidates, which are sorted by image."""
    indices, starts = np.unique(candidates[:, 0], return_index=True)
    images = (candidate_set.get_specific_item(index)[0] for index in indices.tolist())
    return _rows(net, zip(images, np.split(candidates[:, 1:], starts[1:]), strict=True), reg_sz, compute)


def _subset_rows(net, candidate_set, reg_sz) -> Tensor:
    """Features of every region of the state set, in the order in which the set lists them."""
    items = (candidate_set.get_subset_state(index) for index in range(len(candidate_set.state_subset)))
    return _rows(net, ((item[0], item[4]) for item in items), reg_sz, _region_features)


def _rows(net, images, reg_sz, compute) -> Tensor:
    """Of (image, its regions [(x, y), ...]), one after another: the regions' rows [number of regions, D], of
    those that `compute(net, image [1, 3, H, W], reg_sz)` gives of every tile, row-major."""
    rows, size = [], torch.tensor(reg_sz, device="cpu")
    for image, regions in images:
        corners = torch.tensor(np.asarray(regions, dtype=np.int64).reshape(-1, 2), device="cpu")
        tile, (width, height) = corners // size, (image.shape[-1], image.shape[-2])
        inside = (corners >= 0) & (corners + size <= torch.tensor([width, height], device="cpu"))
        wrong = ~(inside & (tile * size == corners)).all(1)
        if wrong.any():
            raise ValueError(
                f"regions must lie in the {width} x {height} image, x and y multiples of {tuple(reg_sz)}, "
                f"got {corners[wrong][0].tolist()}"
            )
        each = compute(net, image.unsqueeze(0), reg_sz)
        rows.append(each[(tile[:, 1] * (width // reg_sz[0]) + tile[:, 0]).to(each.device)].cpu())
    return torch.cat(rows)


def _region_features(net, image, reg_sz) -> Tensor:
    """C + 1 class bins and three pooled entropy maps."""
    height, width = _cell_size(reg_sz)
    # 8 × 8 cells, or more where a small region holds more whole ones.
    cells = reg_sz[1] // height, reg_sz[0] // width
    features = region_features(_logits(net, image), reg_sz[::-1], cells=cells)
    vector, num_classes = features.vector()[0], features.class_hist.shape[2]
    counts = (vector[:, :num_classes] * (reg_sz[0] * reg_sz[1])).round()
    return torch.cat([F.pad(_present(counts), (0, 1), value=ABSENT), vector[:, num_classes:]], dim=1)


def _mean_entropy(net, image, reg_sz) -> Tensor:
    total = region_features(_logits(net, image), reg_sz[::-1], cells=(1, 1)).entropy_sum
    return total[0, :, None] / (reg_sz[0] * reg_sz[1])


def _mean_bald(num_passes: int, net, image, reg_sz) -> Tensor:
    net.apply(apply_dropout)
    if not any(type(part) is nn.Dropout and part.training for part in net.modules()):
        raise ValueError("net must have dropout for al_algorithm bald, got a network without nn.Dropout")
    passes = _logits(net, image, bayesian=True, n_iter=num_passes)
    set_mode(net, False)
    total = bald(torch.stack(passes), reg_sz[::-1]).region_sum
    assert total is not None  # a region size was given
    return total[0, :, None] / (reg_sz[0] * reg_sz[1])


def _present(counts: Tensor) -> Tensor:
    return counts.masked_fill(counts == 0, ABSENT)


def _kl_bins(predicted: Tensor, reference: Tensor) -> Tensor:
    """Bins over each row's own range; rows are positive, so nothing is added to them."""
    return kl_histogram(predicted.double(), reference.double(), bins=KL_BINS, range=None, eps=0.0).float()


def _labelled_rows(balance_cl: list[list[float]], num_classes: int) -> Tensor:
    rows = np.asarray(balance_cl, dtype=np.float64).reshape(-1, num_classes + 1)
    return torch.tensor(rows, device="cpu")


def _cell_size(reg_sz: tuple[int, int]) -> tuple[int, int]:
    """(height, width) in pixels of what one pooled entropy covers."""
    if min(check_pair("reg_sz", reg_sz, "(width, height)")) < CELLS:
        raise ValueError(f"reg_sz must be at least {CELLS} in both directions, got {tuple(reg_sz)}")
    return reg_sz[1] // CELLS, reg_sz[0] // CELLS


def _logits(net: nn.Module, images: Tensor, **options: Any) -> Any:
    with torch.no_grad():
        return net(images.to(device_of(net)), **options)[0]
