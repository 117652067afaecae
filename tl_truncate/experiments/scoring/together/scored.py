"""One pass of a model over a task's prompts, with what their beginnings share computed once."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from tl_truncate.experiments.scoring.answers import Batch, plan_batches
from tl_truncate.experiments.scoring.together.courses import Course, reason_against, repeats, together
from tl_truncate.experiments.scoring.together.groves import plan_groves
from tl_truncate.replay.acting import watch_hooks
from tl_truncate.replay.calls import last_logits
from tl_truncate.replay.recording import record
from tl_truncate.replay.upwards import Replayer
from tl_truncate.tasks.encode import EncodedTask

# A trial is about so many passes of the longest row; and with it a pass must be left with this share of
# its tokens to be worth it, since many small calls of a block take longer than a few large ones.
_TRIAL, _WORTH = 6, 0.75


def scored_batches(model: Any, encoded: EncodedTask, batch_size: int) -> Iterator[tuple[Batch, Tensor]]:
    """The rows that answer all prompts, with their logits at the answers' positions.

    Whatever cuts are at work are in them. Where prompts share much of their beginnings, these go through
    the blocks once; where little is to be gained, or a block does not take it, each row goes by itself.

    Args:
        model: a HookedTransformer or TransformerBridge.
        encoded: the prompts.
        batch_size: most rows in a pass.
    """
    batches = plan_batches([encoded], batch_size)
    found = _together(model, encoded, batches, batch_size)
    if found is not None:
        yield from found
        return
    for batch in batches:
        yield batch, last_logits(model, batch.tokens, batch.positions)


def _together(
    model: Any, encoded: EncodedTask, batches: Sequence[Batch], batch_size: int
) -> Iterator[tuple[Batch, Tensor]] | None:
    longest = batches[-1].first_row()
    most = max(1, batch_size * longest.n_tokens // 4)
    groves, apart = plan_groves([encoded], batch_size, most)
    left = sum(grove.tree.n_tokens for grove in groves) + sum(batch.n_tokens for batch in apart)
    whole = sum(batch.n_tokens for batch in batches)
    if left + _TRIAL * longest.n_tokens > _WORTH * whole or reason_against(model) is not None:
        return None
    replayer = Replayer(model)
    with watch_hooks(model) as acting:
        seen = record(model, longest.tokens, longest.positions)
        courses = None if seen is None else together(replayer, seen, groves, apart, most)
    if courses is None or seen is None or acting.now:
        return None
    # The row that was seen comes first: if it differs, no other has been read.
    courses.sort(key=lambda course: longest.rows[0] not in course.passed.tree.rows)
    first = _logits(replayer, courses[0])
    if first is None or not repeats(courses[0], [logits for _, logits in first], seen):
        return None
    return _each(replayer, courses[1:], first)


def _each(
    replayer: Replayer, courses: Sequence[Course], first: Sequence[tuple[Batch, Tensor]]
) -> Iterator[tuple[Batch, Tensor]]:
    yield from first
    for course in courses:
        # A hook that acts on what only these prompts bring sees them whole.
        yield from _logits(replayer, course) or [
            (batch, last_logits(replayer.model, batch.tokens, batch.positions))
            for batch in course.batches
        ]


def _logits(replayer: Replayer, course: Course) -> list[tuple[Batch, Tensor]] | None:
    """The logits of a course's batches; None if a hook has changed them on the way."""
    with watch_hooks(replayer.model) as acting:
        logits = replayer.upwards(0, course.start, course.passed)
    return None if acting.now else list(zip(course.batches, logits, strict=True))
