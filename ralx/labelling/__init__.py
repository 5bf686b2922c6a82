"""Labelling one's own images: a project asks people for regions, takes their labels and trains on them."""

from ralx.labelling.project import AskedRegion, Box, Project

__all__ = ["AskedRegion", "Box", "Project"]
