"""Whatever torch's default device is, tensors are made where the others are: the meta device, which holds no
numbers, stands for another one."""

import pytest
import torch
from torch import Tensor, nn

from ralx import Featurizer, compat
from ralx.acquisition import ACQUISITIONS, BATCH_ACQUISITIONS, Step
from ralx.agent.ablation import Ablation
from ralx.agent.dqn import AgentConfig, DQNAgent
from ralx.agent.policy_file import load_policy, save_policy
from ralx.agent.query_network import QueryNetwork
from ralx.agent.replay_buffer import ReplayBuffer
from ralx.features import gather_regions
from ralx.game.game import Game, GameConfig
from ralx.metrics import class_distribution, iou, kl_divergence, mean_iou, rarity
from ralx.regions import Oracle, RegionGrid, RegionPool
from ralx.regions.label_map import RegionMap, slic_regions
from ralx.segmentation import (
    SegmenterTrainer,
    TrainingConfig,
    build_segmenter,
    evaluate,
    load_weights,
    predict,
    train_epoch,
)
from ralx.segmentation.modes import _affine
from ralx.segmentation.training import _upsampling
from ralx.support.randomness import seeded, stream

HOST = torch.device("cpu")


def numbers(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=stream("numbers", *shape), device=HOST)


class Scenes:
    names, classes, ignore_index = ("a", "b", "c"), ("sky", "road", "tree"), 255
    image_size, device, name = (16, 24), HOST, "scenes"

    def __len__(self):
        return 3

    def images(self, index):
        return (numbers(3, 3, 16, 24) * 255).to(torch.uint8)[index]

    def labels(self, index):
        return (numbers(3, 16, 24) * 3).to(torch.uint8)[index]

    def batch(self, index):
        return self.images(index), self.labels(index)


def labelled_pool(grid):
    pool = RegionPool(grid)
    pool.label(torch.tensor([7, 2, 0], device=HOST))
    return pool


def new_segmenter():
    with seeded("segmenter"):
        return build_segmenter("fpn-small", 3)


def new_trainer():
    options = TrainingConfig(crop_size=(12, 12), batch_size=2)
    return SegmenterTrainer(new_segmenter(), options, lr=0.1, ignore_index=255)


GRID = RegionGrid(3, (16, 24), (8, 8))


def pool(tmp_path):
    first = labelled_pool(GRID)
    second = RegionPool(GRID)
    second.load_state_dict(first.state_dict())
    drawn = [second.draw_candidates(2, 3, stream(0), few_images=few) for few in (False, True)]
    images = torch.tensor([1, 0], device=HOST)
    return [*drawn, second.pixel_mask(images), GRID.num_pixels(second.order), GRID.region(5)]


def oracle(tmp_path):
    oracle = Oracle(Scenes().labels, RegionGrid(3, (16, 24), (7, 9), "keep"))
    regions = torch.tensor([4, 0, 17], device=HOST)
    return [oracle.label(regions), oracle.label(regions[:0])]


def region_map(tmp_path):
    regions = RegionMap((numbers(3, 16, 24) * 5).to(torch.int32), 5)
    pool = labelled_pool(regions)
    return [pool.pixel_mask(pool.order // 5), Oracle(Scenes().labels, regions).label(pool.order)]


def slic(tmp_path):
    pytest.importorskip("skimage")
    return [slic_regions(Scenes().images(slice(None)), 6).labels]


def agent(tmp_path):
    network = QueryNetwork(3, 4, 9, kl_dim=2, dueling=True, generator=stream("network"))
    agent, buffer = DQNAgent(network, AgentConfig(n_step=2, target_update=1)), ReplayBuffer(100)
    for step, (pools, size) in enumerate([(2, 3), (2, 2), (1, 3)]):
        state, candidates = numbers(3, 4), numbers(pools, size, 9)
        buffer.observe(state, candidates)
        buffer.record(agent.act(state, candidates, 0.5, stream(step)), 0.5, step == 1)
    again = ReplayBuffer(100)
    again.load_state_dict(buffer.state_dict())
    learned = agent.learn(again, stream("learn"))
    agent.load_state_dict(agent.state_dict())
    save_policy(tmp_path / "policy", agent.query_network)
    policy = load_policy(tmp_path / "policy")
    return [learned["td_loss"], learned["q_mean"], *policy.state_dict().values()]


def metrics(tmp_path):
    labels = Scenes().labels(slice(None))
    rows, confusion = class_distribution(labels, 3, 255), numbers(3, 3)
    summary = Ablation(3, 2, ["action-entropy"], "max").actions(numbers(2, 2, 10), rows)
    divergence, weights = kl_divergence(rows, rows), rarity(confusion[0])
    return [rows, divergence, weights, iou(confusion), mean_iou(confusion), summary]


def segmenter(tmp_path):
    trainer, data = new_trainer(), Scenes()
    for pool in (None, labelled_pool(GRID)):
        loss = train_epoch(trainer, data, pool=pool, generator=stream("epoch"))
    file = tmp_path / "weights.pth"
    torch.save(trainer.segmenter.state_dict(), file)
    load_weights(trainer.segmenter, file)
    trainer.load_state_dict(trainer.state_dict())
    images = data.images(slice(None))
    return [loss, predict(trainer.segmenter, images), evaluate(trainer.segmenter, data, batch_size=2)]


def features(tmp_path):
    featurizer = Featurizer(new_segmenter(), (7, 9), cells=(2, 2), counts=True, edge="keep")
    grid, images = RegionGrid(3, (16, 24), (7, 9), "keep"), numbers(3, 3, 16, 24)
    candidates = RegionPool(grid).draw_candidates(2, 4, stream("draw"))
    rows = gather_regions(featurizer.regions, images.__getitem__, grid, candidates, 2)
    labelled = class_distribution(Scenes().labels([0, 1]), 3, 255)
    return [featurizer.state(images), featurizer.action(rows, labelled)]


def scores(tmp_path):
    images, segmenter = numbers(3, 3, 16, 24), new_segmenter()
    options = {"num_mc_samples": 2, "generator": stream("scores")}
    return [score(segmenter, images, (8, 8), **options) for score in ACQUISITIONS.values()]


def batches(tmp_path):
    step = Step(numbers(4, 3, 3), numbers(4, 3), numbers(2, 3), numbers(3))
    return [choose(step, stream("batch")) for choose in BATCH_ACQUISITIONS.values()]


def game(tmp_path):
    game = Game(Scenes(), new_trainer(), GRID, GameConfig(), inference_batch_size=2)
    regions = game.draw(2, 2, stream("draw"))[:, 0]
    mistakes = game.mistaken_pixels(regions)
    game.label(regions, stream("label"))
    return [mistakes, game.labelled_distributions, *game.state_dict().values()]


def published(tmp_path):
    class Net(nn.Module):
        def forward(self, images):
            return images, None

    class Set:
        state_subset, num_classes, balance_cl = [0], 3, [[0.5, 0.25, 0.125, 0.125]]
        get_specific_item = staticmethod(lambda image: (numbers(3, 16, 16),))
        get_subset_state = staticmethod(lambda index: (numbers(3, 16, 16), None, None, None, [(8, 0)]))

    class Args:
        al_algorithm = "ralis"

    torch.manual_seed(0)
    candidates = [(0, 0, 0), (0, 8, 8), (1, 8, 0)]
    found, _ = compat.compute_state(Args, Net(), candidates, Set, Set, num_groups=2, reg_sz=(8, 8))
    return [found["pool"], found["subset"]]


PIECES = [
    pool,
    oracle,
    region_map,
    slic,
    agent,
    metrics,
    segmenter,
    features,
    scores,
    batches,
    game,
    published,
]


@pytest.mark.parametrize("piece", PIECES, ids=lambda piece: piece.__name__)
def test_the_default_device_changes_nothing(piece, tmp_path, one_thread):
    expected = piece(tmp_path)
    for kept in (_affine, _upsampling):
        kept.cache_clear()  # made by the call before
    torch.set_default_device("meta")
    try:
        found = piece(tmp_path)
    finally:
        torch.set_default_device(None)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
