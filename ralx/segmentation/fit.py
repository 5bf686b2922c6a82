"""A whole training of a segmenter: epoch after epoch, until it no longer gets better."""

import copy
from collections.abc import Callable
from typing import Any

import torch

from ralx.segmentation.training import SegmenterTrainer
from ralx.support.checkpoint import Checkpoint
from ralx.support.divergence import naming_divergence
from ralx.support.monitor import Monitor
from ralx.support.randomness import stream


def fit(
    trainer: SegmenterTrainer,
    train: Callable[[torch.Generator], float],
    measure: Callable[[], float],
    *,
    lr_option: str,
    name: str,
    key: tuple[str | int, ...],
    patience: int | None,
    max_epochs: int,
    checkpoint: Checkpoint,
    monitor: Monitor,
) -> float:
    """Train until `patience` epochs bring no better mIoU on D_R; leaves the best weights in the segmenter.
    Without patience, train all of `max_epochs` and leave the weights of the last, which alone are measured.

    Args:
        train: one epoch, drawing from the generator it gets; the mean loss.
        measure: mIoU on D_R, a fraction.
        lr_option: what its learning rate is called, for the error where it diverges.
        name: what the training is called on the screen.
        key: names its random stream.

    Returns the mIoU of the weights that it leaves, which are the untrained network's if no epoch was better.
    """
    saved = checkpoint.load()
    if saved:
        tensors, (epoch, best_epoch, best) = saved
        trainer.load_state_dict(tensors["trainer"])
        best_weights = tensors["best"]
    else:
        epoch = best_epoch = 0
        with naming_divergence(name, "before its first epoch"):
            best = -1.0 if patience is None else measure()
        best_weights = copy.deepcopy(trainer.segmenter.state_dict())

    def state() -> tuple[dict[str, Any], tuple[int, int, float]]:
        return {"trainer": trainer.state_dict(), "best": best_weights}, (epoch, best_epoch, best)

    with monitor.task(name, max_epochs, epoch) as update:
        while epoch < max_epochs and (patience is None or epoch - best_epoch < patience):
            with naming_divergence(lr_option, f"{name}, epoch {epoch + 1}"):
                loss = train(stream("fit", *key, epoch))
                miou = None if patience is None and epoch + 1 < max_epochs else measure()
            trainer.end_epoch()
            epoch += 1
            if miou is not None and (patience is None or miou > best):
                best, best_epoch = miou, epoch
                best_weights = copy.deepcopy(trainer.segmenter.state_dict())
            checkpoint.save(state)
            update(epoch, loss=loss, miou=miou, best=None if patience is None else best)
    trainer.segmenter.load_state_dict(best_weights)
    return best
