"""The game of section 3 of the paper: label regions, train the segmenter on them, learn which to ask for.

`Game` is one segmenter that learns as regions of one data set are labelled. `Observer` sees what the query
network sees. `PolicyLearner` plays episodes and trains the query network; `select_regions` plays one game
for evaluation; `fit` trains a segmenter until it stops getting better. All of them resume exactly from the
run's checkpoint.
"""

import contextlib
import copy
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ralx.agent.ablation import Ablation
from ralx.agent.dqn import DQNAgent
from ralx.agent.policy_file import MOSTLY_GREEDY
from ralx.agent.replay_buffer import ReplayBuffer
from ralx.datasets import SegmentationDataset
from ralx.features import Featurizer, gather_regions
from ralx.metrics import class_counts, distribution_of
from ralx.regions import Oracle, RegionPool, Regions, chosen_regions
from ralx.run_dir import RunDirectory
from ralx.segmentation import (
    CudaGraph,
    Precision,
    SegmenterTrainer,
    autocast,
    predict,
    train_on_regions,
)
from ralx.segmentation.modes import inputs_for
from ralx.support.files import RunError
from ralx.support.monitor import Monitor
from ralx.support.randomness import stream

State = dict[str, Tensor]


class Stopwatch:
    """Seconds by phase. A phase inside another counts for itself only.

    Nothing is synchronised: on CUDA a phase counts the time to launch its work.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._phases: list[str] = []
        self._since = time.perf_counter()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._start(name)
        try:
            yield
        finally:
            self._stop()

    def watch(self, module: nn.Module, name: str) -> None:
        """Make every forward pass of `module` in eval mode a phase."""
        module.register_forward_pre_hook(lambda m, _: None if m.training else self._start(name))
        module.register_forward_hook(lambda m, _, __: None if m.training else self._stop())

    def reset(self) -> None:
        self.seconds.clear()

    def _charge(self) -> None:
        now = time.perf_counter()
        if self._phases:
            self.seconds[self._phases[-1]] += now - self._since
        self._since = now

    def _start(self, name: str) -> None:
        self._charge()
        self._phases.append(name)

    def _stop(self) -> None:
        self._charge()
        self._phases.pop()


_REGIONS_AT_ONCE = 4096  # whose pixels are counted


class Game:
    """One segmenter that learns from the regions of one data set as they are labelled."""

    def __init__(
        self,
        dataset: SegmentationDataset,
        trainer: SegmenterTrainer,
        grid: Regions,
        *,
        crop_size: tuple[int, int],
        batch_size: int,
        inference_batch_size: int,
        few_images: bool = False,
    ):
        self.dataset = dataset
        self.trainer = trainer
        self.crop_size = crop_size
        self.batch_size = batch_size
        self.inference_batch_size = inference_batch_size
        self.few_images = few_images
        self.grid = grid
        self.oracle = Oracle(dataset.labels, grid, dataset.ignore_index)
        self.start()

    def start(self, trainer_state: State | None = None) -> None:
        """L = ∅, and the segmenter as `trainer_state` has it."""
        if trainer_state is not None:
            self.trainer.load_state_dict(trainer_state)
        self.pool = RegionPool(self.grid)
        self.labelled_distributions = torch.zeros(0, len(self.dataset.classes), device=self.dataset.device)
        self.labelled_pixels = torch.zeros_like(self.labelled_distributions, dtype=torch.int64).sum(0)

    def draw(self, query_size: int, pool_size: int, generator: torch.Generator) -> Tensor:
        """Candidates [K, M], see `RegionPool.draw_candidates`."""
        return self.pool.draw_candidates(query_size, pool_size, generator, few_images=self.few_images)

    def label(self, regions: Tensor, generator: torch.Generator) -> None:
        """Label `regions` [K] and train the segmenter one pass on them."""
        counts = self._count(self.oracle, regions)
        self.pool.label(regions)
        self.labelled_pixels += counts.sum(0).to(self.labelled_pixels.device)
        distribution = distribution_of(counts)
        self.labelled_distributions = torch.cat(
            [self.labelled_distributions, distribution.to(self.labelled_distributions.device)]
        )
        train_on_regions(
            self.trainer,
            self.dataset,
            regions,
            self.pool,
            crop_size=self.crop_size,
            batch_size=self.batch_size,
            generator=generator,
        )

    def mistaken_pixels(self, regions: Tensor) -> Tensor:
        """int64 [K, C]: pixels of each class in `regions` [K] that the segmenter gets wrong."""
        ignore_index = self.dataset.ignore_index

        def wrong(index: Tensor) -> Tensor:
            """The label maps [n, H, W] of these images, without what the segmenter gets right."""
            images, labels = self.dataset.batch(index)
            logits = predict(self.trainer.segmenter, images, precision=self.trainer.precision).float()
            logits = nn.functional.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=True)
            return labels.masked_fill(logits.argmax(1) == labels, ignore_index)

        def wrong_in_batches(index: Tensor) -> Tensor:
            return torch.cat([wrong(part) for part in index.split(self.inference_batch_size)])

        return self._count(Oracle(wrong_in_batches, self.grid, ignore_index), regions).cpu()

    def class_pixels(self, regions: Tensor) -> Tensor:
        """int64 [C]: pixels of each class in the ground truth of `regions` [K]."""
        return self._count(self.oracle, regions).sum(0)

    def _count(self, oracle: Oracle, regions: Tensor) -> Tensor:
        """int64 [K, C]: pixels of each class in what the oracle says of `regions` [K]."""
        num_classes, ignore_index = len(self.dataset.classes), self.dataset.ignore_index
        parts = [oracle.label(part) for part in regions.split(_REGIONS_AT_ONCE)]
        return torch.cat([class_counts(part, num_classes, ignore_index) for part in parts])

    def mistakes(self, regions: Tensor, mistake_weights: Tensor) -> Tensor:
        """float64 [K]: the share of each region's pixels that the segmenter gets wrong, each counted with the
        weight of its class, float64 [C]."""
        return self.mistaken_pixels(regions).double() @ mistake_weights / self.grid.num_pixels(regions)

    def state_dict(self) -> State:
        return join_states(trainer=self.trainer.state_dict(), pool=self.pool.state_dict()) | {
            "labelled_distributions": self.labelled_distributions
        }

    def load_state_dict(self, state: State) -> None:
        parts = split_states(state)
        self.start(parts["trainer"])
        self.pool.load_state_dict(parts["pool"])
        self.labelled_distributions = state["labelled_distributions"].to(self.labelled_distributions.device)
        self.labelled_pixels += self.class_pixels(self.pool.order).to(self.labelled_pixels.device)


class Observation(NamedTuple):
    candidates: Tensor  # [K, M] int64 regions
    state: Tensor  # [R, Ds]
    actions: Tensor  # [K, M, Da]


class Observer:
    """Computes the features of the state and of a step's candidates (section 3.1)."""

    def __init__(
        self,
        featurizer: Featurizer,
        state_set: SegmentationDataset,
        *,
        batch_size: int,
        precision: Precision,
        cuda_graph: bool = False,
        ablation: Ablation | None = None,
        stopwatch: Stopwatch,
    ):
        self.featurizer = featurizer
        self.ablation = ablation
        self.regions = CudaGraph(self._regions) if cuda_graph else self._regions
        self.state_set = state_set
        self.batch_size = batch_size
        self.precision = precision
        self.stopwatch = stopwatch

    def __call__(self, game: Game, candidates: Tensor) -> Observation:
        """What the query network sees of `candidates` [K, M]."""
        cast = autocast(game.dataset.device, self.precision)
        with self.stopwatch.phase("state"), cast:
            state = self._state()
        with self.stopwatch.phase("candidates"), cast:
            regions = gather_regions(
                self.regions,
                game.dataset.images,
                game.grid,
                candidates,
                self.batch_size,
            )
            actions = self.featurizer.action(regions, game.labelled_distributions)
        if self.ablation:
            actions = self.ablation.actions(actions, game.labelled_distributions)
            state = self.ablation.state(state)
        refuse_not_finite(state, actions)
        return Observation(candidates, state, actions)

    def _state(self) -> Tensor:
        batches = torch.arange(len(self.state_set), device="cpu").split(self.batch_size)
        return torch.cat([self.regions(self.state_set.images(i)) for i in batches]).flatten(0, 1)

    def _regions(self, images: Tensor) -> Tensor:
        """uint8 [n, 3, H, W] → [n, R, Ds]"""
        return self.featurizer.regions(inputs_for(self.featurizer.segmenter, images))


@dataclass
class PolicyLearner:
    """Plays episodes and trains the query network at every step (section 3.2)."""

    agent: DQNAgent
    replay_buffer: ReplayBuffer
    game: Game
    observe: Observer
    measure: Callable[[], float]  # mIoU on D_R, a fraction
    start_state: State  # the trainer at θ0
    epsilon: Callable[[int, int], float]  # of episode and step over all episodes
    stopwatch: Stopwatch
    seed: int
    episodes: int
    budget: int
    query_size: int
    pool_size: int
    mistake_weights: Tensor | None  # [C] float64, where each sub-action is rewarded for its own mistakes
    reward_scale: float
    whole_first_reward: bool
    one_coin: bool
    reset_lr: bool

    episode: int = 0
    step: int = 0
    step_of_run: int = 0
    miou: float = 0.0
    best_miou: float = -1.0
    best_policy: State = field(default_factory=dict)
    observation: Observation = field(init=False)

    def run(self, run: RunDirectory, monitor: Monitor) -> State:
        """Play all episodes; the query network of the episode with the best final mIoU on D_R.

        Only episodes that the network played rather than chance (ε at most one half) count: the paper doesn't
        say so, but a mIoU reached by random choices says nothing of the network. Without such an episode the
        last network is kept.
        """
        piece = f"learn-seed{self.seed}"
        saved = run.checkpoint.load(piece)
        if saved and run.num_steps(self.seed) >= saved[1]["step_of_run"]:  # else lines were lost
            self._restore(*saved)
        run.cut_steps(self._is_before)
        monitor.forget(piece, self.step_of_run + 1)
        with monitor.task(f"learn, seed {self.seed}", self.episodes, self.episode) as update:
            while self.episode < self.episodes:
                line = self._play_step()
                run.append_step(line)
                run.checkpoint.save(piece, self._state)
                seconds = {f"{phase}[s]": value for phase, value in line["seconds"].items()}
                update(self.episode, **{k: line[k] for k in ("miou", "reward", "epsilon")}, **seconds)
                for name in ("miou", "reward", "epsilon", "td_loss", "q_mean"):
                    if line[name] is not None:
                        monitor.scalar(piece, name, line[name], self.step_of_run)
        return self.best_policy or self.agent.query_network.state_dict()

    def _play_step(self) -> dict:
        self.stopwatch.reset()
        watch = self.stopwatch.phase
        generator = stream("learn", self.seed, self.episode, self.step)
        if self.step == 0:
            self._start_episode(generator)
        episode, step = self.episode, self.step
        epsilon = self.epsilon(episode, self.step_of_run)
        with watch("select"), self._naming("dqn_lr"):
            chosen = self.agent.act(
                self.observation.state,
                self.observation.actions,
                epsilon,
                generator,
                per_sub_action=not self.one_coin,
            )
            regions = chosen_regions(self.observation.candidates, chosen)
        with watch("reward"), self._naming("segmenter_lr"):
            weights = self.mistake_weights
            found = None if weights is None else self.game.mistakes(regions, weights)
        with watch("train"), self._naming("segmenter_lr"):
            self.game.label(regions, generator)
        with watch("reward"), self._naming("segmenter_lr"):
            miou = self.measure()
        first_whole = self.whole_first_reward and step == 0
        gain = torch.tensor(miou - (0.0 if first_whole else self.miou), dtype=torch.float64, device="cpu")
        rewards = self.reward_scale * (gain.expand(len(regions)) if found is None else found)
        done = self.game.pool.num_labelled >= self.budget
        self.replay_buffer.record(chosen, rewards, done)
        if not done:
            self._observe(generator)
        with watch("learn"), self._naming("dqn_lr"):
            learned = self.agent.learn(self.replay_buffer, generator)
            if done:
                self._refuse_diverged_network()
        self._advance(miou, done, epsilon)
        return {
            "seed": self.seed,
            "episode": episode,
            "step": step,
            "epsilon": epsilon,
            "reward": rewards.mean().item(),
            "miou": miou,
            "td_loss": learned["td_loss"],
            "q_mean": learned["q_mean"],
            "seconds": {name: round(value, 6) for name, value in self.stopwatch.seconds.items()},
        }

    def _start_episode(self, generator: torch.Generator) -> None:
        self.game.start(self.start_state)
        if self.reset_lr:
            self.agent.reset_lr()
        with self.stopwatch.phase("reward"):
            self.miou = self.measure()
        self._observe(generator)

    def _observe(self, generator: torch.Generator) -> None:
        query_size = min(self.query_size, self.budget - self.game.pool.num_labelled)
        with self._naming("segmenter_lr"):
            candidates = self.game.draw(query_size, self.pool_size, generator)
            self.observation = self.observe(self.game, candidates)
        self.replay_buffer.observe(self.observation.state, self.observation.actions)

    def _naming(self, option: str) -> AbstractContextManager[None]:
        return naming_divergence(option, f"seed {self.seed}, episode {self.episode}, step {self.step}")

    def _refuse_diverged_network(self) -> None:
        """FloatingPointError where the update that no loss has followed yet spoilt the query network."""
        weights = self.agent.query_network.state_dict().values()
        if not all_finite(*weights):
            raise FloatingPointError("the query network has diverged: its weights hold NaN or infinities")

    def _advance(self, miou: float, done: bool, epsilon: float) -> None:
        self.miou = miou
        self.step += 1
        self.step_of_run += 1
        if not done:
            return
        if epsilon <= MOSTLY_GREEDY and miou > self.best_miou:
            self.best_miou = miou
            self.best_policy = copy.deepcopy(self.agent.query_network.state_dict())
        self.episode += 1
        self.step = 0

    def _is_before(self, line: dict) -> bool:
        """Whether a line of steps.jsonl is another seed's, or older than this state."""
        return line["seed"] != self.seed or (line["episode"], line["step"]) < (self.episode, self.step)

    def _state(self) -> tuple[State, dict]:
        tensors = join_states(
            agent=self.agent.state_dict(),
            replay_buffer=self.replay_buffer.state_dict(),
            game=self.game.state_dict(),
            best_policy=self.best_policy,
            observation=self.observation._asdict(),
        )
        return tensors, {name: getattr(self, name) for name in _LEARNER_COUNTERS}

    def _restore(self, tensors: State, counters: dict) -> None:
        parts = split_states(tensors)
        self.agent.load_state_dict(parts["agent"])
        self.replay_buffer.load_state_dict(parts["replay_buffer"])
        self.game.load_state_dict(parts["game"])
        self.best_policy = parts.get("best_policy", {})
        device = self.game.dataset.device
        observation = Observation(**parts["observation"])
        self.observation = observation._replace(
            state=observation.state.to(device), actions=observation.actions.to(device)
        )
        for name, value in counters.items():
            setattr(self, name, value)


_LEARNER_COUNTERS = ("episode", "step", "step_of_run", "miou", "best_miou")

# Of the game, the number of regions to pick and a generator: the regions [K] to label next.
Chooser = Callable[[Game, int, torch.Generator], Tensor]


@runtime_checkable
class Learner(Protocol):
    """A chooser that changes as it chooses."""

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...


def select_regions(
    game: Game,
    choose: Chooser,
    budgets: Sequence[int],
    query_size: int,
    *,
    method: str,
    seed: int,
    piece: str,
    run: RunDirectory,
    monitor: Monitor,
    at_budget: Callable[[int], None],
) -> Tensor:
    """Play one game until the last of `budgets`; calls `at_budget(budget)` as each is reached.

    A step never crosses a budget, so that the regions of one budget are the first ones of the next. `piece`
    is what the game is called in the checkpoint.

    Returns int64 [L]: of each region, in the order they were labelled, the pixels that the segmenter had
    wrong when it was asked for.
    """
    mistaken = torch.zeros(0, dtype=torch.int64, device="cpu")
    saved = run.checkpoint.load(piece)
    if saved:
        parts = split_states(saved[0])
        mistaken = parts["asked"]["mistaken"]
        game.load_state_dict(parts["game"])
        if isinstance(choose, Learner):
            choose.load_state_dict(parts["chooser"])

    def state() -> State:
        return join_states(
            game=game.state_dict(),
            chooser=choose.state_dict() if isinstance(choose, Learner) else {},
            asked={"mistaken": mistaken},
        )

    with monitor.task(f"{method}, seed {seed}: select", budgets[-1], game.pool.num_labelled) as update:
        while game.pool.num_labelled < budgets[-1]:
            labelled = game.pool.num_labelled
            budget = next(b for b in budgets if b > labelled)
            # Not keyed by the method: methods of one seed share their pools and crops as far as they can, so
            # that what differs between them is their choice.
            generator = stream("select", seed, labelled)
            with naming_divergence("segmenter_lr", f"{method}, seed {seed}, {labelled} regions labelled"):
                regions = choose(game, min(query_size, budget - labelled), generator)
                mistaken = torch.cat([mistaken, game.mistaken_pixels(regions).sum(1)])
                game.label(regions, stream("crops", seed, labelled))
            if game.pool.num_labelled == budget:
                at_budget(budget)
            run.checkpoint.save(piece, lambda: (state(), None))
            update(game.pool.num_labelled)
    return mistaken


def fit(
    trainer: SegmenterTrainer,
    train: Callable[[torch.Generator], float],
    measure: Callable[[], float],
    *,
    lr_option: str,
    name: str,
    piece: str,
    key: tuple[str | int, ...],
    patience: int | None,
    max_epochs: int,
    run: RunDirectory,
    monitor: Monitor,
) -> float:
    """Train until `patience` epochs bring no better mIoU on D_R; leaves the best weights in the segmenter.
    Without patience, train all of `max_epochs` and leave the weights of the last, which alone are measured.

    Args:
        train: one epoch, drawing from the generator it gets; the mean loss.
        measure: mIoU on D_R, a fraction.
        lr_option: what its learning rate is called, for the error where it diverges.
        name: what the training is called on the screen.
        piece: what it is called in the checkpoint.
        key: names its random stream.

    Returns the mIoU of the weights that it leaves, which are the untrained network's if no epoch was better.
    """
    saved = run.checkpoint.load(piece)
    if saved:
        parts, (epoch, best_epoch, best) = split_states(saved[0]), saved[1]
        trainer.load_state_dict(parts["trainer"])
        best_weights = parts["best"]
    else:
        epoch = best_epoch = 0
        with naming_divergence(name, "before its first epoch"):
            best = -1.0 if patience is None else measure()
        best_weights = copy.deepcopy(trainer.segmenter.state_dict())

    def state() -> tuple[State, tuple[int, int, float]]:
        return join_states(trainer=trainer.state_dict(), best=best_weights), (epoch, best_epoch, best)

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
            run.checkpoint.save(piece, state)
            update(epoch, loss=loss, miou=miou, best=None if patience is None else best)
    trainer.segmenter.load_state_dict(best_weights)
    return best


@contextlib.contextmanager
def naming_divergence(option: str, when: str) -> Iterator[None]:
    """A FloatingPointError inside becomes a RunError that names what to change and when it happened."""
    try:
        yield
    except FloatingPointError as error:
        raise RunError(f"{option}: {error} ({when})") from error


def all_finite(*tensors: Tensor) -> bool:
    """Whether none holds NaN or an infinity; one wait for the device they are on."""
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())


def refuse_not_finite(*features: Tensor) -> None:
    """FloatingPointError where a feature or score is NaN or infinite, which finite logits never give."""
    if not all_finite(*features):
        raise FloatingPointError("the segmenter has diverged: what its logits give holds NaN or infinities")


def join_states(**states: State) -> State:
    """Several flat dicts of tensors as one, their names prefixed."""
    return {f"{part}/{name}": value for part, state in states.items() for name, value in state.items()}


def split_states(state: State) -> dict[str, State]:
    """The inverse of `join_states`; names without a prefix are left out."""
    parts: dict[str, State] = defaultdict(dict)
    for joined, value in state.items():
        part, slash, name = joined.partition("/")
        if slash:
            parts[part][name] = value
    return dict(parts)
