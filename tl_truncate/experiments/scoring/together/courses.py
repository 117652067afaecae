"""Batches on their way up through the blocks, by the first of several ways that a model takes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tl_truncate.experiments.scoring.answers import Batch
from tl_truncate.experiments.scoring.together.groves import Grove
from tl_truncate.replay.passed import Passed, passed_alone
from tl_truncate.replay.recording import Entered, Recording, enter, record
from tl_truncate.replay.together import Grown, Together
from tl_truncate.replay.tree import flat
from tl_truncate.replay.upwards import Replayer, Streams, same_logits
from tl_truncate.surgery.hooks import active_cuts


@dataclass(frozen=True)
class Course:
    """Batches before block 0.

    Attributes:
        batches: one for each leaf.
        passed: their way.
        start: what enters block 0.
    """

    batches: tuple[Batch, ...]
    passed: Passed
    start: Streams

    def logits_of(self, row: Sequence[int], logits: Sequence[Tensor]) -> Tensor | None:
        """What the batches' logits are for one row; None if it is not among them."""
        for batch, own in zip(self.batches, logits, strict=True):
            if tuple(row) in batch.rows:
                place = batch.rows.index(tuple(row))
                return own[place : place + 1]
        return None


def together(
    replayer: Replayer, seen: Recording, groves: Sequence[Grove], apart: Sequence[Batch], most: int
) -> list[Course] | None:
    """The courses of batches of which some share beginnings; None if the blocks do not take it.

    Args:
        replayer: of the model.
        seen: a pass of the longest row.
        groves: batches that share beginnings.
        apart: the others.
        most: tokens that are embedded at once.
    """
    all_ = [grove.grown for grove in groves]
    all_ += [Grown(flat(batch.rows), (batch.positions,)) for batch in apart]
    streams = Together(replayer, seen, most).streams(all_)
    if streams is None:
        return None
    batches = [*(grove.batches for grove in groves), *((batch,) for batch in apart)]
    return [
        Course(own, stream.passed, stream.start) for own, stream in zip(batches, streams, strict=True)
    ]


def one_by_one(
    replayer: Replayer, seen: Recording, batches: Sequence[Batch]
) -> Iterator[list[Course] | None]:
    """The courses of batches that share nothing, in several ways; for a replayer that accepts `seen`.

    Yields:
        The courses, first with no block computed, and then by whole passes; None where that is no way.
    """
    model = replayer.model
    by_way: tuple[Callable[[Batch], Entered | None], ...] = (
        lambda batch: enter(model, batch.tokens, seen.returns),
        lambda batch: record(model, batch.tokens, batch.positions),
    )
    for way in by_way:
        courses: list[Course] = []
        for batch in batches:
            found = way(batch)
            if found is None or not replayer.fits(found):
                break
            courses.append(Course((batch,), passed_alone(found, batch.positions), (found.start,)))
        yield courses if len(courses) == len(batches) else None


#: Why a model is not run from the middle where a hook of PyTorch changes what passes.
HOOKS_ACT = "a hook on one of its modules changes what passes, perhaps by the position or by the batch"


def reason_against(model: Any) -> str | None:
    """Why a model cannot be run from the middle, whatever its blocks do, or None."""
    if any(getattr(module, "fwd_hooks", None) for module in model.modules()):
        return (
            "it carries hooks of your own or of its architecture, which may not expect to see a batch "
            "more than once"
        )
    if int(getattr(model.cfg, "n_devices", 1) or 1) > 1:
        return "its blocks lie on several devices"
    if any(cut.reads_tokens for cut in active_cuts(model)):
        return "a cut that is at work in it reads the tokens at the embedding"
    return None


def repeats(course: Course, logits: Sequence[Tensor], seen: Recording) -> bool:
    """Whether a course's logits are those of a whole pass, if that pass's row is among its rows."""
    own = course.logits_of(seen.tokens[0].tolist(), logits)
    if own is None:
        return True
    positions = min(own.shape[1], seen.positions)
    return same_logits(own[:, -positions:], seen.logits[:, -positions:])
