"""A decomposition as HTML: each part's share, and where in the prompt the in-context part is large."""

from collections.abc import Sequence

import pandas as pd
from markupsafe import Markup

from tl_truncate.markup import coloured_tokens, join, paragraphs, table
from tl_truncate.statistics import shown

_ROWS_SHOWN = 4


def decomposition_html(
    told: Sequence[str], shares: pd.DataFrame, positions: pd.DataFrame, texts: Sequence[Sequence[str]]
) -> Markup:
    """What a notebook shows of a decomposition.

    Args:
        told: what was divided, and what the parts mean.
        shares: as `MLPDecomposition.fractions` gives them.
        positions: as `MLPDecomposition.to_frame` gives them.
        texts: of the tokens, `[batch][pos]`.
    """
    return Markup("<div>{}{}{}</div>").format(
        paragraphs(told), _shares(shares), _tokens(positions, texts)
    )


def _shares(frame: pd.DataFrame) -> Markup:
    terms = list(dict.fromkeys(name for name, _ in frame.index))
    rows = []
    for term in terms:
        found = [frame.loc[(term, space)] for space in ("variance", "logits")]
        cells = [shown(row["value"], row["low"], row["high"]) for row in found]
        rows.append([term.replace("_", "-"), *cells])
    return table(
        ["part", "of the variance", "of the logits' variance"],
        rows,
        caption="Shares that sum to one over the finer terms, with 95% intervals",
    )


def _tokens(frame: pd.DataFrame, texts: Sequence[Sequence[str]]) -> Markup:
    rows = []
    for row in range(min(len(texts), _ROWS_SHOWN)):
        own = frame[frame["row"] == row].set_index("position")["in_context_share"]
        first = int(own.index.min()) if len(own) else 0
        told = texts[row][first:] if len(own) else texts[row]
        values = [float(own.get(first + place, 0.0)) for place in range(len(told))]
        spans = coloured_tokens(told, values, 1.0)
        rows.append(Markup('<p style="font-family:monospace;white-space:pre-wrap">{}</p>').format(spans))
    legend = (
        "Tokens, orange where the in-context part carries the output, blue where it works against it; "
        "the share is shown under the pointer."
    )
    return Markup("<p>{}</p>{}").format(legend, join(rows))
