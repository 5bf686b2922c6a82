"""Active learning with a segmenter and a training loop of your own; ralx says which regions to label next.

python examples/own_loop.py

Street scenes stand in for your images, and their masks for the people who label. Each round asks for the
labels of 32 regions and trains on all labels so far. Two ways to choose are compared: random regions, and
those where the segmenter's two best classes are closest ("margin"). The first round is random in both.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

import ralx
from ralx.acquisition import ACQUISITIONS, best
from ralx.datasets import CAMVID_CLASSES, synthetic_dataset
from ralx.metrics import mean_iou
from ralx.regions import RegionGrid, RegionPool

IMAGES, TEST_IMAGES, IMAGE_SIZE, REGION_SIZE = 96, 48, (48, 64), (12, 16)  # sizes in pixels: height, width
ROUNDS, REGIONS_PER_ROUND, EPOCHS = 5, 32, 12
UNLABELLED = 255  # a pixel whose class nobody has told


def build_segmenter() -> nn.Module:
    """Images [N, 3, H, W] → logits [N, C, H/4, W/4]."""
    layers: list[nn.Module] = []
    for channels, out, stride in ((3, 16, 2), (16, 32, 2), (32, 32, 1), (32, 32, 1)):
        layers += [nn.Conv2d(channels, out, 3, stride, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(out, len(CAMVID_CLASSES), 1))


def train(segmenter: nn.Module, images: Tensor, labels: Tensor) -> None:
    """On all pixels that have a label."""
    optimizer = torch.optim.SGD(segmenter.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.05, EPOCHS)
    with_labels = (labels != UNLABELLED).flatten(1).any(1).nonzero().flatten()
    segmenter.train()
    for _ in range(EPOCHS):
        for batch in with_labels[torch.randperm(len(with_labels))].split(16):
            logits = interpolate(segmenter(images[batch]), IMAGE_SIZE, mode="bilinear")
            optimizer.zero_grad()
            cross_entropy(logits, labels[batch], ignore_index=UNLABELLED).backward()
            optimizer.step()
        schedule.step()


@torch.no_grad()
def measure(segmenter: nn.Module, images: Tensor, labels: Tensor) -> float:
    """mIoU in %."""
    logits, classes = segmenter.eval()(images), len(CAMVID_CLASSES)
    return 100 * mean_iou(ralx.confusion_matrix(logits, labels, classes, size=IMAGE_SIZE))


def scenes(name: str, count: int) -> tuple[Tensor, Tensor]:
    """Images float32 [N, 3, H, W] in -0.5..0.5, labels int64 [N, H, W]."""
    dataset = synthetic_dataset([f"{name}-{number}" for number in range(count)], IMAGE_SIZE)
    images, labels = dataset.batch(torch.arange(count))
    return images / 255 - 0.5, labels.long().masked_fill(labels == dataset.ignore_index, UNLABELLED)


def learn_actively(method: str, images: Tensor, hidden: Tensor, test: tuple[Tensor, Tensor]) -> list[float]:
    """mIoU on the test scenes after each round, in %; `hidden` are the labels that nobody has told yet."""
    torch.manual_seed(0)
    pool = RegionPool(RegionGrid(IMAGES, IMAGE_SIZE, REGION_SIZE))
    segmenter, curve = build_segmenter(), []
    for number in range(ROUNDS):
        score = ACQUISITIONS["uniform" if number == 0 else method]  # an untrained segmenter knows nothing
        scores = score(segmenter, images, REGION_SIZE).flatten()
        pool.label(best(scores.masked_fill(~pool.unlabelled, -torch.inf), REGIONS_PER_ROUND))
        # Here people would label the regions that were asked for, `pool.order[-REGIONS_PER_ROUND:]`.
        asked = pool.pixel_mask(torch.arange(IMAGES))
        train(segmenter, images, hidden.masked_fill(~asked, UNLABELLED))
        curve.append(measure(segmenter, *test))
    return curve


if __name__ == "__main__":
    torch.set_num_threads(1)  # the same numbers in every run; more threads hardly help so small a network
    data, test = scenes("street", IMAGES), scenes("test", TEST_IMAGES)
    curves = [learn_actively(method, *data, test) for method in ("uniform", "margin")]
    print(f"mIoU in % on {TEST_IMAGES} test scenes\n\nregions  random  margin")
    for number, (random, margin) in enumerate(zip(*curves, strict=True), 1):
        print(f"{number * REGIONS_PER_ROUND:7}  {random:6.1f}  {margin:6.1f}")
