"""Truncation of groups of a weight's columns, each in a subspace of its own.

A joint truncation takes one subspace for all output coordinates. Where groups of them live in different
subspaces, each has its own spectrum, and the projection of the output is block-diagonal.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, SupportsIndex

import torch
from jaxtyping import Int64
from torch import Tensor

from tl_truncate.surgery.controls import NormMatched, RandomSubspace, _SeededControl
from tl_truncate.surgery.cut import SiteCut, fill, kept_components, projection
from tl_truncate.surgery.edit import Edit, Projection
from tl_truncate.surgery.grouping import Grouping, checked_groups
from tl_truncate.weights.keep import Keep, LaserCompat
from tl_truncate.weights.linear import compute_dtype
from tl_truncate.weights.locate import locate
from tl_truncate.weights.site import Site
from tl_truncate.weights.spectra.cache import cached_vectors
from tl_truncate.weights.spectra.spectrum import Directed, Directions

Drawn = Literal["RandomSubspace", "NormMatched"]


@dataclass(frozen=True)
class Blocks(Edit):
    """Projections of groups of output coordinates, each of its own: a block-diagonal projection.

    `kept(u)_g = kept_g(u_g)`; it costs `4 sum_g |g| rank_g` FLOPs a token.

    Args:
        groups: the coordinates of each group; together each coordinate once.
        parts: one projection for each group.

    Examples:
        >>> first = Projection(torch.tensor([[0.6], [0.8]]), keeps=True)
        >>> second = Projection(torch.zeros(1, 0), keeps=True)
        >>> blocks = Blocks((torch.tensor([0, 2]), torch.tensor([1])), (first, second))
        >>> [round(value, 4) for value in blocks.kept(torch.tensor([1.0, 5.0, 2.0]), None).tolist()]
        [1.32, 0.0, 1.76]
    """

    groups: tuple[Int64[Tensor, " size"], ...]
    parts: tuple[Projection, ...]

    @property
    def needs_input(self) -> bool:
        """Never: the output is enough."""
        return False

    @property
    def is_identity(self) -> bool:
        """Whether no group loses anything."""
        return all(part.is_identity for part in self.parts)

    def moved(self, device: torch.device, dtype: torch.dtype) -> "Blocks":
        """The same projections elsewhere."""
        groups = tuple(group.to(device) for group in self.groups)
        return Blocks(groups, tuple(part.moved(device, dtype) for part in self.parts))

    def kept(self, u: Tensor, x: Tensor | None) -> Tensor:
        """The projected `u`."""
        return self._together([part.kept(u[..., own], None) for own, part in self._pairs()])

    def removed(self, u: Tensor, x: Tensor | None) -> Tensor:
        """What the projections take from `u`."""
        return self._together([part.removed(u[..., own], None) for own, part in self._pairs()])

    def apply(self, y: Tensor, bias: Tensor | None, x: Tensor | None, strength: float) -> Tensor:
        """The edited output, group by group."""
        if self.is_identity:
            return y
        edited = [
            part.apply(y[..., own], None if bias is None else bias[own], None, strength)
            for own, part in self._pairs()
        ]
        return self._together(edited)

    def _pairs(self) -> Iterator[tuple[Tensor, Projection]]:
        return zip(self.groups, self.parts, strict=True)

    def _together(self, parts: list[Tensor]) -> Tensor:
        return torch.cat(parts, dim=-1)[..., torch.cat(self.groups).argsort()]


def _kept(
    model: Any, site: Site, keep: Keep, grouping: Grouping
) -> Iterator[tuple[Tensor, int, int, Directed | None]]:
    """Of each group its coordinates, how many components it has and keeps, and its spectrum if needed.

    Raises:
        ValueError: if a group has fewer components than are to be kept.
    """
    found = grouping.of(model, site)
    for place, (own, columns) in enumerate(found):
        max_rank = min(columns.shape)
        try:
            count = keep.count(max_rank)
            if count in (0, max_rank):
                yield own, max_rank, count, None
                continue
            spec = Directions(site, cached_vectors(columns))
            yield own, max_rank, len(keep.indices(spec.S, spec.shape)), spec
        except ValueError as problem:
            raise ValueError(f"{site}, group {place} of {len(found)}: {problem}") from None


def _blocks(
    model: Any,
    site: Site,
    keep: Keep,
    grouping: Grouping,
    choose: Callable[[int, Directed], Projection],
) -> Edit:
    """The projections of all groups as one edit; of one group its own."""
    dtype = compute_dtype(locate(model, site).dtype)
    groups, parts = [], []
    for place, (own, _, kept, spec) in enumerate(_kept(model, site, keep, grouping)):
        groups.append(own)
        if spec is None:
            parts.append(Projection(torch.zeros(len(own), 0, dtype=dtype), keeps=kept == 0))
        else:
            parts.append(choose(place, spec))
    return parts[0] if len(parts) == 1 else Blocks(tuple(groups), tuple(parts))


@dataclass(frozen=True, repr=False)
class Clustered(SiteCut):
    """Keeps part of the spectrum of each group of a site's columns, and removes the rest.

    The output coordinates are divided into groups g, and `W[:, g] -> W[:, g] P_g` with `P_g` on the
    kept right singular vectors of that group alone: `u_g -> u_g P_g`. With one group it is `Cut`; with
    each coordinate a group of its own and one component kept, nothing is removed.

    What is kept is `sum_g k_g` directions in all, `kept_rank`. Of W_in, which is wider than long, that
    may be more than the rank of the matrix, which each group has anew.

    Args:
        site: a Site or its name, of one weight.
        groups: a number, found by k-means on the columns of the weight, each brought to length 1 first
            (a subspace has short columns as well as long ones); or a label for each output coordinate.
        keep: as for `Cut`, of each group on its own: a fraction of the group's largest rank, an int a
            rank of each.
        seed: of the k-means.
        strength: as for `Cut`.

    Raises:
        ValueError: if an argument does not fit; where it is used, if there are more groups, or other
            labels, than output coordinates, or a group has fewer components than are to be kept.
        TypeError: if keep is neither a number nor a rule.

    Source: Compress to Impress (arXiv 2510.20800), multi-subspace truncation; the groups are our own.

    Examples:
        >>> Clustered("blocks.3.mlp.W_out", groups=4, keep=0.25)
        Clustered(site='blocks.3.mlp.W_out', groups=4, keep=Fraction(rho=0.25), seed=0)
        >>> Clustered("blocks.1.mlp.W_out", groups=4, keep=1).kept_rank(model)
        4
    """

    groups: int | tuple[int, ...]
    keep: Keep
    seed: int = 0

    def __init__(
        self,
        site: Site | str,
        groups: int | Sequence[int | str] = 8,
        keep: Keep | SupportsIndex | float = 0.1,
        seed: SupportsIndex = 0,
        *,
        strength: float = 1.0,
    ) -> None:
        own = checked_groups(groups)
        fill(self, site=site, groups=own, keep=keep, seed=seed, strength=strength)
        if isinstance(self.keep, LaserCompat):
            raise ValueError("LaserCompat sketches whole weights. Use Fraction(rho) for groups.")

    @property
    def grouping(self) -> Grouping:
        """Which coordinates stand together."""
        return Grouping(self.groups, self.seed)

    @property
    def label(self) -> str:
        """What is kept, in how many groups."""
        return f"{self.keep.table_label} in {self.grouping}"

    def controls(self, seed: int) -> dict[str, SiteCut]:
        """Of as much in the same groups: a random subspace of each, and one of the same norm."""
        kinds: tuple[Drawn, ...] = ("RandomSubspace", "NormMatched")
        grouping = (self.groups, self.seed)
        return {
            kind: DrawnInGroups(self.site, self.keep, seed, *grouping, kind, strength=self.strength)
            for kind in kinds
        }

    def kept_rank(self, model: Any) -> int:
        """How many directions all groups keep together."""
        return sum(kept for _, _, kept, _ in _kept(model, self.site, self.keep, self.grouping))

    def edit(self, model: Any) -> Edit:
        """The block-diagonal projection."""

        def choose(place: int, spec: Directed) -> Projection:
            return projection(spec, kept_components(spec, self.keep, self.site))

        return _blocks(model, self.site, self.keep, self.grouping, choose)

    def __repr__(self) -> str:
        groups = self.groups if isinstance(self.groups, int) else f"<{self.grouping}>"
        more = "" if self.strength == 1.0 else f", strength={self.strength!r}"
        return (
            f"Clustered(site='{self.site}', groups={groups}, keep={self.keep!r}, seed={self.seed}{more})"
        )


@dataclass(frozen=True, repr=False, init=False)
class DrawnInGroups(_SeededControl):
    """The control of `Clustered`: in each of its groups as much at random, by rank or by norm.

    Args:
        site: as that of the cut.
        keep: as that of the cut.
        seed: of the draws; each group has its own.
        groups: as those of the cut.
        grouping_seed: the cut's own.
        drawn: `RandomSubspace` or `NormMatched`, each as for a whole weight.
        strength: as that of the cut.

    Raises:
        ValueError: if an argument does not fit.

    Examples:
        >>> DrawnInGroups("blocks.3.mlp.W_out", 8, 1, groups=4)
        DrawnInGroups(site='blocks.3.mlp.W_out', keep=Rank(k=8), seed=1, 4 groups, RandomSubspace)
    """

    groups: int | tuple[int, ...] = 8
    grouping_seed: int = 0
    drawn: Drawn = "RandomSubspace"

    def __init__(
        self,
        site: Site | str,
        keep: Keep | SupportsIndex | float,
        seed: SupportsIndex = 0,
        groups: int | Sequence[int | str] = 8,
        grouping_seed: SupportsIndex = 0,
        drawn: Drawn = "RandomSubspace",
        *,
        strength: float = 1.0,
    ) -> None:
        if drawn not in _DRAWN:
            raise ValueError(f"drawn must be one of {', '.join(_DRAWN)}, got {drawn!r}.")
        grouping = Grouping(groups, grouping_seed)
        fill(self, site=site, keep=keep, seed=seed, strength=strength, drawn=drawn)
        fill(self, groups=grouping.groups, grouping_seed=grouping.seed)

    @property
    def kind(self) -> str:
        """That of what is drawn in each group."""
        return self.drawn

    @property
    def grouping(self) -> Grouping:
        """Which coordinates stand together."""
        return Grouping(self.groups, self.grouping_seed)

    @property
    def label(self) -> str:
        """That of the cut."""
        return f"{self.keep.table_label} in {self.grouping}"

    def kept_rank(self, model: Any) -> int:
        """How many directions the cut keeps."""
        return sum(kept for _, _, kept, _ in _kept(model, self.site, self.keep, self.grouping))

    def equals_the_cut(self, model: Any) -> bool:
        """Whether nothing or everything is kept in each group."""
        found = _kept(model, self.site, self.keep, self.grouping)
        return all(kept in (0, max_rank) for _, max_rank, kept, _ in found)

    def edit(self, model: Any) -> Edit:
        """The drawn projections."""
        count = len(self.grouping.of(model, self.site))

        def choose(place: int, spec: Directed) -> Projection:
            return replace(self, seed=self.seed * count + place)._draw(spec)

        return _blocks(model, self.site, self.keep, self.grouping, choose)

    def _draw(self, spec: Directed) -> Projection:
        return _DRAWN[self.drawn](self.site, self.keep, self.seed)._draw(spec)

    def __repr__(self) -> str:
        more = "" if self.strength == 1.0 else f", strength={self.strength!r}"
        return (
            f"DrawnInGroups(site='{self.site}', keep={self.keep!r}, seed={self.seed}, {self.grouping}, "
            f"{self.drawn}{more})"
        )


_DRAWN: dict[Drawn, type[_SeededControl]] = {
    "RandomSubspace": RandomSubspace,
    "NormMatched": NormMatched,
}
