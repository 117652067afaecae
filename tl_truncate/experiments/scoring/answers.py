"""Reading answers off logits: which rows have to be run, and what each prompt's score is."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tl_truncate.surgery.edit import in_compute_precision
from tl_truncate.tasks.encode import EncodedTask
from tl_truncate.tasks.task import Task
from tl_truncate.weights.linear import where_float64_is

Kind = Literal["in_context", "global"]


@dataclass(frozen=True)
class Answer:
    """One of the two answers of one prompt, to be read off one row of a batch."""

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
            for kind, answer in (("in_context", prompt.in_context), ("global", prompt.global_)):
                row = prompt.prompt + answer[:-1]
                own = (index if apart else None, row)
                wanted[own].append(Answer(task, index, kind, answer))  # type: ignore[arg-type]
    by_length: dict[int, list[tuple[int | None, tuple[int, ...]]]] = defaultdict(list)
    for own in wanted:
        by_length[len(own[1])].append(own)
    batches = []
    for length in sorted(by_length):
        bucket = by_length[length]
        size = batch_size if max_tokens is None else max(1, min(batch_size, max_tokens // length))
        for start in range(0, len(bucket), size):
            keys = bucket[start : start + size]
            rows = tuple(row for _, row in keys)
            answers = tuple(tuple(wanted[key]) for key in keys)
            longest = max(len(answer.tokens) for asked in answers for answer in asked)
            batches.append(Batch(rows, answers, longest))
    return batches


@dataclass(frozen=True)
class Outcome:
    """What a model said to each prompt of one task.

    Attributes:
        log_p_in_context, log_p_global: log-probabilities of the answers, in nats, `[prompt]`.
        rank: how many tokens are more probable than the in-context answer's worst, `[prompt]`.
    """

    log_p_in_context: tuple[float, ...]
    log_p_global: tuple[float, ...]
    rank: tuple[int, ...]

    def metrics(self) -> pd.DataFrame:
        """One row per prompt: rank, accuracy, p_in_context, p_global, logit_diff."""
        log_in_context, log_global = np.array(self.log_p_in_context), np.array(self.log_p_global)
        rank = np.array(self.rank, dtype=float)
        columns = dict(
            rank=rank,
            accuracy=(rank == 0).astype(float),
            p_in_context=np.exp(log_in_context),
            p_global=np.exp(log_global),
            logit_diff=log_in_context - log_global,
        )
        return pd.DataFrame(columns)


class Sheet:
    """Collects answers, batch by batch, into an outcome for each task.

    Args:
        tasks: whose prompts are answered.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._sizes = [len(task) for task in tasks]
        self._found: dict[tuple[int, int, Kind], tuple[float, int]] = {}

    def fill(self, batch: Batch, logits: Float[Tensor, "batch positions d_vocab"]) -> None:
        """Reads a batch's answers off its logits at the last positions."""
        for answer, value in zip(_asked(batch), read_answers(batch, logits), strict=True):
            self._found[answer.task, answer.prompt, answer.kind] = value

    def outcomes(self) -> list[Outcome]:
        """One for each task, once all batches are filled in."""
        return [self._outcome(task, size) for task, size in enumerate(self._sizes)]

    def _outcome(self, task: int, size: int) -> Outcome:
        in_context = [self._found[task, prompt, "in_context"] for prompt in range(size)]
        global_ = [self._found[task, prompt, "global"] for prompt in range(size)]
        return Outcome(
            tuple(value for value, _ in in_context),
            tuple(value for value, _ in global_),
            tuple(rank for _, rank in in_context),
        )


def _asked(batch: Batch) -> Iterator[Answer]:
    for answers in batch.answers:
        yield from answers


def read_answers(
    batch: Batch, logits: Float[Tensor, "batch positions d_vocab"]
) -> list[tuple[float, int]]:
    """Log-probability of each answer and the rank of its worst token, in the order of the rows.

    Ranks are counted for in-context answers alone; they are 0 for the others.
    """
    logits = where_float64_is(logits)
    where = batch.places.to(logits.device)
    chosen = logits[where.rows, where.columns, where.tokens]
    log_probability = chosen.double() - log_normalisers(logits)[where.rows, where.columns]
    total = torch.where(where.inside, log_probability, 0.0).sum(-1)
    ranks = torch.zeros_like(where.tokens)
    own = _rows(logits, where.rows[where.counted, 0])
    ranks[where.counted] = (own > chosen[where.counted, :, None]).sum(-1)
    worst = torch.where(where.inside, ranks, 0).amax(-1)
    return list(zip(total.tolist(), worst.tolist(), strict=True))


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
