"""The result of `attribute`: the predicted effect of every component of every site."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_truncate.drawing import Drawn
from tl_truncate.experiments.scoring.keeps import keep_column
from tl_truncate.runs.record import Record
from tl_truncate.runs.saved import Saved, required_result
from tl_truncate.runs.sharded.kinds import RunKind
from tl_truncate.runs.sharded.results import ResultKind, said
from tl_truncate.runs.tables import own_table
from tl_truncate.statistics import Columns, Estimate, mean_columns, q_values
from tl_truncate.surgery.cut import Cut, kept_components
from tl_truncate.weights.keep import Keep, as_keep
from tl_truncate.weights.site import Site
from tl_truncate.weights.spectra.spectrum import SingularValues

_COLUMNS = ["site", "layer", "matrix", "head", "component", "singular_value", "effect", "effect_se", "q"]


@dataclass(frozen=True, repr=False)
class Attribution(Drawn, Saved):
    """First-order predictions: what removing a component would change, if changes were small.

    Every number here is an **estimate**, exact only to first order in what is removed. Known limits: the
    less is removed, the better. On SmolLM2-135M and indirect objects the predicted order of cuts agrees
    with the exact one by a Spearman correlation of .97 where 95% is kept and .90 where 90% is kept
    (`benchmarks/attribute.py`), but that is a property of a model and its prompts. Layer 0, from which
    every later block reads, is where an expansion to first order is least to be trusted. A small
    prediction is no promise, since effects of the second order do not show in it: read none as
    "nothing happens". Screen with it, and run `sweep` on what it finds.

    Attributes:
        metric: that changes, `logit_diff` in nats or a probability.
        by_row: for each site the effect of removing each component on each prompt, `[prompt, rank]`,
            summed over the passes that the prompt's answers took. Files of earlier versions have one row
            for each pass, which says nothing of prompts where answers have several tokens: no interval.
        spectra: of the sites, their singular values.
        n_prompts: that the mean is over.
        record: what the result came from.
    """

    metric: str
    by_row: Mapping[Site, Float[Tensor, "prompt rank"]]
    spectra: Mapping[Site, SingularValues]
    n_prompts: int
    record: Record

    @own_table
    def frame(self) -> pd.DataFrame:
        """One row per component.

        Columns: site, layer, matrix, head, component (0 is the largest), singular_value, effect (the
        predicted change of the metric when this component alone is removed), effect_se, and q, among all
        components.
        """
        tables = []
        for site, effects in self.by_row.items():
            count = effects.shape[1]
            found = self.over_prompts(effects)
            table = dict(
                site=str(site),
                layer=site.layer,
                matrix=site.matrix,
                head=site.head,
                component=np.arange(count),
                singular_value=self.spectra[site].S.double().numpy(),
                effect=found.value,
                effect_se=found.se,
                q=found.p,
            )
            tables.append(pd.DataFrame(table))
        if not tables:  # of a shard that has no site
            return pd.DataFrame(columns=_COLUMNS)
        frame = pd.concat(tables, ignore_index=True)
        frame["head"] = frame["head"].astype("Int64")
        frame["q"] = q_values(frame["q"])
        return frame

    def over_prompts(self, effects: Tensor) -> Columns:
        """The means over prompts of some columns, with what is known of them."""
        values = effects.double().numpy()
        if len(values) == self.n_prompts:
            return mean_columns(values)
        unknown = np.full(values.shape[1], np.nan)
        mean = values.sum(axis=0) / self.n_prompts
        return Columns(mean, unknown, unknown, unknown, unknown, self.n_prompts)

    def effect(self, site: Site | str, keep: Keep | int | float) -> Estimate:
        """The predicted change of the metric under a cut: the sum over the removed components.

        Args:
            site: one of those asked for.
            keep: as for a cut.

        Returns:
            The prediction, with an interval over prompts. The interval says how much prompts differ, and
            nothing of how far the prediction is from the truth.

        Raises:
            ValueError: if the site was not asked for, or the keep does not fit it.
        """
        place = self.place(site)
        removed = self.removed(place, keep)
        return self.over_prompts(self.by_row[place][:, removed].double().sum(1, keepdim=True))[0]

    def place(self, site: Site | str) -> Site:
        """A site that was asked for.

        Raises:
            ValueError: if it was not.
        """
        place = Site.parse(site)
        if place not in self.by_row:
            raise ValueError(f"The site must be one of those attributed, got {place}.")
        return place

    def removed(self, site: Site, keep: Keep | int | float) -> Bool[Tensor, " rank"]:
        """Which components a cut of a site removes.

        Raises:
            ValueError: if the keep does not fit the site.
        """
        spec = self.spectra[site]
        removed = torch.ones(spec.max_rank, dtype=torch.bool)
        removed[kept_components(spec, as_keep(keep), site)] = False
        return removed

    def predict(self, keeps: "list[Keep | int | float]") -> pd.DataFrame:
        """Predicted changes of a grid, one row per (site, keep), largest first.

        Columns: site, layer, matrix, head, keep, rank, predicted_change, and q, among the grid's.
        """
        rows = []
        for site in self.by_row:
            for keep in keeps:
                change = self.effect(site, keep)
                removed = self.removed(site, keep)
                rows.append(
                    dict(
                        site=str(site),
                        layer=site.layer,
                        matrix=site.matrix,
                        head=site.head,
                        keep=Cut(site, keep).label,
                        rank=int((~removed).sum()),
                        predicted_change=float(change),
                        q=change.p,
                    )
                )
        frame = pd.DataFrame(rows)
        frame["keep"] = keep_column(Cut(site, keep).label for site in self.by_row for keep in keeps)
        frame["q"] = q_values(frame["q"])
        return frame.sort_values("predicted_change", ascending=False, ignore_index=True)

    def top(self, n: int = 10) -> pd.DataFrame:
        """The components whose removal is predicted to change the metric most, either way."""
        order = self.frame["effect"].abs().sort_values(ascending=False, kind="stable").index
        return self.frame.loc[order[:n]].reset_index(drop=True)

    def __str__(self) -> str:
        lines = [
            f"Predicted change of {self.metric} on {self.record.task} ({self.n_prompts} prompts, "
            f"{len(self.by_row)} sites): a first-order estimate",
            self.top(5).drop(columns=["layer", "matrix", "head"]).to_string(index=False),
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)


def _joined(manifest: Mapping[str, Any], parts: Sequence[tuple[list[str], Attribution]]) -> Attribution:
    """One result of those of some sites each, in the order in which the sites were asked for."""
    first = parts[0][1]
    rows = {str(site): (site, own) for _, part in parts for site, own in part.by_row.items()}
    values = {site: own for _, part in parts for site, own in part.spectra.items()}
    asked = [rows[name] for name in manifest["sites"]]
    spectra = {site: values[site] for site, _ in asked}
    return Attribution(first.metric, dict(asked), spectra, first.n_prompts, first.record)


#: What is kept of `attribute` in a run folder.
ATTRIBUTE: ResultKind[Attribution] = ResultKind(
    RunKind(
        "attribute",
        wanted=lambda manifest: manifest["sites"],
        told=said,
        free=("model",),
        noted=("device", "rows"),
        alike=("rows",),
    ),
    save=Attribution.save_into,
    load=lambda folder: Attribution.load(required_result(folder)),
    join=_joined,
)
