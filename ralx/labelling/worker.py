"""What does the stages of a labelling project, in this process, and the segmenter that they are about."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from ralx.labelling.project import Project
from ralx.runs.config import SegmenterConfig, TrainingConfig
from ralx.runs.engine import Worker, run_here
from ralx.runs.segmenters import SegmenterRecipe
from ralx.runs.stage import Artifact, Stage
from ralx.runs.store import Store
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

    def segmenter(self, model: Path) -> nn.Module:
        """The segmenter that was trained before, from its file."""
        return trained_segmenter(self.project, model, self.device)

    def result(self, stage: Stage) -> Artifact:
        """Do the stage, going on where it was interrupted, and give what it leaves."""
        run_here([stage], self)
        return self.artifact(stage)

    def clear(self, stage: Stage) -> None:
        """Forget what the stage left, which is in the project by now, and where stages of its kind were
        interrupted: the project has changed, and none of them goes on."""
        self.store.lock.hold()
        kind = stage.kind.split()[0]
        left = (self.store.folder / "store").glob("*.safetensors")
        for path in (*left, *(self.store.folder / "checkpoint").glob(f"{kind}-*.safetensors")):
            path.unlink()


def recipe_of(project: Project, weights: Path | None) -> SegmenterRecipe:
    """How a project's segmenter is made and trained, beginning with the weights of a file, or random ones."""
    settings = project.settings
    return SegmenterRecipe(
        SegmenterConfig(segmenter=settings.segmenter, weights=weights),
        TrainingConfig(crop_size=CROP_SIZE, batch_size=BATCH_SIZE, loss_weights="rarity"),
        settings.seed,
        library_files(settings.segmenter),
    )


def trained_segmenter(project: Project, model: Path, device: torch.device) -> nn.Module:
    """The segmenter of a model's file, in eval mode. ValueError where the file is missing, damaged, or of
    another segmenter or other classes."""
    segmenter = recipe_of(project, model).segmenter(len(project.classes), device)
    set_mode(segmenter, False)
    return segmenter


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
