"""How much memory a sweep takes beside the model, and the plan that fits into what is allowed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tl_truncate.experiments.scoring.answers import Batch, plan_batches
from tl_truncate.experiments.scoring.memory import (
    OVERHEAD,
    amount,
    factor_bytes,
    logit_bytes,
    token_bytes,
)
from tl_truncate.tasks.encode import EncodedTask
from tl_truncate.weights.holding.placement import model_dtype
from tl_truncate.weights.locate import available
from tl_truncate.weights.site import Site


@dataclass(frozen=True)
class Memory:
    """Estimated bytes beside the model.

    Attributes:
        streams: the residual stream of all prompts.
        states: what one block of the uncut pass is remembered by.
        in_flight: a tall batch on its way through a block, and the logits of its answers.
        factors: singular vectors of one site.
    """

    streams: int
    states: int
    in_flight: int
    factors: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.streams + self.states + self.in_flight + self.factors

    def __str__(self) -> str:
        return (
            f"{amount(self.total)} (streams {amount(self.streams)}, one block {amount(self.states)}, "
            f"in flight {amount(self.in_flight)}, factors {amount(self.factors)})"
        )


@dataclass(frozen=True)
class Plan:
    """How the prompts are batched and how many cuts share a pass.

    Attributes:
        batches: of the prompts.
        copies: how many cuts of a site make one tall batch.
        remembers: whether a block's state is kept for all batches, or computed anew for each site.
        memory: that this takes.
    """

    batches: tuple[Batch, ...]
    copies: int
    remembers: bool
    memory: Memory


def make_plan(
    model: Any,
    encoded: Sequence[EncodedTask],
    sites: Sequence[Site],
    *,
    batch_size: int,
    tokens_in_flight: int,
    max_memory: int | None,
) -> Plan:
    """The fastest plan that fits: all states kept, then none, then smaller and smaller batches.

    Raises:
        ValueError: if not even one row at a time fits.
    """
    while True:
        batches = tuple(plan_batches(encoded, batch_size, tokens_in_flight))
        mean = sum(batch.n_tokens for batch in batches) / len(batches)
        copies = max(1, round(tokens_in_flight / mean))
        for remembers in (True, False):
            memory = _estimate(model, sites, batches, copies, remembers)
            if max_memory is None or memory.total <= max_memory:
                return Plan(batches, copies, remembers, memory)
        if all(len(batch.rows) == 1 for batch in batches) and copies == 1:
            raise ValueError(
                f"max_memory must be at least {memory.total} bytes for this task, {memory}, got "
                f"{max_memory}. Allow more, or use fewer or shorter prompts."
            )
        tokens_in_flight = max(1, tokens_in_flight // 2)


def _estimate(
    model: Any, sites: Sequence[Site], batches: Sequence[Batch], copies: int, remembers: bool
) -> Memory:
    config = model.cfg
    item, d_model = model_dtype(model).itemsize, int(config.d_model)
    d_mlp = int(getattr(config, "d_mlp", None) or 4 * d_model)
    tokens = sum(batch.n_tokens for batch in batches)
    largest = max(batch.n_tokens for batch in batches)
    longest = max(len(batch.rows[0]) for batch in batches)
    branches = 2 if "W_gate" in available(model, sites[0].layer) else 1
    state = (3 * d_model + branches * d_mlp) * item
    answers = max(len(batch.rows) * batch.positions for batch in batches)
    in_a_block = largest * token_bytes(model, longest)
    return Memory(
        streams=2 * tokens * d_model * item,
        states=(tokens if remembers else largest) * state,
        in_flight=OVERHEAD + copies * (in_a_block + answers * logit_bytes(model)),
        factors=max(factor_bytes(model, sites)),
    )
