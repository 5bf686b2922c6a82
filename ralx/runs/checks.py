"""What can't come to anything is refused before anything is trained."""

import torch

from ralx.acquisition.methods import method_of
from ralx.runs.config import RunConfig
from ralx.runs.engine import Worker
from ralx.runs.plan import Stages
from ralx.segmentation import dropout_layers, predict


def refuse_impossible(config: RunConfig, worker: Worker) -> None:
    """ValueError, DataError or another error that names the option where nothing can come of the config."""
    cache, splits, stages = worker.store.cache, worker.splits(config), Stages(config)
    if cache.exists() and not cache.is_dir():
        raise ValueError(f"cache: must be a folder, got {cache}")
    for method in config.evaluation.methods:
        method_of(method)
    for option, budget, data in (
        ("budget", config.learning.budget, splits.train_set),
        ("budgets", config.evaluation.budgets[-1], splits.eval_set),
    ):
        available = len(stages.sees.regions.grid(data).existing())
        if budget > available:
            raise ValueError(
                f"{option}: must be at most the {available} regions of {data.name}, got {budget}"
            )
    _refuse_unfit_segmenter(config, worker)
    if config.evaluation.policy:
        stages.sees.load(config.evaluation.policy, splits.state_set, worker.device)


def _refuse_unfit_segmenter(config: RunConfig, worker: Worker) -> None:
    """ValueError where the segmenter gives other classes, or BALD has no dropout to sample from."""
    recipe, train_set = Stages(config).segmenter, worker.splits(config).train_set
    num_classes, name = len(train_set.classes), config.segmenter.segmenter
    segmenter = recipe.segmenter(num_classes, worker.device)
    height, width = (min(pair) for pair in zip(recipe.training.crop_size, train_set.image_size, strict=True))
    images = torch.zeros(1, 3, height, width, dtype=torch.uint8, device=worker.device)
    logits = predict(segmenter, images, precision=config.segmenter.precision)
    if logits.dim() != 4 or logits.shape[:2] != (1, num_classes):
        raise ValueError(
            f"segmenter: {name} must give logits [N, {num_classes}, h, w], got {list(logits.shape)} for one "
            "image"
        )
    if "bald" in config.evaluation.methods and not dropout_layers(segmenter):
        raise ValueError(f"methods: bald needs dropout, {name} has none")
