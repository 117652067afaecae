"""The spectrum of a site: its singular values and vectors, and what they write."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

import pandas as pd
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tl_truncate.drawing import Drawn
from tl_truncate.weights.holding.offloaded import real
from tl_truncate.weights.keep import Keep, as_keep
from tl_truncate.weights.locate import circuit_factors, locate
from tl_truncate.weights.reading import as_stored
from tl_truncate.weights.site import Site
from tl_truncate.weights.spectra.cache import Cached, cached_vectors, is_cached
from tl_truncate.weights.spectra.factors import Method, NotFinite
from tl_truncate.weights.spectra.other_side import left_side
from tl_truncate.weights.spectra.vectors import Side
from tl_truncate.weights.unembedding import unembedding


class SingularValues(Drawn, ABC):
    """What can be said of a spectrum from its singular values alone.

    Attributes:
        site: whose matrix it is.
        S: `[rank]`, largest first, in the units of the weight.
    """

    site: Site
    S: Float[Tensor, " rank"]

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """`(n_in, n_out)` of the matrix."""

    @property
    def max_rank(self) -> int:
        """Number of components: `min(n_in, n_out)`, and of a circuit at most the width of a head."""
        return len(self.S)

    def kept(self, keep: Keep | SupportsIndex | float) -> Int64[Tensor, " kept"]:
        """Indices of the components that a rule keeps.

        Raises:
            ValueError: if the rule asks for more than there is.
        """
        return as_keep(keep).indices(self.S, self.shape)

    def energy(self, keep: Keep | SupportsIndex | float) -> float:
        """Share of the squared Frobenius norm that a rule keeps, from 0 to 1."""
        squares = self.S.double().square()
        total = float(squares.sum())
        return float(squares[self.kept(keep)].sum()) / total if total else 0.0

    def gap(self, keep: Keep | SupportsIndex | float) -> float:
        """Relative distance between the kept and the removed singular values nearest each other.

        `min |S_i - S_j| / S_1` over kept i and removed j. A gap near the rounding of the weight means
        that the truncation is ill-posed: the two components could be exchanged or mixed. It is
        infinite where nothing or everything is kept.
        """
        inside = torch.zeros(self.max_rank, dtype=torch.bool)
        inside[self.kept(keep)] = True
        # Sorted values: the nearest pair across the border is always a pair of neighbours.
        border = inside[1:] != inside[:-1]
        if not bool(border.any()):
            return float("inf")
        steps = (self.S[:-1] - self.S[1:])[border]
        return float(steps.min() / self.S[0]) if float(self.S[0]) > 0 else 0.0


@dataclass(frozen=True)
class StoredValues(SingularValues):
    """The singular values that a saved result keeps; `tlt.spectrum` has the vectors."""

    site: Site
    S: Float[Tensor, " rank"]
    n_in: int
    n_out: int

    @property
    def shape(self) -> tuple[int, int]:
        """`(n_in, n_out)` of the matrix."""
        return (self.n_in, self.n_out)


class Directed(SingularValues):
    """A spectrum with the directions along which cuts remove components."""

    @property
    @abstractmethod
    def directions(self) -> Float[Tensor, "n rank"]:
        """The side on which a cut removes components: V, what they write; U of QK, whose cuts are made
        in the queries.
        """

    @abstractmethod
    def columns(self, which: slice | Int64[Tensor, " wanted"]) -> Float[Tensor, "n wanted"]:
        """The directions of some components."""


@dataclass(frozen=True)
class Directions(Directed):
    """What cuts need of a spectrum: the directions, in the memory of the cache and read as needed."""

    site: Site
    cached: Cached

    @property
    def S(self) -> Float[Tensor, " rank"]:  # type: ignore[override]
        """The singular values, largest first."""
        return self.cached.vectors.S

    @property
    def shape(self) -> tuple[int, int]:
        """`(n_in, n_out)` of the matrix."""
        matrices = self.cached.matrices
        return (matrices[0].shape[0], matrices[-1].shape[1])

    @property
    def directions(self) -> Float[Tensor, "n rank"]:
        """All of them."""
        return self.columns(slice(None))

    def columns(self, which: slice | Int64[Tensor, " wanted"]) -> Float[Tensor, "n wanted"]:
        """Those of some components; nothing else is read."""
        return self.cached.rows(which).T

    def values(self) -> StoredValues:
        """The singular values alone, for what is kept longer than the directions."""
        return StoredValues(self.site, self.S, *self.shape)


@dataclass(frozen=True)
class Spectrum(Directed):
    """`W = U diag(S) V^T` of one site: component i reads `U[:, i]` and writes `V[:, i]`.

    Attributes:
        site: whose matrix it is.
        U: `[n_in, rank]`, orthonormal columns.
        S: `[rank]`, largest first, in the units of the weight.
        V: `[n_out, rank]`, orthonormal columns.
        method: how the factors were found, `gram` or `svd`.
        defect: measured bound on how far V was from orthonormal before rounding.
    """

    site: Site
    U: Float[Tensor, "n_in rank"]
    S: Float[Tensor, " rank"]
    V: Float[Tensor, "n_out rank"]
    method: Method
    defect: float

    @property
    def shape(self) -> tuple[int, int]:
        """`(n_in, n_out)` of the matrix."""
        return (self.U.shape[0], self.V.shape[0])

    @property
    def directions(self) -> Float[Tensor, "n rank"]:
        """V, or U of QK."""
        return self.U if _side(self.site) == "U" else self.V

    def columns(self, which: slice | Int64[Tensor, " wanted"]) -> Float[Tensor, "n wanted"]:
        """The directions of some components."""
        return self.directions[:, which]

    def matrix(self, keep: Keep | SupportsIndex | float = 1.0) -> Float[Tensor, "n_in n_out"]:
        """The matrix made of the kept components, `sum_{i in K} S_i U_i V_i^T`."""
        chosen = self.kept(keep)
        return (self.U[:, chosen] * self.S[chosen]) @ self.V[:, chosen].T

    def tokens(
        self, model: Any, k: int = 10, *, components: Sequence[int] | None = None
    ) -> pd.DataFrame:
        """The tokens that each output direction writes through the unembedding.

        `logits_i = (V_i * w) W_U`, with w the final norm's weight where the model keeps one. The sign
        of a singular vector is arbitrary, so both ends are listed.

        Args:
            model: the model that the spectrum came from.
            k: tokens for each end of a direction.
            components: which directions; the first ten by default.

        Returns:
            One row per (component, sign, place): the token's text (its number where the model has no
            tokenizer) and its logit per unit of the direction.

        Raises:
            ValueError: if the site does not write to the residual stream.
        """
        if self.site.matrix not in ("W_O", "W_out", "OV"):
            raise ValueError(
                f"The site must write to the residual stream (W_O or W_out), or be an OV, for its "
                f"directions to have tokens, got {self.site}."
            )
        chosen = list(range(min(10, self.max_rank)) if components is None else components)
        unembed = unembedding(model).float().cpu()
        directions = self.V[:, chosen].float().T * _final_norm_weight(model)
        logits = directions @ unembed
        rows = []
        for component, values in zip(chosen, logits, strict=True):
            for sign in (1, -1):
                top = (sign * values).topk(k)
                for place, token in enumerate(top.indices.tolist()):
                    text = _text(model, token)
                    row = (component, float(self.S[component]), sign, place, token, text)
                    rows.append((*row, sign * float(top.values[place])))
        columns = ["component", "singular_value", "sign", "place", "token_id", "token", "logit"]
        return pd.DataFrame(rows, columns=columns)

    def __str__(self) -> str:
        values = " ".join(f"{value:.3g}" for value in self.S[:5].tolist())
        ellipsis = " ..." if self.max_rank > 5 else ""
        return (
            f"Spectrum of {self.site}: {self.shape[0]} x {self.shape[1]}, {self.max_rank} components, "
            f"S = {values}{ellipsis} (by {self.method}, orthonormal to {self.defect:.0e})"
        )


def _final_norm_weight(model: Any) -> Tensor:
    norm = getattr(model, "ln_final", None)
    weights = (None if norm is None else real(norm, name) for name in ("weight", "w"))
    found = next((weight for weight in weights if weight is not None), None)
    return torch.ones(()) if found is None else found.detach().float().cpu()


def _text(model: Any, token: int) -> str:
    tokenizer = getattr(model, "tokenizer", None)
    return str(token) if tokenizer is None else str(tokenizer.decode([token]))


def spectrum(model: Any, site: Site | str) -> Spectrum:
    """The singular values and vectors of a site's weight, exactly.

    `W = U diag(S) V^T`, computed in float64 and kept in float32 (in float64 for a float64 weight), then
    remembered on disk by the content of the weight.

    Args:
        model: a HookedTransformer or TransformerBridge; its weight is read and not changed.
        site: a Site or its name, such as `blocks.3.mlp.W_in`; or a circuit of a head, such as
            `blocks.3.attn.OV.5`, whose matrix is a product of two weights.

    Returns:
        The spectrum, on the CPU, in memory of its own. It is that of the stored weight, also inside of
        `truncated`; with `truncated(..., weights=True)` that of the cut one.

    Raises:
        ValueError: if the model has no such site, or its weight is not finite.

    Source: closed form 1 of the documentation; LASER (Sharma et al. 2023), section 3.

    Examples:
        >>> spec = tlt.spectrum(model, "blocks.0.mlp.W_out")
        >>> tuple(spec.U.shape), tuple(spec.S.shape), tuple(spec.V.shape)
        ((48, 32), (32,), (32, 32))
    """
    shared = _directions(model, site)
    # A copy also of a single component, whose transpose is contiguous as it is.
    own = shared.directions.clone(memory_format=torch.contiguous_format)
    side, matrices = _side(shared.site), shared.cached.matrices
    if side == "U":  # the left side of the transpose is the right one
        matrices = tuple(each.T for each in reversed(matrices))
    other = left_side(matrices, own)
    u, v = (own, other) if side == "U" else (other, own)
    vectors = shared.cached.vectors
    return Spectrum(shared.site, u, vectors.S.clone(), v, vectors.method, vectors.defect)


def shared_spectrum(model: Any, site: Site | str) -> Directions:
    """That of the stored weight, in the memory of the cache: for those who do not write into it.

    Cuts choose from it, whatever reads as cut already, and so must everything that leads to a cut.
    """
    with as_stored():
        return _directions(model, site)


def is_at_hand(model: Any, site: Site | str) -> bool:
    """Whether the spectrum of a stored weight is in memory or on disk, so that nothing is computed."""
    place = Site.parse(site)
    with as_stored():
        return is_cached(*_matrices(model, place), side=_side(place))


def _matrices(model: Any, place: Site) -> tuple[Tensor] | tuple[Tensor, Tensor]:
    return circuit_factors(model, place) if place.is_circuit else (locate(model, place).weight(),)


def _directions(model: Any, site: Site | str) -> Directions:
    place = Site.parse(site)
    try:
        return Directions(place, cached_vectors(*_matrices(model, place), side=_side(place)))
    except NotFinite as problem:
        raise ValueError(f"{place}: {problem}") from None


def _side(site: Site) -> Side:
    return "U" if site.matrix == "QK" else "V"
