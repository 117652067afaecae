"""What the prompts of a search have been asked already: several splits are of the same prompts."""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pandas as pd

from tl_truncate.experiments.scoring.evaluate import Scores, evaluate
from tl_truncate.experiments.sweep.grid import setting_key
from tl_truncate.experiments.sweep.options import SweepOptions
from tl_truncate.experiments.sweep.places import UNCUT, Here, Place
from tl_truncate.runs.record import Record
from tl_truncate.surgery.cut import Cuts
from tl_truncate.tasks.task import Task


@dataclass
class Asked:
    """Scores of a model, of which each prompt is asked once under the same cuts.

    Attributes:
        at: where the model is, whose weights stay as they are meanwhile.
        options: of the passes.
    """

    at: Place
    options: SweepOptions
    _rows: dict[tuple[str, ...], dict[str, dict[str, Any]]] = field(default_factory=dict)
    _records: dict[tuple[str, ...], Record] = field(default_factory=dict)

    @property
    def model(self) -> Any:
        """The model, if it is in this process."""
        assert isinstance(self.at, Here)
        return self.at.model

    def scores(self, task: Task, cuts: Cuts = UNCUT) -> Scores:
        """As `evaluate` gives them, paired with the uncut model's."""
        keys = [repr(row) for row in zip(*task.columns.values(), strict=True)]
        under = (task.name, *map(setting_key, cuts))
        rows = self._rows.setdefault(under, {})
        new = [place for place, key in enumerate(keys) if key not in rows]
        uncut = self.scores(task) if cuts else None
        if new:
            part = task.subset(new)
            baseline = self.scores(part) if cuts else None
            asked: dict[str, Any] = dict(cuts=cuts, baseline=baseline, **asked_of(self.options))
            found = self.at.ask(Scores, partial(evaluate, task=part, **asked))
            rows.update(zip((keys[place] for place in new), found.frame.to_dict("records"), strict=True))
            self._records[under] = found.record
        record = replace(self._records[under], task_hash=task.hash, n_prompts=len(task))
        return Scores(pd.DataFrame([rows[key] for key in keys]), record, uncut)


def asked_of(options: SweepOptions) -> dict[str, Any]:
    """What a sweep's options say to `evaluate`."""
    return dict(
        prepend_bos=options.prepend_bos,
        batch_size=options.batch_size,
        max_memory=options.max_memory,
        seed=options.seed,
        progress=False,
    )
