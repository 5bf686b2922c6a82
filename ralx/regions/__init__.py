"""What is labelled: regions, pools of them, and the oracle that knows their labels."""

from ralx.regions.grid import Boxes, Region, RegionGrid, Regions
from ralx.regions.pool import Oracle, RegionPool, chosen_regions

__all__ = ["Boxes", "Oracle", "Region", "RegionGrid", "RegionPool", "Regions", "chosen_regions"]
