"""What the best possible predictors say on noisy in-context recall, exactly."""

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from tl_truncate.toys.recall.data import RecallData

Array = NDArray[np.float64]
_MOST_SETS = 10_000
# The logarithm of what cannot happen.
_IMPOSSIBLE = math.log(1e-300)


def bigram_predictions(data: RecallData, tokens: NDArray[np.int64]) -> Array:
    """The best prediction from the last token alone.

    After a fixed trigger `alpha` on the noise token and `(1 - alpha) / V` on every token, else the
    bigram table. With random triggers a token is a trigger with its prior probability.

    Args:
        data: the distribution.
        tokens: `[sequence, pos]`.

    Returns:
        Probabilities of the next token, `[sequence, pos, d_vocab]`.

    Source: derived in docs/theory.md, section 9.
    """
    sets, prior = trigger_sets(data)
    inclusion = prior @ sets
    after = _after_trigger(data, np.full(len(data.table), 1 / len(data.table)))
    mixed = inclusion[:, None] * after + (1 - inclusion)[:, None] * data.table.conditional
    found: Array = mixed[tokens]
    return found


def bayes_predictions(data: RecallData, tokens: NDArray[np.int64]) -> Array:
    """The prediction of a perfect in-context learner: the posterior, given all tokens so far.

    It knows the table, alpha, the noise token, and the triggers if they are fixed; not the targets.
    After a trigger, m noise tokens and nothing else are seen with probability `alpha^m` if the target
    is another token and 1 if it is the noise token; any other follower gives the target away. Random
    triggers are summed over, weighted by how well they explain the sequence.

    Args:
        data: the distribution.
        tokens: `[sequence, pos]`.

    Returns:
        Probabilities of the next token, `[sequence, pos, d_vocab]`.

    Raises:
        ValueError: if there are too many sets of random triggers to sum over.

    Source: derived in docs/theory.md, section 9.

    Examples:
        >>> data = RecallData(tlt.toys.BigramTable.english(), length=8)
        >>> bayes_predictions(data, data.sample(2, seed=0).inputs).shape
        (2, 8, 63)
    """
    sets, prior = trigger_sets(data)
    count, length = tokens.shape
    size = len(data.table)
    rows = np.arange(count)
    target = np.full(
        (count, size, size), 1 / size
    )  # posterior of each token's target, were it a trigger
    evidence = np.zeros((count, size))  # log-likelihood ratio: trigger over no trigger
    found = np.empty((count, length, size))
    log_prior = np.log(np.maximum(prior, 1e-300))
    for position in range(length):
        token = tokens[:, position]
        score = log_prior + evidence @ sets.T
        weight = np.exp(score - score.max(1, keepdims=True))
        is_trigger = (weight * sets[:, token].T).sum(1) / weight.sum(1)
        after = _after_trigger(data, target[rows, token])
        found[:, position] = (
            is_trigger[:, None] * after + (1 - is_trigger)[:, None] * data.table.conditional[token]
        )
        if position + 1 < length:
            _learn(data, target, evidence, rows, token, tokens[:, position + 1])
    return found


def _after_trigger(data: RecallData, target: Array) -> Array:
    """`alpha` on the noise token, the rest on the target."""
    found = (1 - data.alpha) * target
    found[..., data.noise_token] += data.alpha
    return found


def _learn(
    data: RecallData,
    target: Array,
    evidence: Array,
    rows: NDArray[np.int64],
    token: NDArray[np.int64],
    follower: NDArray[np.int64],
) -> None:
    """Takes in that a token was followed by another; changes target and evidence."""
    shared = np.where(follower == data.noise_token, data.alpha, 0.0)
    likelihood = np.tile(shared[:, None], (1, len(data.table)))
    likelihood[rows, follower] += 1 - data.alpha
    joint = target[rows, token] * likelihood
    total = joint.sum(1)
    possible = total > 0
    target[rows[possible], token[possible]] = joint[possible] / total[possible, None]
    evidence[rows, token] += _log(total) - _log(data.table.conditional[token, follower])


def _log(values: Array) -> Array:
    with np.errstate(divide="ignore"):
        found: Array = np.maximum(np.log(values), _IMPOSSIBLE)
    return found


def trigger_sets(data: RecallData) -> tuple[Array, Array]:
    """All sets of triggers that there can be, `[set, d_vocab]` of 0 and 1, and their probabilities.

    Raises:
        ValueError: if there are too many.
    """
    size = len(data.table)
    if data.triggers == "fixed":
        only = np.zeros((1, size))
        only[0, list(data.fixed_triggers)] = 1
        return only, np.ones(1)
    number = math.comb(size, data.n_triggers)
    if number > _MOST_SETS:
        raise ValueError(
            f"The sets of random triggers to sum over must be at most {_MOST_SETS}, got {number} for "
            f"{data.n_triggers} of {size} tokens. Use fewer triggers or a smaller table."
        )
    chosen = list(itertools.combinations(range(size), data.n_triggers))
    sets = np.zeros((number, size))
    np.put_along_axis(sets, np.array(chosen), 1.0, axis=1)
    return sets, np.array([_drawn_without_replacement(data.table.marginal, each) for each in chosen])


def _drawn_without_replacement(marginal: Array, tokens: tuple[int, ...]) -> float:
    """Probability of drawing these tokens, in any order, each time in proportion to the marginal."""
    total = 0.0
    for order in itertools.permutations(tokens):
        left, chance = 1.0, 1.0
        for token in order:
            chance *= marginal[token] / left
            left -= marginal[token]
        total += chance
    return total
