"""Many cuts of many sites, each alone, at the cost of the blocks above the cut.

The uncut pass climbs through the model once, block by block, for all prompts: it is the baseline, and
what its blocks read and wrote is kept for their cuts, as far as memory goes. For a cut only what is
above its block is run. Prompts that begin alike go up together, where the model's blocks take that.

Source: derived in the documentation, "What a sweep has to compute".
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from tl_truncate.experiments.scoring.answers import Outcome, Sheet
from tl_truncate.experiments.scoring.together.courses import (
    HOOKS_ACT,
    Course,
    one_by_one,
    reason_against,
    repeats,
    together,
)
from tl_truncate.experiments.sweep.work.memory import Plan
from tl_truncate.experiments.sweep.work.units import goes_by_itself
from tl_truncate.replay.acting import Acting, watch_hooks
from tl_truncate.replay.calls import last_logits
from tl_truncate.replay.layer import LayerState, SiteReplay, left, observe, shared_matrices
from tl_truncate.replay.passed import Passed
from tl_truncate.replay.recording import Recording, record
from tl_truncate.replay.upwards import Replayer, Streams
from tl_truncate.surgery.cut import SiteCut
from tl_truncate.surgery.hooks import active_cuts, truncated
from tl_truncate.surgery.stack import stack
from tl_truncate.tasks.task import Task
from tl_truncate.weights.holding.quantised import kinds_of
from tl_truncate.weights.site import Matrix, Site

Found = tuple[SiteCut, list[Outcome]]
States = tuple[LayerState, ...]


class FullPassesWarning(UserWarning):
    """A model cannot be run from the middle, so each cut takes a pass through all of it."""


_NOT_IN_ORDER = "its blocks are not called once each, in order, with arguments that can be given again"


class _Climb:
    """Some batches on their way up, and what is kept of it.

    Args:
        replayer: of the model.
        course: of the batches.
        plan: says what is kept.
        matrices: whose outputs each block's cuts share, for the blocks that are cut.
        lowest: the first block that is cut; what is below it runs once.
    """

    def __init__(
        self,
        replayer: Replayer,
        course: Course,
        plan: Plan,
        matrices: dict[int, tuple[Matrix, ...]],
        lowest: int,
    ) -> None:
        self.course, self.passed = course, course.passed
        self._replayer, self._plan, self._matrices = replayer, plan, matrices
        self._lowest = lowest
        self._base = course.start
        self._place, self._resids = 0, course.start
        self._states: dict[int, States] = {}

    @torch.no_grad()
    def to_the_top(self) -> tuple[Tensor, ...]:
        """The logits of the uncut pass."""
        last, resids = self._replayer.last, self.course.start
        for layer in range(last + 1):
            if layer == self._lowest:
                self._base = resids
            if layer in self._matrices and self._plan.remembers == "blocks":
                self._states[layer] = self._observe(layer, resids)
                resids = left(self._states[layer])
            elif layer == last:
                return self._replayer.upwards(last, resids, self.passed)
            else:
                resids = self._replayer.blocks(layer, resids, self.passed)
        return self._replayer.unembed(resids, self.passed)

    @torch.no_grad()
    def states(self, layer: int) -> States:
        """What a block reads and writes."""
        if layer in self._states:
            return self._states[layer]
        states = self._observe(layer, self._entering(layer))
        if self._plan.remembers == "block":
            self._states = {layer: states}
        return states

    def _observe(self, layer: int, resids: Streams) -> States:
        return observe(self._replayer, layer, resids, self.passed, self._matrices[layer])

    def _entering(self, layer: int) -> Streams:
        """What enters a block: from where the climb is, or from its beginning."""
        known = [below for below in self._states if below < layer]
        if known and max(known) >= self._place:
            self._place, self._resids = max(known) + 1, left(self._states[max(known)])
        if not self._lowest <= self._place <= layer:
            self._place, self._resids = self._lowest, self._base
        while self._place < layer:
            self._resids = self._replayer.blocks(self._place, self._resids, self.passed)
            self._place += 1
        return self._resids

    def first_row(self, states: States) -> tuple[States, Passed]:
        """The states and the way of the first row alone."""
        own = tuple(states[index].row(at) for index, at in self.passed.first_path)
        return own, self.passed.first_row(self._replayer.layouts)


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
        self._climbs: list[_Climb] = []
        self.baseline: list[Outcome] = []
        self._begin()

    @property
    def replays(self) -> bool:
        """Whether only the blocks above a cut are run, or the whole model."""
        return bool(self._climbs)

    @property
    def shares(self) -> bool:
        """Whether common beginnings of prompts are computed once."""
        return any(climb.passed.tree.shares for climb in self._climbs)

    def _begin(self) -> None:
        reason = reason_against(self._model)
        if reason is None:
            with watch_hooks(self._model) as acting:
                reason = self._climbs_by_itself(acting)
        if reason is not None:
            self._plan, self._climbs = self._plan.alone(), []
            self.baseline = self._full_passes()
            message = f"Each cut takes a pass through the whole model: {reason}."
            warnings.warn(message, FullPassesWarning, stacklevel=5)

    def _climbs_by_itself(self, acting: Acting) -> str | None:
        """Why the model's blocks cannot be run one by one, or None."""
        longest = self._plan.batches[-1].first_row()
        seen = record(self._model, longest.tokens, longest.positions)
        if seen is None or acting.now:
            return HOOKS_ACT if acting.now else _NOT_IN_ORDER
        reason = None if self._climbs_together(seen) else self._climbs_one_by_one(seen)
        return HOOKS_ACT if acting.now else reason

    def _climbs_together(self, seen: Recording) -> bool:
        """Whether prompts that begin alike have gone up together."""
        plan = self._plan
        if not plan.groves:
            return False
        courses = together(self._replayer, seen, plan.groves, plan.apart, plan.tokens_at_once)
        return courses is not None and self._climbs_to_the_top(courses, seen)

    def _climbs_one_by_one(self, seen: Recording) -> str | None:
        """Why batches that share nothing have not gone up, or None."""
        self._plan = self._plan.alone()
        if not self._replayer.accepts(seen):
            return _other_logits(self._model)
        reason = _NOT_IN_ORDER
        for courses in one_by_one(self._replayer, seen, self._plan.batches):
            if courses is None:
                continue
            climbed = self._climbs_to_the_top(courses, seen)
            if climbed or (self._replayer.widens() and self._climbs_to_the_top(courses, seen)):
                return None
            reason = _other_logits(self._model)
        return reason

    def _climbs_to_the_top(self, courses: Sequence[Course], seen: Recording) -> bool:
        """Whether the climb gives the logits of a whole pass; then it is the baseline."""
        sites: dict[int, list[Site]] = {}
        for site in self._plan.sites:
            sites.setdefault(site.layer, []).append(site)
        shared = {layer: shared_matrices(self._model, layer, own) for layer, own in sites.items()}
        sheet, climbs = self._sheet(), []
        for course in courses:
            climb = _Climb(self._replayer, course, self._plan, shared, self._lowest)
            logits = climb.to_the_top()
            if not repeats(course, logits, seen):
                return False
            for batch, own in zip(course.batches, logits, strict=True):
                sheet.fill(batch, own)
            climbs.append(climb)
        self._climbs, self.baseline = climbs, sheet.outcomes()
        return True

    def _sheet(self, *cuts: SiteCut) -> Sheet:
        return Sheet(self._tasks, (*self._around, *cuts))

    def run(
        self, cuts: Sequence[SiteCut], done: Callable[[SiteCut], bool] = lambda cut: False
    ) -> Iterator[list[Found]]:
        """Scores the cuts, from the lowest block up; to be called as often as there is work.

        Ascending blocks are cheapest: where not all states are kept, a lower block than the last one
        begins the climb anew.

        Args:
            cuts: each is made alone, at a site of the plan.
            done: cuts that need not be scored again. A group that lacks some is run as it would have
                been run as a whole, so that its numbers do not depend on what was there.

        Yields:
            The outcomes for each task of the cuts of a group that share a pass.
        """
        by_site: dict[Site, list[SiteCut]] = {}
        for cut in cuts:
            if not goes_by_itself(self._model, cut):
                by_site.setdefault(cut.site, []).append(cut)
            elif not done(cut):
                yield [(cut, self._full_passes(cut))]
        for site in sorted(by_site, key=lambda site: site.layer):
            own = by_site[site]
            if self.replays and not all(map(done, own)):
                yield from self._site(site, own, done)
            elif not self.replays:
                yield from ([(cut, self._full_passes(cut))] for cut in own if not done(cut))

    def _site(
        self, site: Site, cuts: Sequence[SiteCut], done: Callable[[SiteCut], bool]
    ) -> Iterator[list[Found]]:
        """The cuts of one site, group by group."""
        replay = SiteReplay(self._replayer, site, stack(self._model, cuts))
        first = self._climbs[0]
        replay.try_sharing(*first.first_row(first.states(site.layer)))
        for start in range(0, len(cuts), self._plan.copies):
            which = range(len(cuts))[start : start + self._plan.copies]
            if not all(done(cuts[place]) for place in which):
                with watch_hooks(self._model) as acting:
                    found = self._group(replay, site, cuts, which)
                if acting.now:
                    found = [(cuts[place], self._full_passes(cuts[place])) for place in which]
                    message = f"Cuts of {site} take passes through the whole model: {HOOKS_ACT}."
                    warnings.warn(message, FullPassesWarning, stacklevel=5)
                yield [each for each in found if not done(each[0])]

    def _group(
        self, replay: SiteReplay, site: Site, cuts: Sequence[SiteCut], which: range
    ) -> list[Found]:
        """Some cuts of a site, which share their passes, on all prompts."""
        sheets = {place: self._sheet(cuts[place]) for place in which}
        for climb in self._climbs:
            states = climb.states(site.layer)
            for start in range(which.start, which.stop, self._plan.copies_at_once):
                some = which[start - which.start :][: self._plan.copies_at_once]
                found = replay.logits(states, climb.passed, slice(some.start, some.stop))
                for batch, logits in zip(climb.course.batches, found, strict=True):
                    for place, own in zip(some, logits.chunk(len(some)), strict=True):
                        sheets[place].fill(batch, own)
        return [(cuts[place], sheet.outcomes()) for place, sheet in sheets.items()]

    def _full_passes(self, *cuts: SiteCut) -> list[Outcome]:
        sheet = self._sheet(*cuts)
        with truncated(self._model, *cuts):
            for batch in self._plan.batches:
                sheet.fill(batch, last_logits(self._model, batch.tokens, batch.positions))
        return sheet.outcomes()


def _other_logits(model: Any) -> str:
    reason = "its blocks, called again one by one, do not give the logits of a whole pass"
    kinds = kinds_of(model)
    return f"{reason} (its kernels round: {', '.join(kinds)})" if kinds else reason
