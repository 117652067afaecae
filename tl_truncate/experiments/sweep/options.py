"""How a sweep is run: what is scored, how much at once, and where it is kept."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from tl_truncate.checks import as_integers, natural
from tl_truncate.experiments.scoring.metrics import (
    METRICS,
    SCORED,
    Metric,
    metrics_of,
    require_metrics,
)
from tl_truncate.runs.shards import Shard
from tl_truncate.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """What `sweep` and the looks of a search share; `sweep` says what each option means.

    A shard with patience waits for the others, and gives the whole.

    Raises:
        ValueError: if one does not fit.
    """

    metrics: Sequence[Metric] | None = None
    run_dir: str | os.PathLike[str] | None = None
    shard: Shard | None = None
    patience: float | None = None
    resume: bool = True
    prepend_bos: bool | None = None
    batch_size: int = 64
    tokens_in_flight: int | None = None
    max_memory: int | None = None
    resamples: int = 2000
    seed: int = 0
    progress: bool = True
    label: str = "cuts"
    says_memory: bool = False

    def __post_init__(self) -> None:
        metrics = self.metrics
        unknown = [metric for metric in metrics or () if metric not in METRICS]
        if metrics is not None and (isinstance(metrics, str) or unknown or not metrics):
            raise ValueError(f"metrics must be a list from {', '.join(METRICS)}, got {metrics!r}.")
        as_integers(self, "batch_size", "tokens_in_flight", "resamples")
        as_integers(self, "seed", check=natural)

    def metrics_on(self, tasks: Sequence[Task]) -> tuple[Metric, ...]:
        """The metrics of the table: those that were asked for, or else all that the tasks have.

        Raises:
            ValueError: if one was asked for that a task has not.
        """
        if self.metrics is None:
            return metrics_of(list(tasks), SCORED)
        require_metrics(self.metrics, list(tasks))
        return tuple(self.metrics)

    @property
    def name(self) -> str:
        """Of the bar: the label, and which shard it is."""
        return self.label if self.shard is None else f"{self.label} {self.shard}"
