"""What a sweep leaves on disk."""

import json
from collections.abc import Sequence

from tl_truncate.experiments.planning.counting.flops import Shape
from tl_truncate.experiments.scoring.answers import Outcome
from tl_truncate.experiments.sweep.result import Setting
from tl_truncate.runs.codec import plain
from tl_truncate.surgery.cut import SiteCut
from tl_truncate.tasks.task import Task

# A log-probability as JSON has it, which is most of a run folder.
_LOGARITHM = -12.345678901234567
# What stands in front of a safetensors file's numbers.
_HEADER = 400


def spectrum_bytes(shape: Shape, itemsize: int) -> int:
    """Of a spectrum's file: both sides and the singular values, in float32 or float64."""
    rank = min(shape)
    return rank * (sum(shape) + 1) * itemsize + _HEADER


def run_bytes(grid: Sequence[SiteCut], tasks: Sequence[Task]) -> int:
    """Of a run folder: a line for each setting, and the prompts."""
    outcomes = [
        Outcome(
            (_LOGARITHM,) * len(task), (_LOGARITHM,) * len(task), (12.0,) * len(task), (0.0,) * len(task)
        )
        for task in tasks
    ]
    line = len(json.dumps(plain(Setting(grid[0], 100, tuple(outcomes)))))
    asked = sum(len(json.dumps(cut.to_json())) for cut in grid)
    prompts = sum(len(json.dumps(task.to_json())) for task in tasks)
    return (len(grid) + 1) * line + asked + prompts
