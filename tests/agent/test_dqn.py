"""The agent: targets by hand, what moves when it learns, exact resume, and that it learns what to label."""

import contextlib
import copy
import math

import pytest
import torch
from safetensors.torch import load, save

from ralx.agent.dqn import AgentConfig, DQNAgent, td_target
from ralx.agent.query_network import QueryNetwork
from ralx.agent.replay_buffer import ReplayBuffer

R, D_S, D_A, KL = 3, 4, 9, 2


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_agent(seed: int = 0, device: str = "cpu", **options) -> DQNAgent:
    config = AgentConfig(**options)
    network = QueryNetwork(R, D_S, D_A, kl_dim=KL, dueling=config.dueling, generator=generator(seed))
    return DQNAgent(network, config, device)


def look(g: torch.Generator, num_pools: int, pool_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(R, D_S, generator=g), torch.rand(num_pools, pool_size, D_A, generator=g)


SHAPES = [(3, 4), (3, 4), (2, 3), (3, 4), (1, 1)]  # (K, M) of each step: ragged
REWARDS = [0.5, -1.0, 2.0, 0.25, 1.5]
DONE = [False, False, True, False, True]


def play(seed: int = 5) -> tuple[ReplayBuffer, list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]]:
    g, buffer, steps = generator(seed), ReplayBuffer(1000), []
    for (num_pools, pool_size), reward, done in zip(SHAPES, REWARDS, DONE, strict=True):
        state, candidates = look(g, num_pools, pool_size)
        chosen = torch.randint(pool_size, (num_pools,), generator=g)
        buffer.observe(state, candidates)
        buffer.record(chosen, reward, done)
        steps.append((state, candidates, chosen))
    return buffer, steps


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def snapshot(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


# --- targets ---------------------------------------------------------------------------------------


def test_td_target_by_hand_under_both_rules():
    query = torch.tensor([[1.0, 5.0, 2.0], [3.0, 0.0, 9.0]])
    target = torch.tensor([[10.0, 20.0, 30.0], [40.0, 50.0, 60.0]])
    reward, discount = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.1])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    done = torch.tensor([False, False])
    standard = td_target(reward, discount, query, target, mask, done)
    assert standard.tolist() == pytest.approx([1 + 0.5 * 20, 2 + 0.1 * 40])
    paper = td_target(reward, discount, target, query, mask, done)
    assert paper.tolist() == pytest.approx([1 + 0.5 * 2, 2 + 0.1 * 0])


def test_td_target_at_the_end_is_the_reward_whatever_the_networks_say():
    nonsense = torch.tensor([[math.nan, math.inf]])
    mask, done = torch.tensor([[False, False]]), torch.tensor([True])
    y = td_target(torch.tensor([3.0]), torch.tensor([0.9]), nonsense, nonsense, mask, done)
    assert y.tolist() == [3.0]


def test_td_target_of_an_undefined_choice_is_undefined():
    nan, q = math.nan, torch.tensor([[1.0, 2.0]])
    rows = {"select": (torch.tensor([[nan, 5.0]]), q), "evaluate": (q, torch.tensor([[1.0, nan]]))}
    for select, evaluate in rows.values():
        y = td_target(*torch.ones(2, 1), select, evaluate, torch.ones(1, 2) > 0, torch.zeros(1) > 0)
        assert y.isnan().all()
    hidden = torch.tensor([[True, False]])  # neither choice nor value
    y = td_target(*torch.ones(2, 1), torch.tensor([[5.0, nan]]), q, hidden, torch.zeros(1) > 0)
    assert y.tolist() == [2.0]


def test_td_target_may_be_negative_although_masked_candidates_are_zero():
    q = torch.tensor([[-4.0, -2.0, 0.0]])
    mask, done = torch.tensor([[True, True, False]]), torch.tensor([False])
    y = td_target(torch.tensor([0.0]), torch.tensor([1.0]), q, q, mask, done)
    assert y.tolist() == [-2.0]


def expected_targets(agent: DQNAgent, steps, n_step: int) -> list[float]:
    """The targets of every sub-transition, one at a time, from the plain steps."""
    networks = [agent.query_network, agent.target_network]
    select, evaluate = networks if agent.options.double_dqn == "standard" else reversed(networks)
    targets = []
    for t, (_, candidates, _) in enumerate(steps):
        reward, discount, j = 0.0, 1.0, t
        for _ in range(n_step):
            reward, discount, ended = reward + discount * REWARDS[j], discount * agent.options.gamma, DONE[j]
            j += 1
            if ended:
                break
        for k in range(len(candidates)):
            if ended:
                targets.append(reward)
                continue
            state, pools, _ = steps[j]
            pool = pools[k % len(pools)].unsqueeze(0)
            best = select(state.unsqueeze(0), pool).argmax()
            targets.append(reward + discount * float(evaluate(state.unsqueeze(0), pool)[0, best]))
    return targets


@pytest.mark.parametrize("n_step", [1, 2])
@pytest.mark.parametrize("double_dqn", ["standard", "paper"])
@pytest.mark.parametrize("dueling", [False, True])
def test_learn_minimises_the_distance_to_the_targets_of_its_rule(double_dqn, n_step, dueling):
    options = dict(dqn_loss="squared", dqn_batch_size=100, gamma=0.9, n_step=n_step)
    agent = make_agent(dueling=dueling, double_dqn=double_dqn, **options)
    agent.target_network.load_state_dict(make_agent(1, dueling=dueling).query_network.state_dict())
    buffer, steps = play()
    with torch.no_grad():
        targets = torch.tensor(expected_targets(agent, steps, n_step))
        learner = copy.deepcopy(agent.query_network).train()
        batch = buffer.sample(100, n_step=1, gamma=0.9, generator=generator())
        encoded = learner.encode_state(batch.states)[batch.state_index]
        q = learner.q_values(encoded, batch.actions, batch.mask).gather(1, batch.chosen[:, None]).squeeze(1)
    result = agent.learn(buffer, generator())
    assert result["td_loss"] == pytest.approx(float(((q - targets) ** 2).mean()), rel=1e-4)
    assert result["q_mean"] == pytest.approx(float(q.mean()), rel=1e-4, abs=1e-6)


def test_the_two_rules_differ():
    losses = set()
    for rule in ("standard", "paper"):
        agent = make_agent(double_dqn=rule, dqn_batch_size=100)
        agent.target_network.load_state_dict(make_agent(1).query_network.state_dict())
        losses.add(agent.learn(play()[0], generator())["td_loss"])
    assert len(losses) == 2


def test_huber_is_the_squared_loss_up_to_an_error_of_one_and_linear_beyond():
    buffer = ReplayBuffer(10)
    state, candidates = look(generator(), 1, 2)
    buffer.observe(state, candidates)
    buffer.record(torch.tensor([0]), 100.0, True)
    huber, squared = (make_agent(dqn_loss=loss).learn(buffer, generator()) for loss in ("huber", "squared"))
    error = 100.0 - huber["q_mean"]
    assert huber["td_loss"] == pytest.approx(error - 0.5, rel=1e-5)
    assert squared["td_loss"] == pytest.approx(error**2, rel=1e-5)


# --- what moves, and when --------------------------------------------------------------------------


def test_batchnorm_statistics_come_from_the_learning_pass_alone():
    agent, (buffer, _) = make_agent(dqn_batch_size=100), play()
    learner = copy.deepcopy(agent.query_network).train()
    batch = buffer.sample(100, n_step=1, gamma=0.9, generator=generator())
    learner.q_values(learner.encode_state(batch.states)[batch.state_index], batch.actions, batch.mask)
    before = snapshot(agent.target_network)
    agent.learn(buffer, generator())
    expected = dict(learner.named_buffers())
    assert any(not torch.equal(before[name], tensor) for name, tensor in expected.items())
    for name, tensor in agent.query_network.named_buffers():
        torch.testing.assert_close(tensor, expected[name], msg=name)
    assert same(snapshot(agent.target_network), before), "the target network stays until it is updated"
    assert not any(m.training for m in (*agent.query_network.modules(), *agent.target_network.modules()))


def test_acting_changes_nothing():
    agent = make_agent()
    before = snapshot(agent.query_network)
    agent.act(*look(generator(), 3, 4), 0.5, generator())
    assert same(snapshot(agent.query_network), before)


def test_the_target_network_is_copied_whole_every_so_many_calls():
    agent, (buffer, _) = make_agent(target_update=3, updates_per_step=2), play()
    g, before = generator(), snapshot(agent.target_network)
    for _ in range(2):
        agent.learn(buffer, g)
        assert same(snapshot(agent.target_network), before)
    agent.learn(buffer, g)
    assert same(snapshot(agent.target_network), snapshot(agent.query_network)), "buffers included"
    after = snapshot(agent.target_network)
    agent.learn(buffer, g)
    assert same(snapshot(agent.target_network), after)


def test_a_soft_update_moves_the_target_network_a_share_of_the_way():
    agent, (buffer, _) = make_agent(tau=0.25, target_update=1), play()
    before = snapshot(agent.target_network)
    agent.learn(buffer, generator())
    query = snapshot(agent.query_network)
    for name, tensor in agent.target_network.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, 0.75 * before[name] + 0.25 * query[name], msg=name)
        else:
            assert torch.equal(tensor, query[name])


def test_several_updates_per_step_are_that_many_steps_of_sgd():
    once, twice = make_agent(target_update=99), make_agent(target_update=99, updates_per_step=2)
    buffer, _ = play()
    g = generator()
    losses = [once.learn(buffer, g)["td_loss"] for _ in range(2)]
    result = twice.learn(buffer, generator())
    assert same(snapshot(once.query_network), snapshot(twice.query_network))
    assert result["td_loss"] == pytest.approx(sum(losses) / 2)


def test_sgd_is_the_published_one():
    agent = make_agent(dqn_lr=0.1, dqn_momentum=0.5, dqn_weight_decay=0.01, dqn_batch_size=100)
    buffer, _ = play()
    name = "action_path.2.weight"
    weight = agent.query_network.get_parameter(name)
    velocity = torch.zeros_like(weight)
    for _ in range(3):
        before = weight.detach().clone()
        agent.learn(buffer, generator())
        velocity = 0.5 * velocity + weight.grad + 0.01 * before
        torch.testing.assert_close(weight.detach(), before - 0.1 * velocity)


def test_the_learning_rate_decays_per_call_and_can_start_again():
    agent, (buffer, _) = make_agent(dqn_lr=1e-2, dqn_lr_schedule="episode", updates_per_step=3), play()
    assert agent.learn(ReplayBuffer(1), generator()) == {"td_loss": None, "q_mean": None}
    assert agent.lr == 1e-2, "a call that had nothing to learn from does not count"
    for _ in range(4):
        agent.learn(buffer, generator())
    assert agent.lr == pytest.approx(1e-2 * 0.97**4)
    agent.start_episode()
    assert agent.lr == 1e-2
    never_anew = make_agent(dqn_lr=1e-2, dqn_lr_schedule="run")
    never_anew.learn(buffer, generator())
    never_anew.start_episode()
    assert never_anew.lr == pytest.approx(1e-2 * 0.97)
    constant = make_agent(dqn_lr=1e-2)
    constant.learn(buffer, generator())
    assert constant.lr == 1e-2


# --- awkward batches -------------------------------------------------------------------------------


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("pool_size", [1, 3])
def test_a_single_terminal_transition_is_learned_from(dueling, pool_size):
    agent, buffer = make_agent(dueling=dueling, dqn_batch_size=1), ReplayBuffer(10)
    state, candidates = look(generator(), 1, pool_size)
    buffer.observe(state, candidates)
    buffer.record(torch.tensor([0]), 1.0, True)
    losses = [agent.learn(buffer, generator())["td_loss"] for _ in range(30)]
    assert losses[-1] < 0.2 * losses[0]


def test_only_terminal_transitions():
    agent, buffer, g = make_agent(dqn_loss="squared", dqn_batch_size=100), ReplayBuffer(100), generator()
    for _ in range(4):
        buffer.observe(*look(g, 2, 3))
        buffer.record(torch.tensor([0, 1]), 2.0, True)
    assert agent.learn(buffer, g)["td_loss"] == pytest.approx(4, rel=0.6)
    agent.target_network.head[1].bias.data.fill_(1e6)  # nothing may be bootstrapped from
    assert agent.learn(buffer, g)["td_loss"] < 10


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_a_number_is_an_error(bad):
    agent, buffer = make_agent(), ReplayBuffer(10)
    state, candidates = look(generator(), 2, 3)
    candidates[0, 0, 0] = bad
    buffer.observe(state, candidates)
    buffer.record(torch.tensor([0, 1]), 1.0, True)
    with pytest.raises(FloatingPointError, match=r"td_loss is nan in learn\(\) call 1 .*lr 0\.001"):
        agent.learn(buffer, generator())


# --- choosing --------------------------------------------------------------------------------------


def test_without_exploration_each_pool_gives_its_best_candidate():
    agent = make_agent(3)
    state, candidates = look(generator(), 20, 7)
    chosen = agent.act(state, candidates, 0.0, generator())
    assert chosen.dtype == torch.int64
    best = [int(agent.query_network(state.unsqueeze(0), candidates[k : k + 1]).argmax()) for k in range(20)]
    assert chosen.tolist() == best
    assert len(set(best)) > 1


@pytest.mark.parametrize("epsilon", [0.0, 0.5])
def test_an_undefined_q_is_no_choice(epsilon):
    state, candidates = look(generator(), 7, 3)
    candidates[4, 1, 0] = math.nan
    with pytest.raises(FloatingPointError, match=r"Q must not be NaN, got NaN in pools \[4\]: a feature was"):
        make_agent().act(state, candidates, epsilon, generator())
    state[0, 0] = math.nan
    with pytest.raises(FloatingPointError, match=r"got NaN in pools \[0, 1, 2, 3, 4\]: "):
        make_agent().act(state, candidates, epsilon, generator())


@pytest.mark.parametrize("epsilon", [math.nan, -0.1, 1.5])
def test_an_epsilon_that_is_no_share_is_refused(epsilon):
    with pytest.raises(ValueError, match=rf"epsilon must be in 0\.\.1, got {epsilon}"):
        make_agent().act(*look(generator(), 2, 3), epsilon, generator())


def test_full_exploration_is_uniform():
    chosen = make_agent().act(*look(generator(), 6000, 3), 1.0, generator())
    assert all(1850 < count < 2150 for count in chosen.bincount(minlength=3).tolist())


def explored(per_sub_action: bool, epsilon: float = 0.5, trials: int = 60) -> list[int]:
    """How many of 40 pools did not get their best candidate, per call."""
    agent, g = make_agent(3), generator(1)
    state, candidates = look(generator(), 40, 9)
    best = agent.act(state, candidates, 0.0, generator())
    return [
        int((agent.act(state, candidates, epsilon, g, per_sub_action) != best).sum()) for _ in range(trials)
    ]


def test_each_sub_action_has_its_own_coin():
    counts = explored(True)
    assert all(5 < count < 32 for count in counts)  # 40 · 0.5 · 8/9 = 17.8 expected
    assert sum(counts) / len(counts) == pytest.approx(17.8, abs=1.5)


def test_one_coin_for_all_sub_actions_as_published():
    counts = explored(False)
    assert {count == 0 for count in counts} == {True, False}
    assert all(count == 0 or count > 25 for count in counts)


def test_the_random_stream_does_not_depend_on_epsilon():
    agent, state, candidates = make_agent(), *look(generator(), 5, 4)
    after = []
    for epsilon in (0.0, 0.5, 1.0):
        g = generator(7)
        agent.act(state, candidates, epsilon, g)
        after.append(torch.rand(1, generator=g).item())
    assert len(set(after)) == 1


# --- resume and determinism ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"tau": 0.1}, {"dqn_momentum": 0.0}, {"dqn_lr_schedule": "run", "n_step": 3}]
)
@pytest.mark.parametrize("calls_before", [0, 2])
def test_an_agent_saved_and_loaded_goes_on_exactly(options, calls_before):
    options = {"target_update": 3, "updates_per_step": 2, "dueling": True, "dqn_batch_size": 4} | options
    agent, (buffer, _), g = make_agent(**options), play(), generator()
    for _ in range(calls_before):
        agent.learn(buffer, g)
    saved = {"agent": save(agent.state_dict()), "buffer": save(buffer.state_dict()), "random": g.get_state()}
    uninterrupted = [agent.learn(buffer, g) for _ in range(4)]

    other, other_buffer, other_g = make_agent(9, **options), ReplayBuffer(1000), generator(9)
    other.learn(play(8)[0], other_g)  # it has a past of its own, which must not shine through
    other.load_state_dict(load(saved["agent"]))
    other_buffer.load_state_dict(load(saved["buffer"]))
    other_g.set_state(saved["random"])
    assert [other.learn(other_buffer, other_g) for _ in range(4)] == uninterrupted
    assert same(other.state_dict(), agent.state_dict())
    state, candidates = look(generator(2), 5, 6)
    actions = [a.act(state, candidates, 0.3, generator(4)).tolist() for a in (agent, other)]
    assert actions[0] == actions[1]


def test_a_saved_state_does_not_change_while_the_agent_learns_on():
    agent, (buffer, _) = make_agent(), play()
    agent.learn(buffer, generator())
    saved = agent.state_dict()
    before = {name: tensor.clone() for name, tensor in saved.items()}
    agent.learn(buffer, generator())
    assert same(saved, before)
    assert all(isinstance(tensor, torch.Tensor) for tensor in saved.values())


def test_the_number_of_threads_and_a_second_run_change_nothing():
    results = []
    for threads in (1, 2, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            agent, (buffer, _), g = make_agent(dqn_batch_size=256), play(), generator()
            results.append([agent.learn(buffer, g) for _ in range(3)])
        finally:
            torch.set_num_threads(before)
    assert results[1] == results[2]
    for one, two in zip(results[0], results[1], strict=True):
        assert one == pytest.approx(two, rel=1e-4)


def test_a_state_of_another_agent_is_refused():
    saved = DQNAgent(QueryNetwork(R + 1, D_S, D_A, kl_dim=KL), AgentConfig()).state_dict()
    expected = r"(?s)saved state does not fit this agent: .*size mismatch for state_path"
    with pytest.raises(ValueError, match=expected):
        make_agent().load_state_dict(saved)
    incomplete = make_agent().state_dict()
    del incomplete["lr"]
    with pytest.raises(ValueError, match="saved state does not fit this agent: 'lr'"):
        make_agent().load_state_dict(incomplete)


# --- arguments -------------------------------------------------------------------------------------


def test_candidates_of_another_shape_are_refused():
    state, candidates = look(generator(), 2, 3)
    with pytest.raises(ValueError, match=r"candidates must be \[K, M, D_a\].*got \[2, 9\]"):
        make_agent().act(state, candidates[:, 0], 0.0, generator())
    with pytest.raises(ValueError, match=r"candidates must be \[K, M, D_a\].*got \[2, 0, 9\]"):
        make_agent().act(state, candidates[:, :0], 0.0, generator())


# --- does it learn? --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"dqn_loss": "squared"}, {"dueling": True}, {"double_dqn": "paper"}, {"tau": 0.1}],
    ids=lambda options: "-".join(map(str, options.items())) or "default",
)
def test_it_learns_which_candidate_is_worth_labelling(options):
    """One candidate of four is marked in every pool; the reward, one for all pools, is the marked share."""
    g = generator(1)
    agent, buffer = make_agent(dqn_batch_size=32, gamma=0.9, **options), ReplayBuffer(300)

    def look_and_mark(num_pools: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        state, candidates = look(g, num_pools, 4)
        marked = torch.randint(4, (num_pools,), generator=g)
        candidates[..., 1] = torch.nn.functional.one_hot(marked, 4).float()
        return state, candidates, marked

    for _ in range(100):
        state, candidates, marked = look_and_mark(2)
        buffer.observe(state, candidates)
        chosen = agent.act(state, candidates, 0.5, g)
        buffer.record(chosen, float((chosen == marked).float().mean()), True)
        agent.learn(buffer, g)
    state, candidates, marked = look_and_mark(300)
    share = float((agent.act(state, candidates, 0.0, g) == marked).float().mean())
    assert share > 0.8, "chance gives 0.25"


def patience_learned(**options) -> float:
    """A choice between 0.3 now and, if declined, 1 at the second step; returns how often it is declined.

    The second step's candidates look different after a decline, so its value can be known; only bootstrapping
    carries it back to the first choice.
    """
    later, prize, blank = 1, 2, 3  # 0: now
    g = generator(1)
    agent, buffer = make_agent(dqn_batch_size=32, updates_per_step=2, **options), ReplayBuffer(300)

    def look_and_mark(kinds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        state, candidates = look(g, *kinds.shape)
        candidates[..., :4] = torch.nn.functional.one_hot(kinds, 4).float()
        return state, candidates

    def choose(epsilon: float, learn: bool) -> bool:
        offer = torch.randperm(2, generator=g).unsqueeze(0)
        state, candidates = look_and_mark(offer)
        chosen = agent.act(state, candidates, epsilon, g)
        declined = int(offer[0, chosen]) == later
        if not learn:
            return declined
        buffer.observe(state, candidates)
        buffer.record(chosen, 0.0 if declined else 0.3, False)
        second = look_and_mark(torch.full((1, 2), prize if declined else blank))
        buffer.observe(*second)
        buffer.record(agent.act(*second, epsilon, g), 1.0 if declined else 0.0, True)
        agent.learn(buffer, g)
        return declined

    for _ in range(80):
        choose(0.5, learn=True)
    return sum(choose(0.0, learn=False) for _ in range(50)) / 50


def test_it_gives_up_a_small_reward_for_a_larger_one_later():
    assert patience_learned(gamma=0.9) > 0.7


def test_it_takes_what_it_can_get_when_the_future_does_not_count():
    assert patience_learned(gamma=0.0) < 0.1


def test_returns_over_two_steps_need_no_bootstrapping():
    # a target network that never moves can't carry the value back; a return over both steps holds it
    assert patience_learned(gamma=0.9, n_step=1, target_update=10**6) < 0.1
    assert patience_learned(gamma=0.9, n_step=2, target_update=10**6) > 0.7


# --- on a GPU --------------------------------------------------------------------------------------

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@contextlib.contextmanager
def one_wait():
    """What runs inside waits for the device once."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with pytest.warns(UserWarning, match="synchronizing CUDA operation") as waits:
            yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(waits) == 1, [str(wait.message) for wait in waits]


def cuda_buffer() -> ReplayBuffer:
    buffer, _ = play()
    on_device = ReplayBuffer(1000)
    on_device.load_state_dict({name: tensor.cuda() for name, tensor in buffer.state_dict().items()})
    return on_device


@needs_cuda
@pytest.mark.parametrize(
    "make_buffer", [cuda_buffer, lambda: play()[0]], ids=["on the device", "on the host"]
)
def test_a_learn_call_waits_for_the_device_once(make_buffer):
    agent, buffer, g = make_agent(device="cuda", updates_per_step=3, n_step=2), make_buffer(), generator()
    agent.learn(buffer, g)
    with one_wait():
        agent.learn(buffer, g)


@needs_cuda
def test_a_choice_waits_for_the_device_once():
    agent = make_agent(device="cuda")
    state, candidates = (seen.cuda() for seen in look(generator(), 5, 6))
    agent.act(state, candidates, 0.0, generator())
    with one_wait():
        agent.act(state, candidates, 0.0, generator())


@needs_cuda
def test_the_device_learns_what_the_cpu_learns_and_the_same_every_time():
    results, agents = [], []
    for device, buffer in (("cpu", play()[0]), ("cuda", cuda_buffer()), ("cuda", play()[0])):
        agents.append(make_agent(device=device, dueling=True))
        g = generator()
        results.append([agents[-1].learn(buffer, g) for _ in range(4)])
    assert results[1] == results[2]
    for cpu, cuda in zip(results[0], results[1], strict=True):
        assert cpu == pytest.approx(cuda, rel=1e-2, abs=1e-3)
    state, candidates = look(generator(), 5, 6)
    chosen = agents[1].act(state.cuda(), candidates.cuda(), 0.0, generator())
    assert chosen.device.type == "cpu"
    assert chosen.tolist() == agents[2].act(state, candidates, 0.0, generator()).tolist()


@needs_cuda
def test_a_buffer_loaded_from_a_file_goes_on_on_the_device():
    agent, g = make_agent(device="cuda", dqn_batch_size=100), generator()
    buffer, _ = play()  # on the CPU, as a file gives it
    state, candidates = look(g, 3, 4)
    buffer.observe(state.cuda(), candidates.cuda())
    buffer.record(torch.tensor([0, 1, 2]), 1.0, True)
    assert buffer.sample(100, n_step=1, gamma=0.9, generator=g).states.device.type == "cuda"
    assert agent.learn(buffer, g)["td_loss"] > 0
