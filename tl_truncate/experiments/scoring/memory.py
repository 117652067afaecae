"""How much memory passes take beside the model, and how many rows fit into what is allowed."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from tl_truncate.checks import positive
from tl_truncate.corpora.corpus import Corpus, read_rows
from tl_truncate.experiments.scoring.answers import plan_batches
from tl_truncate.surgery.cut import Cut, SiteCut
from tl_truncate.tasks.encode import EncodedTask
from tl_truncate.weights.holding.placement import model_dtype
from tl_truncate.weights.linear import compute_dtype
from tl_truncate.weights.locate import available, carrier, find_sites, n_layers
from tl_truncate.weights.site import Site
from tl_truncate.weights.spectra.spectrum import is_at_hand

# Numbers of one token that are alive at once in a pass, in widths of the MLP, in those of the residual
# stream, and in scores of all heads: measured (benchmarks/memory.py). More of the MLP's width where its
# activation is computed step by step, or has two branches.
_WIDE, _WIDE_IN_STEPS, _STREAM, _SCORES = 3, 5, 10, 7
# The same of each block for a pass back, and what is more where weights ask for gradients.
_SAVED, _SAVED_IN_STEPS, _SAVED_STREAM, _SAVED_SCORES = 2, 5, 10, 4
_ASKING_WIDE, _ASKING_STREAM = 1, 2
#: Activations that are one function of torch's, which needs no more than its input and its result.
_IN_ONE = ("relu", "gelu", "silu", "gelu_pytorch_tanh")
# Bytes of a number in a sum; and how often the sums of a corpus are there: once for the rows that means
# are fitted on, once for those that are held out, and once while both are put together.
_SUM, _FOLDS = 8, 3
# How often the vectors of a spectrum are there once more while their file is made.
_WRITTEN = 2
#: What libraries and the allocator take beside, and what is mapped of a file at once.
OVERHEAD = 16 * 2**20
#: A heap in which values of different sizes come and go is so many times as large as what is alive in it
#: at most: measured likewise. What passes with gradients keep is counted with enough to spare.
IN_PIECES = 1.3


def token_bytes(model: Any, longest: int) -> int:
    """Bytes of one token on its way through a block, in a row of so many tokens."""
    d_model, d_mlp, heads = _widths(model)
    wide = _WIDE if _in_one(model) else _WIDE_IN_STEPS
    values = wide * d_mlp + _STREAM * d_model + _SCORES * heads * longest
    dtype = model_dtype(model)
    # A cut of what is in half precision is computed in float32.
    precise = 0 if compute_dtype(dtype) == dtype else 3 * d_mlp * compute_dtype(dtype).itemsize
    return values * dtype.itemsize + precise


def pattern_bytes(model: Any, longest: int) -> int:
    """Bytes of one row's attention patterns in all blocks, which a whole pass of a Bridge returns."""
    *_, heads = _widths(model)
    return n_layers(model) * heads * longest**2 * model_dtype(model).itemsize


def saved_bytes(model: Any, longest: int) -> int:
    """Bytes that one token's way through one block leaves for the way back."""
    d_model, d_mlp, heads = _widths(model)
    asking = any(parameter.requires_grad for parameter in model.parameters())
    wide = (_SAVED if _in_one(model) else _SAVED_IN_STEPS) + asking * _ASKING_WIDE
    stream = _SAVED_STREAM + asking * _ASKING_STREAM
    values = wide * d_mlp + stream * d_model + _SAVED_SCORES * heads * longest
    return values * model_dtype(model).itemsize


def _widths(model: Any) -> tuple[int, int, int]:
    config = model.cfg
    d_model = int(config.d_model)
    return d_model, int(getattr(config, "d_mlp", None) or 4 * d_model), int(config.n_heads)


def _in_one(model: Any) -> bool:
    gated = bool(getattr(model.cfg, "gated_mlp", False)) or "W_gate" in available(model, 0)
    return not gated and getattr(model.cfg, "act_fn", None) in _IN_ONE


def logit_bytes(model: Any) -> int:
    """Bytes of one position's logits, with what reading answers off them takes."""
    vocabulary = int(getattr(model.cfg, "d_vocab", 0) or 0)
    dtype = model_dtype(model)
    precise = compute_dtype(dtype)
    return vocabulary * (dtype.itemsize + precise.itemsize * (1 if precise == dtype else 2))


def factor_bytes(model: Any, sites: Iterable[Site]) -> list[int]:
    """Bytes of the directions of all components of each site."""
    return [width * rank * _item(model) for width, rank in _directions(model, sites)]


def cut_bytes(model: Any, cuts: Iterable[SiteCut]) -> list[int]:
    """Bytes that each cut at work takes: the directions that it projects on, as read and as used."""
    return [_of_cut(model, cut) for cut in cuts]


def site_bytes(model: Any, cuts: Sequence[SiteCut]) -> int:
    """Bytes of the directions of cuts that are made at one site of a sweep, which share what they can.

    Truncations of the spectrum read what any of them keeps or removes; others have their own.
    """
    ((width, rank),) = _directions(model, [cuts[0].site])
    first, last, own = 0, 0, 0
    for cut in cuts:
        count = cut.keep.count(rank) if type(cut) is Cut else None
        if count is None:
            own += _of_cut(model, cut)
        elif 2 * count <= rank:
            first = max(first, count)
        else:
            last = max(last, rank - count)
    return width * min(rank, first + last) * _item(model) + own


def _of_cut(model: Any, cut: SiteCut) -> int:
    ((width, rank),) = _directions(model, [cut.site])
    keep = getattr(cut, "keep", None)
    count = None if keep is None or type(cut) is not Cut else keep.count(rank)
    if cut.is_drawn and not cut.reads_tokens:  # from all directions in float64, into ones of its own
        return width * rank * (2 * _item(model) + 2 * _SUM)
    if keep is None:  # of a whole weight, of one direction, or of the tokens
        return width * _item(model)
    side = rank // 2 if count is None else min(count, rank - count)
    return 2 * width * side * _item(model)


def missing_spectra(model: Any, sites: Iterable[Site]) -> list[Site]:
    """Those of which the spectrum is neither in memory nor on disk."""
    return [site for site in dict.fromkeys(sites) if not is_at_hand(model, site)]


def computing_bytes(model: Any, sites: Iterable[Site]) -> int:
    """Most bytes that the spectrum of one of some sites takes to be computed, and to be written."""

    def taken(n_in: int, n_out: int) -> int:
        rank = min(n_in, n_out)
        return _SUM * (3 * n_in * n_out + 3 * rank**2) + _WRITTEN * n_out * rank * _item(model)

    return max((taken(*carrier(model, site).shape) for site in sites), default=0)


def _directions(model: Any, sites: Iterable[Site]) -> list[tuple[int, int]]:
    shapes = [(site, carrier(model, site).shape) for site in sites]
    return [(n_in if site.matrix == "QK" else n_out, min(n_in, n_out)) for site, (n_in, n_out) in shapes]


def _item(model: Any) -> int:
    return compute_dtype(model_dtype(model)).itemsize


def rows_that_fit(
    model: Any,
    longest: int,
    *,
    batch_size: int,
    max_memory: int | None,
    row: int = 0,
    fixed: int = 0,
    before: int = 0,
    blocks: int = 1,
    gradients: bool = False,
) -> int:
    """The batch size that is wanted, or as much of it as fits.

    Args:
        model: a HookedTransformer or TransformerBridge.
        longest: tokens of the longest row.
        batch_size: that is wanted.
        max_memory: most bytes beside the model; None is no limit.
        row: bytes that each row takes beside its way through the blocks, such as its logits.
        fixed: bytes that are taken whatever the batch.
        before: bytes that are taken, beside the fixed ones, until the first row is run.
        blocks: how many blocks' values are alive at once.
        gradients: whether the values of all blocks are kept for a pass back.

    Raises:
        ValueError: if not even one row fits.
    """
    positive("batch_size", batch_size)
    if max_memory is None:
        return batch_size
    each = longest * blocks * token_bytes(model, longest) + row
    if gradients:
        each += longest * n_layers(model) * saved_bytes(model, longest)
    else:
        each = math.ceil(IN_PIECES * (each + pattern_bytes(model, longest)))
    least = OVERHEAD + fixed + max(before, each)
    if least > max_memory:
        raise ValueError(
            f"max_memory must be at least {least} bytes ({amount(least)}) for one row of {longest} "
            f"tokens, got {max_memory}. Allow more, or use shorter prompts or fewer sites."
        )
    return min(batch_size, int(max_memory - OVERHEAD - fixed) // each)


def prompts_that_fit(
    model: Any,
    encoded: EncodedTask,
    sites: Sequence[Site] = (),
    *,
    cuts: Sequence[SiteCut] = (),
    batch_size: int,
    max_memory: int | None,
    gradients: bool = False,
) -> int:
    """`rows_that_fit` for the prompts of a task, with cuts at work, or the factors of some sites beside.

    With gradients the outputs of the sites are kept, and what is found along their components.

    Raises:
        ValueError: if not even one prompt fits.
    """
    if max_memory is None:
        return positive("batch_size", batch_size)
    batches = plan_batches([encoded], 1)
    positions = max(batch.positions for batch in batches)
    longest = max(len(batch.rows[0]) for batch in batches)
    row = positions * logit_bytes(model) * (2 if gradients else 1)
    if gradients:
        shapes = _directions(model, sites)
        seen = sum(2 * width for width, _ in shapes) + 3 * max((rank for _, rank in shapes), default=0)
        row += longest * seen * _item(model)
    return rows_that_fit(
        model,
        longest,
        batch_size=batch_size,
        max_memory=max_memory,
        row=row,
        fixed=sum(factor_bytes(model, sites)) + sum(cut_bytes(model, cuts)),
        before=computing_bytes(model, missing_spectra(model, [*sites, *(cut.site for cut in cuts)])),
        gradients=gradients,
    )


def corpus_rows_that_fit(
    model: Any,
    corpus: Corpus,
    *,
    layers: Sequence[int] | None = None,
    max_tokens: int | None = None,
    prepend_bos: bool | None = None,
    shares: bool = False,
    batch_size: int,
    max_memory: int | None,
) -> int:
    """`rows_that_fit` for the fitting of token means; the arguments are those of `TokenMeans.fit`.

    The sums grow with the tokens that the corpus has, so it is read once to count them.

    Raises:
        ValueError: if the sums and one row do not fit.
    """
    if max_memory is None:
        return positive("batch_size", batch_size)
    seen, longest = set[int](), 2
    for row in read_rows(model, corpus, max_tokens=max_tokens, prepend_bos=prepend_bos):
        seen.update(row.tokens)
        longest = max(longest, len(row.tokens))
    width = int(model.cfg.d_model) * len(find_sites(model, "W_out", layers))
    return rows_that_fit(
        model,
        longest,
        batch_size=batch_size,
        max_memory=max_memory,
        row=2
        * _SUM
        * longest
        * width,  # what the sites wrote, as it is and in the precision of the sums
        fixed=_FOLDS * (2 if shares else 1) * _SUM * len(seen) * width,
    )


def amount(size: int) -> str:
    """An amount of memory as a reader takes it in.

    Examples:
        >>> amount(3 * 2**29)
        '1.5 GB'
    """
    return f"{size / 2**20:.0f} MB" if size < 2**30 else f"{size / 2**30:.1f} GB"
