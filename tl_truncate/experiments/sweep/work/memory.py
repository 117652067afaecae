"""How much memory a sweep takes beside the model, and the plan that fits into what is allowed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch

from tl_truncate.experiments.scoring.answers import Batch, plan_batches
from tl_truncate.experiments.scoring.memory import (
    IN_PIECES,
    OVERHEAD,
    amount,
    computing_bytes,
    factor_bytes,
    logit_bytes,
    token_bytes,
)
from tl_truncate.experiments.scoring.together.groves import Grove, plan_groves
from tl_truncate.replay.layer import shared_matrices
from tl_truncate.replay.tree import Tree
from tl_truncate.tasks.encode import EncodedTask
from tl_truncate.weights.holding.placement import model_dtype
from tl_truncate.weights.site import Site


@dataclass(frozen=True)
class Memory:
    """Estimated bytes beside the model.

    Attributes:
        streams: the residual stream of all prompts.
        states: what is kept of the uncut pass: of all blocks that are cut, of one, or of a batch.
        in_flight: a tall batch on its way through a block, and the logits of its answers; or a spectrum
            that is being computed, if that takes more.
        factors: singular vectors of one site, as far as its cuts read them.
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
            f"{amount(self.total)} (streams {amount(self.streams)}, states {amount(self.states)}, "
            f"in flight {amount(self.in_flight)}, factors {amount(self.factors)})"
        )


#: What is kept of the uncut pass: the states of all blocks that are cut, of one at a time, or none.
Remembers = Literal["blocks", "block", "nothing"]
# Most bytes of the states of all blocks where nothing is said of memory.
_KEPT = 2**29
# A tree in all its copies has at most so many times the tokens in flight.
_TREES = 8
# By default. On a card a pass of 1024 tokens waits for Python: a setting of a sweep took 1.1 to 1.5
# times as long as with the other.
_IN_FLIGHT, _IN_FLIGHT_ON_A_CARD = 1024, 8192


@dataclass(frozen=True)
class Plan:
    """How the prompts are batched and how many cuts share a pass.

    Attributes:
        batches: of all prompts, with nothing shared.
        groves: prompts whose common beginnings are computed once, where the model takes that.
        apart: batches of the prompts that are in no grove.
        sites: that may be cut.
        copies: how many cuts of a site share their passes.
        copies_at_once: how many of them make one tall batch; as many, but where nothing can be shared.
        copies_apart: how many would.
        tokens_at_once: most tokens in a batch that has more than one row.
        remembers: what is kept of the uncut pass; the rest is computed anew.
        memory: that this takes.
    """

    batches: tuple[Batch, ...]
    groves: tuple[Grove, ...]
    apart: tuple[Batch, ...]
    sites: tuple[Site, ...]
    copies: int
    copies_at_once: int
    copies_apart: int
    tokens_at_once: int
    remembers: Remembers
    memory: Memory

    def alone(self) -> "Plan":
        """The same with nothing shared."""
        return replace(self, groves=(), apart=self.batches, copies_at_once=self.copies_apart)

    @property
    def n_tokens(self) -> int:
        """How many tokens a pass computes."""
        return sum(_sizes(self.groves, self.apart))


def in_flight(tokens: int | None, device: torch.device | str) -> int:
    """How many tokens the cuts of a site share a pass up to.

    Args:
        tokens: as given; None is what suits the device.
        device: that the model computes on.

    Examples:
        >>> in_flight(None, "cpu"), in_flight(None, "cuda:1"), in_flight(64, "cuda:1")
        (1024, 8192, 64)
    """
    if tokens is not None:
        return tokens
    return _IN_FLIGHT_ON_A_CARD if torch.device(device).type == "cuda" else _IN_FLIGHT


def make_plan(
    model: Any,
    encoded: Sequence[EncodedTask],
    sites: Sequence[Site],
    *,
    batch_size: int,
    tokens_in_flight: int,
    max_memory: int | None,
    at_a_site: int = 1,
    factors: int | None = None,
) -> Plan:
    """The fastest plan that fits: all states kept, then one block's, then none, then smaller batches.

    Args:
        model: a HookedTransformer or TransformerBridge.
        encoded: the tasks.
        sites: that are cut.
        batch_size: most rows in a batch.
        tokens_in_flight: of the cuts of a site that share a pass.
        max_memory: most bytes beside the model.
        at_a_site: how many cuts there are of each, about.
        factors: bytes of the directions that the cuts of a site read; by default of all there are.

    Raises:
        ValueError: if not even one row at a time fits.
    """
    if factors is None:
        factors = max(factor_bytes(model, sites), default=0)
    # Whether it is on disk already has no say, or two processes of one run would have other plans.
    computing = computing_bytes(model, sites)
    while True:
        batches = tuple(plan_batches(encoded, batch_size, tokens_in_flight))
        groves, apart = _groves(encoded, batches, batch_size, tokens_in_flight, at_a_site)
        copies = _copies(groves, apart, tokens_in_flight)
        copies_apart = min(copies, _copies([], batches, tokens_in_flight))
        for remembers in get_args(Remembers):
            memory = _estimate(model, sites, groves, apart, copies, remembers)
            memory = replace(memory, in_flight=max(memory.in_flight, OVERHEAD + computing))
            memory = replace(memory, factors=factors)
            fits = memory.states <= _KEPT or remembers != "blocks"
            if fits if max_memory is None else memory.total <= max_memory:
                return Plan(
                    batches=batches,
                    groves=tuple(groves),
                    apart=tuple(apart),
                    sites=tuple(sites),
                    copies=copies,
                    copies_at_once=copies,
                    copies_apart=copies_apart,
                    tokens_at_once=tokens_in_flight,
                    remembers=remembers,
                    memory=memory,
                )
        if tokens_in_flight == 1:
            raise ValueError(
                f"max_memory must be at least {memory.total} bytes for this task, {memory}, got "
                f"{max_memory}. Allow more, or use fewer or shorter prompts."
            )
        tokens_in_flight = max(1, tokens_in_flight // 2)


def _groves(
    encoded: Sequence[EncodedTask],
    batches: Sequence[Batch],
    batch_size: int,
    tokens_in_flight: int,
    at_a_site: int,
) -> tuple[list[Grove], list[Batch]]:
    """What shares a beginning, and what does not."""
    if tokens_in_flight == 1:
        return [], list(batches)
    found = plan_groves(encoded, batch_size, tokens_in_flight)
    # Several cuts share a call of a block, so that more and smaller calls are worth it.
    together = min(at_a_site, _copies(*found, tokens_in_flight))
    return plan_groves(encoded, batch_size, tokens_in_flight, copies=together)


def _copies(groves: Sequence[Grove], apart: Sequence[Batch], tokens_in_flight: int) -> int:
    """How many cuts make up the tokens in flight, and no tree too large."""
    sizes = _sizes(groves, apart)
    copies = round(tokens_in_flight * len(sizes) / sum(sizes))
    largest = max((grove.tree.n_tokens for grove in groves), default=1)
    return max(1, min(copies, _TREES * tokens_in_flight // largest) if groves else copies)


def _sizes(groves: Sequence[Grove], apart: Sequence[Batch]) -> list[int]:
    """The tokens of each call of a block."""
    shared = [segment.n_tokens for grove in groves for segment in grove.tree.segments]
    return [*shared, *(batch.n_tokens for batch in apart)]


def _estimate(
    model: Any,
    sites: Sequence[Site],
    groves: Sequence[Grove],
    apart: Sequence[Batch],
    copies: int,
    remembers: Remembers,
) -> Memory:
    item, d_model = model_dtype(model).itemsize, int(model.cfg.d_model)
    sizes = _sizes(groves, apart)
    batches = [*apart, *(batch for grove in groves for batch in grove.batches)]
    longest = max(len(batch.rows[0]) for batch in batches)
    answers = max(len(batch.rows) * batch.positions for batch in batches)
    in_a_block = max(sizes) * token_bytes(model, longest) + answers * logit_bytes(model)
    beside = max((_beside(grove.tree) for grove in groves), default=0) * d_model * item
    layers = {site.layer: [each for each in sites if each.layer == site.layer] for site in sites}
    states = [_state(model, own) * item for own in layers.values()]
    kept = dict(
        blocks=sum(sizes) * sum(states), block=sum(sizes) * max(states), nothing=max(sizes) * max(states)
    )
    return Memory(
        streams=2 * sum(sizes) * d_model * item,
        states=kept[remembers],
        in_flight=OVERHEAD + math.ceil(IN_PIECES * copies * (in_a_block + beside)),
        factors=0,
    )


def _beside(tree: Tree) -> int:
    """Values of d_model beside a segment on its way: streams, and keys and values of one layer."""
    known = [len(each.rows) * each.end for each in tree.segments if not each.is_leaf]
    read = max(len(each.rows) * each.end for each in tree.leaves)
    return 2 * tree.n_tokens + 2 * sum(known) + 4 * read


def _state(model: Any, sites: Sequence[Site]) -> int:
    """Values of a token in the state of a block that is cut at some sites."""
    config = model.cfg
    d_model, d_mlp = int(config.d_model), int(getattr(config, "d_mlp", None) or 4 * config.d_model)
    matrices = shared_matrices(model, sites[0].layer, sites)
    return 2 * d_model + sum(d_model if matrix == "W_out" else d_mlp for matrix in matrices)
