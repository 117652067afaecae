"""How a metric changes with each singular value: read off the predictions of `attribute`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tl_truncate.checks import positive
from tl_truncate.drawing import Drawn
from tl_truncate.experiments.scoring.differentiable import Differentiable
from tl_truncate.experiments.screening.attribute import attribute
from tl_truncate.experiments.screening.attribution import Attribution
from tl_truncate.runs.saved import Saved
from tl_truncate.runs.tables import own_table
from tl_truncate.statistics import q_values
from tl_truncate.tasks.task import Task
from tl_truncate.weights.keep import Keep
from tl_truncate.weights.site import Site


@dataclass(frozen=True, repr=False)
class SingularValueGradients(Drawn, Saved):
    """The gradient of a metric with respect to every singular value of every site.

    `d metric / d S_i = u_i^T (d metric / dW) v_i = sum_t (x_t . u_i)(g_t . v_i) = - effect_i / S_i`,
    where `effect_i` is what `attribute` predicts for the removal of component i: the removal takes the
    value from S_i to nothing, and a prediction to first order is the gradient times that way. Both
    screens are one pass there and back. They differ in what they ask: the effect of taking a component
    away as it is, or of making its value smaller by one unit, whatever it is. A small component may
    have a large gradient and do little.

    NaN where a singular value is zero to rounding, that of the spectrum or in half precision that of the
    passes: its vectors are any of a subspace, or the linear's output says nothing of them. Of values
    that are equal the vectors are any of a subspace too, and single gradients go by which were found.

    Attributes:
        screen: the predictions that the gradients are read off.
    """

    screen: Attribution

    def by_prompt(self, site: Site | str) -> Float[Tensor, "prompt rank"]:
        """The gradients at a site on each prompt, in float64.

        Raises:
            ValueError: if the site was not asked for.
        """
        place = self.screen.place(site)
        effects = self.screen.by_row[place]
        stored = getattr(torch, self.screen.record.dtype, torch.float32)
        spec = self.screen.spectra[place]
        return gradients_of(effects, spec.S, spec.shape, torch.finfo(stored).eps)

    @own_table
    def frame(self) -> pd.DataFrame:
        """One row per component.

        Columns: site, layer, matrix, head, component (0 is the largest), singular_value, gradient (of
        the metric's mean over the prompts), gradient_se, and q, among all components.
        """
        tables = []
        for site in self.screen.by_row:
            gradients = self.by_prompt(site)
            found = self.screen.over_prompts(gradients)
            table = dict(
                site=str(site),
                layer=site.layer,
                matrix=site.matrix,
                head=site.head,
                component=np.arange(gradients.shape[1]),
                singular_value=self.screen.spectra[site].S.double().numpy(),
                gradient=found.value,
                gradient_se=found.se,
                q=found.p,
            )
            tables.append(pd.DataFrame(table))
        frame = pd.concat(tables, ignore_index=True)
        frame["head"] = frame["head"].astype("Int64")
        frame["q"] = q_values(frame["q"])
        return frame

    @property
    def sites(self) -> pd.DataFrame:
        """One row per site, the one that most speaks for a reduction first.

        Columns: site, layer, matrix, head, score, share, norm. The score is the sum of `-gradient`
        over the components whose value would have to shrink for the metric to rise: how fast it would
        rise if all of them shrank alike. The share is how many of the components these are, the norm
        that of all gradients. (The source says that the gradients of a matrix's singular values
        pinpoint which to reduce; how they are summed is our own.)
        """
        rows = []
        for (name, layer, matrix), own in self.frame.groupby(["site", "layer", "matrix"], sort=False):
            known = own["gradient"].dropna()
            hurting = known[known < 0]
            row = dict(site=name, layer=layer, matrix=matrix, head=own["head"].iloc[0])
            share = len(hurting) / len(known) if len(known) else np.nan
            norm = float(np.sqrt((known**2).sum()))
            rows.append(row | dict(score=float(-hurting.sum()), share=share, norm=norm))
        return pd.DataFrame(rows).sort_values("score", ascending=False, ignore_index=True)

    def shrinking(self, site: Site | str, keep: Keep | int | float) -> float:
        """How fast the metric changes as every value that a cut would remove shrinks by the same amount.

        `- sum_{i removed} d metric / d S_i`; what a cut itself does is `screen.effect(site, keep)`. NaN
        where a removed value is zero, whose gradient is not known.

        Raises:
            ValueError: if the site was not asked for, or the keep does not fit it.
        """
        place = self.screen.place(site)
        removed = self.screen.removed(place, keep)
        return float(-self.by_prompt(place)[:, removed].sum() / self.screen.n_prompts)

    def top(self, n: int = 10) -> pd.DataFrame:
        """The components with the largest gradients, either way."""
        order = self.frame["gradient"].abs().sort_values(ascending=False, kind="stable").index
        return self.frame.loc[order[: positive("n", n)]].reset_index(drop=True)

    def __str__(self) -> str:
        record, screen = self.screen.record, self.screen
        lines = [
            f"Gradient of {screen.metric} with respect to singular values on {record.task} "
            f"({screen.n_prompts} prompts, {len(screen.by_row)} sites)",
            self.sites.head(5).drop(columns=["layer", "matrix", "head"]).to_string(index=False),
            self.top(5).drop(columns=["layer", "matrix", "head"]).to_string(index=False),
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)


def gradients_of(
    effects: Float[Tensor, "rows rank"],
    values: Float[Tensor, " rank"],
    shape: tuple[int, int],
    rounding_of_passes: float = 0.0,
) -> Float[Tensor, "rows rank"]:
    """`- effect_i / S_i`; NaN where S_i is zero to the rounding of the spectrum, or of passes, whose
    outputs say nothing of components that small.

    Examples:
        >>> values = torch.tensor([4.0, 2.0, 0.0])
        >>> gradients_of(torch.tensor([[2.0, -1.0, 0.0]]), values, (3, 3)).tolist()
        [[-0.5, 0.5, nan]]
    """
    precise = values.double()
    rounding = float(precise.max()) * max(max(shape) * torch.finfo(values.dtype).eps, rounding_of_passes)
    known = precise > rounding
    return torch.where(known, -effects.double() / precise.where(known, torch.ones(())), torch.nan)


def singular_value_gradients(
    model: Any,
    task: Task,
    *,
    sites: Sequence[Site | str] | None = None,
    metric: Differentiable | None = None,
    prepend_bos: bool | None = None,
    batch_size: int = 32,
    max_memory: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> SingularValueGradients:
    """The gradient of a metric with respect to every singular value, from one pass there and back.

    `d metric / d S_i = sum_t (x_t . u_i)(g_t . v_i)`, which is `- effect_i / S_i` of `attribute`: it
    is that screen, read another way, and costs the same. No gradient of a weight is computed.

    Args:
        model: a HookedTransformer or TransformerBridge in evaluation mode.
        task: prompts and answers.
        sites: Sites or their names; W_in and W_out of every layer by default.
        metric: `logit_diff`, `p_in_context` or `p_global`; by default the first, or where there are no
            global answers `p_in_context`.
        prepend_bos: overrides the model's default.
        batch_size: prompts in a pass.
        max_memory: most bytes beside the model, by an estimate; fewer prompts share a pass then.
        seed: for the record; nothing is drawn.
        progress: shows a bar.

    Returns:
        Gradients: `.frame` per component, `.sites` with a score for each, `.top(n)`; `.screen` has the
        predictions of cuts.

    Raises:
        ValueError: as `attribute`.
        TypeError: if the task is no task.

    Source: Sreeram et al. 2025 (arXiv 2510.20800), its first step: gradients of singular values say
    which matrices to reduce. The relation to `attribute` is derived in the documentation, "Predicting
    a cut".

    Examples:
        >>> task = tlt.Task(name="drink", prompts=["Mary gave a drink to"], in_context=[" John"],
        ...             global_=" the")
        >>> found = tlt.singular_value_gradients(model, task, sites=["blocks.2.mlp.W_out"])
        >>> len(found.frame), found.sites["site"].tolist()
        (32, ['blocks.2.mlp.W_out'])
    """
    screen = attribute(
        model,
        task,
        sites=sites,
        metric=metric,
        prepend_bos=prepend_bos,
        batch_size=batch_size,
        max_memory=max_memory,
        seed=seed,
        progress=progress,
    )
    return SingularValueGradients(screen)
