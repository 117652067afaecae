"""Running text, read by the uncut model and by the cut one, passage by passage."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tl_truncate.corpora.corpus import Filled, Row, batches
from tl_truncate.corpora.texts import sample_texts
from tl_truncate.experiments.scoring.answers import REMEDY, told
from tl_truncate.experiments.scoring.memory import factor_bytes, logit_bytes, rows_that_fit
from tl_truncate.replay.calls import last_logits
from tl_truncate.surgery.cut import Cuts
from tl_truncate.surgery.edit import in_compute_precision
from tl_truncate.surgery.hooks import active_cuts, truncated
from tl_truncate.tasks.encode import bos_token
from tl_truncate.weights.linear import where_float64_is
from tl_truncate.weights.site import Site

# Positions whose logits are held at once for the comparison, uncut and cut.
_POSITIONS = 512


def encode_passages(
    model: Any,
    texts: Sequence[str] | None = None,
    prepend_bos: bool | None = None,
    max_tokens: int = 256,
) -> list[tuple[str, tuple[int, ...]]]:
    """Texts with their tokens, as `side_effects` reads them.

    Raises:
        ValueError: if there is no text of two tokens, or no tokenizer.
        TypeError: if texts is one text.
    """
    if isinstance(texts, str):
        raise TypeError("texts must be a list of passages, got one text. Write [text].")
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise ValueError("The model must have a tokenizer to read running text, got none.")
    bos = bos_token(model, tokenizer, prepend_bos)
    most = min(max_tokens, int(getattr(model.cfg, "n_ctx", 0) or max_tokens))
    found = []
    for text in sample_texts() if texts is None else texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = ([] if bos is None or ids[:1] == [bos] else [bos]) + list(ids)
        if len(ids) >= 2:
            found.append((text, tuple(ids[:most])))
    if not found:
        raise ValueError("There must be at least one text of two tokens, got none.")
    return found


def passages_that_fit(
    model: Any,
    passages: Sequence[tuple[str, tuple[int, ...]]],
    sites: Sequence[Site],
    *,
    batch_size: int,
    max_memory: int | None,
) -> int:
    """`rows_that_fit` for passages, with the factors of some sites beside them.

    Raises:
        ValueError: if not even one passage fits.
    """
    longest = max(len(tokens) for _, tokens in passages)
    compared = 2 * min(longest, _POSITIONS) * logit_bytes(model)  # of one passage at a time
    return rows_that_fit(
        model,
        longest,
        batch_size=batch_size,
        max_memory=max_memory,
        row=2 * longest * logit_bytes(model),  # of both models
        fixed=compared + sum(factor_bytes(model, sites)),
    )


def text_effects(
    model: Any, cuts: Cuts, batch: Filled, texts: Sequence[str]
) -> dict[int, dict[str, Any]]:
    """The rows of the table for the passages of a batch, by the passage's place."""
    width = batch.tokens.shape[1]
    uncut = last_logits(model, batch.tokens, width)
    with truncated(model, cuts):
        cut = last_logits(model, batch.tokens, width)
    found = {}
    for place, row in enumerate(batch.rows):
        said = slice(0, len(row.tokens) - 1)
        before, after = where_float64_is(uncut[place, said]), where_float64_is(cut[place, said])
        wanted, text = torch.tensor(row.tokens[1:]), texts[row.passage]
        compared = _compare(before, after, wanted)
        found[row.passage] = dict(text=text, **compared)
        for name, active in (("uncut_loss", Cuts()), ("loss", cuts), ("kl", cuts)):
            if not math.isfinite(compared[name]):
                raise ValueError(
                    f"The logits must be finite, but with {told(Cuts(active_cuts(model), active))} they "
                    f"are not on passage {row.passage}: {text[:60]!r}. {REMEDY}"
                )
    return found


def mean_loss(
    model: Any,
    cuts: Cuts,
    texts: Sequence[str],
    prepend_bos: bool | None = None,
    max_memory: int | None = None,
) -> float:
    """The mean loss of a token under some cuts, in nats, as `side_effects` has it: `log(perplexity)`.

    Raises:
        ValueError: if a loss is not finite.
    """
    passages = encode_passages(model, texts, prepend_bos)
    sites = [cut.site for cut in cuts]
    fits = passages_that_fit(model, passages, sites, batch_size=1, max_memory=max_memory)
    rows = [Row(place, tokens) for place, (_, tokens) in enumerate(passages)]
    total, count = 0.0, 0
    for batch in batches(rows, fits):
        with truncated(model, cuts):
            logits = last_logits(model, batch.tokens, batch.tokens.shape[1])
        for place, row in enumerate(batch.rows):
            said = where_float64_is(logits[place, : len(row.tokens) - 1])
            loss = sum(
                float(
                    -in_compute_precision(part)
                    .log_softmax(-1)
                    .gather(-1, wanted[:, None])
                    .double()
                    .sum()
                )
                for part, wanted in zip(
                    _pieces(said), _pieces(torch.tensor(row.tokens[1:]).to(said.device)), strict=True
                )
            )
            if not math.isfinite(loss):
                raise ValueError(
                    f"The logits must be finite, but with {told(Cuts(active_cuts(model), cuts))} they "
                    f"are not on passage {row.passage}: {passages[row.passage][0][:60]!r}. {REMEDY}"
                )
            total, count = total + loss, count + len(row.tokens) - 1
    return total / count


def _compare(uncut: Tensor, cut: Tensor, targets: Tensor) -> dict[str, float]:
    """Means over the positions of a passage, some positions at a time."""
    sums = np.zeros(4)
    for one, other, wanted in zip(*map(_pieces, (uncut, cut, targets.to(uncut.device))), strict=True):
        before = in_compute_precision(one).log_softmax(-1)
        after = in_compute_precision(other).log_softmax(-1)
        # A token that is never said, such as one that fills up a vocabulary, adds nothing.
        share = torch.where(before.isneginf(), 0.0, before.exp() * (before - after))
        divergence = share.sum(-1, dtype=torch.float64)
        same = before.argmax(-1) == after.argmax(-1)
        losses = [-each.gather(-1, wanted[:, None]).double().sum() for each in (after, before)]
        sums += [float(each) for each in (*losses, divergence.sum(), same.sum())]
    loss, uncut_loss, kl, agreement = sums / len(targets)
    return dict(
        tokens=len(targets), loss=loss, uncut_loss=uncut_loss, kl=max(kl, 0.0), agreement=agreement
    )


def _pieces(values: Tensor) -> Iterator[Tensor]:
    for start in range(0, len(values), _POSITIONS):
        yield values[start : start + _POSITIONS]
