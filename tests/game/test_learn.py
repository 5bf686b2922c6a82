"""The episodes that the query network learns from: rewards, what is kept, what diverges, going on exactly."""

import copy
import itertools

import pytest
import torch
from tiny_game import make_game

from ralx.agent.dqn import AgentConfig, DQNAgent
from ralx.agent.query_network import QueryNetwork
from ralx.game.game import RegionConfig
from ralx.game.learn import LearningConfig, PolicyLearner
from ralx.game.observer import FeatureConfig, Observer, PolicyInput
from ralx.support.checkpoint import Checkpoint
from ralx.support.files import RunError
from ralx.support.monitor import Monitor
from ralx.support.randomness import stream


def make_learner(mious, mistake_weights=None, **options):
    """Two regions per step, five per episode: the last step of three takes one. mIoU comes from a list."""
    game = make_game()
    sees = PolicyInput(FeatureConfig(cells=(2, 2), kl_bins=4), RegionConfig((4, 4)))
    network = QueryNetwork(24, 14, 22, kl_dim=8, generator=stream("network"))
    settings = dict(episodes=2, budget=5, pool_size=3, epsilon_end=0.5, epsilon_span=0.0)
    return PolicyLearner(
        LearningConfig(**(settings | options)),
        DQNAgent(network, AgentConfig(dqn_batch_size=4, replay_capacity=40)),
        game,
        Observer(sees, game, game.dataset),
        measure=iter(mious).__next__,
        mistake_weights=mistake_weights,
        seed=0,
    )


@pytest.mark.parametrize(
    ("schedule", "episode", "step", "expected"),
    [
        ("episode", 0, 999, 0.90),
        ("episode", 10, 999, 0.05 + 0.85 * 0.36787944),
        ("episode", 50, 999, 0.0557273),
        ("step", 0, 0, 0.90),
        ("step", 0, 10, 0.05 + 0.85 * 0.36787944),
        ("step", 0, 1000, 0.05),
    ],
)
def test_epsilon_falls_over_episodes_or_steps(schedule, episode, step, expected):
    epsilon = LearningConfig(episodes=50, epsilon_schedule=schedule).epsilon(episode, step)
    assert epsilon == pytest.approx(expected, abs=1e-6)


def run(learner, checkpoint, on_step=lambda lines: None, monitor=None):
    return learner.run(checkpoint, monitor or Monitor(), on_step)


def same(policy, other):
    return all(torch.equal(policy[name], other[name]) for name in policy)


def test_rewards_are_gains_and_the_last_step_takes_what_is_left(checkpoint):
    learner = make_learner([0.10, 0.12, 0.20, 0.15, 0.10, 0.11, 0.30, 0.25])
    taken = []
    label = learner.game.label
    learner.game.label = lambda regions, generator: (taken.append(len(regions)), label(regions, generator))
    run(learner, checkpoint)
    assert taken == [2, 2, 1] * 2
    expected = [2, 8, -5, 1, 19, -5]  # of each episode the first gain is over the untrained start
    assert [line["reward"] for line in learner.lines] == pytest.approx(expected)
    steps = [(line["episode"], line["step"]) for line in learner.lines]
    assert steps == [(episode, step) for episode in (0, 1) for step in (0, 1, 2)]


def test_what_the_next_step_sees_comes_after_the_labels(checkpoint):
    learner, seen = make_learner([0.1] * 8), []
    observe = learner.observe

    def spy(candidates):
        game = learner.game
        seen.append((game.pool.num_labelled, len(game.labelled_distributions)))
        assert not game.pool.labelled[candidates].any()
        return observe(candidates)

    learner.observe = spy
    run(learner, checkpoint)
    assert seen == [(0, 0), (2, 2), (4, 4)] * 2


def test_the_published_first_reward_is_the_whole_miou(checkpoint):
    learner = make_learner([0.1, 0.12, 0.2, 0.15] * 2, first_reward="whole")
    run(learner, checkpoint)
    assert [line["reward"] for line in learner.lines] == pytest.approx([12, 8, -5] * 2)


def test_every_sub_action_may_be_rewarded_for_its_own_mistakes(checkpoint):
    weights = torch.tensor([2.0, 1.0], dtype=torch.float64)
    learner = make_learner([0.1] * 8, mistake_weights=weights)
    found, mistaken_pixels = [], learner.game.mistaken_pixels

    def spy(regions):
        assert not learner.game.pool.labelled[regions].any(), "before the segmenter was trained on them"
        found.append(mistaken_pixels(regions))
        return found[-1]

    learner.game.mistaken_pixels = spy
    run(learner, checkpoint)
    expected = [100 * pixels.double() @ weights / 16 for pixels in found]
    assert [line["reward"] for line in learner.lines] == pytest.approx([e.mean().item() for e in expected])
    remembered = learner.replay_buffer.state_dict()
    assert [len(rewards) for rewards in expected] == [2, 2, 1] * 2
    for step, rewards in enumerate(expected):
        assert torch.equal(remembered[f"{step}.reward"], rewards)
    assert sum(e.sum() for e in expected) > 0


@pytest.mark.parametrize(
    ("epsilons", "kept"),
    [
        ([0.5, 0.4, 0.1], 0),  # the best, not the last
        ([0.9, 0.4, 0.1], 1),  # the best of those that the network played: the first was chance
        ([0.9, 0.9, 0.9], 2),  # chance alone: the last
    ],
)
def test_the_policy_of_the_best_greedy_episode_is_kept(checkpoint, monkeypatch, epsilons, kept):
    mious = [miou for final in (0.50, 0.30, 0.20) for miou in (0.1, 0.1, 0.1, final)]
    monkeypatch.setattr(LearningConfig, "epsilon", lambda options, episode, step: epsilons[episode])
    learner = make_learner(mious, episodes=3)
    after = []

    def keep(lines):
        if lines[-1]["step"] == 2:
            after.append(copy.deepcopy(learner.agent.query_network.state_dict()))

    policy = run(learner, checkpoint, keep)
    assert [same(policy, network) for network in after] == [episode == kept for episode in range(3)]


class Killed(BaseException):
    pass


def test_learning_goes_on_exactly_from_any_step(tmp_path, lock, monkeypatch):
    monkeypatch.setattr("ralx.support.checkpoint.time.monotonic", lambda: 0)  # every step is saved
    mious = [0.10, 0.12, 0.20, 0.35, 0.10, 0.11, 0.30, 0.25]  # the first episode ends better
    forgotten, monitor = [], Monitor()
    monitor.forget = lambda curves, first_step: forgotten.append((curves, first_step))

    def play(name, mious, steps=6):
        """The policy, and its lines as each step shows them."""
        shown = []

        def show_or_die(lines):
            if len(lines) == steps + 1:  # a step that no checkpoint has
                raise Killed
            shown.append([line | {"seconds": None} for line in lines])

        return run(make_learner(mious), Checkpoint(tmp_path / name, lock), show_or_die, monitor), shown

    policy, shown = play("whole", mious)
    assert [len(lines) for lines in shown] == [1, 2, 3, 4, 5, 6]
    for stop_after in range(1, 6):
        name = f"killed after {stop_after}"
        with pytest.raises(Killed):
            play(name, mious, stop_after)
        measured = stop_after + (1 if stop_after <= 3 else 2)  # one at the start of each episode as well
        again, shown_again = play(name, mious[measured:])
        assert forgotten[-2:] == [("learn-seed0", 1), ("learn-seed0", stop_after + 1)]
        assert shown_again == shown[stop_after:], name
        assert same(policy, again), name


def spoil(module):
    with torch.no_grad():
        next(module.parameters()).fill_(float("nan"))


def spoil_segmenter(learner):
    game, label = learner.game, learner.game.label
    game.label = lambda regions, generator: (label(regions, generator), spoil(game.trainer.segmenter))


def spoil_last_update(learner):
    learn, calls = learner.agent.learn, itertools.count(1)

    def learn_and_spoil(*arguments):
        learned = learn(*arguments)
        if next(calls) == 6:  # the last step of the last episode
            spoil(learner.agent.query_network)
        return learned

    learner.agent.learn = learn_and_spoil


def train_too_fast(learner):
    learner.start_state["lr"] = torch.tensor(1e30, dtype=torch.float64)


def learn_too_fast(learner):
    learner.agent.optimizer.param_groups[0]["lr"] = 1e30


@pytest.mark.parametrize(
    ("diverge", "message"),
    [
        # A diverged segmenter is not taken for a diverged query network.
        (spoil_segmenter, r"segmenter_lr: the segmenter has diverged.*seed 0, episode 0, step 0"),
        (train_too_fast, r"segmenter_lr: .* no finite norm at a learning rate of 1e\+30.*episode 0, step 0"),
        (learn_too_fast, r"dqn_lr: Q must not be NaN, got NaN in pools \[0, 1\].*episode 0, step 1"),
        (spoil_last_update, r"dqn_lr: the query network has diverged: .*episode 1, step 2"),
    ],
)
def test_what_diverges_names_its_rate_and_when(checkpoint, diverge, message):
    learner = make_learner([0.1] * 8)
    diverge(learner)
    with pytest.raises(RunError, match=message):
        run(learner, checkpoint)
