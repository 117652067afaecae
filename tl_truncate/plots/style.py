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
