"""Pictures of the agent's learning: its curves over episodes, and where the time goes."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ralx.acquisition.methods import METHODS
from ralx.agent.policy_file import MOSTLY_GREEDY
from ralx.report.records import Record, Run
from ralx.report.style import INK, PALE, new_figure, plain_text, readable


@plain_text
def learning_curves(run: Run) -> Figure | None:
    """The agent over episodes: return, final mIoU on D_R, mIoU within an episode, ε, TD loss and mean Q."""
    if not run.steps:
        return None
    figure = new_figure(11.0, 6.2)
    panels = figure.subplots(2, 3)
    episodes = whole_episodes(run.steps)
    final = [(*key, steps[-1]["miou"] * 100) for key, steps in episodes.items()]
    returns = [(*key, math.fsum(step["reward"] for step in steps)) for key, steps in episodes.items()]
    _curve(panels[0, 0], returns, "Episode return", "sum of rewards")
    _curve(panels[0, 1], final, "Reward-set mIoU after the episode", "mIoU [%]")
    _mark_kept(panels[0, 1], episodes)
    _within_episode(panels[0, 2], list(episodes.values()))
    _curve(panels[1, 0], _by_step(run.steps, "epsilon"), "Exploration rate ε", "ε", smooth=False)
    panels[1, 0].set_ylim(0, 1)
    _curve(panels[1, 1], _by_step(run.steps, "td_loss"), "TD loss", "loss")
    _curve(panels[1, 2], _by_step(run.steps, "q_mean"), "Mean Q of the sampled batch", "Q")
    for panel in panels.flat:
        panel.xaxis.set_major_locator(_whole_numbers())
    return figure


Point = tuple[int, float, float]  # seed, x, value


def _whole_numbers() -> MaxNLocator:
    return MaxNLocator(6, integer=True, steps=[1, 2, 5, 10])


def whole_episodes(steps: Sequence[Record]) -> dict[tuple[int, int], list[Record]]:
    """(seed, episode) → its steps in order, without episodes cut off: shorter than the seed's longest."""
    episodes: dict[tuple[int, int], list[Record]] = {}
    for step in sorted(steps, key=lambda step: (step["seed"], step["episode"], step["step"])):
        episodes.setdefault((step["seed"], step["episode"]), []).append(step)
    longest: dict[int, int] = {}
    for (seed, _), found in episodes.items():
        longest[seed] = max(longest.get(seed, 0), len(found))
    return {key: found for key, found in episodes.items() if len(found) == longest[key[0]]}


def _by_step(steps: Sequence[Record], name: str) -> list[Point]:
    """The value at each step that has one; x is the time in episodes."""
    length = 1 + max(step["step"] for step in steps)
    return [
        (step["seed"], step["episode"] + step["step"] / length, step[name])
        for step in steps
        if step[name] is not None
    ]


def _curve(axes: Axes, points: Sequence[Point], title: str, label: str, smooth: bool = True) -> None:
    """A pale line for each seed, and over them the seeds' mean, smoothed over a tenth of the points."""
    colour = METHODS["ralis"].colour
    axes.set(title=title, xlabel="episode", ylabel=label)
    if not points:
        axes.text(
            0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", va="center", color="#666666"
        )
        return
    alpha = PALE if len(points) <= 1000 else PALE / 4  # many lines over each other become opaque
    for seed in sorted({seed for seed, _, _ in points}):
        line = sorted((x, value) for owner, x, value in points if owner == seed)
        axes.plot([x for x, _ in line], [value for _, value in line], color=colour, alpha=alpha, lw=1.0)
    xs, place = np.unique([x for _, x, _ in points], return_inverse=True)
    means = np.bincount(place, [value for _, _, value in points]) / np.bincount(place)
    bold = running_mean(means, len(means) // 10) if smooth else means
    axes.plot(xs, bold, color="white", lw=4.0)  # sets the mean apart from the seeds
    axes.plot(xs, bold, color=colour, lw=2.0)


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over about `window` values centred on each one; at the ends over as many as there are."""
    half = max(window, 1) // 2
    total = np.concatenate([[0.0], np.cumsum(values)])
    place = np.arange(len(values))
    low, high = np.maximum(place - half, 0), np.minimum(place + half + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def _mark_kept(axes: Axes, episodes: Mapping[tuple[int, int], list[Record]]) -> None:
    """A star on each seed's episode whose policy is kept: the best of those that it played itself."""
    last = [steps[-1] for steps in episodes.values()]
    kept = []
    for seed in sorted({step["seed"] for step in last}):
        own = [step for step in last if step["seed"] == seed]
        played = [step for step in own if step["epsilon"] <= MOSTLY_GREEDY] or own[-1:]
        kept.append(max(played, key=lambda step: (step["miou"], -step["episode"])))
    place, value = [step["episode"] for step in kept], [step["miou"] * 100 for step in kept]
    axes.plot(place, value, ls="", marker="*", ms=12, color=INK, mec="white", label="kept policy")
    axes.legend(loc="best", handletextpad=0.2)


def _within_episode(axes: Axes, episodes: list[list[Record]]) -> None:
    """mIoU on D_R step by step: the first quarter of the episodes, and the last one."""
    by_number = sorted(episodes, key=lambda steps: steps[0]["episode"])
    quarter = max(1, len(by_number) // 4)
    last_colour = METHODS["ralis"].colour
    parts = [("#999999", by_number[:quarter]), (last_colour, by_number[-quarter:])]
    for colour, part in parts if len(by_number) > 1 else parts[1:]:
        length = min(len(steps) for steps in part)
        curves = np.array([[step["miou"] * 100 for step in steps[:length]] for steps in part])
        mean = curves.mean(0)
        std = curves.std(0, ddof=1) if len(curves) > 1 else np.zeros(length)
        place = [step["step"] for step in part[0][:length]]
        label = f"{part[0][0]['episode']} to {part[-1][0]['episode']}"
        axes.plot(place, mean, color=colour, lw=2.0, label=label)
        axes.fill_between(place, mean - std, mean + std, color=colour, alpha=PALE, lw=0)
    axes.set(title="Reward-set mIoU within an episode", xlabel="step", ylabel="mIoU [%]")
    axes.legend(loc="lower right", title="episodes")


# forward, which is part of several, then the others as a step runs them
_PHASES = ("forward", "state", "candidates", "select", "train", "reward", "learn")
_PHASE_COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#F0E442", "#D55E00", "#E69F00", "#CC79A7", "#999999")


@plain_text
def step_seconds(run: Run) -> Figure | None:
    """Left: mean seconds of a learning step by phase. Right: the same along an episode's steps, stacked."""
    found = dict.fromkeys(phase for step in run.steps for phase in step["seconds"])
    phases = [name for name in _PHASES if name in found] + [name for name in found if name not in _PHASES]
    if not phases:
        return None
    seconds = np.array([[step["seconds"].get(phase, 0.0) for phase in phases] for step in run.steps])
    mean = seconds.mean(0)
    colours = [_PHASE_COLOURS[place % len(_PHASE_COLOURS)] for place in range(len(phases))]
    figure = new_figure(10.6, 1.4 + 0.42 * max(len(phases), 5))
    left, right = figure.subplots(1, 2)
    left.barh(range(len(phases)), mean, color=colours, height=0.7)
    total = mean.sum()
    for place, value in enumerate(mean):
        share = value / total if total else 0.0
        left.text(value, place, f"  {seconds_text(value)} · {share * 100:.1f} %", va="center", fontsize=9)
    left.set_yticks(range(len(phases)), [readable(name) for name in phases])
    left.set_ylim(len(phases) - 0.4, -0.6)
    left.set_xlim(right=max(mean.max(), 1e-9) * 1.4)
    left.grid(axis="y", visible=False)
    left.tick_params(axis="y", length=0)
    left.set(xlabel="seconds", title=f"Mean of {len(run.steps):,} steps: {seconds_text(total)} a step")
    numbers = np.array([step["step"] for step in run.steps])
    places = np.unique(numbers)
    stacked = np.array([seconds[numbers == place].mean(0) for place in places])
    base = np.zeros(len(places))
    for column, colour in enumerate(colours):
        right.bar(places, stacked[:, column], bottom=base, color=colour, width=0.85)
        base += stacked[:, column]
    right.grid(axis="x", visible=False)
    right.xaxis.set_major_locator(_whole_numbers())
    right.set(xlabel="step of the episode", ylabel="seconds", title="Over an episode")
    return figure


def seconds_text(seconds: float) -> str:
    """Three significant digits in a unit that suits: 1.23 s, 45.6 ms."""
    return f"{seconds:#.3g} s" if seconds >= 1 else f"{seconds * 1000:#.3g} ms".replace(". ", " ")
