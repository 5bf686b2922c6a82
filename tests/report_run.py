"""A run directory with made-up but lifelike numbers, for the report's tests."""

import json
import math
import random
from pathlib import Path

import torch

CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)
SHARES = (16.9, 23.3, 1.0, 31.7, 4.5, 9.7, 1.2, 1.1, 5.9, 0.64, 0.29)
BUDGETS = (48, 72, 96, 120, 144, 192)
METHODS = {"uniform": 0.0, "entropy": 0.012, "bald": 0.006, "ralis": 0.02}
PHASES = {
    "state": 0.05,
    "candidates": 0.21,
    "features": 0.012,
    "select": 0.002,
    "train": 0.3,
    "reward": 0.16,
    "learn": 0.04,
}
REGION_SIZE = (9, 8)
IMAGE_SIZE = (36, 48)


class Pictures:
    """D_V as the report sees it: 40 striped images whose labels follow the stripes, with some void."""

    classes = tuple(CLASSES)
    ignore_index = 255
    image_size = IMAGE_SIZE
    names = tuple(f"scene_{number:03d}" for number in range(40))

    def __len__(self) -> int:
        return len(self.names)

    def batch(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        height, width = self.image_size
        column = torch.arange(width).expand(len(index), height, width)
        row = torch.arange(height)[:, None].expand(len(index), height, width)
        labels = ((column // 6 + row // 9 + index[:, None, None]) % len(self.classes)).to(torch.uint8)
        labels[:, -2:] = 255
        grey = (labels.int() * 20 % 256).to(torch.uint8)
        return torch.stack([grey, grey.flip(-1), grey.flip(-2)], 1), labels


def iou_record(rng: random.Random, level: float) -> dict:
    """Per-class IoU around `level`, lower for rare classes; the fence is absent."""
    iou = {
        name: min(1.0, max(0.0, level * (0.35 + 0.28 * math.log10(1 + 10 * share)) + rng.gauss(0, 0.012)))
        for name, share in zip(CLASSES, SHARES, strict=True)
    }
    iou["fence"] = None
    present = [value for value in iou.values() if value is not None]
    return {"miou": sum(present) / len(present), "iou": iou}


def write_run(folder: Path, *, seeds: int = 3, episodes: int = 40, steps: int = 12, budgets=BUDGETS) -> Path:
    """Writes every file the report reads and returns the folder."""
    rng = random.Random(7)
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "dataset": "camvid",
        "preset": "camvid-small",
        "seed": 0,
        "num_seeds": seeds,
        "budgets": list(budgets),
    }
    (folder / "config.json").write_text(json.dumps(config))
    lines = [json.dumps(step) for seed in range(seeds) for step in learning_steps(rng, seed, episodes, steps)]
    (folder / "steps.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "results.json").write_text(json.dumps(results(rng, seeds, budgets), indent=1))
    levels = {"theta0": 0.42, "theta0_prime": 0.68, "full_supervision": 0.97}
    references = [
        {"method": name, "seed": seed, **iou_record(rng, level)}
        for name, level in levels.items()
        for seed in range(seeds)
    ]
    (folder / "reference.json").write_text(json.dumps(references))
    (folder / "selections").mkdir(exist_ok=True)
    for method in METHODS:
        for seed in range(seeds):
            selection = {"method": method, "seed": seed, "region_size": REGION_SIZE, "budgets": list(budgets)}
            selection["regions"] = regions(rng, method, max(budgets))
            (folder / "selections" / f"{method}-seed{seed}.json").write_text(json.dumps(selection))
    return folder


def learning_steps(rng: random.Random, seed: int, episodes: int, steps: int):
    for episode in range(episodes):
        miou = 0.3
        skill = 1 - math.exp(-3 * episode / episodes)
        for step in range(steps):
            reward = rng.gauss((0.9 + 0.5 * skill) * math.exp(-step / 6), 0.35)
            miou += reward / 100
            early = episode == 0 and step == 0
            yield {
                "seed": seed,
                "episode": episode,
                "step": step,
                "epsilon": 0.05 + 0.85 * math.exp(-5 * episode / episodes),
                "reward": reward,
                "miou": miou,
                "td_loss": None if early else 0.5 * math.exp(-2 * skill) * rng.lognormvariate(0, 0.4),
                "q_mean": None if early else 6 * skill + rng.gauss(0, 0.4),
                "seconds": {
                    name: value * rng.lognormvariate(0, 0.1) * (1 + step / 20 * (name == "features"))
                    for name, value in PHASES.items()
                },
            }


def results(rng: random.Random, seeds: int, budgets) -> list[dict]:
    records = []
    for method, gain in METHODS.items():
        for budget in budgets:
            for seed in range(seeds):
                level = 0.7 + 0.24 * (1 - math.exp(-2 * budget / max(budgets))) + gain * 2
                weights = [share ** (1 - gain * 15) * rng.lognormvariate(0, 0.06) for share in SHARES]
                share = [weight / sum(weights) for weight in weights]
                record = {"method": method, "budget": budget, "seed": seed, **iou_record(rng, level)}
                record["labelled_regions"] = budget
                record["labelled_pixels"] = budget * REGION_SIZE[0] * REGION_SIZE[1]
                record["selected_class_fraction"] = share
                record["selected_entropy"] = -sum(p * math.log(p) for p in share if p > 0)
                records.append(record)
    return records


def regions(rng: random.Random, method: str, count: int) -> list[list]:
    rows, columns = IMAGE_SIZE[0] // REGION_SIZE[0], IMAGE_SIZE[1] // REGION_SIZE[1]
    every = [
        [name, row, column] for name in Pictures.names for row in range(rows) for column in range(columns)
    ]
    rng.shuffle(every)
    if method != "uniform":  # the others prefer the middle rows
        every.sort(key=lambda region: (region[1] not in (1, 2)) + rng.random())
    return every[:count]
