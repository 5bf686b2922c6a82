"""The policy of a project, which learns from the labels that came back for the regions that were asked.

A label tells how much of its region the segmenter had wrong when it was asked: the reward `mistakes` of
`ralx-train`, which needs no labels but those that people were asked for anyway. Every region is a decision of
its own (gamma 0), and the policy is learned anew from all of them whenever it is asked.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from ralx.agent.dqn import AgentConfig, DQNAgent
from ralx.agent.query_network import QueryNetwork
from ralx.agent.replay_buffer import ReplayBuffer
from ralx.datasets import choose_cells
from ralx.features import KL_RANGE, SMOOTHING
from ralx.labelling.images import batches, read_ahead
from ralx.labelling.labels import UNLABELLED, from_png
from ralx.labelling.project import Project
from ralx.labelling.worker import ProjectWorker
from ralx.metrics import class_counts, distribution_of, rarity
from ralx.ops import kl_histogram, region_features
from ralx.segmentation import predict
from ralx.segmentation.modes import evaluating
from ralx.segmentation.outputs import logits_of
from ralx.support.randomness import stream

ENOUGH = 24  # labelled regions that the policy has seen asked, before it asks itself
STATE_IMAGES = 10
KL_BINS = 32
LEARN_CALLS = 50
OPTIONS = AgentConfig(
    gamma=0.0, dqn_weight_decay=0.3, dqn_batch_size=32, updates_per_step=4, replay_capacity=100_000
)
REWARD_SCALE = 10.0


class Sight:
    """What the policy sees of regions while a segmenter is as it is: the state of a few images that stay the
    same, and of each region its features, and how it differs from the labelled regions and from the state."""

    def __init__(self, place: ProjectWorker, segmenter: nn.Module):
        project = place.project
        self.segmenter = segmenter
        self.region_size = project.region_size
        self.cells = choose_cells(project.region_size)
        counts = labelled_counts(project).to(place.device)
        self.labelled = distribution_of(counts)
        drawn = torch.randperm(len(project.images), generator=stream("state set", project.settings.seed))
        images = [project.images[n] for n in sorted(drawn[:STATE_IMAGES].tolist())]
        rows = []
        for _, pixels in read_ahead(project, batches(images)):
            logits = predict(segmenter, pixels)
            rows.append(self.rows(logits, (pixels.shape[-2], pixels.shape[-1])).flatten(0, 1))
        self.state = torch.cat(rows)  # [R, Ds]

    def rows(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """[n, R, Ds] of logits [n, C, h, w] of images of `size`."""
        return region_features(
            logits, self.region_size, cells=self.cells, size=size, align_corners=True, edge="keep"
        ).vector()

    def actions(self, rows: Tensor) -> Tensor:
        """[..., Da] of rows [..., Ds]."""
        num_classes = self.labelled.shape[1]
        predicted = rows[..., :num_classes]
        differences = (
            kl_histogram(predicted, others, bins=KL_BINS, range=KL_RANGE, eps=SMOOTHING)
            for others in (self.labelled, self.state[:, :num_classes].contiguous())
        )
        return torch.cat([rows, *differences], -1)


class Policy:
    """An acquisition function: Q of every region."""

    def __init__(self, agent: DQNAgent, sight: Sight):
        self.agent, self.sight = agent, sight

    def __call__(self, segmenter: nn.Module, images: Tensor, *unused: object, **options: object) -> Tensor:
        """float32 [n, R] of images [n, 3, H, W] as the segmenter takes them."""
        with evaluating(segmenter):
            logits = logits_of(segmenter(images), segmenter)
        actions = self.sight.actions(self.sight.rows(logits, (images.shape[-2], images.shape[-1])))
        return self.agent.q_values(self.sight.state, actions)


Experience = tuple[Tensor, Tensor, Tensor]  # of a round: the state [R, Ds], actions [k, Da], rewards [k]


def learned_policy(
    place: ProjectWorker, sight: Sight, seed: int, rounds: Iterable[Experience]
) -> Policy | None:
    """The policy that the labels of these rounds teach; None while they are too few."""
    buffer, seen = ReplayBuffer(OPTIONS.replay_capacity), 0
    for state, actions, rewards in rounds:
        if state.shape == sight.state.shape:
            buffer.observe(state.to(place.device), actions.unsqueeze(1).to(place.device))
            buffer.record(torch.zeros(len(actions), dtype=torch.int64), REWARD_SCALE * rewards, done=True)
            seen += len(actions)
    if seen < ENOUGH:
        return None
    network = QueryNetwork(
        num_regions=len(sight.state),
        state_dim=sight.state.shape[1],
        action_dim=sight.state.shape[1] + 2 * KL_BINS,
        kl_dim=2 * KL_BINS,
        generator=stream("query network", seed),
    )
    agent, generator = DQNAgent(network, OPTIONS, device=place.device), stream("policy", seed)
    for _ in range(LEARN_CALLS):
        agent.learn(buffer, generator)
    return Policy(agent, sight)


def experience(project: Project) -> Iterator[Experience]:
    """Of each round whose regions were chosen by a model's predictions: what was seen, and, as rewards, the
    share of each labelled region that the segmenter had wrong, a pixel counted by how rare its class is."""
    weights = rarity(labelled_counts(project).sum(0)).numpy()
    with project.reading() as connection:
        rounds = connection.execute("SELECT number, seen FROM rounds WHERE seen IS NOT NULL").fetchall()
        for number, state in rounds:
            rows = connection.execute(
                "SELECT features, guess, png FROM regions JOIN labels ON region = id AND NOT undone "
                "WHERE round = ? AND NOT kept AND pixels > 0 ORDER BY id",
                (number,),
            ).fetchall()
            if not rows:
                continue
            actions = torch.from_numpy(np.stack([np.frombuffer(row["features"], np.float32) for row in rows]))
            wrong = [_mistakes(from_png(row["guess"]), from_png(row["png"]), weights) for row in rows]
            ds = actions.shape[1] - 2 * KL_BINS
            yield (
                torch.from_numpy(np.frombuffer(state, np.float32).reshape(-1, ds).copy()),
                actions,
                torch.tensor(wrong),
            )


def _mistakes(guess: np.ndarray, label: np.ndarray, weights: np.ndarray) -> float:
    known = label != UNLABELLED
    wrong = label[known & (guess != label)]
    return float(weights[wrong].sum() / known.sum())


def labelled_counts(project: Project) -> Tensor:
    """int64 [L, C]: pixels of each class in the regions whose labels may be trained on."""
    with project.reading() as connection:
        rows = connection.execute(
            "SELECT png FROM labels JOIN regions ON region = id "
            "WHERE NOT undone AND NOT kept AND pixels > 0 ORDER BY id"
        ).fetchall()
    num_classes = len(project.classes)
    counts = [class_counts(torch.from_numpy(from_png(png))[None], num_classes, UNLABELLED) for (png,) in rows]
    return torch.cat([torch.zeros(0, num_classes, dtype=torch.int64), *counts])
