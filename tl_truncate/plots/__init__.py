"""Figures from result objects. Needs matplotlib: `pip install 'tl-truncate[plots]'`."""

from tl_truncate.plots.attributions import attribution
from tl_truncate.plots.heatmaps import heatmap
from tl_truncate.plots.layers import layer_effects
from tl_truncate.plots.rank_curves import ranks
from tl_truncate.plots.saving import save

__all__ = ["attribution", "heatmap", "layer_effects", "ranks", "save"]
