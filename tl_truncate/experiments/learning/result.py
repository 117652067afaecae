"""The result of learning a mask: a search's report, with what was learned and how it went."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from tl_truncate.experiments.search.result import SearchResult
from tl_truncate.runs.saved import Saved
from tl_truncate.runs.tables import own_table
from tl_truncate.surgery.cut import Cut
from tl_truncate.weights.files import as_path
from tl_truncate.weights.keep import Without
from tl_truncate.weights.site import Site

FILE = "mask.safetensors"
#: Changes of the mask over so many steps say whether it has settled.
_LATE = 10


@dataclass(frozen=True, repr=False)
class LearnedMask(Saved, SearchResult):
    """Components to remove, learned on validation prompts and reported on untouched test prompts.

    It is a `SearchResult` too: `.cuts`, `.change()`, `.optimism()`, `.verdict()`, `.controls`,
    `.over_control(kind)`, `.null`, `.cost` and the report mean what they mean there. Among the
    controls is `RandomComponents`: as many other components of the same sites, drawn at random.

    Attributes:
        scores: by site what each component gained in a step on average, by its gradient, less the price,
            `[rank]`; in units of the objective.
    """

    scores: Mapping[Site, Float[Tensor, " rank"]] = field(default_factory=dict)

    @property
    def history(self) -> pd.DataFrame:
        """One row for each step: what was removed, and what that was worth.

        Columns: step; components (removed in it); entered and left (since the step before); watched (the
        objective's mean on the watched prompts, exactly) and its change from the uncut model; worth
        (that change less the price of the components); fit (the objective's mean on the step's
        prompts); seconds.
        """
        return self.looks.copy()

    @own_table
    def frame(self) -> pd.DataFrame:
        """One row per component of every site: site, layer, matrix, head, component (0 is the largest),
        score, removed.
        """
        removed = {cut.site: _removed(cut) for cut in self.cuts}
        tables = []
        for site, scores in self.scores.items():
            places = np.arange(len(scores))
            table = dict(site=str(site), layer=site.layer, matrix=site.matrix, head=site.head)
            table |= dict(component=places, score=scores.double().numpy())
            tables.append(pd.DataFrame(table | dict(removed=np.isin(places, removed.get(site, ())))))
        frame = pd.concat(tables, ignore_index=True)
        frame["head"] = frame["head"].astype("Int64")
        return frame

    @property
    def steps(self) -> int:
        """How many steps were taken."""
        return int(self.looks["fit"].notna().sum())

    @property
    def steps_per_second(self) -> float:
        """Steps by the seconds that they took; NaN if there was none."""
        taken = self.looks[self.looks["fit"].notna()]
        return float(len(taken) / taken["seconds"].sum()) if len(taken) else float("nan")

    @property
    def best_step(self) -> int:
        """Whose mask was chosen; 0 if nothing was."""
        return int(self.settings["best_step"])

    @property
    def settled(self) -> bool:
        """Whether the mask of the last ten steps stayed as it was."""
        late = self.looks.tail(_LATE)
        return len(self.looks) > _LATE and not int((late["entered"] + late["left"]).sum())

    def to_json(self) -> dict[str, Any]:
        """Plain data: that of a search, with steps, speed and whether the mask has settled."""
        told = dict(steps=self.steps, steps_per_second=self.steps_per_second, settled=self.settled)
        return {**super().to_json(), **told, "best_step": self.best_step}

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "LearnedMask":
        """Reads what `save` wrote, or the folder of finished learning.

        Args:
            path: the file, or the `run_dir` of `learn_mask`.

        Raises:
            ValueError: if the file holds something else, or the folder no finished learning.
            FileNotFoundError: if there is no such file.
        """
        place = as_path(path)
        if not place.is_dir():
            return super().load(place)
        if not (place / FILE).exists():
            raise ValueError(
                f"The folder must hold finished learning's {FILE}, got {place} without one. The same "
                "call with the same folder goes on where it stopped."
            )
        return super().load(place / FILE)

    def learning_words(self) -> str:
        """How the learning went, in a sentence."""
        asked, late = self.settings, self.looks.tail(_LATE)
        total = sum(map(len, self.scores.values()))
        count = sum(len(_removed(cut)) for cut in self.cuts)
        if not self.steps:
            return f"Nothing was learned of {total} components: the budget was {asked['budget']}."
        moved = int((late["entered"] + late["left"]).sum())
        ended = "the mask has settled" if self.settled else f"{moved} changes in the last {len(late)}"
        return (
            f"{count} of {total} components of {len(self.scores)} sites (budget {asked['budget']}), "
            f"learned in {self.steps} steps, {self.steps_per_second:.2f} a second; the mask of step "
            f"{self.best_step} was worth most on {asked['watched']} watched prompts, and {ended}."
        )

    def __str__(self) -> str:
        return f"{self.learning_words()}\n{super().__str__()}"

    def __repr__(self) -> str:
        return str(self)


def _removed(cut: Any) -> tuple[int, ...]:
    """The components that a cut of a mask removes."""
    assert isinstance(cut, Cut)
    assert isinstance(cut.keep, Without)
    return tuple(cut.keep.components)
