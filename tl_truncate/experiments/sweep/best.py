"""The setting of a sweep that changes a metric most, and what may be said of it."""

from dataclasses import dataclass

from tl_truncate.experiments.scoring.metrics import Metric
from tl_truncate.statistics import Estimate
from tl_truncate.surgery.cut import SiteCut
from tl_truncate.surgery.spoken import said_cut


@dataclass(frozen=True, repr=False)
class Best:
    """A cut that was picked by looking, with its change on the prompts that picked it.

    Attributes:
        cut: the setting.
        task: on whose prompts.
        metric: whose change.
        change: paired with the uncut model, with its 95% interval.
        q: false discovery rate among the sweep's cuts of its kind.
    """

    cut: SiteCut
    task: str
    metric: Metric
    change: Estimate
    q: float

    def __str__(self) -> str:
        return (
            f"{said_cut(self.cut)}: change of {self.metric} {self.change} on {self.task}, "
            f"q {self.q:.2g}. Chosen on these prompts: test it on others."
        )

    def __repr__(self) -> str:
        return str(self)
