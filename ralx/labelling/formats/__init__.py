"""Files of labelling tools, both ways: labels to them as a start, and labels that people painted back."""

from pathlib import Path

from ralx.datasets.errors import DataError
from ralx.labelling.formats import coco, cvat, label_studio, labelme, napari, nnunet, png
from ralx.labelling.formats.items import Format, Item, Labelled, files_of, read_json, reading

FORMATS: dict[str, Format] = {
    "png": Format(png.write, png.read),
    "cvat": Format(cvat.write, cvat.read),
    "label-studio": Format(label_studio.write, label_studio.read),
    "labelme": Format(labelme.write, labelme.read),
    "coco": Format(coco.write, coco.read),
    "nnunet": Format(nnunet.write, nnunet.read),
    "napari": Format(napari.write, napari.read),
}

__all__ = ["FORMATS", "Format", "Item", "Labelled", "format_of"]


def format_of(path: Path) -> str:
    """The name of the format of a file or folder, by its files. PNGs alone are "png". DataError: none."""
    files = files_of(path, (".xml", ".json", ".png"))
    names = {file.name for file in files}
    folders = (path, path.parent) if path.is_dir() else (path.parent, path.parent.parent)
    if any((folder / nnunet.DATASET).is_file() for folder in folders):
        return "nnunet"
    if label_studio.TASKS not in names and any(file.suffix.lower() == ".xml" for file in files):
        return "cvat"
    if (folders[0] / napari.LABELS).is_file() and ".png" in {file.suffix.lower() for file in files}:
        return "napari"
    of_json = [file for file in files if file.suffix.lower() == ".json" and file.name != png.CLASSES]
    if of_json:
        return _format_of_json(of_json[0])
    if not files:
        raise DataError(f"{path}: expected labels in the files of a labelling tool, found none")
    return "png"


def _format_of_json(file: Path) -> str:
    with reading(file, "a labelling tool"):
        content = read_json(file)
        if isinstance(content, list):
            return "label-studio"
        for key, name in (("shapes", "labelme"), ("annotations", "coco")):
            if key in content:
                return name
    raise DataError(f"{file}: expected labels of Label Studio, labelme or COCO, found other JSON")
