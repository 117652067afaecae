"""A decomposition as HTML: each part's share, and where in the prompt the in-context part is large."""

from typing import TYPE_CHECKING

from markupsafe import Markup

from tl_truncate.markup import coloured_tokens, join, paragraphs, table

if TYPE_CHECKING:
    from tl_truncate.decompose.parts import MLPDecomposition

_ROWS_SHOWN = 4


def decomposition_html(parts: "MLPDecomposition", meaning: str) -> Markup:
    """What a notebook shows of a decomposition."""
    told = [
        f"The MLP of block {parts.layer} on {parts.record['model']}, by {parts.method}, at "
        f"{int(parts.valid.sum())} positions of {len(parts.tokens)} rows.",
        f"{meaning[0].upper()}{meaning[1:]}.",
    ]
    return Markup("<div>{}{}{}</div>").format(paragraphs(told), _shares(parts), _tokens(parts))


def _shares(parts: "MLPDecomposition") -> Markup:
    frame = parts.fractions(resamples=500)
    terms = list(dict.fromkeys(name for name, _ in frame.index))
    rows = []
    for term in terms:
        found = [frame.loc[(term, space)] for space in ("variance", "logits")]
        shown = [f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" for row in found]
        rows.append([term.replace("_", "-"), *shown])
    return table(
        ["part", "of the variance", "of the logits' variance"],
        rows,
        caption="Shares that sum to one over the finer terms, with 95% bootstrap intervals",
    )


def _tokens(parts: "MLPDecomposition") -> Markup:
    frame = parts.to_frame()
    rows = []
    for row in range(min(len(parts.tokens), _ROWS_SHOWN)):
        own = frame[frame["row"] == row].set_index("position")["in_context_share"]
        first = int(own.index.min()) if len(own) else 0
        texts = parts.texts[row][first:] if len(own) else parts.texts[row]
        values = [float(own.get(first + place, 0.0)) for place in range(len(texts))]
        spans = coloured_tokens(texts, values, 1.0)
        rows.append(Markup('<p style="font-family:monospace;white-space:pre-wrap">{}</p>').format(spans))
    told = (
        "Tokens, orange where the in-context part carries the output, blue where it works against it; "
        "the share is shown under the pointer."
    )
    return Markup("<p>{}</p>{}").format(told, join(rows))
