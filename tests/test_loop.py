"""The parts of the loop by themselves: the stopwatch, early stopping, random streams, the game's rules."""

import itertools
import json

import pytest
import torch
from torch import nn

from ralx.agent.dqn import DQNAgent
from ralx.agent.query_network import QueryNetwork
from ralx.agent.replay_buffer import ReplayBuffer
from ralx.features import Featurizer
from ralx.loop import (
    Game,
    Observer,
    PolicyLearner,
    Stopwatch,
    fit,
    join_states,
    refuse_not_finite,
    select_regions,
    split_states,
)
from ralx.metrics import class_counts
from ralx.regions import RegionGrid
from ralx.run_dir import open_run
from ralx.segmentation import SegmenterTrainer
from ralx.support.files import RunError
from ralx.support.monitor import Monitor
from ralx.support.randomness import seeded, stream


class Scenes:
    """Four noise images of 8×12 with labels by column: what `SegmentationDataset` promises, in memory."""

    names = ("a", "b", "c", "d")
    classes = ("left", "right")
    ignore_index = 255
    image_size = (8, 12)
    device = torch.device("cpu")

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.pixels = torch.randint(256, (4, 3, 8, 12), dtype=torch.uint8, generator=generator)
        self.truth = (torch.arange(12) >= 6).to(torch.uint8).expand(4, 8, 12).clone()

    def __len__(self):
        return 4

    def batch(self, index):
        return self.images(index), self.labels(index)

    def images(self, index):
        return self.pixels[index]

    def labels(self, index):
        return self.truth[index]


def make_trainer(lr=0.1):
    with seeded("test"):
        return SegmenterTrainer(nn.Conv2d(3, 2, 4, stride=4), lr=lr, ignore_index=255)


def make_game():
    grid = RegionGrid(4, (8, 12), (4, 4))
    return Game(Scenes(), make_trainer(), grid, crop_size=(8, 8), batch_size=2, inference_batch_size=3)


@pytest.fixture
def run(tmp_path):
    with open_run(tmp_path / "run", {}, resume=False) as folder:
        yield folder


def test_a_phase_inside_another_counts_for_itself_only(monkeypatch):
    now = iter([0, 1, 3, 7, 15, 31])
    monkeypatch.setattr("ralx.loop.time.perf_counter", lambda: next(now))
    watch = Stopwatch()  # at 0
    with watch.phase("outer"), watch.phase("inner"):  # from 1, from 3
        pass  # inner until 7, outer until 15
    assert watch.seconds == {"outer": (3 - 1) + (15 - 7), "inner": 7 - 3}


def test_forward_passes_are_timed_in_eval_mode_only():
    watch, network = Stopwatch(), nn.Linear(2, 2)
    watch.watch(network, "forward")
    network.train()(torch.zeros(1, 2))
    assert "forward" not in watch.seconds
    network.eval()(torch.zeros(1, 2))
    assert watch.seconds["forward"] > 0


def test_streams_differ_by_key_and_repeat_themselves():
    draws = {
        key: torch.rand(3, generator=stream(*key)).tolist()
        for key in itertools.product(["learn", "fit"], [0, 1], [0, 1])
    }
    assert len({tuple(draw) for draw in draws.values()}) == len(draws)
    assert all(torch.rand(3, generator=stream(*key)).tolist() == draw for key, draw in draws.items())


def test_seeded_gives_the_global_generator_back():
    torch.manual_seed(7)
    expected = torch.rand(2)
    torch.manual_seed(7)
    with seeded("a"):
        inside = torch.rand(2)
    assert torch.equal(torch.rand(2), expected)
    with seeded("a"):
        assert torch.equal(torch.rand(2), inside)


@pytest.mark.parametrize(
    ("mious", "patience", "best", "epochs"),
    [
        ([0.1, 0.2, 0.3, 0.25, 0.28, 0.9], 2, 0.3, 4),  # two epochs without a better one: never sees 0.9
        ([0.5, 0.2, 0.3, 0.4], 3, 0.5, 3),  # the untrained network was best
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], 2, 0.6, 5),  # stopped by the cap
        ([0.5, 0.5, 0.5, 0.5, 0.5, 0.5], 2, 0.5, 2),  # as good is no better
    ],
)
def test_fit_stops_early_and_keeps_the_best_weights(run, mious, patience, best, epochs):
    trainer, seen = make_trainer(), []
    rates = []

    def train(generator):
        rates.append(trainer.lr)
        with torch.no_grad():
            trainer.segmenter.bias.add_(1)
        return 0.0

    def measure():
        seen.append(trainer.segmenter.bias.clone())
        return mious[len(seen) - 1]

    result = fit(
        trainer,
        train,
        measure,
        lr_option="target_lr",
        name="a training",
        piece="training",
        key=("t",),
        patience=patience,
        max_epochs=5,
        run=run,
        monitor=Monitor(),
    )
    assert result == best and len(rates) == epochs
    assert torch.equal(trainer.segmenter.bias, seen[mious.index(best)])
    for before, after in itertools.pairwise(rates):
        assert after == pytest.approx(before * 0.998**2)


def test_fit_without_patience_trains_to_the_last_epoch_and_keeps_it(run):
    trainer, measured = make_trainer(), []
    start, stop_at = trainer.segmenter.bias.clone(), 3

    def train(generator):
        if stop_at and torch.equal(trainer.segmenter.bias, start + stop_at):
            raise KeyboardInterrupt
        with torch.no_grad():
            trainer.segmenter.bias.add_(1)
        return 0.0

    def measure():
        measured.append(trainer.segmenter.bias.clone())
        return 0.4

    def go():
        options = dict(lr_option="target_lr", name="a training", piece="training", key=("t",), run=run)
        return fit(trainer, train, measure, patience=None, max_epochs=5, monitor=Monitor(), **options)

    with pytest.raises(KeyboardInterrupt):
        go()
    stop_at = None
    assert go() == 0.4 and go() == 0.4, "resumed, and once more when it is finished"
    assert torch.equal(trainer.segmenter.bias, start + 5)
    assert all(torch.equal(bias, start + 5) for bias in measured), "only the last epoch is measured"


def diverge(*_):
    raise FloatingPointError("the segmenter has diverged")


@pytest.mark.parametrize(
    ("train", "mious", "message"),
    [
        (lambda generator: 0.0, [diverge], "a training: the .* diverged .before its first epoch"),
        (diverge, [float], "source_lr: the segmenter has diverged .a training, epoch 1"),
        (lambda generator: 0.0, [float, float, diverge], "source_lr: the .* diverged .a training, epoch 2"),
    ],
    ids=["start", "training", "measure"],
)
def test_a_training_that_diverges_names_its_learning_rate(run, train, mious, message):
    measures = iter(mious)
    with pytest.raises(RunError, match=message):
        fit(
            make_trainer(),
            train,
            lambda: next(measures)(),
            lr_option="source_lr",
            name="a training",
            piece="training",
            key=("t",),
            patience=5,
            max_epochs=5,
            run=run,
            monitor=Monitor(),
        )


def test_labelling_reveals_only_the_chosen_regions_and_trains_on_them():
    game = make_game()
    before = game.trainer.segmenter.weight.clone()
    game.label(torch.tensor([0, 7]), stream("x"))  # top left of a, second of the first row of b
    assert game.labelled_distributions.tolist() == [[1.0, 0.0], [0.5, 0.5]]
    assert game.pool.order.tolist() == [0, 7]
    assert not torch.equal(game.trainer.segmenter.weight, before)


def test_a_new_episode_starts_from_the_given_weights_with_nothing_labelled():
    game = make_game()
    start = game.trainer.state_dict()
    game.label(torch.tensor([0, 7]), stream("x"))
    game.start(start)
    assert game.pool.num_labelled == 0 and len(game.labelled_distributions) == 0
    assert torch.equal(game.trainer.segmenter.weight, start["weights.weight"])


def test_a_game_comes_back_from_its_state():
    game, again = make_game(), make_game()
    game.label(torch.tensor([3, 5]), stream("x"))
    again.load_state_dict(game.state_dict())
    for each in (game, again):
        each.label(torch.tensor([9]), stream("y"))
    assert game.pool.order.tolist() == again.pool.order.tolist()
    assert torch.equal(game.labelled_distributions, again.labelled_distributions)
    assert torch.equal(game.trainer.segmenter.weight, again.trainer.segmenter.weight)


def test_selection_stops_at_every_budget_and_takes_only_what_is_left(run):
    game, asked, reached = make_game(), [], []

    def choose(game, query_size, generator):
        asked.append(query_size)
        return game.pool.draw_candidates(query_size, 1, generator).squeeze(1)

    select_regions(
        game,
        choose,
        (5, 7),
        3,
        method="uniform",
        seed=0,
        piece="game",
        run=run,
        monitor=Monitor(),
        at_budget=lambda budget: reached.append((budget, game.pool.num_labelled)),
    )
    assert asked == [3, 2, 2]
    assert reached == [(5, 5), (7, 7)]


def test_selection_counts_what_the_segmenter_had_wrong_when_it_asked(run):
    class Killed(BaseException):
        pass

    def select(piece, kill_at=None):
        """Of every region the mistakes: as returned, as a look before each label finds them, in the end."""
        game, looked = make_game(), []

        def choose(game, query_size, generator):
            if game.pool.num_labelled == kill_at:
                raise Killed
            regions = game.draw(query_size, 1, generator).squeeze(1)
            looked.append(game.mistaken_pixels(regions).sum(1))
            return regions

        mistaken = select_regions(
            game,
            choose,
            (5, 8),
            3,
            method="uniform",
            seed=0,
            piece=piece,
            run=run,
            monitor=Monitor(),
            at_budget=lambda budget: None,
        )
        in_the_end = game.mistaken_pixels(game.pool.order).sum(1)
        return mistaken.tolist(), torch.cat(looked).tolist(), in_the_end.tolist()

    mistaken, looked, in_the_end = select("whole")
    assert mistaken == looked and len(mistaken) == 8 and sum(mistaken) > 0
    assert mistaken != in_the_end, "the labels taught the segmenter something"
    with pytest.raises(Killed):
        select("killed", kill_at=5)
    assert select("killed")[0] == mistaken


def test_a_seed_decides_what_is_drawn_and_methods_share_it(run):
    """Common random numbers: what differs between two methods of a seed is their choice."""

    def play(method, seed, place):
        game, pools = make_game(), []

        def choose(game, query_size, generator):
            pools.append(game.draw(query_size, 3, generator))
            return pools[-1][:, place]

        options = dict(method=method, seed=seed, piece=f"{method}{seed}", run=run, monitor=Monitor())
        select_regions(game, choose, (4,), 2, **options, at_budget=lambda budget: None)
        return [pool.tolist() for pool in pools], game.trainer.segmenter.weight

    pools, weights = play("first", 0, 0)
    again, same_weights = play("again", 0, 0)
    assert again == pools and torch.equal(same_weights, weights), "the same choice, so the same crops"
    other_choice, _ = play("last", 0, 2)
    assert other_choice[0] == pools[0] and other_choice[1] != pools[1]
    other_seed, _ = play("first", 1, 0)
    assert other_seed[0] != pools[0]


def make_learner(mious, **changes):
    """Two regions per step, five per episode: the last step of three takes one. mIoU comes from a list."""
    game = make_game()
    observer = Observer(
        Featurizer(game.trainer.segmenter, (4, 4), cells=(2, 2), kl_bins=4),
        game.dataset,
        batch_size=2,
        precision="float32",
        stopwatch=Stopwatch(),
    )
    network = QueryNetwork(24, 14, 22, kl_dim=8, generator=stream("network"))
    settings = dict(
        agent=DQNAgent(network, batch_size=4),
        replay_buffer=ReplayBuffer(40),
        game=game,
        observe=observer,
        measure=iter(mious).__next__,
        start_state=game.trainer.state_dict(),
        epsilon=lambda episode, step: 0.5,
        stopwatch=observer.stopwatch,
        seed=0,
        episodes=2,
        budget=5,
        query_size=2,
        pool_size=3,
        mistake_weights=None,
        reward_scale=100.0,
        whole_first_reward=False,
        one_coin=False,
        reset_lr=False,
    )
    return PolicyLearner(**(settings | changes))


def read_steps(run):
    return [json.loads(line) for line in (run.path / "steps.jsonl").read_text().splitlines()]


def test_rewards_are_gains_and_the_last_step_takes_what_is_left(run):
    learner = make_learner([0.10, 0.12, 0.20, 0.15, 0.10, 0.11, 0.30, 0.25])
    taken = []
    label = learner.game.label
    learner.game.label = lambda regions, generator: (taken.append(len(regions)), label(regions, generator))
    learner.run(run, Monitor())
    assert taken == [2, 2, 1] * 2
    expected = [2, 8, -5, 1, 19, -5]  # of each episode the first gain is over the untrained start
    assert [step["reward"] for step in read_steps(run)] == pytest.approx(expected)
    assert [(s["episode"], s["step"]) for s in read_steps(run)] == [(e, s) for e in (0, 1) for s in (0, 1, 2)]


def test_what_the_next_step_sees_comes_after_the_labels(run):
    learner, seen = make_learner([0.1] * 8), []
    observe = learner.observe

    def spy(game, candidates):
        seen.append((game.pool.num_labelled, len(game.labelled_distributions)))
        assert not game.pool.labelled[candidates].any()
        return observe(game, candidates)

    learner.observe = spy
    learner.run(run, Monitor())
    assert seen == [(0, 0), (2, 2), (4, 4)] * 2


def test_the_published_first_reward_is_the_whole_miou(run):
    make_learner([0.1, 0.12, 0.2, 0.15] * 2, whole_first_reward=True).run(run, Monitor())
    assert [s["reward"] for s in read_steps(run)] == pytest.approx([12, 8, -5] * 2)


def test_a_game_counts_the_pixels_of_its_labels():
    game, again = make_game(), make_game()
    for regions in torch.tensor([0, 9]), torch.tensor([4, 23, 11]):
        game.label(regions, torch.Generator().manual_seed(0))
    expected = class_counts(game.oracle.label(game.pool.order), 2, 255).sum(0)
    assert torch.equal(game.labelled_pixels, expected) and expected.sum() > 0
    again.load_state_dict(game.state_dict())
    assert torch.equal(again.labelled_pixels, expected)
    game.start()
    assert not game.labelled_pixels.any()


def test_mistakes_are_of_logits_upsampled_with_their_corners_aligned():
    class Edge(nn.Conv2d):
        def forward(self, images):
            row = torch.tensor([3.0, -1.0])  # over 12 columns: 0 at 3/4 of 11
            return torch.stack([row, -row])[None, :, None].expand(len(images), 2, 2, 2)

    game = make_game()  # columns 0 to 5 are left, 6 to 11 right
    game.trainer.segmenter = Edge(3, 2, 1)
    assert game.mistaken_pixels(torch.arange(6)).tolist() == [[0, 0], [0, 8], [0, 4]] * 2


def test_mistakes_are_found_with_few_images_at_once(monkeypatch):
    game, seen = make_game(), []
    batch = game.dataset.batch
    monkeypatch.setattr(game.dataset, "batch", lambda index: seen.append(len(index)) or batch(index))
    found = game.mistaken_pixels(torch.arange(24))
    assert seen == [3, 1], "as many as inference_batch_size"
    assert torch.equal(
        found[::6], torch.cat([game.mistaken_pixels(torch.tensor([i])) for i in range(0, 24, 6)])
    )


def test_every_sub_action_may_be_rewarded_for_its_own_mistakes(run):
    learner = make_learner([0.1] * 8, mistake_weights=torch.tensor([2.0, 1.0], dtype=torch.float64))
    found, mistaken_pixels = [], learner.game.mistaken_pixels

    def spy(regions):
        assert not learner.game.pool.labelled[regions].any(), "before the segmenter was trained on them"
        found.append(mistaken_pixels(regions))
        return found[-1]

    learner.game.mistaken_pixels = spy
    learner.run(run, Monitor())
    expected = [
        100 * pixels.double() @ torch.tensor([2.0, 1.0], dtype=torch.float64) / 16 for pixels in found
    ]
    assert [step["reward"] for step in read_steps(run)] == pytest.approx([e.mean().item() for e in expected])
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
def test_the_policy_of_the_best_greedy_episode_is_kept(run, epsilons, kept):
    finals = [0.50, 0.30, 0.20]
    learner = make_learner(
        [miou for final in finals for miou in (0.1, 0.1, 0.1, final)],
        episodes=3,
        epsilon=lambda episode, step: epsilons[episode],
    )
    after = []
    append_step = run.append_step

    def append_and_copy(line):
        append_step(line)
        if line["step"] == 2:
            after.append({k: v.clone() for k, v in learner.agent.query_network.state_dict().items()})

    run.append_step = append_and_copy
    policy = learner.run(run, Monitor())
    same = [all(torch.equal(policy[name], network[name]) for name in policy) for network in after]
    assert same == [episode == kept for episode in range(3)]


def test_a_resumed_run_remembers_how_good_the_best_episode_was(tmp_path, monkeypatch):
    monkeypatch.setattr("ralx.run_dir.time.monotonic", lambda: 0)  # every step is saved

    def mious(*finals):
        return [miou for final in finals for miou in (0.1, 0.1, 0.1, final)]

    def policy(finals, folder, kill_at=None):
        with open_run(tmp_path / folder, {}, resume=True) as run:
            run.begin({})
            learner, append_step = make_learner(mious(*finals), episodes=3), run.append_step

            def append_or_die(line):
                if line["episode"] == kill_at:
                    raise KeyboardInterrupt
                append_step(line)

            run.append_step = append_or_die
            return learner.run(run, Monitor())

    whole = policy((0.5, 0.3, 0.2), "whole")
    with pytest.raises(KeyboardInterrupt):
        policy((0.5, 0.3), "killed", kill_at=1)
    resumed = policy((0.3, 0.2), "killed")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def spoil(module):
    with torch.no_grad():
        next(module.parameters()).fill_(float("nan"))


def test_a_diverged_segmenter_is_not_taken_for_a_diverged_query_network(run):
    learner = make_learner([0.1] * 8)
    label = learner.game.label
    learner.game.label = lambda regions, generator: (
        label(regions, generator),
        spoil(learner.game.trainer.segmenter),
    )
    with pytest.raises(
        RunError, match=r"segmenter_lr: the segmenter has diverged.*seed 0, episode 0, step 0"
    ):
        learner.run(run, Monitor())


def test_a_segmenter_that_diverges_in_training_names_its_rate(run):
    learner = make_learner([0.1] * 8)
    learner.game.trainer._optimizer.param_groups[0]["lr"] = 1e30
    learner.start_state["lr"] = torch.tensor(1e30, dtype=torch.float64)
    expected = r"segmenter_lr: .* no finite norm at a learning rate of 1e\+30.*episode 0, step 0"
    with pytest.raises(RunError, match=expected):
        learner.run(run, Monitor())


def test_a_query_network_that_diverges_names_its_rate(run):
    learner = make_learner([0.1] * 8)
    learner.agent.optimizer.param_groups[0]["lr"] = 1e30
    expected = r"dqn_lr: Q must not be NaN, got NaN in pools \[0, 1\].*seed 0, episode 0, step 1"
    with pytest.raises(RunError, match=expected):
        learner.run(run, Monitor())


def test_a_last_update_that_spoils_the_query_network_is_an_error(run):
    learner = make_learner([0.1] * 8)
    learn, calls = learner.agent.learn, itertools.count(1)

    def learn_and_spoil(*arguments):
        learned = learn(*arguments)
        if next(calls) == 6:  # the last step of the last episode
            spoil(learner.agent.query_network)
        return learned

    learner.agent.learn = learn_and_spoil
    with pytest.raises(RunError, match=r"dqn_lr: the query network has diverged: .*episode 1, step 2"):
        learner.run(run, Monitor())


def test_a_segmenter_that_diverges_while_regions_are_selected_names_its_rate(run):
    def choose(game, query_size, generator):
        refuse_not_finite(torch.tensor([0.5, float("inf")]))

    with pytest.raises(
        RunError, match=r"segmenter_lr: the segmenter has.*uniform, seed 0, 0 regions labelled"
    ):
        select_regions(
            make_game(),
            choose,
            (5,),
            3,
            method="uniform",
            seed=0,
            piece="game",
            run=run,
            monitor=Monitor(),
            at_budget=lambda budget: None,
        )


@pytest.mark.parametrize("stop_after", range(1, 6))
def test_learning_goes_on_exactly_from_any_step(tmp_path, stop_after):
    mious = [0.10, 0.12, 0.20, 0.15, 0.10, 0.11, 0.30, 0.25]

    class Killed(BaseException):
        pass

    forgotten = []
    monitor = Monitor()
    monitor.forget = lambda curves, first_step: forgotten.append((curves, first_step))

    def play(folder, learner, steps=None):
        with open_run(folder, {}, resume=True) as run:
            run.begin({})
            append, count = run.append_step, itertools.count(1)

            def append_and_stop(line):
                append(line)
                run.checkpoint._cost = 0  # save at every step
                if next(count) == (steps or 99) + 1:  # after the line of a step that no checkpoint has
                    raise Killed

            run.append_step = append_and_stop
            return learner.run(run, monitor), read_steps(run)

    policy, steps = play(tmp_path / "whole", make_learner(mious))
    with pytest.raises(Killed):
        play(tmp_path / "killed", make_learner(mious), stop_after)
    measured = stop_after + (1 if stop_after <= 3 else 2)  # one at the start of each episode as well
    again, steps_again = play(tmp_path / "killed", make_learner(mious[measured:]))
    assert forgotten == [("learn-seed0", 1), ("learn-seed0", 1), ("learn-seed0", stop_after + 1)]
    assert all(torch.equal(policy[name], again[name]) for name in policy)
    for before, after in zip(steps, steps_again, strict=True):
        assert {**before, "seconds": 0} == {**after, "seconds": 0}


def test_states_are_joined_and_split():
    parts = {"a": {"x/y": torch.ones(1)}, "b": {"z": torch.zeros(1)}}
    joined = join_states(**parts)
    assert joined.keys() == {"a/x/y", "b/z"}
    assert split_states(joined | {"loose": torch.ones(1)}) == parts
