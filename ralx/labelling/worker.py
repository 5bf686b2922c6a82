"""Does the stages of a labelling project, in this process."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from ralx.datasets.errors import DataError
from ralx.labelling.project import Project
from ralx.runs.config import SegmenterConfig, TrainingConfig
from ralx.runs.engine import Worker, run_here
from ralx.runs.segmenters import SegmenterRecipe
from ralx.runs.stage import Artifact, Stage
from ralx.runs.store import Store
from ralx.segmentation import Precision
from ralx.segmentation.adapters import library_files
from ralx.segmentation.modes import set_mode
from ralx.support.devices import find_device
from ralx.support.monitor import Monitor

CROP_SIZE = (256, 256)  # of training, in pixels; never larger than an image
BATCH_SIZE = 8  # crops per training batch


class ProjectWorker(Worker):
    """A `Place` for a project's stages, see `working_in`."""

    def __init__(self, project: Project, store: Store, device: torch.device, monitor: Monitor):
        super().__init__(store, device, monitor)
        self.project = project
        self.recipe = recipe_of(project)

    @property
    def batch_size(self) -> int:
        return self.recipe.network.inference_batch_size

    @property
    def precision(self) -> Precision:
        return self.recipe.network.precision

    def segmenter(self, model: Path) -> nn.Module:
        """The segmenter that was trained before, from its file, in eval mode."""
        segmenter = self.recipe.segmenter(len(self.project.classes), self.device)
        load_model(segmenter, model)
        set_mode(segmenter, False)
        return segmenter

    def result(self, stage: Stage) -> Artifact:
        """Do the stage, going on where it was interrupted, and give what it leaves."""
        run_here([stage], self)
        return self.artifact(stage)

    def clear(self) -> None:
        """Forget what the stages left: it is in the project by now."""
        for path in (self.store.folder / "store").glob("*.safetensors"):
            self.store.lock.hold()
            path.unlink()


def recipe_of(project: Project) -> SegmenterRecipe:
    """How a project's segmenter is made and trained."""
    settings = project.settings
    return SegmenterRecipe(
        SegmenterConfig(segmenter=settings.segmenter, weights=settings.weights),
        TrainingConfig(crop_size=CROP_SIZE, batch_size=BATCH_SIZE, loss_weights="rarity"),
        settings.seed,
        library_files(settings.segmenter),
    )


def load_model(segmenter: nn.Module, path: Path) -> None:
    """DataError where the file is missing, damaged, or of another segmenter or other classes."""
    try:
        segmenter.load_state_dict(load_file(path))
    except Exception as error:  # safetensors and torch raise many kinds
        text = " ".join(str(error).split("\n", 2)[:2])
        raise DataError(f"{path}: expected the weights of the project's segmenter: {text}") from error


@contextlib.contextmanager
def working_in(
    project: Project, device: str = "auto", monitor: Monitor | None = None
) -> Iterator[ProjectWorker]:
    """A worker, alone at asking and training in the project: RunError where another process is."""
    with project.working() as lock:
        store = Store(project.path / "models", project.path / "models" / "cache", lock)
        store.clear_torn()
        project.write_labels()
        yield ProjectWorker(project, store, find_device(device), monitor or Monitor())
