"""A cut by the curvature of the loss: the entries of a weight to which it is most sensitive."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, SupportsIndex

import torch
from jaxtyping import Bool
from torch import Tensor

from tl_truncate.decompose.covariances.factors import CurvatureFactors
from tl_truncate.decompose.covariances.fitted import as_fitted, at_hand
from tl_truncate.decompose.covariances.masked import Masked, heaviest, masked
from tl_truncate.decompose.fits.stored import Reference
from tl_truncate.surgery.controls import random_normal
from tl_truncate.surgery.cut import SiteCut, fill, nothing_but_bias, trivial_projection
from tl_truncate.surgery.edit import Edit
from tl_truncate.surgery.matched import NormMatchedTo
from tl_truncate.weights.keep import Fraction
from tl_truncate.weights.keep.rule import unit
from tl_truncate.weights.linear import compute_dtype, where_float64_is
from tl_truncate.weights.locate import locate
from tl_truncate.weights.reading import as_stored
from tl_truncate.weights.site import Site

Factors = CurvatureFactors | Reference


@dataclass(frozen=True, repr=False)
class _InEigenbases(SiteCut):
    """Keeps some entries of a weight in the eigenbases of its curvature's factors."""

    factors: Factors
    mass: float

    def _fill(self, site: Site | str, factors: Any, mass: float, **more: Any) -> None:
        fitted = as_fitted(CurvatureFactors, "factors", factors)
        fill(self, site=site, factors=fitted, mass=unit("The kept mass", mass), **more)
        if isinstance(fitted, CurvatureFactors):
            fitted.require(self.site)

    @property
    def needs_input(self) -> bool:
        """Always: what is kept is no projection of the output."""
        return True

    def kept_rank(self, model: Any) -> int:
        """The most that the rank of what is kept can be, by the rows and columns that have entries."""
        kept = self.kept(model)
        return min(int(kept.any(1).sum()), int(kept.any(0).sum()))

    def kept(self, model: Any) -> Bool[Tensor, "n_in n_out"]:
        """Which entries are kept, both bases in the order of their eigenvalues.

        Raises:
            ValueError: if the factors are not of this weight of this model.
        """
        factors = at_hand(CurvatureFactors, self.factors)
        place = factors.require_of(model, self.site)
        a, g = (basis.values.clone() for basis in factors.bases(place))
        # Below rounding a direction was not seen, and what is in it is not known to have a curvature.
        for values, basis in zip((a, g), factors.bases(place), strict=True):
            values[basis.seen :] = 0
        try:
            return self._chosen(heaviest(a, g, self.mass))
        except ValueError as problem:
            raise ValueError(f"{place}: {problem}") from None

    @abstractmethod
    def _chosen(self, heavy: Bool[Tensor, "n_in n_out"]) -> Bool[Tensor, "n_in n_out"]:
        """The entries that are kept, from those with the largest mass."""

    def edit(self, model: Any) -> Edit:
        """The weight with what is kept."""
        linear, kept = locate(model, self.site), self.kept(model)
        if bool(kept.all()):
            everything = trivial_projection(linear, Fraction(1.0))
            assert everything is not None
            return everything
        if not bool(kept.any()):
            return nothing_but_bias(linear)
        factors = at_hand(CurvatureFactors, self.factors)
        left, right = (each.vectors for each in factors.bases(factors.require_of(model, self.site)))
        with as_stored():
            stored = linear.weight()
        weight = where_float64_is(stored).double().cpu()
        mask = kept.to(weight.dtype)
        result = masked(weight, left, mask, right)
        precision = compute_dtype(stored.dtype)
        return Masked(*(each.to(precision) for each in (left, mask, right, result)))


@dataclass(frozen=True, repr=False)
class Curvature(_InEigenbases):
    """Keeps the entries of a weight to which the loss is most sensitive, in the bases of its curvature.

    `W -> U_A (M * (U_A^T W U_G)) U_G^T`, U_A and U_G the eigenvectors of `A = E[x^T x]` and `G = E[g^T
    g]`; M keeps the entries with the largest `a_i g_j`, the fewest that have a share `mass` of the
    whole `tr A tr G`. Entries as large as the last one stay with it, so that nothing depends on which
    eigenvectors of equal eigenvalues were found; and directions that the corpus did not show, whose
    eigenvalue is rounding, have no mass.

    It is no projection of the output, so `truncated` makes it in the weight as it is read, which is
    exact on every architecture; plain hooks and sweeps need the linear's input beside the output, and
    where it has no hook point a sweep takes whole passes and plain hooks are refused.

    Controls: `RandomEntries`, as many entries at random in the same bases, and random directions of
    which as much is removed (`NormMatchedTo`). There is no random subspace of equal rank: what is kept
    has full rank as a rule.

    Args:
        site: a Site or its name.
        factors: fitted on data, of the weight that the cut is made in.
        mass: share of the curvature that is kept; 1 keeps everything, 0 nothing.
        strength: as for `Cut`.

    Raises:
        ValueError: if the mass does not fit or the factors are not of this site; where it is used, if
            they are not of this weight.
        TypeError: if the factors are none.

    Source: arXiv 2510.24256; goodfire-ai/memorization_kfac, `KFACTreatmentPairwise`.

    Examples:
        >>> factors = tlt.CurvatureFactors.fit(model, tokens, sites=["blocks.1.mlp.W_out"])
        >>> tlt.Curvature("blocks.1.mlp.W_out", factors, mass=0.9)
        Curvature(site='blocks.1.mlp.W_out', mass=0.9)
    """

    def __init__(
        self,
        site: Site | str,
        factors: Factors | Mapping[str, Any],
        mass: float,
        *,
        strength: float = 1.0,
    ) -> None:
        self._fill(site, factors, mass, strength=strength)

    @property
    def label(self) -> str:
        """The kept mass."""
        return f"curvature {self.mass:g}"

    def controls(self, seed: int) -> dict[str, SiteCut]:
        """As many entries at random, and random directions of which as much is removed."""
        drawn = RandomEntries(self.site, self.factors, self.mass, seed, strength=self.strength)
        return {"RandomEntries": drawn, "NormMatched": NormMatchedTo(self, seed)}

    def _chosen(self, heavy: Bool[Tensor, "n_in n_out"]) -> Bool[Tensor, "n_in n_out"]:
        return heavy

    def __repr__(self) -> str:
        more = "" if self.strength == 1.0 else f", strength={self.strength!r}"
        return f"Curvature(site='{self.site}', mass={self.mass!r}{more})"


@dataclass(frozen=True, repr=False)
class RandomEntries(_InEigenbases):
    """Keeps as many entries as a `Curvature` would, at random in the same bases: its control.

    Args:
        site: a Site or its name.
        factors: as for `Curvature`.
        mass: as for `Curvature`; only the number of entries matters.
        seed: of the entries; each site draws its own.
        strength: as for `Cut`.

    Raises:
        ValueError: as for `Curvature`.
        TypeError: if the factors are none.

    Examples:
        >>> factors = tlt.CurvatureFactors.fit(model, tokens, sites=["blocks.1.mlp.W_out"])
        >>> RandomEntries("blocks.1.mlp.W_out", factors, mass=0.9, seed=1)
        RandomEntries(site='blocks.1.mlp.W_out', mass=0.9, seed=1)
    """

    _always_drawn = True

    seed: int = 0

    def __init__(
        self,
        site: Site | str,
        factors: Factors | Mapping[str, Any],
        mass: float,
        seed: SupportsIndex = 0,
        *,
        strength: float = 1.0,
    ) -> None:
        self._fill(site, factors, mass, seed=seed, strength=strength)

    @property
    def label(self) -> str:
        """The kept mass."""
        return f"curvature {self.mass:g}"

    def controls(self, seed: int) -> dict[str, SiteCut]:
        """None: it is one."""
        return {}

    def equals_the_cut(self, model: Any) -> bool:
        """Whether nothing or everything is kept."""
        kept = self.kept(model)
        return bool(kept.all()) or not bool(kept.any())

    def _chosen(self, heavy: Bool[Tensor, "n_in n_out"]) -> Bool[Tensor, "n_in n_out"]:
        drawn = random_normal(heavy.shape[0], heavy.shape[1], f"{self.seed} {self.site}").flatten()
        kept = torch.zeros(heavy.numel(), dtype=torch.bool)
        kept[drawn.argsort()[: int(heavy.sum())]] = True
        return kept.view(heavy.shape)

    def __repr__(self) -> str:
        more = "" if self.strength == 1.0 else f", strength={self.strength!r}"
        return f"RandomEntries(site='{self.site}', mass={self.mass!r}, seed={self.seed}{more})"
