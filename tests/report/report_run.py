"""Made-up records and images of a run, for the report's tests."""

import json
from pathlib import Path

import numpy as np
import torch

from ralx.report.records import Run

CLASSES = ("sky", "building", "pole", "road", "tree", "fence")
REGION_SIZE = (9, 8)
IMAGE_SIZE = (36, 48)
STEP = {
    "seed": 0,
    "episode": 0,
    "step": 0,
    "epsilon": 0.9,
    "reward": 0.5,
    "miou": 0.3,
    "td_loss": None,
    "q_mean": None,
    "seconds": {"state": 0.1},
}
SELECTION = {
    "method": "ralis",
    "seed": 0,
    "region_size": list(REGION_SIZE),
    "budgets": [24],
    "regions": [["scene_000", 0, 0]],
}


class Pictures:
    """D_V as the report sees it: 40 striped images whose labels follow the stripes, with some void."""

    classes = CLASSES
    ignore_index = 255
    image_size = IMAGE_SIZE
    names = tuple(f"scene_{number:03d}" for number in range(40))
    palette = np.arange(3 * len(CLASSES), dtype=np.uint8).reshape(-1, 3)

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


def result(method, budget, seed, miou, *, iou=None, share=(0.75, 0.25), entropy=0.5):
    return {
        "method": method,
        "budget": budget,
        "seed": seed,
        "miou": miou,
        "iou": iou or {"road": miou, "pole": None},
        "selected_class_fraction": list(share),
        "selected_entropy": entropy,
    }


def reference(method, seed, miou):
    return {"method": method, "seed": seed, "miou": miou, "iou": {"road": miou, "pole": None}}


def step(episode, number, miou, *, seed=0, reward=1.0, **others):
    return STEP | {"seed": seed, "episode": episode, "step": number, "miou": miou, "reward": reward} | others


def selection(method, seed, regions, budgets=(2,)):
    return SELECTION | {"method": method, "seed": seed, "regions": regions, "budgets": list(budgets)}


def run_of(results=(), references=(), steps=(), selections=(), config=None) -> Run:
    return Run(config or {}, list(steps), list(results), list(references), list(selections))


RESULTS = [
    result("uniform", 24, 0, 0.50, entropy=1.00),
    result("uniform", 24, 1, 0.52, entropy=1.10),
    result("ralis", 24, 0, 0.60, entropy=1.30),
    result("ralis", 24, 1, 0.64, entropy=1.34),
    result("uniform", 48, 0, 0.66, entropy=1.00),
    result("uniform", 48, 1, 0.68, entropy=1.20),
    result("ralis", 48, 0, 0.67, entropy=1.00),
    result("ralis", 48, 1, 0.67, entropy=1.10),
]
REFERENCES = [
    reference("theta0_prime", 0, 0.30),
    reference("theta0_prime", 1, 0.34),
    reference("full_supervision", 0, 0.68),
    reference("full_supervision", 1, 0.70),
]


def lines(*records) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def write_run(folder: Path) -> Path:
    """Writes every file that the report reads and returns the folder."""
    steps = [
        step(episode, n, 0.3 + 0.02 * episode + 0.01 * n, seed=seed, td_loss=0.1, q_mean=float(n))
        for seed in range(2)
        for episode in range(8)
        for n in range(5)
    ]
    regions = [[f"scene_{number // 12:03d}", number % 4, number % 6] for number in range(48)]
    (folder / "selections").mkdir(parents=True)
    for method in "ralis", "uniform":
        chosen = selection(method, 0, regions, budgets=(24, 48))
        (folder / "selections" / f"{method}-seed0.json").write_text(json.dumps(chosen))
    (folder / "config.json").write_text(json.dumps({"dataset": "camvid", "seed": 0, "num_seeds": 2}))
    (folder / "steps.jsonl").write_text(lines(*steps))
    (folder / "results.json").write_text(json.dumps(RESULTS))
    (folder / "reference.json").write_text(json.dumps(REFERENCES))
    return folder
