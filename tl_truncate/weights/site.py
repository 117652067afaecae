"""A site: one weight matrix of one block, optionally one head of it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import total_ordering
from typing import Literal, cast, get_args

from tl_truncate.checks import natural

Matrix = Literal["W_Q", "W_K", "W_V", "W_O", "W_in", "W_gate", "W_out"]
MATRICES: tuple[Matrix, ...] = get_args(Matrix)
ATTENTION_MATRICES: tuple[Matrix, ...] = ("W_Q", "W_K", "W_V", "W_O")

_PATTERN = re.compile(r"blocks\.(\d+)\.(attn|mlp)\.(W_[A-Za-z]+)(?:\.(\d+))?")


@total_ordering
@dataclass(frozen=True)
class Site:
    """One weight matrix of one transformer block; `str(site)` and `Site.parse` are inverses.

    An attention matrix stands for all heads jointly, `[d_model, n_heads * d_head]` (for W_O the
    transpose of that), as LASER treats it, unless `head` picks one. W_K and W_V of a model with
    grouped-query attention have the model's own number of key/value heads.

    Args:
        layer: index of the block, from 0.
        matrix: one of W_Q, W_K, W_V, W_O, W_in, W_gate, W_out.
        head: one head of an attention matrix; None for all of them jointly.

    Raises:
        ValueError: if the layer or head is not a natural number, the matrix is not one of the
            seven, or a head is asked of an MLP matrix.

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
        if self.matrix not in MATRICES:
            raise ValueError(
                f"A site's matrix must be one of {', '.join(MATRICES)}, got {self.matrix!r}."
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

    def __lt__(self, other: "Site") -> bool:
        """By layer and matrix; all heads jointly before single ones."""
        return self._place < other._place

    @property
    def _place(self) -> tuple[int, str, int]:
        return (self.layer, self.matrix, -1 if self.head is None else self.head)

    @property
    def is_attention(self) -> bool:
        """Whether the matrix belongs to the attention of its block."""
        return self.matrix in ATTENTION_MATRICES

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
                f"A site must read like 'blocks.3.mlp.W_in', 'blocks.3.attn.W_Q' or "
                f"'blocks.3.attn.W_O.5', got {text!r}."
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
        if name not in MATRICES:
            raise ValueError(f"Matrices must be among {', '.join(MATRICES)}, got {name!r}.")
    return cast(tuple[Matrix, ...], names)
