"""How much memory passes take beside the model, and how many rows fit into what is allowed."""

from collections.abc import Iterable, Sequence
from typing import Any

from tl_truncate.checks import positive
from tl_truncate.corpora.corpus import Corpus, read_rows
from tl_truncate.experiments.scoring.answers import plan_batches
from tl_truncate.tasks.encode import EncodedTask
from tl_truncate.weights.holding.placement import model_dtype
from tl_truncate.weights.linear import compute_dtype
from tl_truncate.weights.locate import carrier, find_sites, n_layers
from tl_truncate.weights.site import Site

# Copies of a block's widest values and of its residual stream that are alive at once in a pass.
_WIDE, _STREAM, _SCORES = 4, 8, 4
# Bytes of a number in a sum; and how often the sums of a corpus are there: once for the rows that means
# are fitted on, once for those that are held out, and once while both are put together.
_SUM, _FOLDS = 8, 3
#: What the allocator and small things take, measured beside small plans.
OVERHEAD = 32 * 2**20


def token_bytes(model: Any, longest: int) -> int:
    """Bytes of one token on its way through a block, in a row of so many tokens."""
    config = model.cfg
    d_model = int(config.d_model)
    d_mlp, heads = int(getattr(config, "d_mlp", None) or 4 * d_model), int(config.n_heads)
    values = _WIDE * d_mlp + _STREAM * d_model + _SCORES * heads * longest
    return values * model_dtype(model).itemsize


def logit_bytes(model: Any) -> int:
    """Bytes of one position's logits, with what reading answers off them takes."""
    vocabulary = int(getattr(model.cfg, "d_vocab", 0) or 0)
    return vocabulary * (model_dtype(model).itemsize + 8)


def factor_bytes(model: Any, sites: Iterable[Site]) -> list[int]:
    """Bytes of each site's singular vectors, and of what the edits take from them."""
    stored = compute_dtype(model_dtype(model)).itemsize
    shapes = [carrier(model, site).shape for site in sites]
    return [(n_in + 3 * n_out) * min(n_in, n_out) * stored for n_in, n_out in shapes]


def rows_that_fit(
    model: Any,
    longest: int,
    *,
    batch_size: int,
    max_memory: int | None,
    row: int = 0,
    fixed: int = 0,
    blocks: int = 1,
) -> int:
    """The batch size that is wanted, or as much of it as fits.

    Args:
        model: a HookedTransformer or TransformerBridge.
        longest: tokens of the longest row.
        batch_size: that is wanted.
        max_memory: most bytes beside the model; None is no limit.
        row: bytes that each row takes beside its way through the blocks, such as its logits.
        fixed: bytes that are taken whatever the batch.
        blocks: how many blocks' values are alive at once; all of them where gradients are taken.

    Raises:
        ValueError: if not even one row fits.
    """
    positive("batch_size", batch_size)
    if max_memory is None:
        return batch_size
    each = longest * blocks * token_bytes(model, longest) + row
    least = OVERHEAD + fixed + each
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
    batch_size: int,
    max_memory: int | None,
    gradients: bool = False,
) -> int:
    """`rows_that_fit` for the prompts of a task, with the factors of some sites beside them.

    Raises:
        ValueError: if not even one prompt fits.
    """
    if max_memory is None:
        return positive("batch_size", batch_size)
    batches = plan_batches([encoded], 1)
    positions = max(batch.positions for batch in batches)
    # A pass back holds the values of all blocks, and as much again of gradients.
    return rows_that_fit(
        model,
        max(len(batch.rows[0]) for batch in batches),
        batch_size=batch_size,
        max_memory=max_memory,
        row=positions * logit_bytes(model) * (2 if gradients else 1),
        fixed=sum(factor_bytes(model, sites)),
        blocks=2 * n_layers(model) if gradients else 1,
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
