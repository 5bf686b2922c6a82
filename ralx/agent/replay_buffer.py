"""What the agent remembers: whole steps, each stored once, sampled as sub-transitions."""

import bisect
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from ralx.support.devices import to_device


@dataclass
class Transition:
    """One step: K sub-transitions with one state and successor. No ``chosen`` while it is played."""

    state: Tensor  # [R, D_s]
    candidates: Tensor  # [K, M, D_a]
    chosen: Tensor | None = None  # [K] int64, on the CPU
    reward: Tensor | None = None  # [K] float64, on the CPU
    done: bool = False


class Batch(NamedTuple):
    """B sub-transitions. A state or a successor that several of them share is held once.

    Pools shorter than the batch's longest are filled up with their own candidates again, so that BatchNorm
    sees nothing made up and a maximum stays what it is; the masks are False on these copies. A sub-transition
    that ends its episode has no successor: its own step stands in, and ``done`` keeps it out of the target.
    """

    states: Tensor  # [S, R, D_s]
    state_index: Tensor  # [B] int64 into states
    actions: Tensor  # [B, M, D_a]: the pool that the sub-action chose from
    mask: Tensor  # [B, M] bool
    chosen: Tensor  # [B] int64 into the pool
    reward: Tensor  # [B] float32: discounted sum over the steps taken
    discount: Tensor  # [B] float32: gamma ** (steps taken)
    done: Tensor  # [B] bool
    next_states: Tensor  # [S', R, D_s]
    next_state_index: Tensor  # [B] int64 into next_states
    next_actions: Tensor  # [B, M', D_a]
    next_mask: Tensor  # [B, M'] bool

    def to(self, device: torch.device | str) -> "Batch":
        return Batch(*(to_device(tensor, torch.device(device)) for tensor in self))


class ReplayBuffer:
    """Steps in the order they were played, across episodes.

    Each step is one ``observe`` (what the agent sees) and one ``record`` (what it did and got). The next
    ``observe`` is the successor unless the step was ``done``.

    Args:
        capacity: sub-transitions to keep. Whole steps are dropped, oldest first; the newest step that can be
            sampled is kept even if it alone holds more.
    """

    def __init__(self, capacity: int):
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1 sub-transition, got {capacity}")
        self.capacity = capacity
        self._steps: list[Transition] = []

    def observe(self, state: Tensor, candidates: Tensor) -> None:
        """Store what the agent sees, ``state [R, D_s]`` and ``candidates [K, M, D_a]``, where they are.

        K and M may differ from step to step, the other sizes may not.

        Raises:
            ValueError: another shape, or the step before has not been recorded.
        """
        if self._steps and self._steps[-1].chosen is None:
            raise ValueError("observe() needs the step before to be recorded: call record() first")
        if state.dim() != 2 or not state.is_floating_point():
            raise ValueError(f"state must be floating [R, D_s], got {state.dtype} {list(state.shape)}")
        if candidates.dim() != 3 or not candidates.is_floating_point() or 0 in candidates.shape:
            raise ValueError(
                f"candidates must be floating [K, M, D_a], none of them 0, "
                f"got {candidates.dtype} {list(candidates.shape)}"
            )
        if self._steps:
            self._check_same_sizes(state, candidates)
            self._follow(state.device, candidates.device)
        self._steps.append(Transition(_own(state), _own(candidates)))
        self._evict()

    def record(self, chosen: Tensor, reward: float | Tensor, done: bool) -> None:
        """Complete the last observation: the candidate chosen per pool (``[K]`` int64) and what came of it,
        one reward for all sub-actions or one for each (``[K]``).

        Raises:
            ValueError: nothing observed; ``chosen`` of another shape or outside 0..M-1; a reward of another
                shape or not finite.
        """
        if not self._steps or self._steps[-1].chosen is not None:
            raise ValueError("record() needs an observation: call observe() first")
        step = self._steps[-1]
        num_pools, pool_size = step.candidates.shape[:2]
        if chosen.shape != (num_pools,) or chosen.dtype != torch.int64:
            raise ValueError(f"chosen must be int64 [{num_pools}], got {chosen.dtype} {list(chosen.shape)}")
        chosen = chosen.detach().to("cpu", copy=True)
        if chosen.min() < 0 or chosen.max() >= pool_size:
            raise ValueError(f"chosen must be in 0..{pool_size - 1}, got {chosen.min()}..{chosen.max()}")
        rewards = torch.as_tensor(reward, dtype=torch.float64, device="cpu").detach()
        if rewards.shape not in ((), (num_pools,)):
            raise ValueError(f"reward must be one number or [{num_pools}], got {list(rewards.shape)}")
        if not rewards.isfinite().all():
            raise ValueError(f"reward must be finite, got {reward}")
        step.chosen, step.reward, step.done = chosen, rewards.expand(num_pools).clone(), bool(done)
        self._evict()

    def __len__(self) -> int:
        """Sub-transitions that can be sampled: recorded, and ended or with the successor observed."""
        return sum(self._sizes())

    def sample(self, batch_size: int, *, n_step: int, gamma: float, generator: torch.Generator) -> Batch:
        """Draw ``batch_size`` sub-transitions uniformly, none twice; all of them where there are fewer.

        The return of each runs over ``n_step`` steps, or to the end of its episode, or to the newest step
        observed, whichever comes first. Sub-transition k bootstraps from pool k of its successor, or k modulo
        K' where the successor has only K' pools.

        Raises:
            ValueError: nothing to sample, or ``batch_size`` or ``n_step`` below 1.
        """
        for name, number in (("batch_size", batch_size), ("n_step", n_step)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        sizes = self._sizes()
        total = sum(sizes)
        if total == 0:
            raise ValueError("nothing to sample: no step has been recorded with its successor yet")
        drawn = torch.randperm(total, generator=generator, device="cpu")[:batch_size].sort().values.tolist()
        ends = list(accumulate(sizes))
        step = [bisect.bisect_right(ends, position) for position in drawn]
        pool = [position - (ends[i] - sizes[i]) for position, i in zip(drawn, step, strict=True)]
        returns = {i: self._n_step_return(i, n_step, gamma) for i in set(step)}
        reward = torch.stack([returns[i][0][k] for i, k in zip(step, pool, strict=True)])
        after = [returns[i][2] for i in step]
        # own pool for a terminal one, which is its own successor here
        next_pool = [k % self._steps[i].candidates.shape[0] for k, i in zip(pool, after, strict=True)]
        states, state_index = self._states(step)
        actions, mask = self._pools(step, pool)
        next_states, next_state_index = self._states(after)
        next_actions, next_mask = self._pools(after, next_pool)
        device = states.device
        chosen = [int(self._chosen(i)[k]) for i, k in zip(step, pool, strict=True)]
        return Batch(
            states=states,
            state_index=state_index,
            actions=actions,
            mask=mask,
            chosen=_on(device, chosen),
            reward=to_device(reward.float(), device),
            discount=_on(device, [returns[i][1] for i in step], torch.float32),
            done=_on(device, [returns[i][3] for i in step]),
            next_states=next_states,
            next_state_index=next_state_index,
            next_actions=next_actions,
            next_mask=next_mask,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Everything remembered as a flat dict of tensors, which nothing changes later."""
        tensors = {}
        for i, step in enumerate(self._steps):
            tensors[f"{i}.state"] = step.state
            tensors[f"{i}.candidates"] = step.candidates
            if step.chosen is not None:
                tensors[f"{i}.chosen"] = step.chosen
                assert step.reward is not None
                tensors[f"{i}.reward"] = step.reward
                tensors[f"{i}.done"] = torch.tensor(step.done, device="cpu")
        return tensors

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over what ``state_dict`` gave; sampling goes on exactly as it would have.

        Raises:
            ValueError: a tensor is missing.
        """
        steps = []
        for i in range(1 + max((int(key.split(".")[0]) for key in tensors), default=-1)):
            try:
                step = Transition(tensors[f"{i}.state"], tensors[f"{i}.candidates"])
                if f"{i}.chosen" in tensors:
                    step.chosen = tensors[f"{i}.chosen"].cpu()
                    step.reward = tensors[f"{i}.reward"].cpu()
                    step.done = bool(tensors[f"{i}.done"])
            except KeyError as missing:
                raise ValueError(f"the replay buffer's state lacks {missing.args[0]}") from None
            steps.append(step)
        self._steps = steps

    def _check_same_sizes(self, state: Tensor, candidates: Tensor) -> None:
        first = self._steps[0]
        if state.shape != first.state.shape:
            raise ValueError(f"state must stay {list(first.state.shape)}, got {list(state.shape)}")
        if candidates.shape[2] != first.candidates.shape[2]:
            raise ValueError(
                f"candidates must stay [K, M, {first.candidates.shape[2]}], got {list(candidates.shape)}"
            )

    def _follow(self, state_device: torch.device, candidates_device: torch.device) -> None:
        """Bring everything to where the newest step is: what was loaded from a file lies on the CPU."""
        for step in self._steps:
            step.state = to_device(step.state, state_device)
            step.candidates = to_device(step.candidates, candidates_device)

    def _can_be_sampled(self, i: int) -> bool:
        step = self._steps[i]
        return step.chosen is not None and (step.done or i + 1 < len(self._steps))

    def _sizes(self) -> list[int]:
        """Sub-transitions of each step that can be sampled: all steps but, at most, the last."""
        return [s.candidates.shape[0] for i, s in enumerate(self._steps) if self._can_be_sampled(i)]

    def _evict(self) -> None:
        sizes = self._sizes()
        total, drop = sum(sizes), 0
        while total > self.capacity and drop < len(sizes) - 1:
            total -= sizes[drop]
            drop += 1
        del self._steps[:drop]

    def _chosen(self, i: int) -> Tensor:
        chosen = self._steps[i].chosen
        assert chosen is not None  # only recorded steps are drawn
        return chosen

    def _n_step_return(self, i: int, n_step: int, gamma: float) -> tuple[Tensor, float, int, bool]:
        """Returns ``[K]``, discount, the step to bootstrap from (``i`` where the episode ended), whether it
        ended. Sub-transition k goes on as k modulo K' where a later step has only K' pools."""
        pools = torch.arange(self._steps[i].candidates.shape[0], device="cpu")
        total, discount, j = torch.zeros(len(pools), dtype=torch.float64, device="cpu"), 1.0, i
        for _ in range(n_step):
            reward = self._steps[j].reward
            assert reward is not None  # only recorded steps are drawn
            total += discount * reward[pools % len(reward)]
            discount *= gamma
            if self._steps[j].done:
                return total, discount, i, True
            j += 1
            if not self._can_be_sampled(j):
                break
        return total, discount, j, False

    def _states(self, steps: list[int]) -> tuple[Tensor, Tensor]:
        """States of the distinct steps, and where each of ``steps`` is among them."""
        distinct = sorted(set(steps))
        place = {i: n for n, i in enumerate(distinct)}
        states = torch.stack([self._steps[i].state for i in distinct])
        return states, _on(states.device, [place[i] for i in steps])

    def _pools(self, steps: list[int], pools: list[int]) -> tuple[Tensor, Tensor]:
        """Pool ``pools[b]`` of step ``steps[b]``, filled up to one length: ``[B, M, D_a]`` and mask."""
        lengths = [self._steps[i].candidates.shape[1] for i in steps]
        longest = max(lengths)
        device = self._steps[steps[0]].candidates.device
        column = torch.arange(longest, device=device)
        rows = [
            self._steps[i].candidates[k] if m == longest else self._steps[i].candidates[k, column % m]
            for i, k, m in zip(steps, pools, lengths, strict=True)
        ]
        mask = column < _on(device, lengths).unsqueeze(1)
        return torch.stack(rows), mask


def _on(device: torch.device, values: list, dtype: torch.dtype | None = None) -> Tensor:
    return to_device(torch.tensor(values, dtype=dtype, device="cpu"), device)


def _own(tensor: Tensor) -> Tensor:
    """A copy that nobody else can change or grow."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)
