"""What a sweep leaves on disk."""

import json
from collections.abc import Sequence

import torch

from tl_truncate.experiments.planning.counting.flops import Shape
from tl_truncate.experiments.scoring.answers import Outcome
from tl_truncate.experiments.sweep.result import Setting
from tl_truncate.runs.codec import plain
from tl_truncate.surgery.cut import SiteCut
from tl_truncate.tasks.task import Task
from tl_truncate.weights.site import Site
from tl_truncate.weights.spectra.vectors import rows_of_a_block

# A log-probability as JSON has it, which is most of a run folder.
_LOGARITHM = -12.345678901234567
# What stands in front of a safetensors file's numbers, and for each block of them.
_HEADER, _BLOCK = 284, 12


def spectrum_bytes(site: Site, shape: Shape, dtype: torch.dtype) -> int:
    """Of a spectrum's file: the side that a site's cuts project on, and the singular values.

    Args:
        site: whose it is.
        shape: of the weight that its cuts are made in.
        dtype: that spectra are kept in.
    """
    rank, width = min(shape), shape[0] if site.matrix == "QK" else shape[1]
    vectors = torch.empty(rank, width, dtype=dtype, device="meta")
    blocks = -(-rank // rows_of_a_block(vectors))
    return rank * (width + 1) * dtype.itemsize + _HEADER + blocks * _BLOCK


def run_bytes(grid: Sequence[SiteCut], tasks: Sequence[Task]) -> int:
    """Of a run folder: a line for each setting, and the prompts."""
    outcomes = [
        Outcome(
            (_LOGARITHM,) * len(task),
            (_LOGARITHM,) * len(task) if task.has_global else None,
            (12.0,) * len(task),
            (0.0,) * len(task),
        )
        for task in tasks
    ]
    line = len(json.dumps(plain(Setting(grid[0], 100, tuple(outcomes)))))
    asked = sum(len(json.dumps(cut.to_json())) for cut in grid)
    prompts = sum(len(json.dumps(task.to_json())) for task in tasks)
    return (len(grid) + 1) * line + asked + prompts
