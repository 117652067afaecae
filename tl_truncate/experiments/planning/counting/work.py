"""Work as a few sums, which a machine turns into seconds."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Work:
    """What some passes are made of.

    Attributes:
        blocks: how often a block is called.
        flops: of the products of blocks and of cuts.
        unembedding: FLOPs from the answers' positions to logits.
        logits: numbers that answers are read off.
        activations: numbers that go through an activation outside of a whole block.
        moved: numbers that are read or written beside the products.
    """

    blocks: float = 0.0
    flops: float = 0.0
    unembedding: float = 0.0
    logits: float = 0.0
    activations: float = 0.0
    moved: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def __mul__(self, times: float) -> "Work":
        return Work(*(times * getattr(self, each.name) for each in fields(self)))

    @property
    def total_flops(self) -> float:
        """All that is arithmetic."""
        return self.flops + self.unembedding


NOTHING = Work()
