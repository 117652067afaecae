"""What one model said to each prompt of a task, as plain data for a file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tl_truncate.experiments.scoring.evaluate import Scores
from tl_truncate.experiments.scoring.metrics import METRICS
from tl_truncate.runs.record import Record
from tl_truncate.tasks.task import Task

UNCUT = "uncut"
#: In a line of a run folder: what is said to each task, and of a task its parts.
TASKS, PARTS = "tasks", "parts"
#: Of a task: by the key of each grid that was swept, where its run folder lies.
GRIDS = "grids"
#: In the line of a checkpoint that could not be read: why, and the names of what was wanted of it.
FAILED, WANTED = "failed", "wanted"


@dataclass(frozen=True)
class Reading:
    """What one model said to each prompt, and what it was."""

    values: Mapping[str, tuple[float, ...]]
    n_tokens: tuple[int, ...]
    record: Record

    @classmethod
    def of(cls, scores: Scores) -> "Reading":
        """The reading that scores hold."""
        columns = [name for name in scores.frame if name in METRICS]
        values = {name: tuple(map(float, scores.frame[name])) for name in columns}
        return cls(values, tuple(map(int, scores.frame["n_tokens"])), scores.record)

    def scores(self, task: Task, baseline: Scores | None, *, resamples: int) -> Scores:
        """The scores that the reading holds, of the prompts of a task."""
        return Scores(self.frame(task), self.record, baseline, resamples=resamples)

    def frame(self, task: Task) -> pd.DataFrame:
        """One row per prompt, as `Scores.frame` has it."""
        return pd.concat(
            [task.to_frame(), pd.DataFrame(self.values).assign(n_tokens=list(self.n_tokens))], axis=1
        )


def said_of(line: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a line of a run folder says, by the name of the task; nothing if the checkpoint failed.

    A line of earlier versions is of one task, which its records name.

    Examples:
        >>> said_of({"step": 0, "readings": {"uncut": {"record": {"task": "ioi"}}}})
        {'ioi': {'readings': {'uncut': {'record': {'task': 'ioi'}}}}}
    """
    if TASKS in line:
        found: dict[str, dict[str, Any]] = line[TASKS]
        return found
    if "readings" not in line:
        return {}
    first = next(iter(line["readings"].values()))
    kept = {name: line[name] for name in ("readings", PARTS) if name in line}
    return {first["record"].get("task", Record().task): kept}
