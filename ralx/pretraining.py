"""Segmenters as a config has them: made, trained and measured; and those trained before the game starts."""

import dataclasses
import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ralx.config import Config
from ralx.datasets import DataError, SegmentationDataset, Splits, scaled_crop
from ralx.dependencies import Pretrained, depends_on
from ralx.loop import State, fit
from ralx.metrics import iou, mean_iou, rarity
from ralx.regions import RegionPool
from ralx.run_dir import RunDirectory
from ralx.segmentation import SegmenterTrainer, build_segmenter, evaluate, train_epoch
from ralx.support.files import load_tensors, save_tensors
from ralx.support.monitor import Monitor
from ralx.support.randomness import seeded
from ralx.version import __version__


class Segmenters:
    """Makes, trains and measures segmenters as a config says."""

    def __init__(self, config: Config, splits: Splits, device: torch.device):
        self.config = config
        self.splits = splits
        self.device = device
        self.classes = splits.train_set.classes
        self.crop_size = scaled_crop(config.crop_size, config.scale, splits.train_set.image_size)

    @property
    def numerics(self) -> dict[str, Any]:
        """What the last bits of the results depend on, beside the config and the processor."""
        return {
            "ralx": __version__,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
        }

    @cached_property
    def known_pixels(self) -> torch.Tensor:
        """int64 [C]: pixels per class in all labels of D_T."""
        return self.splits.train_set.class_counts().sum(0)

    def new_segmenter(self) -> nn.Module:
        """A segmenter with the config's initial weights, the same at every call."""
        config = self.config
        with seeded("segmenter", config.seed):
            segmenter = build_segmenter(
                config.segmenter, len(self.classes), dropout=config.dropout, weights=config.weights
            )
        if config.compile:
            segmenter.compile()
        return segmenter.to(self.device)

    def new_trainer(self, lr: float, data: SegmentationDataset | None = None) -> SegmenterTrainer:
        """A trainer of a new segmenter. Its loss weighs the classes, where the config says so, by how rare
        they are in `data`, D_T unless given."""
        config, class_weights = self.config, None
        if config.loss_weights == "rarity":
            class_weights = rarity(self.known_pixels if data is None else data.class_counts().sum(0))
        return SegmenterTrainer(
            self.new_segmenter(),
            lr=lr,
            momentum=config.segmenter_momentum,
            weight_decay=config.segmenter_weight_decay,
            clip_norm=config.segmenter_clip_norm,
            lr_decay=config.segmenter_lr_decay,
            precision=config.precision,
            ignore_index=self.splits.train_set.ignore_index,
            train_dropout=config.train_dropout,
            class_weights=class_weights,
        )

    def train_epoch(
        self,
        trainer: SegmenterTrainer,
        data: SegmentationDataset,
        generator: torch.Generator,
        pool: RegionPool | None = None,
        crops: torch.Tensor | None = None,
    ) -> float:
        """One epoch on `data`, on its labelled regions where there is a `pool`; the mean loss."""
        return train_epoch(
            trainer,
            data,
            pool=pool,
            crops=crops,
            crop_size=self.crop_size,
            batch_size=self.config.batch_size,
            generator=generator,
        )

    def reward_miou(self, trainer: SegmenterTrainer) -> float:
        """mIoU on D_R, a fraction."""
        return mean_iou(self._confusion(trainer, self.splits.reward_set))

    def test_record(self, trainer: SegmenterTrainer) -> dict:
        """mIoU and IoU per class on the test set, as results.json has them."""
        confusion = self._confusion(trainer, self.splits.test_set)
        values = [None if value != value else value for value in iou(confusion).tolist()]
        return {"miou": mean_iou(confusion), "iou": dict(zip(self.classes, values, strict=True))}

    def _confusion(self, trainer: SegmenterTrainer, data: SegmentationDataset) -> torch.Tensor:
        confusion = evaluate(
            trainer.segmenter,
            data,
            batch_size=self.config.inference_batch_size,
            precision=self.config.precision,
        )
        if not confusion.any():  # a NaN would never be the best
            raise DataError(f"{data.name}: no pixel of it has a class, so that it has no mIoU")
        return confusion


class Pretraining:
    """θ0, θ0′ and full supervision: trained once, then taken from the cache."""

    def __init__(self, segmenters: Segmenters, run: RunDirectory, cache: Path, monitor: Monitor):
        self.segmenters = segmenters
        self.config = segmenters.config
        self.splits = segmenters.splits
        self.run = run
        self.cache = cache
        self.monitor = monitor

    @cached_property
    def theta0(self) -> State:
        """The trainer's state at θ0: trained on GTA5; without GTA5, on the synthetic scenes, if any, and then
        D_S."""
        if self.config.gta5:
            return self._on_source("theta0")
        start = self._on_source("synthetic", noted=False) if self.splits.pretrain_set else None
        return self._on_target("theta0", self.splits.state_set, start=start)

    @cached_property
    def theta0_prime(self) -> State:
        """The trainer's state at θ0′."""
        return self._on_target("theta0_prime", self.splits.train_set, start=self.theta0)

    def full_supervision(self, seed: int | None = None) -> State:
        """From θ0 on every label of the training set: what the methods are measured against. The trainer's
        state; `seed` is the config's first one unless given."""
        return self._pretrained(
            "full_supervision",
            self.splits.full_set,
            start=self.theta0,
            lr_option="target_lr",
            patience=self.config.full_patience,
            seed=seed,
        )

    def _on_source(self, name: Pretrained, noted: bool = True) -> State:
        assert self.splits.pretrain_set
        return self._pretrained(
            name,
            self.splits.pretrain_set,
            start=None,
            lr_option="source_lr",
            patience=self.config.source_patience,
            noted=noted,
        )

    def _on_target(self, name: Pretrained, data: SegmentationDataset, start: State | None) -> State:
        return self._pretrained(
            name, data, start=start, lr_option="target_lr", patience=self.config.target_patience
        )

    def _pretrained(
        self,
        name: Pretrained,
        data: SegmentationDataset,
        *,
        start: State | None,
        lr_option: str,
        patience: int | None,
        seed: int | None = None,
        noted: bool = True,
    ) -> State:
        """Train on `data` from `start`, or take the result from the cache; note it in reference.json.

        Returns the state of a new trainer at these weights.
        """
        lr = getattr(self.config, lr_option)
        seed = self.config.seed if seed is None else seed
        piece = f"{name}-{self._fingerprint(name, data, start, lr, patience, seed)}"
        path = self.cache / f"{piece}.safetensors"
        if path.exists():
            weights, record = load_tensors(path)
        else:
            trainer = self.segmenters.new_trainer(lr, data)
            if start is not None:
                trainer.segmenter.load_state_dict(self._weights(start))
            fit(
                trainer,
                lambda generator: self.segmenters.train_epoch(trainer, data, generator),
                lambda: self.segmenters.reward_miou(trainer),
                lr_option=lr_option,
                name=name,
                piece=piece,
                key=(name, seed),
                patience=patience,
                max_epochs=self.config.max_epochs,
                run=self.run,
                monitor=self.monitor,
            )
            record = {
                "method": name,
                "seed": seed,
                "version": __version__,
                **self.segmenters.test_record(trainer),
            }
            weights = trainer.segmenter.state_dict()
            save_tensors(path, weights, record)
        self.run.checkpoint.clear(piece)
        known = self.run.records("reference.json")
        if noted and not any((each["method"], each["seed"]) == (name, seed) for each in known):
            self.run.add_record(record, "reference.json")
        fresh = self.segmenters.new_trainer(self.config.segmenter_lr)
        fresh.segmenter.load_state_dict(weights)
        return fresh.state_dict()

    def _fingerprint(
        self,
        kind: Pretrained,
        data: SegmentationDataset,
        start: State | None,
        lr: float,
        patience: int | None,
        seed: int,
    ) -> str:
        """A hash of everything that the trained weights and their record depend on."""
        config, segmenters = dataclasses.replace(self.config, seed=seed), self.segmenters
        digest = hashlib.sha256()
        settings = depends_on(config, kind)
        digest.update(
            json.dumps([settings, segmenters.numerics, segmenters.crop_size, lr, patience]).encode()
        )
        for each in (data, self.splits.reward_set, self.splits.test_set):
            digest.update(each.fingerprint().encode())
        if config.weights:
            digest.update(config.weights.read_bytes())
        for weights in self._weights(start or {}).values():
            digest.update(weights.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    @staticmethod
    def _weights(state: State) -> State:
        prefix = "weights."
        return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
