"""What a sweep computes, as sums of work: the same passes as the engine's, counted and not run."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tl_truncate.experiments.planning.counting.flops import BlockShape, product
from tl_truncate.experiments.planning.counting.work import NOTHING, Work
from tl_truncate.experiments.scoring.answers import Batch
from tl_truncate.experiments.scoring.together.courses import reason_against
from tl_truncate.experiments.scoring.together.groves import Grove
from tl_truncate.experiments.sweep.work.memory import Plan
from tl_truncate.experiments.sweep.work.units import Unit, goes_by_itself
from tl_truncate.surgery.cut import Cut, SiteCut
from tl_truncate.surgery.edit import keeps_smaller
from tl_truncate.weights.keep import LaserCompat
from tl_truncate.weights.locate import available, carrier, locate, n_layers
from tl_truncate.weights.mlp import find_activation
from tl_truncate.weights.site import Matrix, Site

#: Passes of the longest row by which a replay is tried before the start: recorded, run again from block
#: 0, and over a few tokens, alone and in two copies.
TRIALS = 5
#: The last block is called for its keys and values, and then for the answers.
_LAST_CALLS = 2
_MLP: tuple[Matrix, ...] = ("W_in", "W_gate", "W_out")
# Passes over a tall batch that are no products: a side's sums are begun from a copy, and the change of
# what the MLP writes is added to what left the block.
_COPIES, _CHANGES = 2, 4


@dataclass(frozen=True)
class Piece:
    """Rows of a pass that are computed together.

    Attributes:
        rows: how many.
        queries: positions of each that are computed.
        keys: positions of each that are looked at, those of its past included.
        positions: at how many last positions answers are read; 0 where rows go on.
    """

    rows: int
    queries: int
    keys: int
    positions: int

    @property
    def tokens(self) -> int:
        """Computed in it."""
        return self.rows * self.queries

    @property
    def answers(self) -> int:
        """Positions that are unembedded."""
        return self.rows * self.positions

    def tall(self, copies: int) -> "Piece":
        """The same for several cuts at once."""
        return Piece(copies * self.rows, self.queries, self.keys, self.positions)


def pieces_of(plan: Plan) -> tuple[Piece, ...]:
    """What a pass over a plan's prompts computes, with what they share once."""
    return tuple(
        [piece for grove in plan.groves for piece in _of_grove(grove)]
        + [_alone(each) for each in plan.apart]
    )


def _of_grove(grove: Grove) -> list[Piece]:
    positions = iter(batch.positions for batch in grove.batches)
    return [
        Piece(
            len(segment.rows),
            segment.end - segment.start,
            segment.end,
            next(positions) if segment.is_leaf else 0,
        )
        for segment in grove.tree.segments
    ]


def _alone(batch: Batch) -> Piece:
    length = len(batch.rows[0])
    return Piece(len(batch.rows), length, length, batch.positions)


@dataclass(frozen=True)
class Passes:
    """The passes of a model over the prompts of a plan.

    Attributes:
        model: of which shapes and names are asked.
        plan: of batches and of cuts that share a pass.
        shape: of its blocks.
        vocabulary: its size.
    """

    model: Any
    plan: Plan
    shape: BlockShape
    vocabulary: int

    @cached_property
    def depth(self) -> int:
        """Number of blocks."""
        return n_layers(self.model)

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """Of a pass: with what prompts share once, if the blocks can be run alone."""
        return pieces_of(self.plan) if self.replays else tuple(map(_alone, self.plan.batches))

    @property
    def tokens(self) -> int:
        """Computed in one pass over all prompts."""
        return sum(piece.tokens for piece in self.pieces)

    def fixed(self, lowest: int, highest: int) -> Work:
        """What is done whatever the cuts: the uncut pass, and the trials that come before it.

        The uncut pass is the climb on which the states of blocks are kept. Where there is no memory for
        those of all blocks, it is made once more for the cuts.

        Args:
            lowest: the first block that is cut.
            highest: the last.
        """
        if not self.replays:
            return self.whole
        trial = self._through([self._longest])
        last = self.depth - 1
        found = sum((self._above(0, piece) for piece in self.pieces), NOTHING) + trial * TRIALS
        if highest == last and self.plan.remembers == "blocks":  # it is kept, and so runs whole
            found += sum((self._block(piece) + self._last(piece) * -1 for piece in self.pieces), NOTHING)
        if self.plan.remembers != "blocks":
            again = sum((self._block(piece) for piece in self.pieces), NOTHING)
            found += again * (highest - lowest + 1)
        return found

    @cached_property
    def whole(self) -> Work:
        """A pass of the whole model over all prompts, of which nothing is shared or left out."""
        return self._through(map(_alone, self.plan.batches))

    @property
    def _longest(self) -> Piece:
        """One row, the longest."""
        longest = _alone(self.plan.batches[-1])
        return Piece(1, longest.queries, longest.keys, longest.positions)

    def _through(self, pieces: Iterable[Piece]) -> Work:
        return sum((self._block(piece) * self.depth + self._answers(piece) for piece in pieces), NOTHING)

    def _block(self, piece: Piece) -> Work:
        return Work(blocks=1, flops=self._flops(piece), moved=self._past(piece))

    def _past(self, piece: Piece) -> int:
        """Numbers of keys and values that are put in front of a piece's own."""
        return 2 * piece.rows * (piece.keys - piece.queries) * self.shape.d_model

    def _flops(self, piece: Piece) -> int:
        whole = self.shape.whole(piece.rows, piece.queries)
        past = piece.keys - piece.queries
        return whole + self.shape.scores(piece.rows, piece.queries, past)

    def _last(self, piece: Piece) -> Work:
        if not piece.positions:  # its keys and values alone
            return Work(blocks=1, flops=self.shape.ending(piece.rows, piece.queries, 0))
        flops = self.shape.ending(piece.rows, piece.queries, piece.positions)
        past = piece.keys - piece.queries
        flops += self.shape.scores(piece.rows, piece.positions, past)
        return Work(blocks=_LAST_CALLS, flops=flops, moved=self._past(piece))

    def _answers(self, piece: Piece) -> Work:
        flops = product(piece.answers, (self.shape.d_model, self.vocabulary))
        return Work(unembedding=flops, logits=piece.answers * self.vocabulary)

    def unit(self, unit: Unit, *, begins: bool) -> Work:
        """Some cuts of a site on all prompts.

        Args:
            unit: of the sweep.
            begins: whether they are the first of their site, which pay for what its cuts share.
        """
        cuts = unit.cuts
        if not self.replays or goes_by_itself(self.model, cuts[0]):
            return self.whole * len(cuts)
        site = cuts[0].site
        shares = self._shares(site)
        found = NOTHING
        for start in range(0, len(cuts), self.plan.copies_at_once):
            some = cuts[start : start + self.plan.copies_at_once]
            for piece in self.pieces:
                if shares:
                    found += self._own(site, some, piece)
                    found += self._above(site.layer + 1, piece.tall(len(some)))
                else:
                    found += self._hooked(site, some, piece)
                    found += self._above(site.layer, piece.tall(len(some)))
        return found + self._begun(site, cuts) if begins and shares else found

    def _begun(self, site: Site, cuts: Sequence[SiteCut]) -> Work:
        """What the cuts of a site share, and the first cut on one row, by hooks and so."""
        path = _first_path(self.plan)
        found = sum((self._block(piece) for piece in path), NOTHING)
        tokens = [piece.queries for piece in path]
        tokens += [self._changed(site, piece) for piece in self.pieces]
        if all(type(cut) is Cut for cut in cuts):
            found += Work(flops=sum(self._coefficients(site, cuts, each) for each in tokens))
        return found

    def _changed(self, site: Site, piece: Piece) -> int:
        """Tokens of a piece at which a cut of a site is made: in the last block those of answers."""
        if site.layer < self.depth - 1:
            return piece.tokens
        return piece.rows * max(1, piece.positions)

    @cached_property
    def replays(self) -> bool:
        """Whether the blocks above a cut can be run alone, as far as that is known without a pass."""
        return reason_against(self.model) is None

    def _shares(self, site: Site) -> bool:
        """Whether the cuts of a site share the work of their block."""
        has = available(self.model, site.layer)
        known = site.matrix == "W_out" or find_activation(self.model, site.layer) is not None
        return site.matrix in _MLP and "W_out" in has and known

    def _above(self, layer: int, piece: Piece) -> Work:
        last = self.depth - 1
        found = self._block(piece) * max(last - layer, 0) + self._answers(piece)
        return found + self._last(piece) if layer <= last else found

    def _own(self, site: Site, cuts: Sequence[SiteCut], piece: Piece) -> Work:
        """The cuts themselves, and the MLP behind them."""
        tokens = self._changed(site, piece)
        n_out = carrier(self.model, site).shape[1]
        columns, tall = [self.columns(cut) for cut in cuts], len(cuts) * tokens
        shared = all(type(cut) is Cut for cut in cuts)
        flops = sum(product(tokens, (n_out, each)) for each in columns)
        flops *= 1 if shared else 2  # for each its own, where they have no spectrum in common
        written = self.shape.written(site.matrix, tall)
        return Work(
            flops=flops + written,
            activations=tall * self.shape.d_mlp if site.matrix != "W_out" else 0,
            moved=tall * (_COPIES * n_out + _CHANGES * self.shape.d_model),
        )

    def _hooked(self, site: Site, cuts: Sequence[SiteCut], piece: Piece) -> Work:
        n_out, columns = carrier(self.model, site).shape[1], sum(map(self.columns, cuts))
        # In the last block first for the keys and values, and again for the answers.
        calls = [piece.tokens] + ([piece.answers] if site.layer == self.depth - 1 else [])
        rows = sum(calls) + len(calls) * self._has_bias(site)
        copies = len(cuts) * sum(calls) * _COPIES * n_out
        return Work(flops=2 * product(rows, (n_out, columns)), moved=copies)

    def _coefficients(self, site: Site, cuts: Sequence[SiteCut], tokens: int) -> int:
        """FLOPs of what the cuts of a site share: how long each output is along each direction."""
        n_out = carrier(self.model, site).shape[1]
        return product(tokens + self._has_bias(site), (n_out, self._used(cuts)))

    def _has_bias(self, site: Site) -> bool:
        return carrier(self.model, site).live_bias() is not None

    def columns(self, cut: SiteCut) -> int:
        """How many directions a cut projects on; half of all where that takes the spectrum to say."""
        max_rank = min(carrier(self.model, cut.site).shape)
        kept = self._kept(cut)
        if kept is None:
            return max_rank // 2
        return kept if keeps_smaller(kept, max_rank) else max_rank - kept

    def _used(self, cuts: Sequence[SiteCut]) -> int:
        """How many directions some cuts project on together: the first ones that one keeps, and the
        last ones that one removes.
        """
        max_rank = min(carrier(self.model, cuts[0].site).shape)
        sides = {True: 0, False: 0}
        for cut in cuts:
            kept = self._kept(cut)
            side = keeps_smaller(max_rank // 2 if kept is None else kept, max_rank)
            sides[side] = max(sides[side], self.columns(cut))
        return min(sum(sides.values()), max_rank)

    def _kept(self, cut: SiteCut) -> int | None:
        keep = getattr(cut, "keep", None)
        return 0 if keep is None else keep.count(min(carrier(self.model, cut.site).shape))

    def is_known(self, cut: SiteCut) -> bool:
        """Whether it is known before the spectrum how much a cut keeps."""
        return self._kept(cut) is not None

    def factorised(self, cuts: Sequence[SiteCut]) -> list[Site]:
        """The sites whose spectra the cuts need; nothing kept and everything kept need none."""
        needed: dict[Site, None] = {}
        for cut in cuts:
            max_rank, kept = min(carrier(self.model, cut.site).shape), self._kept(cut)
            sketched = isinstance(getattr(cut, "keep", None), LaserCompat)
            if kept not in (0, max_rank) and not sketched:
                needed[cut.site] = None
        return list(needed)


def _first_path(plan: Plan) -> list[Piece]:
    """The pieces of the first row that goes up."""
    if not plan.groves:
        first = _alone(plan.apart[0])
        return [Piece(1, first.queries, first.keys, first.positions)]
    tree = plan.groves[0].tree
    place: int | None = next(at for at, segment in enumerate(tree.segments) if segment.is_leaf)
    path = []
    while place is not None:
        segment = tree.segments[place]
        path.append(Piece(1, segment.end - segment.start, segment.end, 0))
        place = segment.parent
    return path


def block_shape(model: Any, layer: int = 0) -> BlockShape:
    """The shapes of a block's linears.

    Raises:
        ValueError: if they are not all there, as in a sparse mixture of experts.
    """
    names = available(model, layer)
    missing = {"W_Q", "W_K", "W_V", "W_O", "W_in", "W_out"} - set(names)
    if missing:
        raise ValueError(
            "A plan must know all linears of a block, but block "
            f"{layer} has no dense {', '.join(sorted(missing))}: a sparse mixture of experts, or an "
            "attention of another kind. Time a sweep of one site instead."
        )
    return BlockShape({name: locate(model, Site(layer, name)).shape for name in names})
