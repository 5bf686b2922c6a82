"""The tensors that a case asks for. The same every time."""

import torch
from sizes import KlCase, Scene, SceneCase
from torch import Tensor

FEATURES = 3 * 8 * 8  # what follows class_hist in a region's row of features
AHEAD = 40.0  # of a class that always wins; the others' probabilities stay above what float32 can hold


def make_logits(case: SceneCase, *passes: int) -> Tensor:
    """[*passes, N, C, h, w] in the case's dtype and layout."""
    torch.manual_seed(0)
    scene = case.scene
    logits = torch.randn(*passes, scene.images, scene.classes, *scene.logits).mul_(3)
    if case.one_class:
        logits.select(-3, 0).add_(AHEAD)
    logits = logits.to(getattr(torch, case.dtype))
    if case.channels_last:
        images = logits.flatten(0, -4).contiguous(memory_format=torch.channels_last)
        logits = images.unflatten(0, logits.shape[:-3])
    return logits


def make_target(case: SceneCase) -> Tensor:
    """uint8 [N, H, W]: random classes, or the first one alone; void at the top of each image."""
    torch.manual_seed(1)
    scene = case.scene
    classes = 1 if case.one_class else scene.classes
    target = torch.randint(classes, (scene.images, *scene.image), dtype=torch.uint8)
    target[:, : scene.image[0] // 20] = 255
    return target


def squares(scene: Scene, side: int = 16) -> tuple[Tensor, int]:
    """A label map [N, H, W] of squares, about as large as superpixels are, and how many an image has."""
    height, width = scene.image
    rows, cols = torch.arange(height) // side, torch.arange(width) // side
    regions = rows[:, None] * (int(cols[-1]) + 1) + cols
    return regions.expand(scene.images, -1, -1).contiguous(), int(regions.max()) + 1


def make_rows(case: KlCase) -> tuple[Tensor, Tensor]:
    """p and q, rows that sum to 1."""
    torch.manual_seed(0)
    p = random_rows(case, case.rows)
    return p, p if case.reference is None else random_rows(case, case.reference)


def random_rows(case: KlCase, rows: int) -> Tensor:
    if case.one_class:
        values = torch.eye(case.classes)[:1].repeat(rows, 1)
    else:
        values = (torch.randn(rows, case.classes) * 2).softmax(1)
    values = values.to(getattr(torch, case.dtype))
    if case.slices:
        return torch.cat([values, values.new_zeros(rows, FEATURES)], dim=1)[:, : case.classes]
    return values


def first_part(logits: Tensor, scene: Scene) -> tuple[Tensor, Scene, float]:
    """Of logits [..., N, C, h, w] what the loops are timed on, its scene, and its share of the whole."""
    part = scene.part()
    rows = part.logits[0]
    return logits[..., : part.images, :, :rows, :], part, part.pixels / scene.pixels
