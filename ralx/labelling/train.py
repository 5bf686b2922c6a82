"""Training a project's segmenter on all labels so far, and measuring it on the kept regions."""

import json
import math
from dataclasses import dataclass

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from ralx.datasets.errors import DataError
from ralx.labelling.images import LabelledImages, batches, read_ahead
from ralx.labelling.labels import UNLABELLED
from ralx.labelling.project import Project
from ralx.labelling.worker import BATCH_SIZE, ProjectWorker, recipe_of
from ralx.metrics import iou, mean_iou
from ralx.ops import confusion_matrix
from ralx.runs.segmenters import SegmenterRecipe
from ralx.runs.stage import Artifact, Place, Stage
from ralx.segmentation import predict, train_epoch
from ralx.segmentation.fit import fit
from ralx.support.devices import to_device
from ralx.support.files import write_whole

LR = 1e-2  # of SGD at the first epoch; it falls to a hundredth until the last
BATCHES = 400  # that a training has at least, where the number of epochs isn't given
MOST_EPOCHS, FEWEST_EPOCHS = 200, 10
ENOUGH_KEPT = 20  # regions, to choose the best epoch by: of fewer, chance would choose
RESAMPLES = 1000  # of the kept regions' images, for the interval


@dataclass(frozen=True)
class Train(Stage):
    """A segmenter, trained on every label of a project but those of the kept regions. Its best epoch is
    chosen on the kept regions, once there are enough of them.

    Leaves its weights, and the confusion matrix on each image that has kept regions.
    """

    segmenter: SegmenterRecipe
    labels: str  # hash of all labels, those of the kept regions too
    epochs: int

    @property
    def kind(self) -> str:
        return "train"

    def run(self, place: Place) -> Artifact:
        assert isinstance(place, ProjectWorker)
        project, source = place.project, LabelledImages(place.project)
        data = source.dataset().to(place.device)
        pool = source.pool()
        trainer = self.segmenter.trainer(LR, data, place.device)
        trainer.lr_decay = 0.01 ** (0.5 / self.epochs)  # it is applied twice per epoch
        crops = pool.labelled.view(len(data), -1).sum(1)  # as many of an image as it has labelled regions
        kept = KeptRegions(project)

        def measure() -> float:
            confusion = kept.confusion(trainer.segmenter).sum(0)
            return mean_iou(confusion) if confusion.any() else 0.0

        fit(
            trainer,
            lambda generator: train_epoch(trainer, data, generator=generator, pool=pool, crops=crops),
            measure,
            lr_option="weights",
            name="train",
            key=("labelling", project.settings.seed),
            patience=max(5, self.epochs // 3) if kept.num_regions >= ENOUGH_KEPT else None,
            max_epochs=self.epochs,
            checkpoint=place.checkpoint(self),
            monitor=place.monitor,
        )
        found = {"regions": pool.num_labelled, "pixels": int(data.class_counts().sum())}
        confusion = kept.confusion(trainer.segmenter)
        return Artifact({"weights": trainer.segmenter.state_dict(), "confusion": confusion}, found)


class KeptRegions:
    """The labels that only measure, and their images: read once, since every epoch looks at them."""

    def __init__(self, project: Project):
        self.num_classes = len(project.classes)
        with project.reading() as connection:
            kept = "kept AND state = 'labelled'"
            self.num_regions = connection.execute(f"SELECT count(*) FROM regions WHERE {kept}").fetchone()[0]
            images = connection.execute(
                "SELECT DISTINCT images.* FROM images JOIN regions ON images.number = regions.image "
                f"WHERE {kept} ORDER BY images.number"
            ).fetchall()
        self.batches = [
            (pixels, [torch.from_numpy(project.label_map(image["number"], kept=True)) for image in group])
            for group, pixels in read_ahead(project, batches(images))
        ]

    def confusion(self, segmenter: nn.Module) -> Tensor:
        """int64 [n, C, C] of the kept regions of each image, rows are targets; each image at its own size."""
        found = [torch.zeros(0, self.num_classes, self.num_classes, dtype=torch.int64, device="cpu")]
        for pixels, labels in self.batches:
            logits = predict(segmenter, pixels)
            for one, label in zip(logits, labels, strict=True):
                matrix = confusion_matrix(
                    one[None],
                    to_device(label[None], logits.device),
                    self.num_classes,
                    ignore_index=UNLABELLED,
                    size=(label.shape[0], label.shape[1]),
                    align_corners=True,
                )
                found.append(matrix[None].cpu())
        return torch.cat(found)


def interval(confusion: np.ndarray, seed: int = 0) -> tuple[float, float] | None:
    """A 95 % interval of the mIoU. None for fewer than two images."""
    return middle_of(drawn_again(confusion, seed)) if len(confusion) > 1 else None


def drawn_again(confusion: np.ndarray, seed: int) -> np.ndarray:
    """The mIoU of images drawn again with replacement, since regions of one image are alike, float64
    [`RESAMPLES`]; the draws are the same for the same seed and number of images."""
    shares = [1 / len(confusion)] * len(confusion)
    drawn = np.random.default_rng(seed).multinomial(len(confusion), shares, RESAMPLES)
    return np.array([mean_iou(torch.from_numpy(matrix)) for matrix in np.tensordot(drawn, confusion, 1)])


def middle_of(values: np.ndarray) -> tuple[float, float]:
    """Between which lie 95 % of the values."""
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)


def train(worker: ProjectWorker, epochs: int | None = None, *, restart: bool = False) -> int:
    """Train on all labels so far, from the model before or, with `restart`, from the project's weights; the
    new model's number. A training that was interrupted goes on where labels and epochs are the same.

    DataError where nothing is labelled, or an image changed.
    """
    project, source = worker.project, LabelledImages(worker.project)
    regions = source.pool().num_labelled if source.names else 0
    if not regions:
        raise DataError(f"{project.path}: expected labels to train on, found none; take some first")
    if epochs is None:
        epochs = min(max(BATCHES * BATCH_SIZE // regions, FEWEST_EPOCHS), MOST_EPOCHS)
    models = project.models()
    goes_on = models and not restart
    weights = project.model_file(models[-1]["number"]) if goes_on else project.settings.weights
    stage = Train(recipe_of(project, weights), project.hash_of_labels(), epochs)
    artifact = worker.result(stage)
    number = models[-1]["number"] + 1 if models else 1
    write_whole(project.model_file(number), save(artifact.tensors["weights"]))
    _note(project, number, artifact)
    worker.clear(stage)
    return number


def _note(project: Project, number: int, artifact: Artifact) -> None:
    """Write down what was trained and how good it is."""
    confusion = artifact.tensors["confusion"].numpy()
    total = torch.from_numpy(confusion.sum(0))
    by_class = [None if math.isnan(value) else value for value in iou(total).tolist()]
    miou = mean_iou(total) if total.any() else None
    low, high = interval(confusion, project.settings.seed) or (None, None)
    with project.writing() as connection:
        connection.execute(
            "INSERT INTO models (number, round, regions, pixels, minutes, miou, low, high, iou) SELECT ?, "
            "(SELECT max(number) FROM rounds WHERE is_open), ?, ?, "
            "(SELECT sum(seconds) / 60 FROM labels WHERE NOT undone), ?, ?, ?, ?",
            (
                number,
                artifact.found["regions"],
                artifact.found["pixels"],
                *(miou, low, high),
                json.dumps(dict(zip(project.classes.names, by_class, strict=True))),
            ),
        )
