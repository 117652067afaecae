"""How much of what sites write on data some cuts take: what makes cuts of equal rank unequal."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_truncate.decompose.covariances.factors import CurvatureFactors
from tl_truncate.decompose.covariances.moments import OutputMoments
from tl_truncate.surgery.cut import SiteCut
from tl_truncate.surgery.edit import Edit
from tl_truncate.weights.locate import locate
from tl_truncate.weights.reading import as_stored


def removed_share(
    model: Any,
    cuts: Sequence[SiteCut],
    moments: OutputMoments,
    factors: CurvatureFactors | None = None,
) -> float:
    """The share of what some sites write that their cuts take, `sum_s E|x R|^2 / sum_s E|x W|^2`.

    Without biases, over the corpus of the moments; a strength counts by its square. Of a cut that is no
    map of the output both sides are over the corpus of the factors, whose positions have a next token.

    Args:
        model: that the moments are of.
        cuts: each of another site, whose moments there are.
        moments: of the sites.
        factors: whose `E[x^T x]` is asked where a cut is no map of the output.

    Returns:
        From 0; above 1 where a cut adds more than there is. NaN if a cut depends on the tokens, or its
        site or what it has to know of it was not fitted.

    Raises:
        ValueError: if the moments or factors are not of these weights.

    Examples:
        >>> site = "blocks.1.mlp.W_out"
        >>> moments = tlt.OutputMoments.fit(model, tokens, sites=[site])
        >>> round(removed_share(model, [tlt.Ablated(site)], moments), 6)
        1.0
    """
    taken = whole = 0.0
    for cut in cuts:
        if cut.reads_tokens or cut.site not in moments.sites:
            return math.nan
        moments.require_of(model, cut.site)
        edit, outputs = cut.edit(model), moments.of(cut.site)
        if not edit.needs_input:
            removed = removed_map(edit, len(outputs))
            share = energy_of(outputs, removed) / outputs.trace()
        elif factors is not None and cut.site in factors.sites:
            factors.require_of(model, cut.site)
            weight, inputs = _weight(model, cut), factors.inputs(cut.site)
            left = edit.moved(weight.device, weight.dtype).of_weight(weight, 1.0)
            share = energy_of(inputs, weight - left) / energy_of(inputs, weight)
        else:
            return math.nan
        taken += cut.strength**2 * float(share * outputs.trace())
        whole += float(outputs.trace())
    return taken / whole if whole else math.nan


def removed_map(edit: Edit, width: int) -> Float[Tensor, "n_out n_out"]:
    """What a full-strength edit of the output takes, as a matrix: `u -> u D`.

    Examples:
        >>> from tl_truncate.surgery.edit import Projection
        >>> removed_map(Projection(torch.eye(2)[:, :1], keeps=True), 2).tolist()
        [[0.0, 0.0], [0.0, 1.0]]
    """
    units = torch.eye(width, dtype=torch.float64)
    return edit.moved(units.device, units.dtype).removed(units, None)


def energy_of(moment: Float[Tensor, "n n"], matrix: Float[Tensor, "n m"]) -> Float[Tensor, ""]:
    """`E|v M|^2` from `E[v^T v]`.

    Examples:
        >>> float(energy_of(torch.eye(2), torch.diag(torch.tensor([1.0, 2.0]))))
        5.0
    """
    return (matrix.T @ moment @ matrix).trace()


def _weight(model: Any, cut: SiteCut) -> Float[Tensor, "n_in n_out"]:
    with as_stored():
        return locate(model, cut.site).weight().detach().cpu().double()
