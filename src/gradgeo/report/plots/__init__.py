"""Pictures of what the detector sees; needs matplotlib. Each is a matplotlib figure that a notebook shows as it is."""

from gradgeo.report.plots.decision import END, OTHER, START, path
from gradgeo.report.plots.figures import ENDINGS
from gradgeo.report.plots.geometry import Panel, csm, csm_heat_maps, saliency_maps
from gradgeo.report.plots.verdicts import roc, statistics

__all__ = [
    "END",
    "ENDINGS",
    "OTHER",
    "START",
    "Panel",
    "csm",
    "csm_heat_maps",
    "path",
    "roc",
    "saliency_maps",
    "statistics",
]
