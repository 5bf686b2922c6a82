"""A labelling project on real photographs: what asking by the policy brings against asking at random.

python bench/label_curve.py CAMVID OUT [--classes 4] [--rounds 5] [--regions 40] [--seeds 2]

CamVid's training photographs in three sizes are the project's images. An annotator who reads the truth labels
what is asked, through index PNG, CVAT and Label Studio files in turn, all by `ralx-label`. After each round
the model's masks of CamVid's test photographs are measured. OUT gets the projects, results.json, table.md and
curve.png; started again, it goes on.
"""

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

import ralx
from ralx.cli.label import main as label
from ralx.datasets import CAMVID_CLASSES
from ralx.labelling import Project
from ralx.labelling.bundle import box_in_crop, crop_box
from ralx.labelling.formats import FORMATS, Item
from ralx.labelling.labels import UNLABELLED, to_png
from ralx.metrics import mean_iou
from ralx.support.files import write_json, write_whole
from ralx.support.folder import whole_folder

SIZES = ((120, 160), (96, 128), (144, 192))  # height, width of the photographs, in turn
TOOLS = ("png", "cvat", "label-studio")
METHODS = ("ralis", "entropy", "uniform")
# Four classes of CamVid's eleven: what stands, what one drives on, what moves, and the sky.
COARSE = {"sky": "sky", "road": "ground", "pavement": "ground"} | dict.fromkeys(
    ("car", "pedestrian", "bicyclist"), "moving"
)


def ids(classes: int) -> tuple[list[str], np.ndarray]:
    """The names of the classes, and the class of each of CamVid's label ids, uint8 [256]."""
    names = [COARSE.get(name, "standing") if classes == 4 else name for name in CAMVID_CLASSES]
    distinct = list(dict.fromkeys(names))
    class_of = np.full(256, UNLABELLED, np.uint8)
    class_of[: len(names)] = [distinct.index(name) for name in names]
    return distinct, class_of


def prepare(camvid: Path, out: Path, classes: int) -> None:
    """Write images/ and truth/ of train, test/ and test_truth/, and classes.txt."""
    names, class_of = ids(classes)
    for part, images, truth in (("train", "images", "truth"), ("test", "test", "test_truth")):
        for index, path in enumerate(sorted((camvid / part).iterdir())):
            height, width = SIZES[index % len(SIZES)]
            label_file = camvid / f"{part}annot" / f"{path.stem}.png"
            for source, folder, method in (
                (path, images, Image.Resampling.BILINEAR),
                (label_file, truth, Image.Resampling.NEAREST),
            ):
                target = out / folder / f"{path.stem}.png"
                if not target.exists():
                    array = np.array(Image.open(source).resize((width, height), method))
                    write_whole(target, to_png(class_of[array] if folder == truth else array))
    write_whole(out / "classes.txt", "".join(f"{name}\n" for name in names).encode())


def annotate(project: Path, truth: Path, number: int, back: Path) -> None:
    """Label a round's regions as they truly are, in the files of one of the tools."""
    opened, items = Project(project), []
    for asked in opened.regions_of_round(number):
        whole = np.array(Image.open(truth / asked.image))
        painted = np.full(crop_box(asked)[2:], UNLABELLED, np.uint8)
        painted[box_in_crop(asked).slices] = whole[asked.box.slices]
        items.append(Item(f"{asked.id}.png", None, painted))
    with whole_folder(back) as work:
        FORMATS[TOOLS[number % len(TOOLS)]].write(work, items, opened.classes)


def measured(project: Path, out: Path, masks: Path, num_classes: int) -> float:
    """mIoU of the newest model on the test photographs."""
    run("predict", project, "--images", out / "test", "--to", masks)
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    for mask in sorted(masks.glob("*.png")):
        found, truth = (
            torch.from_numpy(np.array(Image.open(path))) for path in (mask, out / "test_truth" / mask.name)
        )
        confusion += ralx.confusion_matrix(found[None], truth[None], num_classes)
    return mean_iou(confusion)


def run(*arguments: object) -> None:
    if code := label([str(argument) for argument in arguments]):
        raise SystemExit(code)


def play(out: Path, method: str, seed: int, rounds: int, regions: int) -> list[dict]:
    """Rounds of ask, label, take and train; a record of each."""
    folder = out / f"{method}-{seed}"
    project, records_file = folder / "project", folder / "records.json"
    records = json.loads(records_file.read_text()) if records_file.exists() else []
    if not project.exists():
        options = ("--region-size", 24, 32, "--segmenter", "fpn-small", "--seed", seed)
        run("new", project, "--images", out / "images", "--classes", out / "classes.txt", *options)
    opened = Project(project)
    for number in range(len(records) + 1, rounds + 1):
        if len(opened.rounds()) < number:
            run("ask", project, "--regions", regions, "--method", method)
        back = folder / f"labels-{number}"
        if not back.exists():
            annotate(project, out / "truth", number, back)
        run("take", project, back)
        if len(opened.models()) < number:
            run("train", project, "--restart")
        pixels = sum(int((opened.label_map(image["number"]) != UNLABELLED).sum()) for image in opened.images)
        total = sum(image["height"] * image["width"] for image in opened.images)
        miou = measured(project, out, folder / "masks", len(opened.classes))
        kept = opened.models()[-1]["miou"]
        records.append(
            {
                "method": method,
                "seed": seed,
                "round": number,
                "asked_by": opened.rounds()[-1]["method"],
                "regions": number * regions,
                "labelled_share": pixels / total,
                "miou": miou,
                "kept_miou": kept,
            }
        )
        write_json(records_file, records)
    return records


def table(records: list[dict]) -> str:
    lines = [
        "| regions | share of all pixels | " + " | ".join(METHODS) + " |",
        "|---|---|" + "---|" * len(METHODS),
    ]
    for regions in sorted({record["regions"] for record in records}):
        these = [record for record in records if record["regions"] == regions]
        cells = []
        for method in METHODS:
            values = [100 * record["miou"] for record in these if record["method"] == method]
            spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.1f}{spread}" if values else "–")
        share = np.mean([record["labelled_share"] for record in these])
        lines.append(f"| {regions} | {share:.2%} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(records: list[dict], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for method in METHODS:
        own = [record for record in records if record["method"] == method]
        regions = sorted({record["regions"] for record in own})
        means = [np.mean([100 * r["miou"] for r in own if r["regions"] == n]) for n in regions]
        axes.plot(regions, means, marker="o", label=method)
    axes.set(xlabel="labelled regions", ylabel="mIoU on CamVid's test photographs, %")
    axes.legend()
    figure.savefig(path, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("camvid", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--classes", type=int, choices=(4, 11), default=11)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--regions", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    prepare(given.camvid, given.out, given.classes)
    records = []
    for seed in range(given.seeds):
        for method in METHODS:
            records += play(given.out, method, seed, given.rounds, given.regions)
            write_json(given.out / "results.json", records)
            write_whole(given.out / "table.md", table(records).encode())
            draw(records, given.out / "curve.png")
    print(table(records))


if __name__ == "__main__":
    main()
