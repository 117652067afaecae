"""Many cuts of many sites, each alone, at the cost of the blocks above the cut.

The uncut pass climbs through the model once, block by block, for all prompts. At each block the cuts of
its sites are made, and only what is above the block is run for them. So one block's activations are
remembered at a time, whatever the depth of the model.

Source: derived in the documentation, "What a sweep has to compute".
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tl_truncate.experiments.scoring.answers import Batch, Outcome, Sheet
from tl_truncate.experiments.sweep.memory import Plan
from tl_truncate.experiments.sweep.units import goes_by_itself
from tl_truncate.replay.calls import Passed, Recording, last_logits, record
from tl_truncate.replay.layer import LayerState, SiteReplay, observe, shared_matrices
from tl_truncate.replay.upwards import Replayer
from tl_truncate.surgery.cut import SiteCut
from tl_truncate.surgery.hooks import active_cuts, truncated
from tl_truncate.surgery.stack import stack
from tl_truncate.tasks.task import Task
from tl_truncate.weights.holding.quantised import kinds_of
from tl_truncate.weights.site import Matrix, Site

Found = tuple[SiteCut, list[Outcome]]


class FullPassesWarning(UserWarning):
    """A model cannot be run from the middle, so each cut takes a pass through all of it."""


_NOT_IN_ORDER = "its blocks are not called once each, in order, with arguments that can be given again"


@dataclass
class _Stream:
    """One batch on its way up."""

    batch: Batch
    passed: Passed
    resid: Tensor


class Engine:
    """Scores cuts on prompts.

    Args:
        model: a HookedTransformer or TransformerBridge.
        tasks: in the order of the batches' answers.
        plan: of batches and of cuts that share a pass.
        lowest: the first block that is cut; what is below it runs once.
    """

    def __init__(self, model: Any, tasks: Sequence[Task], plan: Plan, *, lowest: int = 0) -> None:
        self._model, self._tasks, self._plan, self._lowest = model, tasks, plan, lowest
        self._around = active_cuts(model)
        self._replayer = Replayer(model)
        self._streams: list[_Stream] = []
        self._probe: _Stream | None = None
        self.baseline: list[Outcome] = []
        self._begin()

    @property
    def replays(self) -> bool:
        """Whether only the blocks above a cut are run, or the whole model."""
        return self._probe is not None

    def _begin(self) -> None:
        sheet, first = self._sheet(), self._plan.batches[0].first_row()
        seen = self._record(first)
        reason = _reason_against(self._model, self._replayer, seen)
        for batch in self._plan.batches:
            recorded = self._recorded(batch) if reason is None else None
            if recorded is None:
                sheet.fill(batch, last_logits(self._model, batch.tokens, batch.positions))
            else:
                sheet.fill(batch, recorded.logits)
                self._streams.append(_Stream(batch, recorded.passed, recorded.entered))
        self.baseline = sheet.outcomes()
        if reason is None and len(self._streams) < len(self._plan.batches):
            reason = _NOT_IN_ORDER
        if reason is None and seen is not None:
            self._probe = _Stream(first, seen.passed, seen.entered)
        else:
            self._streams.clear()
            message = f"Each cut takes a pass through the whole model: {reason}."
            warnings.warn(message, FullPassesWarning, stacklevel=5)

    def _sheet(self, *cuts: SiteCut) -> Sheet:
        return Sheet(self._tasks, (*self._around, *cuts))

    def _record(self, batch: Batch) -> Recording | None:
        return record(self._model, batch.tokens, batch.positions, entering=self._lowest)

    def _recorded(self, batch: Batch) -> Recording | None:
        """A batch's pass, if it can be run again in several copies."""
        seen = self._record(batch)
        return seen if seen is not None and self._replayer.fits(seen.passed) else None

    def run(
        self, cuts: Sequence[SiteCut], done: Callable[[SiteCut], bool] = lambda cut: False
    ) -> Iterator[list[Found]]:
        """Scores the cuts, from the lowest block up; can be called once.

        Args:
            cuts: each is made alone, at the lowest block or above.
            done: cuts that need not be scored again. A group that lacks some is run as it would have
                been run as a whole, so that its numbers do not depend on what was there.

        Yields:
            The outcomes for each task of the cuts of a group that share a pass.
        """
        by_site: dict[Site, list[SiteCut]] = {}
        for cut in cuts:
            if goes_by_itself(self._model, cut):
                continue
            by_site.setdefault(cut.site, []).append(cut)
        wanted = {site: own for site, own in by_site.items() if not all(map(done, own))}
        for cut in cuts:
            if goes_by_itself(self._model, cut) and not done(cut):
                yield [(cut, self._full_passes(cut))]
        for layer in range(self._lowest, self._replayer.last + 1):
            here = {site: own for site, own in wanted.items() if site.layer == layer}
            above = any(site.layer > layer for site in wanted)
            if self.replays and (here or above):
                yield from self._layer(layer, here, above, done)
            for cut in [] if self.replays else [cut for own in here.values() for cut in own]:
                if not done(cut):
                    yield [(cut, self._full_passes(cut))]

    def _layer(
        self,
        layer: int,
        cuts: dict[Site, list[SiteCut]],
        above: bool,
        done: Callable[[SiteCut], bool],
    ) -> Iterator[list[Found]]:
        """The cuts of one block, and then the block as it is, for those above."""
        assert self._probe is not None
        matrices = shared_matrices(self._model, layer, list(cuts))
        states: list[LayerState | None] = [None] * len(self._streams)
        probe = self._observe(layer, self._probe, matrices)
        for site, own in cuts.items():
            replay = SiteReplay(self._replayer, site, stack(self._model, own))
            replay.try_sharing(probe, self._probe.passed)
            for start in range(0, len(own), self._plan.copies):
                which = slice(start, start + self._plan.copies)
                if not all(map(done, own[which])):
                    found = self._group(replay, own, which, layer, matrices, states)
                    yield [each for each in found if not done(each[0])]
        if above:
            self._probe.resid = probe.after
            for index, stream in enumerate(self._streams):
                state = states[index] or self._observe(layer, stream, ())
                stream.resid, states[index] = state.after, None

    def _group(
        self,
        replay: SiteReplay,
        cuts: Sequence[SiteCut],
        which: slice,
        layer: int,
        matrices: Sequence[Matrix],
        states: list[LayerState | None],
    ) -> list[Found]:
        """Some cuts of a site, which share their passes, on all prompts."""
        sheets = [self._sheet(cut) for cut in cuts[which]]
        for index, stream in enumerate(self._streams):
            state = states[index] or self._observe(layer, stream, matrices)
            states[index] = state if self._plan.remembers else None
            parts = replay.logits(state, stream.passed, which).chunk(len(sheets))
            for sheet, logits in zip(sheets, parts, strict=True):
                sheet.fill(stream.batch, logits)
        return [(cut, sheet.outcomes()) for cut, sheet in zip(cuts[which], sheets, strict=True)]

    def _observe(self, layer: int, stream: _Stream, matrices: Sequence[Matrix]) -> LayerState:
        return observe(self._replayer, layer, stream.resid, stream.passed, matrices)

    def _full_passes(self, cut: SiteCut) -> list[Outcome]:
        sheet = self._sheet(cut)
        with truncated(self._model, cut):
            for batch in self._plan.batches:
                sheet.fill(batch, last_logits(self._model, batch.tokens, batch.positions))
        return sheet.outcomes()


def _reason_against(model: Any, replayer: Replayer, seen: Recording | None) -> str | None:
    """Why a model cannot be run from the middle, or None."""
    if any(getattr(module, "fwd_hooks", None) for module in model.modules()):
        return (
            "it carries hooks of your own or of its architecture, which may not expect to see a batch "
            "more than once"
        )
    if int(getattr(model.cfg, "n_devices", 1) or 1) > 1:
        return "its blocks lie on several devices"
    if any(cut.reads_tokens for cut in active_cuts(model)):
        return "a cut that is at work in it reads the tokens at the embedding"
    if seen is None:
        return _NOT_IN_ORDER
    if not replayer.accepts(seen):
        reason = "its blocks, called again one by one, do not give the logits of a whole pass"
        kinds = kinds_of(model)
        return f"{reason} (its kernels round: {', '.join(kinds)})" if kinds else reason
    return None
