"""How far a project is, in numbers."""

import json
from typing import Any

from ralx.labelling.project import Project


def status(project: Project) -> dict[str, Any]:
    """What `ralx-label status --json` prints: of all rounds together, and the newest model's quality on the
    kept regions; what doesn't exist yet is None."""
    with project.reading() as connection:
        asked, labelled, kept = connection.execute(
            "SELECT count(*), sum(state = 'labelled'), sum(kept AND state = 'labelled') "
            "FROM regions JOIN rounds ON round = number WHERE is_open"
        ).fetchone()
        pixels, seconds = connection.execute(
            "SELECT sum(pixels), sum(seconds) FROM labels WHERE NOT undone AND region IS NOT NULL"
        ).fetchone()
        images = connection.execute("SELECT count(*) FROM images").fetchone()[0]
        latest = connection.execute("SELECT max(number) FROM rounds WHERE is_open").fetchone()[0]
        model = connection.execute("SELECT * FROM models ORDER BY number DESC LIMIT 1").fetchone()
    measured = model is not None and model["miou"] is not None
    return {
        "round": latest,
        "images": images,
        "regions_asked": asked,
        "regions_labelled": labelled or 0,
        "pixels_labelled": pixels or 0,
        "kept_regions": kept or 0,
        "miou": model["miou"] if measured else None,
        "miou_interval": [model["low"], model["high"]] if measured and model["low"] is not None else None,
        "iou": json.loads(model["iou"]) if measured else dict.fromkeys(project.classes.names),
        "minutes": None if seconds is None else seconds / 60,
    }


def in_words(project: Project) -> str:
    """The state of a project, as lines for people to read."""
    found = status(project)
    lines = [
        f"{project.name}: {found['images']} images, {len(project.classes)} classes, regions of "
        f"{project.region_size[0]}x{project.region_size[1]} pixels",
        f"asked: {found['regions_asked']} regions in {found['round'] or 0} rounds; labelled: "
        f"{found['regions_labelled']}, {found['pixels_labelled']} pixels"
        + (f", in {found['minutes']:.1f} minutes" if found["minutes"] is not None else ""),
    ]
    lines.append(quality(found))
    if found["miou"] is not None:
        lines += [
            f"  {name}: {'absent' if value is None else f'{value:.3f}'}"
            for name, value in found["iou"].items()
        ]
    return "\n".join(lines)


def quality(found: dict[str, Any]) -> str:
    """How good the newest model is, of a `status`."""
    if found["miou"] is None:
        return f"quality: not known yet; {found['kept_regions']} kept regions are labelled"
    low_high = found["miou_interval"]
    interval = f" (95 % interval {low_high[0]:.3f} to {low_high[1]:.3f})" if low_high else ""
    return f"mIoU on {found['kept_regions']} kept regions: {found['miou']:.3f}{interval}"
