"""A cut by what a site writes on data: the directions along which its output varies most."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tl_truncate.decompose.covariances.fitted import as_fitted, at_hand
from tl_truncate.decompose.covariances.moments import OutputMoments
from tl_truncate.decompose.fits.stored import Reference
from tl_truncate.surgery.controls import RandomSubspace
from tl_truncate.surgery.cut import SiteCut, fill, trivial_projection
from tl_truncate.surgery.edit import Edit, project_components
from tl_truncate.surgery.matched import NormMatchedTo
from tl_truncate.weights.keep import Band, Components, DropTop, Energy, Fraction, Keep, Rank, Without
from tl_truncate.weights.linear import compute_dtype
from tl_truncate.weights.locate import locate
from tl_truncate.weights.site import Site

# Rules that count or weigh components. Those about noise are calibrated on singular values of a weight.
_RULES = (Rank, Fraction, Energy, DropTop, Band, Components, Without)


@dataclass(frozen=True, repr=False)
class OutputPCA(SiteCut):
    """Keeps the directions along which a site's output varies most on data, or all but them.

    `W -> W P`, which the model sees as `y -> b + (y - b) P`, P the projection onto the top k
    eigenvectors of `E[u^T u]`, `u = y - b = x W`. Of all matrices of rank k it is closest to W on the
    data, `min E|x W - x V|^2`, and the error is the sum of the eigenvalues that are dropped. Where the
    inputs are white, `E[x^T x] = c I`, it is LASER. The moments are uncentred: what is always written
    counts.

    `drop=k` is the complement: without the k directions along which the output varies most.

    Args:
        site: a Site or its name.
        moments: fitted on data, of the weight that the cut is made in.
        keep: an int is a rank, a float a fraction of the maximum rank as in `Cut`, or a rule that counts
            or weighs: Energy(e) keeps the fewest directions with a share e of `E|u|^2`.
        drop: how many of the first directions are removed, in place of keep.
        strength: as for `Cut`.

    Raises:
        ValueError: if an argument does not fit or the moments are not of this site; where it is used, if
            they are not of this weight, or the data do not say which directions are the first k.
        TypeError: if moments or keep are none.

    Source: activation-weighted truncation; the objective of ActSVD (Wei et al. 2024, arXiv 2402.05162).

    Examples:
        >>> moments = tlt.OutputMoments.fit(model, tokens, sites=["blocks.1.mlp.W_out"])
        >>> tlt.OutputPCA("blocks.1.mlp.W_out", moments, keep=0.1)
        OutputPCA(site='blocks.1.mlp.W_out', keep=Fraction(rho=0.1))
        >>> tlt.OutputPCA("blocks.1.mlp.W_out", moments, drop=2)
        OutputPCA(site='blocks.1.mlp.W_out', keep=DropTop(k=2))
    """

    moments: OutputMoments | Reference
    keep: Keep

    def __init__(
        self,
        site: Site | str,
        moments: OutputMoments | Reference | Mapping[str, Any],
        keep: Keep | int | float | None = None,
        *,
        drop: int | None = None,
        strength: float = 1.0,
    ) -> None:
        if (keep is None) == (drop is None):
            raise ValueError(
                f"OutputPCA must have either keep or drop, got keep={keep!r} and drop={drop!r}. Write "
                "keep=0.1 for a tenth of the directions, or drop=8 for all but the first eight."
            )
        rule = keep if drop is None else DropTop(drop)
        fitted = as_fitted(OutputMoments, "moments", moments)
        fill(self, site=site, moments=fitted, keep=rule, strength=strength)
        if type(self.keep) not in _RULES:
            raise ValueError(
                "OutputPCA's keep must be a rank, a fraction, or a rule that counts or weighs "
                f"directions ({', '.join(rule.__name__ for rule in _RULES)}), got {self.keep!r}, which "
                "judges the singular values of a weight."
            )
        if isinstance(fitted, OutputMoments):
            fitted.require(self.site)

    @property
    def label(self) -> str:
        """What is kept."""
        return f"PCA {self.keep.table_label}"

    def controls(self, seed: int) -> dict[str, SiteCut]:
        """A random subspace of equal rank, and random directions of which as much is removed."""
        moments = at_hand(OutputMoments, self.moments)
        values = moments.eigenvalues(self.site)
        kept = len(self.keep.indices(values.sqrt(), moments.shape(self.site)))
        return {
            "RandomSubspace": RandomSubspace(self.site, Rank(kept), seed, strength=self.strength),
            "NormMatched": NormMatchedTo(self, seed),
        }

    def kept_rank(self, model: Any) -> int:
        """How many directions are kept."""
        shape = locate(model, self.site).shape
        count = self.keep.count(min(shape))
        return len(self._kept(model)) if count is None else count

    def _kept(self, model: Any) -> torch.Tensor:
        found = at_hand(OutputMoments, self.moments).directions(model, self.site)
        try:
            return self.keep.indices(found.values.sqrt(), locate(model, self.site).shape)
        except ValueError as problem:
            raise ValueError(f"{self.site}: {problem}") from None

    def edit(self, model: Any) -> Edit:
        """The projection onto the kept directions."""
        moments, linear = at_hand(OutputMoments, self.moments), locate(model, self.site)
        moments.require_of(model, self.site)
        trivial = trivial_projection(linear, self.keep)
        if trivial is not None:
            return trivial
        found, kept = moments.directions(model, self.site), self._kept(model)
        if found.splits_unseen(kept):
            raise ValueError(
                f"The data must say which directions of {self.site} are the first, but what it writes "
                f"on the {moments.positions} positions of the moments lies in {found.seen} of "
                f"{len(found.values)}, and {len(kept)} are to be kept. Fit the moments on more text, or "
                f"keep at most {found.seen}."
            )
        return project_components(found.vectors.to(compute_dtype(linear.dtype)), kept)

    def __repr__(self) -> str:
        more = "" if self.strength == 1.0 else f", strength={self.strength!r}"
        return f"OutputPCA(site='{self.site}', keep={self.keep!r}{more})"
