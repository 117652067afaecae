"""Colours and words that all figures share."""

#: Okabe and Ito's colours, told apart with every common colour vision.
COLOURS = ("#D55E00", "#E69F00", "#009E73", "#0072B2", "#CC79A7", "#56B4E9")
TITLES = {
    "p_in_context": "probability of the in-context answer",
    "p_global": "probability of the global answer",
    "accuracy": "accuracy",
    "logit_diff": "logit difference (nats)",
    "rank": "rank of the in-context answer",
    "answer_rank": "rank of the in-context answer",
}


def keep_text(keep: object) -> str:
    """A keep as an axis shows it: 10%, 8, or a rule's text.

    Example:
        >>> keep_text(0.1), keep_text(8)
        ('10%', '8')
    """
    return f"{100 * keep:g}%" if isinstance(keep, float) else str(keep)
