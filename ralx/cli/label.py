"""`ralx-label`: label one's own images with few labels: ask for regions, take the labels, train, and again.

Exit codes: 0 done, 1 failed, 2 wrong options or files, 130 interrupted (the same command goes on).
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from ralx.cli.command import WrongInput, exit_code
from ralx.datasets.images import find_images
from ralx.labelling.ask import DEFAULT_METHOD, DEFAULT_REGIONS, ask, how_many
from ralx.labelling.demo import demo
from ralx.labelling.predict import export, predict
from ralx.labelling.project import Project, Settings, new_project
from ralx.labelling.report import write_report
from ralx.labelling.status import in_words, status
from ralx.labelling.take import take
from ralx.labelling.train import train
from ralx.labelling.worker import working_in
from ralx.segmentation.adapters import library_name_from
from ralx.support.monitor import Monitor
from ralx.support.threads import usable_threads

ProjectFolder = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PROJECT")]
Exports = Literal["png", "cvat", "label-studio", "labelme", "coco", "nnunet", "napari"]
Formats = Literal["bundle", Exports]


@dataclass(frozen=True)
class New:
    """Make a project of a folder of images and a list of classes."""

    project: ProjectFolder
    """Folder of the project, which isn't there yet."""
    images: Path
    """Folder of the images: JPEG, PNG, TIFF, WebP, in sub-folders too. They stay where they are."""
    classes: Path
    """File of the classes: a name a line, or JSON with colours and what is void."""
    labels: Path | None = None
    """Folder of masks that some images have already: PNG, named as the image."""
    region_size: tuple[int, int] | None = None
    """Height and width of a region in pixels. Default: 64 64, or less where an image is smaller."""
    segmenter: str = Settings.segmenter
    """fpn-mobilenetv2, fpn-resnet50, fpn-resnet34, fpn-resnet18, fpn-small; another library's network, as
    smp:Unet?encoder_name=resnet34, torchvision:deeplabv3_resnet50 or hf:FOLDER (of transformers, local); or
    package.module:factory."""
    weights: Path | None = None
    """Weights to begin with: a safetensors or torch file, torchvision's of the encoder too."""
    seed: int = 0
    """Of every random draw of the project."""

    def run(self) -> str:
        project = new_project(
            self.project,
            self.images,
            self.classes,
            labels=self.labels,
            region_size=self.region_size,
            segmenter=library_name_from(Path.cwd(), self.segmenter),
            weights=self.weights,
            seed=self.seed,
        )
        skipped = find_images(self.images).skipped
        lines = [f"skipped: {count} {why}" for why, count in sorted(skipped.items())]
        return "\n".join([in_words(project), *lines, f"next: ralx-label ask {self.project}"])


@dataclass(frozen=True)
class Ask:
    """Choose the regions whose labels help most, and write the files to label them by."""

    project: ProjectFolder
    regions: int | None = None
    """How many; 20 unless pixels or minutes are given. A tenth is drawn at random and only measures how good
    the model is."""
    pixels: int | None = None
    """Instead: as many regions as have so many pixels."""
    minutes: float | None = None
    """Instead: as many regions as people labelled in so many minutes so far."""
    method: str = DEFAULT_METHOD
    """How they are chosen: one of `ralx-train`'s methods, or package.module:function. ralis: by a policy that
    learns what the segmenter gets wrong from the labels that came back; by entropy until it has seen 24 of
    them. Without a model: at random, spread over the images."""
    format: Formats = "bundle"
    """What the files are for; bundle: any painting program, and the page."""
    to: Path | None = None
    """Folder of the files. Default: rounds/N/ask in the project."""
    prelabel: tyro.conf.FlagCreatePairsOff[bool] = False
    """Write the model's guess into the label files, to be corrected."""

    def run(self) -> str:
        project = Project(self.project)
        count = how_many(project, self.regions, self.pixels, self.minutes)
        with working_in(project) as worker:
            number, folder = ask(
                worker,
                count,
                method=self.method,
                format=self.format,
                to=self.to,
                prelabel=self.prelabel,
            )
        return f"round {number}: {folder}\nnext: label, then ralx-label take {self.project} {folder}"


@dataclass(frozen=True)
class Take:
    """Take the labels that people made, all or a part, any number of times."""

    project: ProjectFolder
    path: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PATH")]
    """File or folder of the labels."""
    unpainted: str | None = None
    """Class of what isn't painted inside of what was asked. Default: it stays unlabelled."""
    annotator: str | None = None
    """Who labelled."""
    format: Exports | None = None
    """What the files are. Default: told from the files."""

    def run(self) -> str:
        project = Project(self.project)
        found = take(
            project, self.path, unpainted=self.unpainted, annotator=self.annotator, format=self.format or ""
        )
        return str(found)


@dataclass(frozen=True)
class Undo:
    """Take labels back: of a region, or of a round, the last by default. A round without labels goes."""

    project: ProjectFolder
    round: int | None = None
    """Number of the round. Default: the last."""
    region: str | None = None
    """Id of a region, instead of a round."""

    def run(self) -> str:
        project = Project(self.project)
        if self.region is None:
            return project.undo_round(self.round)
        if self.round is not None:
            raise WrongInput("--region: must not be given beside --round")
        project.undo_region(self.region)
        return f"{self.region}: its label is taken back; it is asked again"


@dataclass(frozen=True)
class Train:
    """Train the segmenter on all labels so far. Interrupted, the same command goes on."""

    project: ProjectFolder
    epochs: int | None = None
    """Passes over all labelled regions. Default: some 400 batches, at least 10 epochs and at most 200."""
    restart: tyro.conf.FlagCreatePairsOff[bool] = False
    """Begin with the project's weights instead of the model before."""

    def run(self) -> str:
        if self.epochs is not None and self.epochs < 1:
            raise WrongInput(f"--epochs: must be at least 1, got {self.epochs}")
        project = Project(self.project)
        with working_in(project) as worker:
            number = train(worker, self.epochs, restart=self.restart)
        return f"model {number}: {project.model_file(number)}\n{in_words(project)}"


@dataclass(frozen=True)
class Status:
    """How many labels there are, and how good the model is on the kept regions."""

    project: ProjectFolder
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON object."""

    def run(self) -> str:
        project = Project(self.project)
        return json.dumps(status(project), indent=1, allow_nan=False) if self.json else in_words(project)


@dataclass(frozen=True)
class Report:
    """Write a page of how good the model is, what the last rounds brought, and pictures of both."""

    project: ProjectFolder

    def run(self) -> str:
        return f"report: {write_report(Project(self.project))}"


@dataclass(frozen=True)
class Predict:
    """Write a mask for every image of a folder: a grey PNG of class ids."""

    project: ProjectFolder
    images: Path
    """Folder of the images, with sub-folders."""
    to: Path
    """Folder of the masks, outside of that of the images."""

    def run(self) -> str:
        return f"{predict(Project(self.project), self.images, self.to, Monitor())} masks: {self.to}"


@dataclass(frozen=True)
class Export:
    """Write the labelled images and their labels as other tools read them."""

    project: ProjectFolder
    to: Path
    """Folder of the data set: empty, or not there yet."""
    format: Exports = "png"
    """What the files are for. png comes without the images."""

    def run(self) -> str:
        return f"{export(Project(self.project), self.to, self.format)} images: {self.to}"


@dataclass(frozen=True)
class Serve:
    """Open the page to paint on: a server on this machine, whose address has a token in it."""

    project: ProjectFolder
    host: str = "127.0.0.1"
    """Address to listen at. Others than this machine's own let whoever has the token in."""
    port: int = 8765
    """0: any that is free."""
    annotator: str = ""
    """Name that the page proposes."""
    regions: int = DEFAULT_REGIONS
    """How many regions are asked for once a batch is done, after a training in the background."""

    def run(self) -> str:
        try:
            from ralx.labelling.page import Background, serve
        except ImportError as error:
            raise WrongInput(f"serve: needs a package, pip install 'ralx[label]': {error}") from error
        if not 0 <= self.port <= 65535:
            raise WrongInput(f"--port: must be in 0..65535, got {self.port}")
        if self.regions < 1:
            raise WrongInput(f"--regions: must be at least 1, got {self.regions}")
        project = Project(self.project)
        command = [sys.executable, "-m", "ralx.cli.label"]
        steps = [
            [*command, "train", str(self.project)],
            [*command, "ask", str(self.project), "--regions", str(self.regions)],
        ]
        serve(
            project,
            self.host,
            self.port,
            annotator=self.annotator,
            next_batch=lambda: Background(*steps),
        )
        return "the page is closed; what was saved is in the project"


@dataclass(frozen=True)
class Demo:
    """Show all of it in two minutes, on generated scenes with an annotator that knows the truth."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """Folder of the demonstration: of an earlier one, empty, or not there yet."""

    def run(self) -> str:
        page = demo(self.folder, Monitor())
        return (
            f"report: {page}\nnext: paint the last round yourself: ralx-label serve {self.folder / 'project'}"
        )


COMMANDS = (New, Ask, Take, Undo, Train, Status, Report, Predict, Export, Serve, Demo)


def parse(arguments: list[str]) -> Any:
    """The command that is given, with its options."""
    commands: dict[str, Callable[..., Any]] = {each.__name__.lower(): each for each in COMMANDS}
    description = (__doc__ or "").splitlines()[0]
    return tyro.extras.subcommand_cli_from_dict(
        commands, prog="ralx-label", description=description, args=arguments
    )


def main(arguments: list[str] | None = None) -> int:
    """Run `ralx-label`; returns its exit code."""
    given = sys.argv[1:] if arguments is None else arguments

    def command() -> int:
        chosen = parse(given)
        torch.set_num_threads(usable_threads())
        try:
            print(chosen.run())
        except ValueError as error:  # of an option: what is refused later is a DataError or RunError
            raise WrongInput(error) from error
        return 0

    return exit_code("ralx-label", command, interrupted="interrupted; the same command goes on")


if __name__ == "__main__":
    sys.exit(main())
