"""Running text or token numbers, from wherever they come, as rows without padding."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from tl_truncate.checks import whole
from tl_truncate.corpora.passages import read_passages
from tl_truncate.tasks.encode import bos_token

Corpus = Tensor | str | os.PathLike[str] | Iterable[Any]


@dataclass(frozen=True)
class Row:
    """One row of tokens and the passage that it is from; long passages make several rows."""

    passage: int
    tokens: tuple[int, ...]

    @property
    def told(self) -> bytes:
        """What is hashed of it."""
        return f"{self.passage}:{self.tokens}".encode()


def rows_hash(rows: Iterable[Row]) -> str:
    """The same for the same rows in the same order, and only for those.

    Examples:
        >>> rows_hash([Row(0, (1, 2))]) == rows_hash([Row(0, (1,)), Row(0, (2,))])
        False
    """
    digest = new_digest()
    for row in rows:
        digest.update(row.told)
    return str(digest.hexdigest())


def new_digest() -> Any:
    """Of `rows_hash`, for rows that come one after the other."""
    return hashlib.blake2b(digest_size=8)


@dataclass(frozen=True)
class Filled:
    """Rows side by side, each behind its end filled up with its last token.

    Behind a row's end nothing matters to a causal model, and real tokens in front need no mask.

    Attributes:
        tokens: `[batch, pos]`.
        real: `[batch, pos]`, False where a row has been filled up.
        rows: that were put together.
    """

    tokens: Int64[Tensor, "batch pos"]
    real: Bool[Tensor, "batch pos"]
    rows: tuple[Row, ...]


def fill(rows: Sequence[Row]) -> Filled:
    """Puts rows of any lengths side by side.

    Examples:
        >>> fill([Row(0, (1, 2, 3)), Row(1, (4,))]).tokens.tolist()
        [[1, 2, 3], [4, 4, 4]]
    """
    longest = max(len(row.tokens) for row in rows)
    filled = [row.tokens + row.tokens[-1:] * (longest - len(row.tokens)) for row in rows]
    lengths = torch.tensor([len(row.tokens) for row in rows])
    real = torch.arange(longest) < lengths[:, None]
    return Filled(torch.tensor(filled), real, tuple(rows))


def batches(rows: Sequence[Row], batch_size: int) -> Iterator[Filled]:
    """Rows in batches of similar lengths."""
    in_order = sorted(rows, key=lambda row: len(row.tokens))
    for start in range(0, len(in_order), batch_size):
        yield fill(in_order[start : start + batch_size])


def read_rows(
    model: Any,
    corpus: Corpus,
    *,
    mask: Tensor | None = None,
    max_tokens: int | None = None,
    prepend_bos: bool | None = None,
    first: int = 0,
) -> Iterator[Row]:
    """The rows of a corpus, one passage after the other.

    Args:
        model: whose tokenizer reads texts, and whose context limits a row.
        corpus: a tensor of tokens `[passage, pos]`; a path of a text file, whose passages are divided by
            empty lines; or an iterable of texts, of lists of token numbers, or of mappings with `text`
            or `input_ids` (rows of a Hugging Face dataset, also a streamed one).
        mask: `[passage, pos]` for a tensor, False or 0 at padding.
        max_tokens: of a row; longer passages are continued in further rows. The model's context by
            default.
        prepend_bos: for texts; overrides the model's default.
        first: number of the first passage.

    Raises:
        ValueError: if the mask does not fit, a token is not in the vocabulary, or texts meet a model
            without a tokenizer.
        TypeError: if something is not a corpus.
    """
    most = row_length(model, max_tokens)
    for passage, each in enumerate(passages_of(corpus, mask), first):
        tokens, front = _tokens(model, each, prepend_bos, passage)
        step = most - len(front)
        for start in range(0, len(tokens), step):
            yield Row(passage, (*front, *tokens[start : start + step]))


def row_length(model: Any, max_tokens: int | None) -> int:
    """Most tokens of a row.

    Raises:
        ValueError: if it is not at least 2.
    """
    context = int(getattr(model.cfg, "n_ctx", 0) or 0)
    found = whole(max_tokens) if max_tokens is not None else context or 512
    if found is None or found < 2:
        raise ValueError(f"max_tokens must be an integer from 2 up, got {max_tokens!r}.")
    return min(found, context) if context else found


def size_of(corpus: Corpus) -> int | None:
    """How many passages there are, where that is known."""
    return len(corpus) if isinstance(corpus, (Tensor, list, tuple)) else None


def passages_of(corpus: Corpus, mask: Tensor | None) -> Iterator[Any]:
    """The passages of a corpus, as `read_rows` takes it: texts, token numbers or mappings.

    Raises:
        ValueError: if the mask does not fit.
        TypeError: if it is no corpus.
    """
    if isinstance(corpus, Tensor):
        yield from unpadded(corpus, mask)
    elif mask is not None:
        raise ValueError("mask must come with a tensor of tokens, got another corpus.")
    elif isinstance(corpus, str):
        raise TypeError(
            f"A corpus must be texts, tokens or a path, got one text: {corpus[:40]!r}. Write [text], or "
            "pathlib.Path(name) for a file."
        )
    elif isinstance(corpus, os.PathLike):
        yield from read_passages(corpus)
    elif isinstance(corpus, Mapping) or not isinstance(corpus, Iterable):
        raise TypeError(f"A corpus must be texts, tokens or a path, got {type(corpus).__name__}.")
    else:
        yield from corpus


def unpadded(tokens: Int64[Tensor, "batch pos"], mask: Tensor | None) -> list[tuple[int, ...]]:
    """The rows of a tensor without their padding.

    Raises:
        ValueError: if the tensor or the mask has another shape, a row is all padding, or there is
            padding between its tokens.
    """
    if tokens.ndim != 2 or tokens.is_floating_point():
        raise ValueError(
            f"Tokens must be whole numbers of shape [batch, pos], got {tokens.dtype} of shape "
            f"{tuple(tokens.shape)}. Write tokens[None] for one prompt."
        )
    if mask is None:
        return [tuple(row) for row in tokens.tolist()]
    if mask.shape != tokens.shape:
        raise ValueError(
            f"mask must have the shape of the tokens, {tuple(tokens.shape)}, got {tuple(mask.shape)}."
        )
    rows = []
    for place, (row, inside) in enumerate(zip(tokens.tolist(), mask.bool().tolist(), strict=True)):
        if True not in inside:
            raise ValueError(f"Each row must have a token that is not padding, got none in row {place}.")
        first, last = inside.index(True), len(inside) - inside[::-1].index(True)
        if not all(inside[first:last]):
            raise ValueError(f"Padding must be in front of a row or behind it, got some inside {place}.")
        rows.append(tuple(row[first:last]))
    return rows


def _tokens(
    model: Any, passage: Any, prepend_bos: bool | None, place: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A passage's tokens, and what stands in front of each of its rows."""
    found = plain_passage(passage, place)
    if isinstance(found, str):
        return _encode(model, found, prepend_bos)
    require_vocabulary(model, found, place)
    return tuple(found), ()


def plain_passage(passage: Any, place: int) -> str | Sequence[int]:
    """The text or the token numbers of a passage, in whichever of its forms it comes.

    Raises:
        TypeError: if it is no passage.
    """
    if isinstance(passage, Mapping):
        passage = passage.get("text", passage.get("input_ids"))
    if isinstance(passage, str):
        return passage
    found = passage.tolist() if hasattr(passage, "tolist") else passage
    if not isinstance(found, (list, tuple)) or not all(type(token) is int for token in found):
        raise TypeError(
            "A passage must be a text, token numbers, or a mapping with 'text' or 'input_ids', got "
            f"{found!r:.60} at {place}."
        )
    return found


def _encode(model: Any, text: str, prepend_bos: bool | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise ValueError(
            "The model must have a tokenizer to read texts, got none. Give token numbers instead."
        )
    bos = bos_token(model, tokenizer, prepend_bos)
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    if ids[:1] == [getattr(tokenizer, "bos_token_id", None)]:
        ids = ids[1:]
    return tuple(ids), () if bos is None else (bos,)


def require_vocabulary(model: Any, tokens: Sequence[int], place: int) -> None:
    """Refuses token numbers that the model does not have.

    Raises:
        ValueError: if there is one.
    """
    size = int(getattr(model.cfg, "d_vocab", 0) or 0)
    wrong = [token for token in tokens if token < 0 or (size and token >= size)]
    if wrong:
        raise ValueError(
            f"Tokens must be from 0 to {size - 1} for this model, got {wrong[0]} in passage {place}."
        )


def read_prompts(
    model: Any, prompts: Tensor | str | Sequence[Any], *, mask: Tensor | None, prepend_bos: bool | None
) -> tuple[Row, ...]:
    """Prompts as rows that fit into the model's context, one for each.

    Raises:
        ValueError: if there is none, one has no token, or one is too long.
        TypeError: if something is no prompt.
    """
    rows = []
    for place, each in enumerate(passages_of([prompts] if isinstance(prompts, str) else prompts, mask)):
        tokens, front = _tokens(model, each, prepend_bos, place)
        rows.append(Row(place, (*front, *tokens)))
    context = int(getattr(model.cfg, "n_ctx", 0) or 0)
    lengths = [len(row.tokens) for row in rows]
    if not rows or not all(lengths) or (context and max(lengths) > context):
        raise ValueError(
            "There must be prompts of at least one token that fit into the model's context of "
            f"{context} tokens, got lengths {lengths[:8]}."
        )
    return tuple(rows)
