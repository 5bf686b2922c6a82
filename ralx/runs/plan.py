"""The stages of a run's config: which options each is given, and in which order they come."""

import dataclasses
from dataclasses import dataclass
from functools import cached_property

from ralx.acquisition.methods import method_of
from ralx.datasets import scaled_size
from ralx.game.observer import PolicyInput
from ralx.runs.config import RunConfig
from ralx.runs.segmenters import SegmenterRecipe
from ralx.runs.stage import Images
from ralx.runs.stages import Final, KeepLearning, Learn, PolicyUse, Pretrain, Select, TakePolicy
from ralx.segmentation.adapters import library_files


@dataclass(frozen=True)
class Stages:
    """Makes the stages of a config. A stage gets what its result depends on, and nothing else."""

    config: RunConfig

    # Pretraining

    @cached_property
    def theta0(self) -> Pretrain:
        """Trained on GTA5; without GTA5, on the synthetic scenes, if any, and then D_S. θ0 has seen no label
        of D_T."""
        if self.config.data.gta5:
            return self._on_source("theta0")
        start = self._on_source("synthetic") if self.config.data.has_scenes else None
        return self._on_target("theta0", "state_set", start)

    @cached_property
    def theta0_prime(self) -> Pretrain:
        """θ0, trained on D_T as well: what every method starts from."""
        return self._on_target("theta0_prime", "train_set", self.theta0)

    def full_supervision(self, seed: int) -> Pretrain:
        """θ0, trained on every label of the training set: what the methods are measured against."""
        patience = self.config.pretraining.full_patience
        stage = self._on_target("full_supervision", "full_set", self.theta0)
        return dataclasses.replace(stage, patience=patience, seed=seed)

    def _on_source(self, method: str) -> Pretrain:
        patience = self.config.pretraining.source_patience
        return self._pretrain(method, "pretrain_set", None, "source_lr", patience)

    def _on_target(self, method: str, split: str, start: Pretrain | None) -> Pretrain:
        patience = self.config.pretraining.target_patience
        return self._pretrain(method, split, start, "target_lr", patience)

    def _pretrain(
        self, method: str, split: str, start: Pretrain | None, lr_option: str, patience: int | None
    ) -> Pretrain:
        return Pretrain(
            method=method,
            segmenter=self.segmenter,
            start=start,
            train_on=self._images(split),
            reward_set=self._images("reward_set"),
            test_set=self._images("test_set"),
            lr_option=lr_option,
            lr=getattr(self.config.pretraining, lr_option),
            patience=patience,
            max_epochs=self.config.pretraining.max_epochs,
            seed=self.config.seed,
        )

    # The game

    def policy(self, seed: int) -> Learn | TakePolicy:
        """The policy of a seed: the one that the config names where it does."""
        config, state_set = self.config, self._images("state_set")
        if config.evaluation.policy:
            return TakePolicy(config.evaluation.policy, self.sees, state_set)
        return Learn(
            segmenter=self.segmenter,
            theta0=self.theta0,
            sees=self.sees,
            game=config.game,
            learning=config.learning,
            agent=config.agent,
            train_set=self._images("train_set"),
            state_set=state_set,
            reward_set=self._images("reward_set"),
            seed=seed,
        )

    def select(self, method: str, seed: int) -> Select:
        config, evaluation, how = self.config, self.config.evaluation, method_of(method)
        pool_sizes = evaluation.pool_sizes
        return Select(
            method=method,
            pool_size=None if how.sees_all else pool_sizes.get(method, pool_sizes["other"]),
            num_mc_samples=evaluation.num_mc_samples if how.uses_dropout else None,
            by_policy=self._policy_use(seed, learns=not how.sees_all) if how.uses_policy else None,
            segmenter=self.segmenter,
            theta0_prime=self.theta0_prime,
            regions=self.sees.regions,
            game=config.game,
            budgets=evaluation.budgets,
            eval_set=self._images("eval_set"),
            train_set=self._images("train_set"),
            seed=seed,
        )

    def _policy_use(self, seed: int, learns: bool) -> PolicyUse:
        config, keep_learning = self.config, None
        if learns and config.evaluation.keep_learning:
            keep_learning = KeepLearning(config.agent, config.learning.reward_scale)
        return PolicyUse(self.policy(seed), self.sees, self._images("state_set"), keep_learning)

    def final(self, method: str, seed: int, budget: int) -> Final:
        options, training = self.config.final, self.config.training
        max_epochs = self.config.pretraining.max_epochs
        return Final(
            select=self.select(method, seed),
            budget=budget,
            lr_option="segmenter_lr" if options.final_lr is None else "final_lr",
            lr=options.final_lr,
            lr_decay=options.final_lr_decay or training.segmenter_lr_decay,
            patience=options.final_patience,
            max_epochs=min(max_epochs, options.final_max_epochs or max_epochs),
            rehearsal=options.rehearsal,
            full_set=self._images("full_set") if options.rehearsal else None,
            reward_set=self._images("reward_set"),
            test_set=self._images("test_set"),
        )

    @cached_property
    def sees(self) -> PolicyInput:
        """What a policy sees of the regions, at the scale of the images."""
        config = self.config
        size = scaled_size(config.regions.region_size, config.data.scale)
        return PolicyInput(config.features, dataclasses.replace(config.regions, region_size=size))

    @cached_property
    def segmenter(self) -> SegmenterRecipe:
        config = self.config
        crop_size = scaled_size(config.training.crop_size, config.data.scale)
        training = dataclasses.replace(config.training, crop_size=crop_size)
        files = library_files(config.segmenter.segmenter)
        return SegmenterRecipe(config.segmenter, training, config.seed, files)

    def _images(self, split: str) -> Images:
        return Images(self.config.data, split, self.config.split_seed)
