"""A site: one weight matrix of one block, optionally one head of it, or a circuit of a head."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import total_ordering
from typing import Literal, cast, get_args

from tl_truncate.checks import meant, natural

Weight = Literal["W_Q", "W_K", "W_V", "W_O", "W_in", "W_gate", "W_out"]
#: Products of two weights of one head, by the names that they have elsewhere in TransformerLens.
Circuit = Literal["QK", "OV"]
Matrix = Weight | Circuit
MATRICES: tuple[Weight, ...] = get_args(Weight)
CIRCUITS: tuple[Circuit, ...] = get_args(Circuit)
ATTENTION_MATRICES: tuple[Weight, ...] = ("W_Q", "W_K", "W_V", "W_O")

_PATTERN = re.compile(r"blocks\.(\d+)\.(attn|mlp)\.(W_[A-Za-z]+|QK|OV)(?:\.(\d+))?")


@total_ordering
@dataclass(frozen=True)
class Site:
    """One weight matrix of one transformer block; `str(site)` and `Site.parse` are inverses.

    An attention matrix stands for all heads jointly, `[d_model, n_heads * d_head]` (for W_O the
    transpose of that), as LASER treats it, unless `head` picks one. W_K and W_V of a model with
    grouped-query attention have the model's own number of key/value heads.

    A circuit is the product of two weights of one head as one matrix, `[d_model, d_model]` of rank
    d_head: `QK = W_Q W_K^T`, by which a position that asks and one that answers are compared, and
    `OV = W_V W_O`, by which what is read at one position is written at another. The head is one of the
    queries'; its keys and values may be those of a group.

    Args:
        layer: index of the block, from 0.
        matrix: one of W_Q, W_K, W_V, W_O, W_in, W_gate, W_out, or a circuit, QK or OV.
        head: one head of an attention matrix; None for all of them jointly, which a circuit is not.

    Raises:
        ValueError: if the layer or head is not a natural number, the matrix is none of these, a head
            is asked of an MLP matrix, or a circuit has no head.

    Examples:
        >>> Site.parse("blocks.3.attn.W_O.5")
        Site(layer=3, matrix='W_O', head=5)
        >>> str(Site(layer=3, matrix="W_in"))
        'blocks.3.mlp.W_in'
    """

    layer: int
    matrix: Matrix
    head: int | None = None

    def __post_init__(self) -> None:
        if self.matrix not in (*MATRICES, *CIRCUITS):
            raise ValueError(
                f"A site's matrix must be one of {', '.join((*MATRICES, *CIRCUITS))}, got "
                f"{self.matrix!r}.{meant(self.matrix, (*MATRICES, *CIRCUITS))}"
            )
        for name, value in (("layer", self.layer), ("head", self.head)):
            if name == "head" and value is None:
                continue
            object.__setattr__(self, name, natural(f"A site's {name}", value))
        if self.head is not None and not self.is_attention:
            raise ValueError(
                f"Only attention matrices have heads, got head {self.head} of {self.matrix}. "
                f"Leave the head away: Site(layer={self.layer}, matrix={self.matrix!r})."
            )
        if self.head is None and self.is_circuit:
            raise ValueError(
                f"A circuit must be that of one head, got {self.matrix} without one. Write "
                f"'{self}.5', or find_sites(model, {self.matrix!r}) for those of all heads."
            )

    def __lt__(self, other: "Site") -> bool:
        """By layer and matrix; all heads jointly before single ones."""
        return self._place < other._place

    @property
    def _place(self) -> tuple[int, str, int]:
        return (self.layer, self.matrix, -1 if self.head is None else self.head)

    @property
    def is_attention(self) -> bool:
        """Whether the matrix belongs to the attention of its block."""
        return self.matrix in ATTENTION_MATRICES or self.is_circuit

    @property
    def is_circuit(self) -> bool:
        """Whether it is a product of two weights of a head, QK or OV."""
        return self.matrix in CIRCUITS

    @property
    def mixes_heads(self) -> bool:
        """Whether the matrix writes the queries, keys or values of all heads jointly."""
        return self.matrix in ("W_Q", "W_K", "W_V") and self.head is None

    @classmethod
    def parse(cls, text: "str | Site") -> "Site":
        """Reads a site from its name, such as `blocks.3.mlp.W_in` or `blocks.3.attn.W_O.5`.

        Args:
            text: the name; a Site passes through unchanged.

        Raises:
            ValueError: if the text is not the name of a site.
            TypeError: if it is neither text nor a Site.

        Examples:
            >>> Site.parse("blocks.0.attn.W_Q").is_attention
            True
        """
        if isinstance(text, Site):
            return text
        if not isinstance(text, str):
            raise TypeError(f"A site must be text such as 'blocks.3.mlp.W_in' or a Site, got {text!r}.")
        match = _PATTERN.fullmatch(text.strip())
        if match is None:
            raise ValueError(
                f"A site must read like 'blocks.3.mlp.W_in', 'blocks.3.attn.W_Q', "
                f"'blocks.3.attn.W_O.5' or 'blocks.3.attn.OV.5', got {text!r}."
            )
        layer, part, matrix, head = match.groups()
        site = cls(int(layer), cast(Matrix, matrix), None if head is None else int(head))
        if part != site._part:
            raise ValueError(f"{matrix} belongs to {site._part}, got {text!r}. Write '{site}'.")
        return site

    @property
    def _part(self) -> str:
        return "attn" if self.is_attention else "mlp"

    def __str__(self) -> str:
        head = "" if self.head is None else f".{self.head}"
        return f"blocks.{self.layer}.{self._part}.{self.matrix}{head}"


def as_matrices(matrices: Sequence[str] | str) -> tuple[Matrix, ...]:
    """Checks matrix names, so that a misspelt one fails before any model is looked at.

    Examples:
        >>> as_matrices("W_in")
        ('W_in',)
    """
    names = (matrices,) if isinstance(matrices, str) else tuple(matrices)
    for name in names:
        if name not in (*MATRICES, *CIRCUITS):
            known = ", ".join((*MATRICES, *CIRCUITS))
            near = meant(name, (*MATRICES, *CIRCUITS))
            raise ValueError(f"Matrices must be among {known}, got {name!r}.{near}")
    return cast(tuple[Matrix, ...], names)
