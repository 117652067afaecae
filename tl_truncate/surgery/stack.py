"""Many edits of one weight at once: the rows of a tall batch, each in its own edited model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_truncate.surgery.circuits import require_precise
from tl_truncate.surgery.cut import Cut, SiteCut, as_slice, kept_components, trivial_projection
from tl_truncate.surgery.edit import Edit, Projection, smaller_side
from tl_truncate.weights.keep import LaserCompat
from tl_truncate.weights.locate import carrier
from tl_truncate.weights.spectra.spectrum import shared_spectrum


@dataclass(frozen=True)
class Stacked(Edit):
    """Several edits of one weight, the i-th for the i-th of equal parts of the batch.

    As an `Edit` it takes a tall batch, `[edits * batch, ...]`. `each` takes the batch once and gives the
    tall result, so that work which does not depend on the edit is done once.

    Args:
        edits: one for each part.
        strengths: one for each part, as a cut's strength.
    """

    edits: tuple[Edit, ...]
    strengths: tuple[float, ...]

    @property
    def needs_input(self) -> bool:
        """Whether any of the edits does."""
        return any(edit.needs_input for edit in self.edits)

    @property
    def is_identity(self) -> bool:
        """Whether all edits are."""
        return all(edit.is_identity for edit in self.edits)

    @property
    def is_of_weight(self) -> bool:
        """Never: each part of the batch has a weight of its own."""
        return False

    def moved(self, device: torch.device, dtype: torch.dtype) -> "Stacked":
        """The same edits elsewhere."""
        return Stacked(tuple(edit.moved(device, dtype) for edit in self.edits), self.strengths)

    def kept(self, u: Tensor, x: Tensor | None) -> Tensor:
        """What each edit leaves of its part."""
        return u - self.removed(u, x)

    def removed(self, u: Tensor, x: Tensor | None) -> Tensor:
        """What each edit takes from its part, times its strength."""
        parts = u.chunk(len(self.edits))
        inputs = [None] * len(parts) if x is None else x.chunk(len(self.edits))
        edits = zip(self.edits, self.strengths, parts, inputs, strict=True)
        return torch.cat([strength * edit.removed(part, own) for edit, strength, part, own in edits])

    def apply(self, y: Tensor, bias: Tensor | None, x: Tensor | None, strength: float) -> Tensor:
        """The edited outputs of a tall batch."""
        parts = y.chunk(len(self.edits))
        inputs = [None] * len(parts) if x is None else x.chunk(len(self.edits))
        edits = zip(self.edits, self.strengths, parts, inputs, strict=True)
        return torch.cat(
            [
                edit.apply(part, bias, own, strength * own_strength)
                for edit, own_strength, part, own in edits
            ]
        )

    def part(self, which: slice) -> "Stacked":
        """Some of the edits."""
        return Stacked(self.edits[which], self.strengths[which])

    def coefficients(self, y: Tensor, bias: Tensor | None) -> Tensor | None:
        """What all edits can share of their work on one output; None if nothing."""
        return None

    def each(
        self,
        y: Float[Tensor, "batch pos n_out"],
        bias: Float[Tensor, " n_out"] | None,
        coefficients: Tensor | None = None,
    ) -> Float[Tensor, "tall pos n_out"]:
        """The outputs of all edits from one output of the uncut weight: a tall batch.

        Args:
            y: the output, behind its bias.
            bias: of the linear.
            coefficients: from `coefficients`, to share them between parts.
        """
        pairs = zip(self.edits, self.strengths, strict=True)
        return torch.cat([edit.apply(y, bias, None, strength) for edit, strength in pairs])


@dataclass(frozen=True)
class SharedStack(Stacked):
    """Truncations of one spectrum: the coefficients `(y - b) V` are computed once for all of them.

    `y_i = b + c_K V_K^T` from the kept components where they are fewer, else `y - c_R V_R^T` from the
    removed ones. The edits' bases are views of the shared vectors where their columns are consecutive.

    Args:
        vectors: `[n_out, used]`, the right singular vectors that any of the edits needs.
        columns: for each edit, which of `vectors` span its smaller side.
    """

    vectors: Float[Tensor, "n_out used"]
    columns: tuple[slice | Tensor, ...]

    def moved(self, device: torch.device, dtype: torch.dtype) -> "SharedStack":
        """The same edits elsewhere."""
        keeps = tuple(isinstance(edit, Projection) and edit.keeps for edit in self.edits)
        return _share(self.vectors.to(device, dtype), self.columns, keeps, self.strengths)

    def part(self, which: slice) -> "SharedStack":
        """Some of the edits, with the vectors of all."""
        return SharedStack(self.edits[which], self.strengths[which], self.vectors, self.columns[which])

    def coefficients(self, y: Tensor, bias: Tensor | None) -> Tensor:
        """`(y - b) V`, `[token, used]`."""
        found = y.reshape(-1, y.shape[-1]) @ self.vectors
        return found if bias is None else found - bias @ self.vectors

    def each(
        self, y: Tensor, bias: Tensor | None, coefficients: Tensor | None = None
    ) -> Float[Tensor, "tall pos n_out"]:
        """The outputs of all edits from one output of the uncut weight: a tall batch."""
        rows = y.reshape(-1, y.shape[-1])
        shared = self.coefficients(y, bias) if coefficients is None else coefficients
        out = y.new_empty(len(self.edits), *rows.shape)
        rest = rows.new_zeros(rows.shape[1]) if bias is None else bias
        for place, (edit, strength, columns) in enumerate(
            zip(self.edits, self.strengths, self.columns, strict=True)
        ):
            keeps = isinstance(edit, Projection) and edit.keeps
            if keeps and strength != 1.0:
                out[place] = edit.apply(rows, bias, None, strength)
                continue
            start, sign = (rest, 1.0) if keeps else (rows, -strength)
            side = self.vectors[:, columns].T
            torch.addmm(start, shared[:, columns], side, alpha=sign, out=out[place])
        return out.view(len(self.edits) * y.shape[0], *y.shape[1:])


def stack(model: Any, cuts: Sequence[SiteCut]) -> Stacked:
    """Several cuts of one site as one edit of a tall batch.

    Args:
        model: with the site.
        cuts: all of the same site; truncations of its spectrum share their coefficients.

    Returns:
        The stacked edits, on the CPU and in the precision of the spectrum.
    """
    strengths = tuple(cut.strength for cut in cuts)
    plain = [cut for cut in cuts if type(cut) is Cut and not isinstance(cut.keep, LaserCompat)]
    site = cuts[0].site
    linear = carrier(model, site)
    trivial = [trivial_projection(linear, cut.keep) for cut in plain]
    # Those of QK are oblique where they are made: no coefficients of one basis are theirs.
    if len(plain) < len(cuts) or None not in trivial or site.matrix == "QK":
        edits = tuple(cut.edit(model) for cut in cuts)
        for edit in edits:
            require_precise(linear, edit, site)
        return Stacked(edits, strengths)
    spec = shared_spectrum(model, site)
    kept = [kept_components(spec, cut.keep, cut.site) for cut in plain]
    sides, keeps = zip(*(smaller_side(each, spec.max_rank) for each in kept), strict=True)
    used = torch.unique(torch.cat(sides))
    columns = tuple(as_slice(torch.searchsorted(used, side)) for side in sides)
    return _share(spec.columns(as_slice(used)), columns, keeps, strengths)


def _share(
    vectors: Tensor,
    columns: tuple[slice | Tensor, ...],
    keeps: tuple[bool, ...],
    strengths: tuple[float, ...],
) -> SharedStack:
    pairs = zip(columns, keeps, strict=True)
    edits = tuple(Projection(vectors[:, each], keep) for each, keep in pairs)
    return SharedStack(edits, strengths, vectors, columns)


@dataclass(frozen=True, repr=False)
class _StackedCut(SiteCut):
    """Stacked edits with a cut's interface, so that they can be at work through hooks."""

    edits: Stacked

    def __init__(self, site: Any, edits: Stacked) -> None:
        object.__setattr__(self, "site", site)
        object.__setattr__(self, "strength", 1.0)
        object.__setattr__(self, "edits", edits)

    def edit(self, model: Any) -> Edit:
        """The stacked edits."""
        return self.edits


def stacked_cut(site: Any, edits: Stacked) -> SiteCut:
    """A cut of one site that edits each part of a tall batch in its own way."""
    return _StackedCut(site, edits)
