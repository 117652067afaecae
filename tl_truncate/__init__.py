"""Low-rank surgery on TransformerLens models while they run."""

from tl_truncate import evals, tasks, toys
from tl_truncate.checkpoints import checkpoint_steps
from tl_truncate.corpora.texts import manual_texts, sample_texts
from tl_truncate.decompose.covariances.curvature import Curvature, RandomEntries
from tl_truncate.decompose.covariances.factors import CurvatureFactors
from tl_truncate.decompose.covariances.moments import OutputMoments
from tl_truncate.decompose.covariances.output_pca import OutputPCA
from tl_truncate.decompose.decompose import decompose_layers, decompose_mlp
from tl_truncate.decompose.fits.origin import OtherWeightsWarning
from tl_truncate.decompose.means.token_means import TokenMeans
from tl_truncate.decompose.parts import LogitAttribution, MLPDecomposition
from tl_truncate.decompose.shares import ComponentShares, GlobalDirection, component_shares
from tl_truncate.decompose.taken_away.hooks import global_removal_hooks
from tl_truncate.decompose.taken_away.removal import (
    GlobalRemoval,
    InContextRemoval,
    without_global,
    without_in_context,
)
from tl_truncate.experiments.comparison.chosen import ChosenComparison, compare_chosen
from tl_truncate.experiments.comparison.compare import Comparison, compare
from tl_truncate.experiments.comparison.families import Ways
from tl_truncate.experiments.learning.learn_mask import learn_mask
from tl_truncate.experiments.learning.result import LearnedMask
from tl_truncate.experiments.merge import merge
from tl_truncate.experiments.planning.plan import plan
from tl_truncate.experiments.planning.result import RunPlan
from tl_truncate.experiments.scoring.evaluate import Scores, evaluate
from tl_truncate.experiments.scoring.prompt_view import PromptView, view_prompt
from tl_truncate.experiments.scoring.side_effects import SideEffects, side_effects
from tl_truncate.experiments.screening.attribute import attribute
from tl_truncate.experiments.screening.attribution import Attribution
from tl_truncate.experiments.screening.part_attribution import PartAttribution, part_attribution
from tl_truncate.experiments.screening.value_gradients import (
    SingularValueGradients,
    singular_value_gradients,
)
from tl_truncate.experiments.search.result import SearchResult
from tl_truncate.experiments.search.search import search
from tl_truncate.experiments.sweep.result import SweepResult
from tl_truncate.experiments.sweep.sweep import sweep
from tl_truncate.experiments.sweep.work.engine import FullPassesWarning
from tl_truncate.experiments.training.checkpoints.failing import BadCheckpointWarning
from tl_truncate.experiments.training.dynamics import dynamics
from tl_truncate.experiments.training.grid import Grid
from tl_truncate.experiments.training.parts_over_training import Parts
from tl_truncate.experiments.training.result import Dynamics, MissingStepsWarning
from tl_truncate.explore.show import explore
from tl_truncate.export.adapter import Adapter, LargeAdapterWarning, export_adapter
from tl_truncate.export.checkpoint import Checkpoint, export_checkpoint
from tl_truncate.models import Checkpoints, LostKeysWarning, load_model
from tl_truncate.report import write_report
from tl_truncate.runs.sharded.joining import UnfinishedShardsWarning
from tl_truncate.runs.workers.ray import Ray
from tl_truncate.statistics import Estimate
from tl_truncate.surgery.clustered import Clustered
from tl_truncate.surgery.controls import Ablated, NormMatched, RandomSubspace
from tl_truncate.surgery.cut import Cut, Cuts
from tl_truncate.surgery.hooks import truncated, truncation_hooks
from tl_truncate.surgery.matched import NormMatchedTo
from tl_truncate.surgery.surgeon import CutNotApplied
from tl_truncate.tasks.task import Task
from tl_truncate.weights.keep import (
    Band,
    Components,
    DropTop,
    Energy,
    Fraction,
    Keep,
    LaserCompat,
    Rank,
    Without,
)
from tl_truncate.weights.keep.noise import MarchenkoPastur, OptimalThreshold, OutsideBulk
from tl_truncate.weights.locate import find_sites
from tl_truncate.weights.processing import ProcessedWeightsWarning, processing
from tl_truncate.weights.site import Site
from tl_truncate.weights.spectra.cache import cache_clear, cache_info
from tl_truncate.weights.spectra.spectrum import Spectrum, spectrum

__version__ = "0.1.0"
__all__ = [
    "Ablated",
    "Adapter",
    "Attribution",
    "BadCheckpointWarning",
    "Band",
    "Checkpoint",
    "Checkpoints",
    "ChosenComparison",
    "Clustered",
    "Comparison",
    "ComponentShares",
    "Components",
    "Curvature",
    "CurvatureFactors",
    "Cut",
    "CutNotApplied",
    "Cuts",
    "DropTop",
    "Dynamics",
    "Energy",
    "Estimate",
    "Fraction",
    "FullPassesWarning",
    "GlobalDirection",
    "GlobalRemoval",
    "Grid",
    "InContextRemoval",
    "Keep",
    "LargeAdapterWarning",
    "LaserCompat",
    "LearnedMask",
    "LogitAttribution",
    "LostKeysWarning",
    "MLPDecomposition",
    "MarchenkoPastur",
    "MissingStepsWarning",
    "NormMatched",
    "NormMatchedTo",
    "OptimalThreshold",
    "OtherWeightsWarning",
    "OutputMoments",
    "OutputPCA",
    "OutsideBulk",
    "PartAttribution",
    "Parts",
    "ProcessedWeightsWarning",
    "PromptView",
    "RandomEntries",
    "RandomSubspace",
    "Rank",
    "Ray",
    "RunPlan",
    "Scores",
    "SearchResult",
    "SideEffects",
    "SingularValueGradients",
    "Site",
    "Spectrum",
    "SweepResult",
    "Task",
    "TokenMeans",
    "UnfinishedShardsWarning",
    "Ways",
    "Without",
    "attribute",
    "cache_clear",
    "cache_info",
    "checkpoint_steps",
    "compare",
    "compare_chosen",
    "component_shares",
    "decompose_layers",
    "decompose_mlp",
    "dynamics",
    "evals",
    "evaluate",
    "explore",
    "export_adapter",
    "export_checkpoint",
    "find_sites",
    "global_removal_hooks",
    "learn_mask",
    "load_model",
    "manual_texts",
    "merge",
    "part_attribution",
    "plan",
    "processing",
    "sample_texts",
    "search",
    "side_effects",
    "singular_value_gradients",
    "spectrum",
    "sweep",
    "tasks",
    "toys",
    "truncated",
    "truncation_hooks",
    "view_prompt",
    "without_global",
    "without_in_context",
    "write_report",
]
