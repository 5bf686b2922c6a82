"""Batch-mode double DQN: the agent that plays the labelling game and learns from it (paper, section 3.2)."""

import copy
import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ralx.agent.query_network import QueryNetwork
from ralx.agent.replay_buffer import Batch, ReplayBuffer
from ralx.support.options import Concern


@dataclass(frozen=True)
class AgentConfig(Concern):
    """The query network and how it is trained."""

    may_be_zero = ("dqn_momentum", "dqn_weight_decay", "gamma")

    dueling: bool = False
    """Dueling query network: a value of the state plus an advantage of the action."""
    dqn_lr: float = 1e-3
    """Learning rate of the query network."""
    dqn_momentum: float = 0.95
    """SGD momentum of the query network."""
    dqn_weight_decay: float = 1e-3
    """L2 penalty of the query network."""
    dqn_batch_size: int = 16
    """Sub-transitions per update of the query network."""
    dqn_lr_schedule: Literal["constant", "episode", "run"] = "constant"
    """constant; episode: falls by `dqn_lr_decay` per step and starts anew each episode; run: falls per step
    and never starts anew (published)."""
    dqn_lr_decay: float = 0.97
    """Factor of the query network's learning rate per step, unless it is constant."""
    updates_per_step: int = 1
    """Updates of the query network per step."""
    gamma: float = 0.999
    """Discount per step."""
    n_step: int = 1
    """Steps of reward before the return is bootstrapped."""
    dqn_loss: Literal["huber", "squared"] = "huber"  # as published; squared is the paper's text
    """Loss of the TD error."""
    double_dqn: Literal["standard", "paper"] = "standard"
    """standard: the query network selects and the target network evaluates. paper: the other way round."""
    target_update: int = 5
    """Steps between hard copies into the target network."""
    tau: float | None = None
    """Share of the query network mixed into the target at each update; replaces the hard copies."""
    replay_capacity: int = 600
    """Sub-transitions that the replay buffer holds."""

    def check(self) -> None:
        self.require(0 <= self.gamma <= 1, "gamma", "must be in [0, 1]")
        self.require(self.dqn_lr_decay <= 1, "dqn_lr_decay", "must be at most 1")
        self.require(self.tau is None or 0 < self.tau <= 1, "tau", "must be in (0, 1]")
        rule = f"must be at most replay_capacity, which is {self.replay_capacity}"
        self.require(self.dqn_batch_size <= self.replay_capacity, "dqn_batch_size", rule)


def td_target(
    reward: Tensor,
    discount: Tensor,
    next_q_select: Tensor,
    next_q_evaluate: Tensor,
    mask: Tensor,
    done: Tensor,
) -> Tensor:
    """y = r + γ·Q_evaluate(s′, argmax over the pool of Q_select(s′, ·)); y = r where the episode ended.

    Args:
        reward, discount: float ``[B]``; the discount is gamma to the power of the steps taken.
        next_q_select: ``[B, M']``, the network that chooses.
        next_q_evaluate: ``[B, M']``, the network whose value counts.
        mask: bool ``[B, M']``, False where a pool has no such candidate. At least one per row is True, unless
            that row is done.
        done: bool ``[B]``.

    Returns:
        float ``[B]``. A NaN of ``next_q_select`` that the mask doesn't hide makes its row NaN.
    """
    highest, best = next_q_select.masked_fill(~mask, -math.inf).max(dim=1)
    bootstrap = next_q_evaluate.gather(1, best.unsqueeze(1)).squeeze(1)
    bootstrap = torch.where(highest.isnan(), highest, bootstrap)
    return torch.where(done, reward, reward + discount * bootstrap)


class DQNAgent:
    """A query network, its target network and what trains them.

    Args:
        query_network: trained in place.
        options: of them, ``dueling`` is the query network's and ``replay_capacity`` the replay buffer's.
        device: where both networks live.
    """

    def __init__(self, query_network: QueryNetwork, options: AgentConfig, device: torch.device | str = "cpu"):
        self.options = options
        self.device = torch.device(device)
        self.query_network = query_network.to(self.device).eval()
        self.target_network = copy.deepcopy(self.query_network).requires_grad_(False)
        self.optimizer = torch.optim.SGD(
            self.query_network.parameters(),
            lr=options.dqn_lr,
            momentum=options.dqn_momentum,
            weight_decay=options.dqn_weight_decay,
        )
        self.learn_calls = 0

    @property
    def lr(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def start_episode(self) -> None:
        """Back to the initial learning rate where its decay starts anew with each episode."""
        if self.options.dqn_lr_schedule == "episode":
            self.optimizer.param_groups[0]["lr"] = self.options.dqn_lr

    @torch.no_grad()
    def act(
        self,
        state: Tensor,
        candidates: Tensor,
        epsilon: float,
        generator: torch.Generator,
        per_sub_action: bool = True,
    ) -> Tensor:
        """Choose one candidate per pool, ε-greedily.

        Args:
            state: ``[R, D_s]``.
            candidates: ``[K, M, D_a]``.
            epsilon: probability of a random choice.
            generator: on the CPU. It gives the same count of numbers whatever epsilon is.
            per_sub_action: one coin for each pool; False: one for all of them, as published.

        Returns:
            int64 ``[K]`` on the CPU.

        Raises:
            ValueError: candidates of another shape, or epsilon outside 0..1.
            FloatingPointError: a Q is NaN: a feature isn't finite, or learning has diverged.
        """
        if not 0 <= epsilon <= 1:
            raise ValueError(f"epsilon must be in 0..1, got {epsilon}")
        if candidates.dim() != 3 or candidates.shape[1] < 1:
            raise ValueError(
                f"candidates must be [K, M, D_a] with M at least 1, got {list(candidates.shape)}"
            )
        num_pools, pool_size = candidates.shape[:2]
        coins = torch.rand(num_pools if per_sub_action else 1, generator=generator, device="cpu")
        random = torch.randint(pool_size, (num_pools,), generator=generator, device="cpu")
        if bool((coins < epsilon).all()):
            return random
        q = self.q_values(state, candidates).cpu()  # the one transfer to the host
        wrong = q.isnan().any(1)
        if wrong.any():
            pools = wrong.nonzero().flatten()[:5].tolist()
            raise FloatingPointError(
                f"Q must not be NaN, got NaN in pools {pools}: "
                "a feature was not finite or learning has diverged"
            )
        return torch.where(coins < epsilon, random, q.argmax(dim=1))

    @torch.no_grad()
    def q_values(self, state: Tensor, candidates: Tensor) -> Tensor:
        """Q ``[K, M]`` of ``candidates [K, M, D_a]`` in the state ``[R, D_s]``."""
        encoded = self.query_network.encode_state(state.to(self.device).unsqueeze(0))
        return self.query_network.q_values(encoded.expand(len(candidates), -1), candidates.to(self.device))

    def learn(self, replay_buffer: ReplayBuffer, generator: torch.Generator) -> dict[str, float | None]:
        """Update the query network from the replay buffer.

        Returns:
            ``td_loss`` and ``q_mean`` (the mean Q of the sampled sub-actions), both averaged over this call's
            updates; None where there is nothing to sample yet.

        Raises:
            FloatingPointError: the loss is NaN or infinite. The networks can't be used after that.
        """
        if len(replay_buffer) == 0:
            return {"td_loss": None, "q_mean": None}
        options = self.options
        updates = [self._update(replay_buffer, generator) for _ in range(options.updates_per_step)]
        logged = torch.stack(updates)
        td_loss, q_mean = logged.mean(dim=0).tolist()  # the one transfer to the host per call
        if not math.isfinite(td_loss):
            raise FloatingPointError(
                f"td_loss is {td_loss:g} in learn() call {self.learn_calls + 1} "
                f"(lr {self.lr:g}, loss {options.dqn_loss}): "
                "learning has diverged or a feature was not finite; try a lower lr"
            )
        self.learn_calls += 1
        if options.dqn_lr_schedule != "constant":
            self.optimizer.param_groups[0]["lr"] *= options.dqn_lr_decay
        if options.tau is None and self.learn_calls % options.target_update == 0:
            self.target_network.load_state_dict(self.query_network.state_dict())
        return {"td_loss": td_loss, "q_mean": q_mean}

    def state_dict(self) -> dict[str, Tensor]:
        """Both networks, SGD's momentum, the learning rate and the count of calls: copies in a flat dict."""
        tensors = {f"query_network.{k}": v for k, v in self.query_network.state_dict().items()}
        tensors |= {f"target_network.{k}": v for k, v in self.target_network.state_dict().items()}
        for name, parameter in self.query_network.named_parameters():
            momentum = self.optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:  # none before the first update
                tensors[f"momentum.{name}"] = momentum
        tensors["lr"] = torch.tensor(self.lr, dtype=torch.float64, device="cpu")
        tensors["learn_calls"] = torch.tensor(self.learn_calls, device="cpu")
        return {name: tensor.detach().clone() for name, tensor in tensors.items()}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over what ``state_dict`` gave; learning goes on exactly as it would have.

        Raises:
            ValueError: it belongs to a network of other sizes, or a tensor is missing.
        """
        try:
            self.query_network.load_state_dict(_under("query_network.", tensors))
            self.target_network.load_state_dict(_under("target_network.", tensors))
            self.learn_calls = int(tensors["learn_calls"])
            self.optimizer.param_groups[0]["lr"] = float(tensors["lr"])
        except (RuntimeError, KeyError) as error:
            raise ValueError(f"the agent's saved state does not fit this agent: {error}") from None
        momentum = _under("momentum.", tensors)
        self.optimizer.state.clear()
        for name, parameter in self.query_network.named_parameters():
            if name in momentum:
                self.optimizer.state[parameter]["momentum_buffer"] = momentum[name].to(parameter, copy=True)

    def _update(self, replay_buffer: ReplayBuffer, generator: torch.Generator) -> Tensor:
        """One step of SGD; returns the loss and the mean Q, still on the device."""
        options = self.options
        batch = replay_buffer.sample(
            options.dqn_batch_size, n_step=options.n_step, gamma=options.gamma, generator=generator
        ).to(self.device)
        target = self._target(batch)
        self.query_network.train()  # only here do the BatchNorm statistics move
        encoded = _rows(self.query_network.encode_state(batch.states), batch.state_index)
        q = self.query_network.q_values(encoded, batch.actions, batch.mask)
        q_chosen = q.gather(1, batch.chosen.unsqueeze(1)).squeeze(1)
        loss = (F.smooth_l1_loss if options.dqn_loss == "huber" else F.mse_loss)(q_chosen, target)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.query_network.eval()
        if options.tau is not None:
            _move_towards(self.target_network, self.query_network, options.tau)
        return torch.stack((loss.detach(), q_chosen.detach().mean()))

    @torch.no_grad()
    def _target(self, batch: Batch) -> Tensor:
        if self.options.gamma == 0:
            return batch.reward
        q_query = _next_q(self.query_network, batch)
        q_target = _next_q(self.target_network, batch)
        standard = self.options.double_dqn == "standard"
        select, evaluate = (q_query, q_target) if standard else (q_target, q_query)
        return td_target(batch.reward, batch.discount, select, evaluate, batch.next_mask, batch.done)


def _next_q(network: QueryNetwork, batch: Batch) -> Tensor:
    encoded = _rows(network.encode_state(batch.next_states), batch.next_state_index)
    return network.q_values(encoded, batch.next_actions, batch.next_mask)


def _rows(encoded: Tensor, index: Tensor) -> Tensor:
    """``encoded[index]``, with a gradient always summed in the same order (indexing promises none)."""
    return F.embedding(index, encoded)


@torch.no_grad()
def _move_towards(target_network: nn.Module, query_network: nn.Module, tau: float) -> None:
    """target ← target + tau·(query − target), BatchNorm's statistics included; counters are copied."""
    source = query_network.state_dict()
    for name, tensor in target_network.state_dict().items():
        if tensor.is_floating_point():
            tensor.lerp_(source[name], tau)
        else:
            tensor.copy_(source[name])


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
