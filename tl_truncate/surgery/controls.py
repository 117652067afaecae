"""Controls with a cut's interface: what happens if a part of no particular meaning is removed.

A cut's effect says something about the removed components only if a random part of the same size
does not have it too.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from tl_truncate.checks import positive
from tl_truncate.surgery.circuits import made_at
from tl_truncate.surgery.cut import SiteCut, fill, kept_components, nothing_but_bias, trivial_projection
from tl_truncate.surgery.edit import Edit, Projection, keeps_smaller, project_components
from tl_truncate.weights.keep import Keep
from tl_truncate.weights.locate import carrier
from tl_truncate.weights.site import Site
from tl_truncate.weights.spectra.spectrum import Directed, shared_spectrum

Control = TypeVar("Control", bound=SiteCut)


@dataclass(frozen=True, repr=False)
class _SeededControl(SiteCut):
    """A control that draws at random what a cut with the same keep would choose."""

    _always_drawn = True

    keep: Keep
    seed: int = 0

    def __init__(
        self,
        site: Site | str,
        keep: Keep | SupportsIndex | float,
        seed: SupportsIndex = 0,
        *,
        strength: float = 1.0,
    ) -> None:
        fill(self, site=site, keep=keep, seed=seed, strength=strength)

    def edit(self, model: Any) -> Edit:
        """The drawn projection; with nothing or everything kept there is nothing to draw."""
        trivial = trivial_projection(carrier(model, self.site), self.keep)
        if trivial is not None:
            return trivial
        return made_at(model, self.site, self._draw(shared_spectrum(model, self.site)))

    @abstractmethod
    def _draw(self, spec: Directed) -> Projection:
        """The projection, along the directions of the spectrum of the site."""

    def _rotation(self, spec: Directed, directions: int) -> Float[Tensor, "rank directions"]:
        return _rotation(spec, directions, f"{self.seed} {self.site}")

    def equals_the_cut(self, model: Any) -> bool:
        """Whether nothing or everything is kept, so that there is nothing to draw."""
        return self.kept_rank(model) in (0, min(carrier(model, self.site).shape))


def _rotation(spec: Directed, directions: int, seed: str) -> Float[Tensor, "rank directions"]:
    """Random orthonormal directions in the coordinates of the components.

    They are drawn in the space of the directions and projected onto theirs, one after the other, so that
    they do not depend on the signs of singular vectors, which differ between machines, nor on their
    order where singular values are equal.
    """
    own = spec.directions
    drawn = random_normal(own.shape[0], directions, seed)
    rotation: Tensor = torch.linalg.qr(own.double().cpu().T @ drawn).Q
    return rotation.to(own.device)


def of_norm(spec: Directed, square: float, seed: str) -> Projection:
    """Random directions of a spectrum removed one after the other until so much of the matrix is."""
    own, rotation = spec.directions, _rotation(spec, spec.max_rank, seed)
    energies = (spec.S.double()[:, None] * rotation).square().sum(0)
    weights = weights_for_energy(energies, square)
    basis = (own.double() @ rotation[:, : len(weights)]).to(own.dtype)
    return Projection(basis, keeps=False, weights=weights.to(own.dtype))


def _control(kind: type[Control]) -> type[Control]:
    """Makes a kind one of those that every cut is compared with."""
    SiteCut._controls[kind.__name__] = kind
    return kind


@_control
@dataclass(frozen=True, repr=False, init=False)
class RandomSubspace(_SeededControl):
    """Keeps a random subspace of the same rank as a cut would: `W -> W Q Q^T`.

    Q is uniform among the subspaces of the weight's row space, so that keeping everything is the
    identity and the rank of the result is that of the cut.

    Args:
        site: a Site or its name.
        keep: as for `Cut`; only the number of kept components matters.
        seed: of the subspace; each site draws its own.
        strength: as for `Cut`.

    Raises:
        ValueError: if an argument does not fit.

    Source: closed form 4 of the documentation.

    Examples:
        >>> RandomSubspace("blocks.3.mlp.W_out", keep=8, seed=1)
        RandomSubspace(site='blocks.3.mlp.W_out', keep=Rank(k=8), seed=1)
    """

    def _draw(self, spec: Directed) -> Projection:
        count = self.keep.count(spec.max_rank)
        kept = len(kept_components(spec, self.keep, self.site)) if count is None else count
        keeps = keeps_smaller(kept, spec.max_rank)
        rotation = self._rotation(spec, kept if keeps else spec.max_rank - kept)
        own = spec.directions
        return Projection((own.double() @ rotation).to(own.dtype), keeps)


@_control
@dataclass(frozen=True, repr=False, init=False)
class NormMatched(_SeededControl):
    """Removes a random component with the Frobenius norm of what a cut would remove.

    Random orthonormal directions of the row space are removed one after the other until
    `|R|_F = |W - W_K|_F`; of the last one only the fraction that is needed.

    Args:
        site: a Site or its name.
        keep: as for `Cut`; only the norm of the removed part matters.
        seed: of the directions; each site draws its own.
        strength: as for `Cut`.

    Raises:
        ValueError: if an argument does not fit.

    Source: closed form 4 of the documentation.

    Examples:
        >>> NormMatched("blocks.3.mlp.W_out", keep=0.5)
        NormMatched(site='blocks.3.mlp.W_out', keep=Fraction(rho=0.5), seed=0)
    """

    def _draw(self, spec: Directed) -> Projection:
        removed = torch.ones(spec.max_rank, dtype=torch.bool)
        removed[kept_components(spec, self.keep, self.site)] = False
        square = float(spec.S.double()[removed].square().sum())
        return of_norm(spec, square, f"{self.seed} {self.site}")


@dataclass(frozen=True, repr=False, init=False)
class RotatedComponents(_SeededControl):
    """Keeps directions as a cut keeps components, of a basis of the row space that is turned at random.

    `W -> W (I - B_R B_R^T)` with `B = V Q`, Q uniform among rotations: what a rule that chooses
    components has to choose from where the spectrum is taken away. Only the numbers of the kept
    components matter.

    Args:
        site: a Site or its name.
        keep: as for `Cut`, such as `Without([3, 8])`.
        seed: of the rotation; each site has its own.
        strength: as for `Cut`.

    Raises:
        ValueError: if an argument does not fit.

    Examples:
        >>> RotatedComponents("blocks.3.mlp.W_out", keep=tlt.Without([0]), seed=1)
        RotatedComponents(site='blocks.3.mlp.W_out', keep=Without([0]), seed=1)
    """

    def basis(self, spec: Directed) -> Float[Tensor, "n_out rank"]:
        """All directions, of which some are kept."""
        own = spec.directions
        return (own.double() @ self._rotation(spec, spec.max_rank)).to(own.dtype)

    def _draw(self, spec: Directed) -> Projection:
        kept = kept_components(spec, self.keep, self.site)
        return project_components(self.basis(spec), kept)


@dataclass(frozen=True, repr=False)
class Ablated(SiteCut):
    """Removes the whole weight: the linear writes its bias alone.

    Args:
        site: a Site or its name.
        strength: as for `Cut`.

    Raises:
        ValueError: if an argument does not fit.

    Examples:
        >>> Ablated("blocks.3.mlp.W_out")
        Ablated(site='blocks.3.mlp.W_out')
    """

    def __init__(self, site: Site | str, *, strength: float = 1.0) -> None:
        fill(self, site=site, strength=strength)

    def edit(self, model: Any) -> Edit:
        """The projection onto nothing."""
        return nothing_but_bias(carrier(model, self.site))


#: Of one site, whose passes are shared; and where each draw takes passes of its own for every site.
DRAWS, FEW_DRAWS = 16, 4


def draws_for(sites: int, draws: int | None = None) -> int:
    """How often controls are drawn: as asked, else 16 times where there is one site, and 4 times.

    Raises:
        ValueError: if it is not a positive number.

    Examples:
        >>> draws_for(1), draws_for(90), draws_for(90, 2)
        (16, 4, 2)
    """
    if draws is None:
        return DRAWS if sites == 1 else FEW_DRAWS
    return positive("draws", draws)


def is_control(cut: SiteCut) -> bool:
    """Whether a cut draws at random what another one chooses.

    Examples:
        >>> [is_control(kind("blocks.3.mlp.W_out", keep=8)) for kind in (RandomSubspace, tlt.Cut)]
        [True, False]
    """
    return cut.is_drawn


def is_control_kind(kind: str) -> bool:
    """`is_control` of any cut of a kind, by its name; some names only draws are called by.

    Examples:
        >>> [is_control_kind(kind) for kind in ("RandomSubspace", "OutputPCA", "Ablated")]
        [True, False, False]
    """
    found = SiteCut._kinds.get(kind)
    return found is None or found._always_drawn


def controls_of(
    model: Any, cuts: Sequence[SiteCut], *, seed: int, draws: int = 1
) -> dict[str, list[list[SiteCut]]]:
    """By kind, the controls of some cuts that are made together, under as many seeds as draws.

    Only kinds that each of the cuts has. Where a control would be the cut itself, since nothing or
    everything is kept, the cut takes its place; a kind that is the cuts themselves is none. Each cut of
    a site has draws of its own: under one seed what one of them keeps would be what another removes.

    Args:
        model: that they are of.
        cuts: made together.
        seed: of the first draw; the others have the seeds after it.
        draws: how many.

    Returns:
        The control of each draw, one cut for each of the cuts.

    Examples:
        >>> controls_of(model, [tlt.Cut("blocks.1.mlp.W_out", keep=8)], seed=1)["RandomSubspace"]
        [[RandomSubspace(site='blocks.1.mlp.W_out', keep=Rank(k=8), seed=1)]]
        >>> controls_of(model, [tlt.Ablated("blocks.1.mlp.W_out")], seed=1)
        {}
    """
    found: dict[str, list[list[SiteCut]]] = {}
    sites = [cut.site for cut in cuts]
    repeats = [(cut, sites[:place].count(cut.site)) for place, cut in enumerate(cuts)]
    for place in range(draws):
        own = [cut.controls(_own_seed(seed + place, before)) for cut, before in repeats]
        for kind in own[0] if own else ():
            if not all(kind in each for each in own):
                continue
            drawn = [each[kind] for each in own]
            placebo = [
                cut if each.equals_the_cut(model) else each
                for each, cut in zip(drawn, cuts, strict=True)
            ]
            if placebo != list(cuts):
                found.setdefault(kind, []).append(placebo)
    return found


def _own_seed(seed: int, before: int) -> int:
    """The seed of a draw for a cut that has so many of its site before it; of the first it stays."""
    if not before:
        return seed
    digest = hashlib.blake2b(f"{seed} {before}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")


def weights_for_energy(energies: Float[Tensor, " rank"], target: float) -> Float[Tensor, " removed"]:
    """How much of each direction to remove, in order, so that `sum w_i^2 e_i = target`.

    Examples:
        >>> weights_for_energy(torch.tensor([4.0, 4.0, 4.0]), 5.0).tolist()
        [1.0, 0.5]
    """
    before = torch.cat([energies.new_zeros(1), energies.cumsum(0)[:-1]])
    needed = ((target - before) / energies.clamp_min(torch.finfo(energies.dtype).tiny)).clamp(0, 1)
    return needed[needed > 0].sqrt()


def random_normal(rows: int, columns: int, seed: str) -> Float[Tensor, "rows columns"]:
    """Independent normal numbers in float64, from text, on any machine alike."""
    digest = hashlib.blake2b(seed.encode(), digest_size=7).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)
