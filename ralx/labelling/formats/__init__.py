"""Files of labelling tools, both ways: labels to them as a start, and labels that people painted back."""

from ralx.labelling.formats import coco, cvat, label_studio, labelme, napari, nnunet, png
from ralx.labelling.formats.items import Format, Item, Labelled

FORMATS: dict[str, Format] = {
    "png": Format(png.write, png.read),
    "cvat": Format(cvat.write, cvat.read),
    "label-studio": Format(label_studio.write, label_studio.read),
    "labelme": Format(labelme.write, labelme.read),
    "coco": Format(coco.write, coco.read),
    "nnunet": Format(nnunet.write, nnunet.read),
    "napari": Format(napari.write, napari.read),
}

__all__ = ["FORMATS", "Format", "Item", "Labelled"]
