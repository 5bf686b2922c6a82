"""The replay buffer gives back what was played: the features say which step, pool and candidate it is."""

import math

import pytest
import torch
from safetensors.torch import load, save

from ralx.agent.replay_buffer import Batch, ReplayBuffer

R, D_S = 3, 2


def state_of(step: int) -> torch.Tensor:
    return torch.full((R, D_S), float(step))


def candidates_of(step: int, num_pools: int, pool_size: int) -> torch.Tensor:
    """[K, M, 3]: step, pool, candidate."""
    pools, candidates = torch.meshgrid(torch.arange(num_pools), torch.arange(pool_size), indexing="ij")
    return torch.stack((torch.full_like(pools, step), pools, candidates), dim=2).float()


def play(steps: list[tuple[int, int, float, bool]], capacity: int = 1000) -> ReplayBuffer:
    """Steps of (K, M, reward, done); in step t pool k chooses candidate (t + k) % M."""
    buffer = ReplayBuffer(capacity)
    for t, (num_pools, pool_size, reward, done) in enumerate(steps):
        buffer.observe(state_of(t), candidates_of(t, num_pools, pool_size))
        buffer.record((t + torch.arange(num_pools)) % pool_size, reward, done)
    return buffer


def everything(buffer: ReplayBuffer, n_step: int = 1, gamma: float = 0.5) -> Batch:
    return buffer.sample(10_000, n_step=n_step, gamma=gamma, generator=torch.Generator().manual_seed(0))


def unpack(batch: Batch) -> dict[tuple[int, int], dict]:
    """The batch as plain numbers by (step, pool), with what must hold inside a batch checked on the way."""
    rows = {}
    for b in range(len(batch.chosen)):
        step, pool, _ = batch.actions[b, 0].int().tolist()
        length = int(batch.mask[b].sum())
        assert batch.mask[b, :length].all(), "a pool's own candidates come first"
        assert batch.actions[b, :length, 2].tolist() == list(range(length))
        assert batch.states[batch.state_index[b]].unique().tolist() == [step]
        next_step, next_pool, _ = batch.next_actions[b, 0].int().tolist()
        assert batch.next_states[batch.next_state_index[b]].unique().tolist() == [next_step]
        assert (step, pool) not in rows, "nothing is drawn twice"
        rows[step, pool] = {
            "pool_size": length,
            "chosen": int(batch.chosen[b]),
            "reward": float(batch.reward[b]),
            "discount": float(batch.discount[b]),
            "done": bool(batch.done[b]),
            "next_step": next_step,
            "next_pool": next_pool,
            "next_pool_size": int(batch.next_mask[b].sum()),
        }
    return rows


def test_one_step_transitions_carry_their_successor():
    buffer = play([(2, 4, 1.0, False), (2, 4, 2.0, True)])
    rows = unpack(everything(buffer))
    own = {"pool_size": 4, "chosen": 1, "reward": 1.0, "discount": 0.5, "done": False}
    assert rows[0, 1] == own | {"next_step": 1, "next_pool": 1, "next_pool_size": 4}
    assert rows[1, 0]["reward"] == 2.0 and rows[1, 0]["done"]
    assert sorted(rows) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_n_step_returns_by_hand():
    buffer = play([(1, 2, 1.0, False), (1, 2, 10.0, False), (1, 2, 100.0, False), (1, 2, 1000.0, True)])
    rows = dict(sorted(unpack(everything(buffer, n_step=2, gamma=0.5)).items()))
    assert [row["reward"] for row in rows.values()] == [1 + 0.5 * 10, 10 + 0.5 * 100, 100 + 0.5 * 1000, 1000]
    assert [row["done"] for row in rows.values()] == [False, False, True, True]
    assert (rows[0, 0]["discount"], rows[0, 0]["next_step"]) == (0.25, 2)


def expected_rows(steps, n_step, gamma, observed):
    """What a batch must hold, step by step and pool by pool; `observed`: the last step has a successor."""
    rows = {}
    last = len(steps) + (1 if observed else 0)
    for t, (num_pools, pool_size, _, done) in enumerate(steps):
        if not done and t + 1 >= last:
            continue
        total, discount, j = 0.0, 1.0, t
        for _ in range(n_step):
            total, discount = total + discount * steps[j][2], discount * gamma
            ended = steps[j][3]
            j += 1
            if ended or j >= len(steps) or (not steps[j][3] and j + 1 >= last):
                break
        next_step = t if ended else j
        # the observation after the last step is as large as the first step
        next_pools, next_size = (steps[next_step] if next_step < len(steps) else steps[0])[:2]
        for k in range(num_pools):
            rows[t, k] = {
                "pool_size": pool_size,
                "chosen": (t + k) % pool_size,
                "reward": pytest.approx(total, rel=1e-6),
                "discount": pytest.approx(discount, rel=1e-6),
                "done": ended,
                "next_step": next_step,
                "next_pool": k % next_pools,
                "next_pool_size": next_size,
            }
    return rows


@pytest.mark.parametrize("n_step", [1, 2, 3, 7])
@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_ragged_episodes_against_a_plain_reading(n_step, observed, seed):
    generator = torch.Generator().manual_seed(seed)

    def number(low, high):
        return int(torch.randint(low, high, (), generator=generator))

    steps = [(number(1, 5), number(1, 6), float(number(-9, 9)), number(0, 4) == 0) for _ in range(12)]
    buffer = play(steps)
    if observed:
        buffer.observe(state_of(len(steps)), candidates_of(len(steps), *steps[0][:2]))
    expected = expected_rows(steps, n_step, 0.9, observed)
    assert unpack(everything(buffer, n_step, 0.9)) == expected
    assert len(buffer) == len(expected)


def test_a_short_pool_is_filled_up_with_its_own_candidates():
    batch = everything(play([(1, 5, 0.0, False), (1, 2, 0.0, True)]))
    short = 1 - int(batch.mask[0].sum() == 2)
    assert batch.actions[short, :, 2].tolist() == [0, 1, 0, 1, 0]
    assert batch.mask[short].tolist() == [True, True, False, False, False]


def test_a_state_shared_by_many_is_held_once():
    batch = everything(play([(24, 2, 0.0, False), (24, 2, 0.0, False), (24, 2, 0.0, True)]))
    assert len(batch.chosen) == 72
    assert batch.states[:, 0, 0].tolist() == [0, 1, 2]
    assert batch.next_states[:, 0, 0].tolist() == [1, 2]  # the last step stands in for its missing successor


def test_only_terminal_transitions_can_be_sampled():
    rows = unpack(everything(play([(2, 3, 4.0, True)])))
    assert [row["reward"] for row in rows.values()] == [4.0, 4.0]
    assert all(row["done"] for row in rows.values())


def test_a_step_counts_once_its_successor_is_seen():
    buffer = ReplayBuffer(100)
    assert len(buffer) == 0
    buffer.observe(state_of(0), candidates_of(0, 3, 2))
    assert len(buffer) == 0
    buffer.record(torch.zeros(3, dtype=torch.int64), 1.0, False)
    assert len(buffer) == 0
    buffer.observe(state_of(1), candidates_of(1, 2, 2))
    assert len(buffer) == 3
    buffer.record(torch.zeros(2, dtype=torch.int64), 1.0, True)
    assert len(buffer) == 5


def test_whole_steps_are_evicted_oldest_first():
    buffer = play([(3, 2, float(t), t == 4) for t in range(5)], capacity=7)
    assert len(buffer) == 6
    assert sorted({step for step, _ in unpack(everything(buffer))}) == [3, 4]


def test_a_step_larger_than_the_capacity_is_still_learned_from():
    buffer = play([(5, 2, 0.0, False)] * 3, capacity=2)
    assert len(buffer) == 5
    assert {step for step, _ in unpack(everything(buffer))} == {1}


def test_the_draw_is_uniform_and_without_repeats():
    buffer = play([(1, 2, 0.0, False), (4, 2, 0.0, True)])  # steps of unequal size: pools count, not steps
    generator = torch.Generator().manual_seed(0)
    counts = dict.fromkeys([(0, 0), (1, 0), (1, 1), (1, 2), (1, 3)], 0)
    for _ in range(1000):
        rows = unpack(buffer.sample(2, n_step=1, gamma=0.5, generator=generator))
        assert len(rows) == 2
        for key in rows:
            counts[key] += 1
    assert all(340 < count < 460 for count in counts.values()), counts


def test_the_generator_decides_the_draw():
    buffer = play([(4, 3, 1.0, False)] * 5 + [(4, 3, 1.0, True)])

    def draw(seed):
        return buffer.sample(6, n_step=2, gamma=0.9, generator=torch.Generator().manual_seed(seed))

    assert all(torch.equal(a, b) for a, b in zip(draw(3), draw(3), strict=True))
    assert unpack(draw(3)).keys() != unpack(draw(4)).keys()


def test_later_changes_of_the_callers_tensors_do_not_reach_the_buffer():
    state, candidates = state_of(0), candidates_of(0, 2, 2)
    chosen = torch.tensor([1, 0])
    buffer = ReplayBuffer(10)
    buffer.observe(state, candidates)
    buffer.record(chosen, 1.0, True)
    for tensor in (state, candidates, chosen):
        tensor.fill_(7)
    batch = everything(buffer)
    assert batch.states.max() == 0
    assert batch.chosen.tolist() == [1, 0]
    assert batch.actions[..., 0].max() == 0


def test_every_sub_action_may_have_its_own_reward():
    buffer = ReplayBuffer(100)
    for t, rewards in enumerate(([1.0, 2.0, 4.0], [8.0, 16.0])):  # the second step has two pools only
        buffer.observe(state_of(t), candidates_of(t, len(rewards), 2))
        buffer.record(torch.zeros(len(rewards), dtype=torch.int64), torch.tensor(rewards), t == 1)
    rewards = {key: row["reward"] for key, row in unpack(everything(buffer)).items()}
    assert rewards == {(0, 0): 1, (0, 1): 2, (0, 2): 4, (1, 0): 8, (1, 1): 16}
    rewards = {key: row["reward"] for key, row in unpack(everything(buffer, n_step=2)).items()}
    assert rewards == {(0, 0): 1 + 4, (0, 1): 2 + 8, (0, 2): 4 + 4, (1, 0): 8, (1, 1): 16}


@pytest.mark.parametrize("in_play", [False, True])
def test_a_buffer_saved_and_loaded_goes_on_the_same(in_play):
    steps = [(3, 4, 0.1, False), (3, 4, 1 / 3, False), (2, 1, -0.7, True), (3, 4, 2.0, False)]
    buffer = play(steps, capacity=8)
    if in_play:
        buffer.observe(state_of(9), candidates_of(9, 3, 4))
    copy = ReplayBuffer(8)
    copy.load_state_dict(load(save(buffer.state_dict())))
    for one in (buffer, copy):
        if not in_play:
            one.observe(state_of(9), candidates_of(9, 3, 4))
        one.record(torch.tensor([0, 1, 2]), 0.3, True)
    assert len(buffer) == len(copy)
    for a, b in zip(everything(buffer, 3, 0.9), everything(copy, 3, 0.9), strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def test_an_empty_buffer_can_be_saved():
    buffer = play([(2, 2, 1.0, True)])
    buffer.load_state_dict(ReplayBuffer(1).state_dict())
    assert len(buffer) == 0


def test_a_saved_buffer_with_a_gap_is_refused():
    saved = play([(2, 2, 1.0, False), (2, 2, 1.0, True)]).state_dict()
    del saved["1.candidates"]
    with pytest.raises(ValueError, match=r"lacks 1\.candidates"):
        ReplayBuffer(10).load_state_dict(saved)


def test_calls_out_of_order_are_refused():
    buffer = ReplayBuffer(10)
    with pytest.raises(ValueError, match=r"record\(\) needs an observation"):
        buffer.record(torch.tensor([0]), 0.0, False)
    buffer.observe(state_of(0), candidates_of(0, 1, 2))
    with pytest.raises(ValueError, match=r"observe\(\) needs the step before to be recorded"):
        buffer.observe(state_of(1), candidates_of(1, 1, 2))
    buffer.record(torch.tensor([0]), 0.0, False)
    with pytest.raises(ValueError, match=r"record\(\) needs an observation"):
        buffer.record(torch.tensor([0]), 0.0, False)
    with pytest.raises(ValueError, match="nothing to sample"):
        everything(buffer)


@pytest.mark.parametrize(
    ("state", "candidates", "match"),
    [
        (torch.zeros(3), torch.zeros(1, 2, 3), r"state must be floating \[R, D_s\], got torch.float32 \[3\]"),
        (torch.zeros(3, 2).int(), torch.zeros(1, 2, 3), r"state must be floating .* got torch.int32"),
        (torch.zeros(3, 2), torch.zeros(2, 3), r"candidates must be floating \[K, M, D_a\].*\[2, 3\]"),
        (torch.zeros(3, 2), torch.zeros(1, 0, 3), r"candidates must be floating \[K, M, D_a\].*\[1, 0, 3\]"),
        (torch.zeros(4, 2), torch.zeros(1, 2, 3), r"state must stay \[3, 2\], got \[4, 2\]"),
        (torch.zeros(3, 2), torch.zeros(1, 2, 4), r"candidates must stay \[K, M, 3\], got \[1, 2, 4\]"),
    ],
)
def test_observations_of_another_shape_are_refused(state, candidates, match):
    buffer = play([(2, 2, 1.0, False)])
    with pytest.raises(ValueError, match=match):
        buffer.observe(state, candidates)


@pytest.mark.parametrize(
    ("chosen", "reward", "match"),
    [
        (torch.tensor([0]), 0.0, r"chosen must be int64 \[2\], got torch.int64 \[1\]"),
        (torch.tensor([0.0, 1.0]), 0.0, r"chosen must be int64 \[2\], got torch.float32"),
        (torch.tensor([0, 3]), 0.0, r"chosen must be in 0\.\.2, got 0\.\.3"),
        (torch.tensor([-1, 2]), 0.0, r"chosen must be in 0\.\.2, got -1\.\.2"),
        (torch.tensor([0, 1]), float("nan"), "reward must be finite, got nan"),
        (torch.tensor([0, 1]), torch.tensor([0.0, math.inf]), r"must be finite, got tensor\(\[0., inf"),
        (torch.tensor([0, 1]), torch.zeros(3), r"reward must be one number or \[2\], got \[3\]"),
    ],
)
def test_impossible_records_are_refused(chosen, reward, match):
    buffer = ReplayBuffer(10)
    buffer.observe(state_of(0), candidates_of(0, 2, 3))
    with pytest.raises(ValueError, match=match):
        buffer.record(chosen, reward, False)


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="capacity must be at least 1 sub-transition, got 0"):
        ReplayBuffer(0)
    buffer = play([(2, 2, 1.0, True)])
    generator = torch.Generator()
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        buffer.sample(0, n_step=1, gamma=0.9, generator=generator)
    with pytest.raises(ValueError, match="n_step must be at least 1, got 0"):
        buffer.sample(1, n_step=0, gamma=0.9, generator=generator)
