"""Figures from result objects. Needs matplotlib: in a clone, `pip install '.[plots]'`."""

from tl_truncate.plots.attributions import attribution
from tl_truncate.plots.families import families
from tl_truncate.plots.layers import layer_effects
from tl_truncate.plots.learning import learning
from tl_truncate.plots.parts import comparison, parts
from tl_truncate.plots.shared.saving import save
from tl_truncate.plots.spectra import spectrum
from tl_truncate.plots.sweeps.heatmaps import heatmap
from tl_truncate.plots.sweeps.rank_curves import ranks
from tl_truncate.plots.sweeps.shots import shots
from tl_truncate.plots.toys import gradient_noise, phases, recall
from tl_truncate.plots.training.histories import dynamics, parts_over_training
from tl_truncate.plots.training.swept import settings_over_training, sweep_over_training

__all__ = [
    "attribution",
    "comparison",
    "dynamics",
    "families",
    "gradient_noise",
    "heatmap",
    "layer_effects",
    "learning",
    "parts",
    "parts_over_training",
    "phases",
    "ranks",
    "recall",
    "save",
    "settings_over_training",
    "shots",
    "spectrum",
    "sweep_over_training",
]
