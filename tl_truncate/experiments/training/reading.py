"""What one model said to each prompt of a task, as plain data for a file."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from tl_truncate.experiments.scoring.evaluate import Scores
from tl_truncate.experiments.scoring.metrics import METRICS
from tl_truncate.runs.record import Record
from tl_truncate.tasks.task import Task


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
