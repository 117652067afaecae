"""Figures from result objects. Needs matplotlib: in a clone, `pip install '.[plots]'`."""

from tl_truncate.plots.attributions import attribution
from tl_truncate.plots.changes import cost, scores, searched
from tl_truncate.plots.components import (
    decomposition,
    memory,
    plan,
    shares,
    value_gradients,
)
from tl_truncate.plots.families import families
from tl_truncate.plots.layers import layer_effects
from tl_truncate.plots.learning import learning
from tl_truncate.plots.parts import comparison, parts
from tl_truncate.plots.shared.saving import save
from tl_truncate.plots.spectra import spectrum
from tl_truncate.plots.sweeps.heatmaps import heatmap
from tl_truncate.plots.sweeps.rank_curves import ranks
from tl_truncate.plots.sweeps.settings import settings
from tl_truncate.plots.sweeps.shots import shots
from tl_truncate.plots.tokens import logits, one_step
from tl_truncate.plots.toys import gradient_noise, phases, recall
from tl_truncate.plots.training.histories import dynamics, parts_over_training
from tl_truncate.plots.training.swept import settings_over_training, sweep_over_training

__all__ = [
    "attribution",
    "comparison",
    "cost",
    "decomposition",
    "dynamics",
    "families",
    "gradient_noise",
    "heatmap",
    "layer_effects",
    "learning",
    "logits",
    "memory",
    "one_step",
    "parts",
    "parts_over_training",
    "phases",
    "plan",
    "ranks",
    "recall",
    "save",
    "scores",
    "searched",
    "settings",
    "settings_over_training",
    "shares",
    "shots",
    "spectrum",
    "sweep_over_training",
    "value_gradients",
]
