"""What a page shows, from logits and singular values: functions that know nothing of models."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tl_truncate.weights.linear import where_float64_is

#: Next tokens of each list, and of both together, as many as a page has rows; points of a spectrum.
TOP, BOTH, POINTS = 10, 9, 200


def probabilities(logits: Float[Tensor, "*batch d_vocab"]) -> Float[Tensor, "*batch d_vocab"]:
    """Softmax, in float64 where the device has it.

    Raises:
        ValueError: if a logit is not finite.

    Examples:
        >>> probabilities(torch.zeros(4)).tolist()
        [0.25, 0.25, 0.25, 0.25]
    """
    if not bool(torch.isfinite(logits).all()):
        raise ValueError(
            "The model's logits must be finite, but some are not: it overflows under this cut."
        )
    return where_float64_is(logits).double().softmax(-1).cpu()


def top(p: Float[Tensor, " d_vocab"]) -> list[tuple[int, float]]:
    """The most probable tokens, with what they have.

    Examples:
        >>> top(torch.tensor([0.25, 0.75]))
        [(1, 0.75), (0, 0.25)]
    """
    best = p.topk(min(TOP, len(p)))
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def both_tops(
    before: Float[Tensor, " d_vocab"], after: Float[Tensor, " d_vocab"]
) -> list[tuple[int, float, float]]:
    """The tokens that are most probable before or after, by the sum of both; the first of each is there.

    Examples:
        >>> both_tops(torch.tensor([0.25, 0.75]), torch.tensor([1.0, 0.0]))
        [(0, 0.25, 1.0), (1, 0.75, 0.0)]
    """
    ids = {token for token, _ in (*top(before), *top(after))}
    rows = [(token, float(before[token]), float(after[token])) for token in ids]
    firsts = {top(before)[0][0], top(after)[0][0]}
    ordered = sorted(rows, key=lambda row: (-(row[1] + row[2]), row[0]))
    others = [row for row in ordered if row[0] not in firsts][: BOTH - len(firsts)]
    return [row for row in ordered if row[0] in firsts or row in others]


def sampled(values: Float[Tensor, " rank"]) -> list[tuple[int, float]]:
    """At most so many of a spectrum's values, the first and the last among them.

    Examples:
        >>> sampled(torch.tensor([2.0, 1.0]))
        [(0, 2.0), (1, 1.0)]
    """
    count = len(values)
    places = sorted(
        {round(place) for place in torch.linspace(0, count - 1, min(POINTS, count)).tolist()}
    )
    return [(place, float(values[place])) for place in places]


def runs(places: Int64[Tensor, " kept"] | Sequence[int]) -> list[tuple[int, int]]:
    """Ascending places as half-open runs.

    Examples:
        >>> runs([0, 1, 2, 5])
        [(0, 3), (5, 6)]
    """
    found: list[tuple[int, int]] = []
    for place in map(int, places):
        if found and found[-1][1] == place:
            found[-1] = (found[-1][0], place + 1)
        else:
            found.append((place, place + 1))
    return found


def plain(rows: Sequence[tuple[int, float, float]], texts: dict[int, str]) -> list[dict[str, Any]]:
    """Rows of `both_tops` as a page has them."""
    return [
        {"token": texts[token], "id": token, "before": before, "after": after}
        for token, before, after in rows
    ]
