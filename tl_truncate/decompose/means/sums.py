"""What one site writes, summed up by token: enough for means, shares and a held-out R^2."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tl_truncate.decompose.means.groups import Groups

#: Positions whose output is longer than this many times the median of their row are attention sinks.
SINK = 60.0
# A pair of tokens as one number.
_PAIR = 1 << 32


@dataclass
class SiteSums:
    """Sums of one site's outputs, `o = x W + b`, over positions.

    Attributes:
        tokens: of o, by the current token.
        squares: of `((o - b) . v_i)^2` for each component, by token; None if they are not wanted.
        pairs: of o, by the previous and the current token; None if they are not wanted.
        energy: of `|o|^2`.
    """

    tokens: Groups
    squares: Groups | None = None
    pairs: Groups | None = None
    energy: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.float64))

    @classmethod
    def empty(cls, width: int, rank: int | None, pairs: bool) -> "SiteSums":
        """Nothing seen yet; `rank` is None where no shares are wanted."""
        return cls(
            Groups(width), None if rank is None else Groups(rank), Groups(width) if pairs else None
        )

    def add(
        self,
        tokens: Int64[Tensor, "batch pos"],
        used: Bool[Tensor, "batch pos"],
        output: Float[Tensor, "batch pos width"],
        coefficients: Float[Tensor, "batch pos rank"] | None,
    ) -> None:
        """Takes in the used positions of a batch."""
        chosen, values = tokens[used], output[used.to(output.device)]
        self.tokens.add(chosen, values)
        self.energy += values.double().square().sum().cpu()
        if self.squares is not None and coefficients is not None:
            own = coefficients[used.to(coefficients.device)].double()
            self.squares.add(chosen, own.square())
        if self.pairs is not None:
            self.pairs.add(pair_keys(tokens)[used], values)

    def plus(self, other: "SiteSums") -> "SiteSums":
        """The sums over both."""
        found = SiteSums(self.tokens.copy(), energy=self.energy + other.energy)
        for name, own in self.parts():
            both = own.copy()
            theirs = getattr(other, name)
            both.add_sums(theirs.keys, theirs.counts, theirs.sums)
            setattr(found, name, both)
        return found

    def take(self, other: "SiteSums") -> None:
        """Takes in sums over other positions."""
        for name, own in self.parts():
            theirs = getattr(other, name)
            own.add_sums(theirs.keys, theirs.counts, theirs.sums)
        self.energy += other.energy

    def parts(self) -> Iterator[tuple[str, Groups]]:
        """The sums that are there, by name."""
        for name in ("tokens", "squares", "pairs"):
            groups = getattr(self, name)
            if groups is not None:
                yield name, groups


def pair_keys(tokens: Int64[Tensor, "batch pos"]) -> Int64[Tensor, "batch pos"]:
    """The previous and the current token as one number; -1 stands for the one before the first.

    Examples:
        >>> pair_keys(torch.tensor([[1, 2]])).tolist()
        [[-4294967295, 4294967298]]
    """
    before = torch.full_like(tokens, -1)
    before[:, 1:] = tokens[:, :-1]
    return before * _PAIR + tokens


def usable(
    real: Bool[Tensor, "batch pos"], output: Float[Tensor, "batch pos width"]
) -> Bool[Tensor, "batch pos"]:
    """The positions that count: no padding, not position 0, no attention sink.

    A sink's output is longer than `SINK` times the median of its own row, so that the company of a row
    never matters.
    """
    inside = real.to(output.device).clone()
    inside[:, 0] = False
    lengths: Tensor = output.float().norm(dim=-1)
    median = torch.where(inside, lengths, torch.nan).nanmedian(dim=1, keepdim=True).values
    found: Tensor = inside & ~(lengths > SINK * median)
    return found.to(real.device)


def shrunk_means(
    groups: Groups, prior: Float[Tensor, "*groups width"], kappa: float
) -> Float[Tensor, "groups width"]:
    """`prior + n / (n + kappa) (mean - prior)` of each group.

    Examples:
        >>> groups = Groups(1)
        >>> groups.add(torch.tensor([5, 5]), torch.tensor([[1.0], [3.0]]))
        >>> shrunk_means(groups, torch.zeros(1), 2.0).tolist()
        [[1.0]]
    """
    counts = groups.counts[:, None]
    weight = counts / (counts + kappa)
    return prior + weight * (groups.sums / counts.clamp_min(1) - prior)


def current_tokens(pairs: Int64[Tensor, " pairs"]) -> Int64[Tensor, " pairs"]:
    """The current token of each pair."""
    return pairs % _PAIR
