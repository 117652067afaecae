"""Cuts of a circuit, made in the one of its two weights that belongs to its head alone.

`OV P = W_V (W_O P)`: removing what OV writes is a projection of what W_O writes, like a cut of W_O
with other directions. `P QK = (P W_Q) W_K^T`: removing what QK asks for is a projection of the *input*
side of W_Q, which its output, the query, sees as an oblique one.

Source: derived in the documentation, "Circuits of a head".
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tl_truncate.surgery.edit import Edit, Projection, oblique
from tl_truncate.weights.linear import Linear, compute_dtype
from tl_truncate.weights.locate import carrier, factor_sites
from tl_truncate.weights.reading import as_stored
from tl_truncate.weights.site import Site
from tl_truncate.weights.spectra.spectrum import Directed

# Largest share of a query that an oblique projection may add to it as rounding.
_ROUNDING = 1e-3


def made_at(model: Any, site: Site, edit: Projection) -> Edit:
    """A projection along the directions of a site's spectrum, as the edit of the linear that is cut.

    Args:
        model: that the spectrum is of.
        site: of any kind.
        edit: of the side of the spectrum that `directions` is.

    Raises:
        ValueError: if the queries of a QK lie so nearly in a smaller space that rounding would be
            enlarged beyond a thousandth of them.
    """
    if site.matrix != "QK" or edit.is_identity:
        return edit
    with as_stored():
        weight = carrier(model, site).weight()
    found = oblique(weight, edit)
    _require_small(site, found.enlarges, weight.dtype)
    return found


def sides(model: Any, spec: Directed) -> tuple[Tensor, Tensor]:
    """What measures each component at the output of the linear that is cut, and what it adds there.

    Args:
        model: that the spectrum is of.
        spec: of a site of any kind.

    Returns:
        Two tensors `[n_out, rank]`: V and V, but of QK those of its oblique projection.

    Raises:
        ValueError: as for `made_at`.
    """
    if spec.site.matrix != "QK":
        return spec.directions, spec.directions
    with as_stored():
        weight = carrier(model, spec.site).weight()
    made = oblique(weight, Projection(spec.directions, keeps=True))
    largest = (made.readers.norm(dim=0) * made.basis.norm(dim=0)).max()
    _require_small(spec.site, float(largest), weight.dtype)
    return made.readers, made.basis


def _require_small(site: Site, enlarges: float, dtype: torch.dtype) -> None:
    limit = _ROUNDING / torch.finfo(compute_dtype(dtype)).eps
    if not enlarges <= limit:
        raise ValueError(
            f"The queries of {site} must be far enough from a smaller space to be projected, but "
            f"rounding would become {enlarges:.0e} times as large, and at most {limit:.0e} is right to "
            "a thousandth. Load the model in float64, or cut W_Q of the head."
        )


def is_rounded_before(linear: Linear, edit: Edit) -> bool:
    """Whether an edit of the output would enlarge the rounding of an output in half precision, or of a
    quantised linear's kernel.
    """
    rounds = linear.is_quantised or linear.dtype != compute_dtype(linear.dtype)
    return rounds and edit.enlarges > 1


def require_precise(linear: Linear, edit: Edit, site: Site) -> None:
    """Refuses to make at the output what is only right in the weight.

    Raises:
        ValueError: if it would be.
    """
    if linear.is_quantised and is_rounded_before(linear, edit):
        raise ValueError(
            f"The queries of {site} must come from a plain linear, since the cut would enlarge the "
            f"rounding of a quantised one's kernel, got {linear.site} quantised. Load the model with "
            "that linear left out of the quantisation, or cut W_Q of the head."
        )
    if is_rounded_before(linear, edit):
        raise ValueError(
            f"The queries of {site} must be in float32 or better for plain hooks and sweeps, which "
            f"would enlarge their rounding, got {linear.dtype}. Use tlt.truncated or "
            "tlt.evaluate, which cut the weight, or load the model in float32."
        )


def require_no_overlap(model: Any, sites: Sequence[Site]) -> None:
    """Refuses cuts together whose order would decide the result.

    Those are a joint cut of an attention matrix with a cut of one of its heads, and a cut of a circuit
    with one of its two weights: the spectra belong to different matrices.

    Raises:
        ValueError: if there is such a pair.
    """
    joint = {(site.layer, site.matrix) for site in sites if site.head is None}
    for site in sites:
        if site.head is not None and (site.layer, site.matrix) in joint:
            raise ValueError(
                f"Cuts that are active together must not overlap, got {site} and all heads of "
                f"blocks.{site.layer}.attn.{site.matrix} jointly. Cut either the whole matrix or "
                "single heads."
            )
    for site in sites:
        factors = factor_sites(model, site) if site.is_circuit else ()
        for other in sites:
            if any(_holds(other, factor) for factor in factors):
                raise ValueError(
                    f"Cuts that are active together must not overlap, got {site} and {other}, which is "
                    "one of the two weights whose product it is: its spectrum would not be that of what "
                    "is cut. Cut one of the two."
                )


def _holds(site: Site, of_head: Site) -> bool:
    same = (site.layer, site.matrix) == (of_head.layer, of_head.matrix)
    return same and site.head in (None, of_head.head)
