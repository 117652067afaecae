"""Which components of a site carry the global part of what it writes, and cuts that take those."""

from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tl_truncate.checks import whole
from tl_truncate.decompose.fits.origin import is_of_another_weight, require_processing
from tl_truncate.decompose.means.token_means import TokenMeans
from tl_truncate.drawing import Drawn
from tl_truncate.surgery.controls import RandomSubspace
from tl_truncate.surgery.cut import SiteCut, fill
from tl_truncate.surgery.edit import Edit, Projection
from tl_truncate.weights.keep import Without
from tl_truncate.weights.linear import Linear, compute_dtype
from tl_truncate.weights.locate import locate
from tl_truncate.weights.site import Site
from tl_truncate.weights.spectra.spectrum import shared_spectrum


@dataclass(frozen=True, eq=False, repr=False)
class ComponentShares(Drawn):
    """The global share of each singular component of a site.

    Attributes:
        site: whose components they are.
        values: `[rank]`, from 0; above 1 where shrinkage or chance make it so. NaN of a component that
            writes no more than rounding, of which no share is known.
        energy: `[rank]`, mean square of what each component writes, `E[((o - b) . v_i)^2]`.
        token: at whose positions the means are; None for all positions.
        positions: how many there were.
    """

    site: Site
    values: Float[Tensor, " rank"]
    energy: Float[Tensor, " rank"]
    token: int | None
    positions: int

    @property
    def order(self) -> Int64[Tensor, " rank"]:
        """The components, the most global first; those whose share is not known at the end."""
        return self.values.nan_to_num(nan=-torch.inf).argsort(descending=True, stable=True)

    @property
    def known(self) -> int:
        """How many components write more than rounding, and so have a share."""
        return int((~self.values.isnan()).sum())

    def without_most_global(self, k: int) -> Without:
        """A Keep rule that removes the k components with the largest share: targeted truncation.

        Raises:
            ValueError: if there are fewer that have one.
        """
        return Without(self._first(k, self.order[: self.known]), f"{k} most global{self._where}")

    def without_least_global(self, k: int) -> Without:
        """The control: removes the k components with the smallest share.

        Raises:
            ValueError: if there are fewer that have one.
        """
        known = self.order[: self.known]
        return Without(self._first(k, known.flip(0)), f"{k} least global{self._where}")

    def without_above(self, threshold: float) -> Without:
        """A Keep rule that removes all components whose share is above a threshold."""
        chosen = (self.values > threshold).nonzero()[:, 0].tolist()
        return Without(chosen, f"share above {threshold:g}{self._where}")

    @property
    def _where(self) -> str:
        return "" if self.token is None else f" at token {self.token}"

    def _first(self, k: Any, order: Tensor) -> list[int]:
        count = whole(k)
        if count is None or not 0 <= count <= len(order):
            raise ValueError(
                f"k must be a number of components from 0 to {len(order)}, those of {self.site} that "
                f"write more than rounding, got {k!r}."
            )
        found: list[int] = order[:count].tolist()
        return found

    def to_frame(self) -> pd.DataFrame:
        """One row per component: share, energy, and its part of all energy."""
        columns = dict(
            component=range(len(self.values)),
            share=self.values.numpy(),
            energy=self.energy.numpy(),
            energy_share=(self.energy / self.energy.sum()).numpy(),
        )
        return pd.DataFrame(columns).set_index("component")

    def __repr__(self) -> str:
        first = self.order[: min(5, self.known)].tolist()
        top = ", ".join(f"{i} ({float(self.values[i]):.2f})" for i in first)
        whole = float((self.values * self.energy).nansum() / self.energy.sum())
        return (
            f"ComponentShares of {self.site}{self._where}, {self.positions} positions: {whole:.2f} of "
            f"the energy is global; most global components {top}"
        )


def component_shares(
    model: Any, site: Site | str, means: TokenMeans, token: int | None = None
) -> ComponentShares:
    """How much of what each singular component writes is the global part.

    `share_i = E[((G(x_t) - b) . v_i)^2] / E[((o_t - b) . v_i)^2]`, over the positions of the corpus that
    the means were fitted on, or over those of one token.

    Args:
        model: that the means are of.
        site: of any kind; `TokenMeans.fit(..., sites=[site])` where it is no W_out.
        means: fitted with `shares` (the default).
        token: at whose positions, such as that of a trigger; all by default. Which positions the share
            is taken over matters.

    Returns:
        The shares, NaN where a component writes no more than rounding, with `.without_most_global(k)`
        and its control `.without_least_global(k)`.

    Raises:
        ValueError: if the means are not of this site of this model or lack second moments, or the token
            was not seen.

    Source: derived in docs/decomposition.md.

    Examples:
        >>> means = tlt.TokenMeans.fit(model, tokens, layers=[1], progress=False)
        >>> shares = tlt.component_shares(model, "blocks.1.mlp.W_out", means)
        >>> tlt.Cut("blocks.1.mlp.W_out", keep=shares.without_most_global(2))
        Cut(site='blocks.1.mlp.W_out', keep=Without(2 most global))
    """
    place = means.require_of(model, site)
    sums = means.whole[place]
    if sums.squares is None:
        raise ValueError(
            f"The means of {place} must have second moments for shares, got means fitted with "
            "shares=False. Fit them again."
        )
    spec = shared_spectrum(model, place)
    if sums.squares.width != spec.max_rank or is_of_another_weight(model, place, means.record):
        raise ValueError(
            f"The means must be of the weight that {place} has now, whose components they were measured "
            "along, but they were fitted on another one. Fit them on this model."
        )
    keys = sums.tokens.keys if token is None else torch.tensor([_seen(means, place, token)])
    chosen = torch.isin(sums.tokens.keys, keys)
    counts = sums.tokens.counts[chosen]
    offset = _bias(model, place)
    written = (means.of_tokens(place, sums.tokens.keys[chosen]) - offset) @ spec.directions.double()
    energy = sums.squares.sums[chosen].sum(0) / counts.sum()
    share = (counts @ written.square()) / counts.sum() / energy
    known = energy > _rounding(locate(model, place), float(energy.sum() + offset.square().sum()))
    values = torch.where(known, share, torch.nan)
    return ComponentShares(place, values, energy, token, int(counts.sum()))


def _rounding(linear: Linear, energy: float) -> float:
    """What a component that is not there seems to write: the error of `x W` and of storing it."""
    dtype = linear.dtype
    summed = linear.shape[0] * torch.finfo(compute_dtype(dtype)).eps ** 2
    return energy * max(summed, torch.finfo(dtype).eps ** 2 / linear.shape[1])


def _seen(means: TokenMeans, site: Site, token: Any) -> int:
    found = whole(token)
    if found is None:
        raise TypeError(
            f"token must be a token's number, got {token!r}. Write model.to_single_token(' the')."
        )
    if not int(means.counts(site, torch.tensor([found]))):
        raise ValueError(
            f"The token must have been seen when the means were fitted, got {token}, which was not. Fit "
            "them on a corpus that has it."
        )
    return found


def _bias(model: Any, site: Site) -> Tensor:
    bias = locate(model, site).bias()
    width = locate(model, site).shape[1]
    return torch.zeros(width, dtype=torch.float64) if bias is None else bias.double().cpu()


@dataclass(frozen=True, repr=False)
class GlobalDirection(SiteCut):
    """Projects one direction out of a site's output: that of `G(token) - b`.

    `y -> y - strength * ((y - b) . g) g`, `g = (G(token) - b) / |G(token) - b|`. The smallest targeted
    edit: what the site writes on average at one token.

    Args:
        site: that the means are of.
        means: fitted.
        token: whose direction it is.
        mean: G(token) itself, in place of the means.
        weights: how the weights had been processed that the mean is of; as the means say by default.
        strength: as for `Cut`.

    Raises:
        ValueError: if the means are not of this site, or the token was not seen; where it is used, if
            the direction has no length, or the weights have been processed otherwise.

    Source: derived in docs/decomposition.md.

    Examples:
        >>> means = tlt.TokenMeans.fit(model, tokens, layers=[1], progress=False)
        >>> GlobalDirection("blocks.1.mlp.W_out", means, int(tokens[0, 1]))
        GlobalDirection(site='blocks.1.mlp.W_out', token=...)
    """

    token: int
    mean: tuple[float, ...]
    weights: str | None

    def __init__(
        self,
        site: Site | str,
        means: TokenMeans | None = None,
        token: int | None = None,
        *,
        mean: tuple[float, ...] | list[float] | None = None,
        weights: str | None = None,
        strength: float = 1.0,
    ) -> None:
        place = Site.parse(site)
        if mean is None:
            if not isinstance(means, TokenMeans):
                raise TypeError(f"means must be a TokenMeans, got {means!r}.")
            number = _seen(means, means.require(place), token)
            mean, weights = (
                means.of_tokens(place, torch.tensor(number)).tolist(),
                means.record["weights"],
            )
        fill(self, site=place, token=token, mean=tuple(mean), weights=weights, strength=strength)

    @property
    def label(self) -> str:
        """The token."""
        return f"G({self.token})"

    def controls(self, seed: int) -> dict[str, SiteCut]:
        """A random direction."""
        keep = Without([0], "one direction")
        return {"RandomSubspace": RandomSubspace(self.site, keep, seed, strength=self.strength)}

    def kept_rank(self, model: Any) -> int:
        """All but one."""
        return min(locate(model, self.site).shape) - 1

    def edit(self, model: Any) -> Edit:
        """The projection away from the direction."""
        mean = torch.tensor(self.mean, dtype=torch.float64)
        offset = _bias(model, self.site)
        if mean.shape != offset.shape:
            raise ValueError(
                f"The direction must have the width of {self.site}, {len(offset)}, got {len(mean)}."
            )
        if self.weights is not None:
            require_processing(model, self.weights)
        direction = mean - offset
        # Below the rounding of the weight's own precision it would be the direction of an error.
        weight = locate(model, self.site).weight()
        rounding = torch.finfo(compute_dtype(weight.dtype)).eps * max(mean.norm(), offset.norm())
        if not direction.norm() > rounding:
            raise ValueError(
                f"The direction G({self.token}) - b of {self.site} must have a length to be projected "
                f"out, got {float(direction.norm()):.1e}: at this token the site writes its bias and "
                "nothing else, or a number that is not finite. Choose another token or site."
            )
        return Projection((direction / direction.norm())[:, None], keeps=False)

    def __repr__(self) -> str:
        more = "" if self.strength == 1.0 else f", strength={self.strength!r}"
        return f"GlobalDirection(site='{self.site}', token={self.token}{more})"
