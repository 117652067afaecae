"""Reading answers off logits: which rows have to be run, and what each prompt's score is."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tl_truncate.surgery.cut import SiteCut
from tl_truncate.surgery.edit import in_compute_precision
from tl_truncate.tasks.encode import EncodedTask
from tl_truncate.tasks.task import Task
from tl_truncate.weights.linear import where_float64_is

Kind = Literal["in_context", "global"]
#: In the order of a prompt's answers, of which the second may be lacking.
_KINDS: tuple[Kind, ...] = ("in_context", "global")


@dataclass(frozen=True)
class Answer:
    """One of the answers of one prompt, to be read off one row of a batch."""

    task: int
    prompt: int
    kind: Kind
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Places:
    """Where a batch's answers are read: one row for each answer, one column for each of its tokens.

    Attributes:
        rows, columns, tokens: indices into the logits of the last positions.
        inside: which columns an answer uses; shorter answers are filled up in front.
        counted: the answers whose ranks are wanted.
    """

    rows: Int64[Tensor, "answers width"]
    columns: Int64[Tensor, "answers width"]
    tokens: Int64[Tensor, "answers width"]
    inside: Bool[Tensor, "answers width"]
    counted: Int64[Tensor, " counted"]

    def to(self, device: torch.device) -> "Places":
        """The same on another device."""
        return Places(*(getattr(self, each.name).to(device) for each in fields(self)))


@dataclass(frozen=True)
class Batch:
    """Rows of equal length, so that nothing is padded, with the answers that each row is asked for.

    Attributes:
        rows: token numbers.
        answers: for each row.
        positions: how many last positions the answers need.
    """

    rows: tuple[tuple[int, ...], ...]
    answers: tuple[tuple[Answer, ...], ...]
    positions: int

    @property
    def tokens(self) -> Tensor:
        """`[batch, pos]`."""
        return torch.tensor(self.rows)

    @property
    def n_tokens(self) -> int:
        """How many tokens the batch has."""
        return len(self.rows) * len(self.rows[0])

    @cached_property
    def places(self) -> Places:
        """Where to read the answers."""
        asked = [(row, answer) for row, answers in enumerate(self.answers) for answer in answers]
        shape = (len(asked), self.positions)
        tokens, inside = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.bool)
        for place, (_, answer) in enumerate(asked):
            used = slice(self.positions - len(answer.tokens), None)
            tokens[place, used], inside[place, used] = torch.tensor(answer.tokens), True
        rows = torch.tensor([row for row, _ in asked])[:, None].expand(shape)
        columns = torch.arange(self.positions).expand(shape)
        counted = [place for place, (_, answer) in enumerate(asked) if answer.kind == "in_context"]
        return Places(rows, columns, tokens, inside, torch.tensor(counted, dtype=torch.int64))

    @property
    def prompts(self) -> Tensor:
        """The prompt of each row, where each prompt has rows of its own."""
        return torch.tensor([answers[0].prompt for answers in self.answers])

    def first_row(self) -> "Batch":
        """The first row alone."""
        return Batch(self.rows[:1], self.answers[:1], self.positions)


def plan_batches(
    encoded: Sequence[EncodedTask],
    batch_size: int,
    max_tokens: int | None = None,
    *,
    apart: bool = False,
) -> list[Batch]:
    """The rows that answer all prompts of some tasks, each distinct row once, batched by length.

    A batch has at most `batch_size` rows, and at most `max_tokens` tokens if it has more than one row.
    Rows of different prompts are kept apart where a row's gradient has to be that of one prompt.

    Both answers of one token are read off the same row; longer ones need a row each, over the prompt
    and all but the last of the answer's tokens.
    """
    wanted: dict[tuple[int | None, tuple[int, ...]], list[Answer]] = defaultdict(list)
    for task, each in enumerate(encoded):
        for index, prompt in enumerate(each.prompts):
            for kind, answer in zip(_KINDS, prompt.answers, strict=False):
                row = prompt.prompt + answer[:-1]
                own = (index if apart else None, row)
                wanted[own].append(Answer(task, index, kind, answer))
    asked = {own: tuple(answers) for own, answers in wanted.items()}
    return _by_length(asked, batch_size, max_tokens)


def batched(
    asked: Mapping[tuple[int, ...], tuple[Answer, ...]], batch_size: int, max_tokens: int
) -> list[Batch]:
    """Rows with their answers, batched by length as `plan_batches` does."""
    own: dict[tuple[int | None, tuple[int, ...]], tuple[Answer, ...]] = {
        (None, row): answers for row, answers in asked.items()
    }
    return _by_length(own, batch_size, max_tokens)


def _by_length(
    wanted: Mapping[tuple[int | None, tuple[int, ...]], tuple[Answer, ...]],
    batch_size: int,
    max_tokens: int | None,
) -> list[Batch]:
    by_length: dict[int, list[tuple[int | None, tuple[int, ...]]]] = defaultdict(list)
    for own in wanted:
        by_length[len(own[1])].append(own)
    batches = []
    for length in sorted(by_length):
        bucket = by_length[length]
        size = batch_size if max_tokens is None else max(1, min(batch_size, max_tokens // length))
        for start in range(0, len(bucket), size):
            keys = bucket[start : start + size]
            answers = tuple(wanted[key] for key in keys)
            longest = max(len(answer.tokens) for asked in answers for answer in asked)
            batches.append(Batch(tuple(row for _, row in keys), answers, longest))
    return batches


@dataclass(frozen=True)
class Outcome:
    """What a model said to each prompt of one task.

    Attributes:
        log_p_in_context, log_p_global: log-probabilities of the answers, in nats, `[prompt]`; None if
            the prompts have no global answer.
        rank: how many tokens are more probable than the in-context answer's worst, and half of those
            that are as probable: what ties amount to on average in any order, `[prompt]`.
        credit: how far the in-context answer is the most probable, `[prompt]`: 1 if it is alone, its
            share if it is tied, 0 if it is not. None in results of versions that did not know ties.
    """

    log_p_in_context: tuple[float, ...]
    log_p_global: tuple[float, ...] | None
    rank: tuple[float, ...]
    credit: tuple[float, ...] | None = None

    def metrics(self) -> pd.DataFrame:
        """One row per prompt: rank, accuracy, p_in_context and, with a global answer, p_global and
        logit_diff.
        """
        log_in_context = np.array(self.log_p_in_context)
        rank = np.array(self.rank, dtype=float)
        credit = (rank == 0) if self.credit is None else np.array(self.credit)
        columns = dict(
            rank=rank,
            accuracy=credit.astype(float),
            p_in_context=np.exp(log_in_context),
        )
        if self.log_p_global is not None:
            log_global = np.array(self.log_p_global)
            columns |= dict(p_global=np.exp(log_global), logit_diff=log_in_context - log_global)
        return pd.DataFrame(columns)


@dataclass(frozen=True)
class Reading:
    """What one row of logits says to one answer.

    Attributes:
        log_probability: of the answer, in nats.
        rank, credit: as in `Outcome`; 0 where they are not counted.
    """

    log_probability: float
    rank: float
    credit: float


class Sheet:
    """Collects answers, batch by batch, into an outcome for each task.

    Args:
        tasks: whose prompts are answered.
        cuts: of the model that answers, to be named where it says nothing.
    """

    def __init__(self, tasks: Sequence[Task], cuts: Sequence[SiteCut] = ()) -> None:
        self._tasks, self._cuts = tasks, cuts
        self._found: dict[tuple[int, int, Kind], Reading] = {}

    def fill(self, batch: Batch, logits: Float[Tensor, "batch positions d_vocab"]) -> None:
        """Reads a batch's answers off its logits at the last positions.

        Raises:
            ValueError: if a log-probability is not finite.
        """
        readings = read_answers(batch, logits)
        require_finite(self._tasks, self._cuts, batch, [each.log_probability for each in readings])
        for answer, reading in zip(_asked(batch), readings, strict=True):
            self._found[answer.task, answer.prompt, answer.kind] = reading

    def outcomes(self) -> list[Outcome]:
        """One for each task, once all batches are filled in."""
        return [self._outcome(task, len(each)) for task, each in enumerate(self._tasks)]

    def _outcome(self, task: int, size: int) -> Outcome:
        in_context = [self._found[task, prompt, "in_context"] for prompt in range(size)]
        log_p_global = None
        if self._tasks[task].has_global:
            found = [self._found[task, prompt, "global"] for prompt in range(size)]
            log_p_global = tuple(each.log_probability for each in found)
        return Outcome(
            tuple(each.log_probability for each in in_context),
            log_p_global,
            tuple(each.rank for each in in_context),
            tuple(each.credit for each in in_context),
        )


def _asked(batch: Batch) -> Iterator[Answer]:
    for answers in batch.answers:
        yield from answers


class NotFinite(ValueError):
    """The model's logits say nothing about an answer."""


def require_finite(
    tasks: Sequence[Task], cuts: Sequence[SiteCut], batch: Batch, values: Sequence[float]
) -> None:
    """Refuses answers about which the logits say nothing.

    Raises:
        NotFinite: if a value is not finite, with the cuts and the prompt.
    """
    for answer, value in zip(_asked(batch), values, strict=True):
        if not math.isfinite(value):
            task = tasks[answer.task]
            raise NotFinite(
                f"The logits must be finite, but with {told(cuts)} the log-probability of an answer to "
                f"prompt {answer.prompt} of {task.name!r} is {value}: {task.prompts[answer.prompt]!r}. "
                f"{REMEDY}"
            )


#: What to do about logits that are not finite.
REMEDY = (
    "Look for weights that are not finite, and for half precision that overflows: load the model in "
    "bfloat16 or float32, or leave the cut out."
)


def told(cuts: Sequence[SiteCut]) -> str:
    """The cuts of a model, for an error."""
    return ", ".join(map(repr, cuts)) or "no cut"


def read_answers(batch: Batch, logits: Float[Tensor, "batch positions d_vocab"]) -> list[Reading]:
    """Log-probability of each answer, and how it stands against other tokens, in the order of the rows.

    Of several tokens the worst rank counts, and the product of their credits. For in-context answers
    alone they are counted.
    """
    logits = where_float64_is(logits)
    where = batch.places.to(logits.device)
    chosen = logits[where.rows, where.columns, where.tokens]
    log_probability = chosen.double() - log_normalisers(logits)[where.rows, where.columns]
    total = torch.where(where.inside, log_probability, 0.0).sum(-1)
    above = torch.zeros(where.tokens.shape, dtype=torch.int64, device=logits.device)
    tied = torch.ones_like(above)
    own, least = _rows(logits, where.rows[where.counted, 0]), chosen[where.counted, :, None]
    above[where.counted] = (own > least).sum(-1)
    tied[where.counted] = (own == least).sum(-1)
    ranks = torch.where(where.inside, above.double() + (tied.double() - 1) / 2, 0.0).amax(-1)
    credit = torch.where(where.inside, (above == 0).double() / tied, 1.0).prod(-1)
    counted = torch.zeros_like(credit)
    counted[where.counted] = credit[where.counted]
    values = zip(total.tolist(), ranks.tolist(), counted.tolist(), strict=True)
    return [Reading(*each) for each in values]


def _rows(logits: Tensor, rows: Tensor) -> Tensor:
    """The logits of some rows; not copied where each row is wanted once, as is usual."""
    same = len(rows) == len(logits) and bool((rows == torch.arange(len(rows), device=rows.device)).all())
    return logits if same else logits[rows]


def log_normalisers(logits: Float[Tensor, "*rows d_vocab"]) -> Float[Tensor, "*rows"]:
    """`logsumexp` over the vocabulary, with the sum in float64: exact to the rounding of the logits."""
    precise = in_compute_precision(logits)
    largest = precise.amax(-1, keepdim=True)
    total = (precise - largest).exp_().sum(-1, dtype=torch.float64)
    return total.log() + largest[..., 0].double()
