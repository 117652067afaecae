"""Repeated random tokens: what came after this token the last time?"""

import random

from tl_truncate.checks import positive
from tl_truncate.tasks.task import Task


def induction(
    n: int = 100,
    seed: int = 0,
    *,
    d_vocab: int = 1000,
    length: int = 12,
    global_token: int | None = None,
    first_token: int = 10,
) -> Task:
    """*q x f p ... q x f*: a random sequence, and its beginning again. Needs no tokenizer.

    The prompt is made of token numbers: `length` different random tokens, and then some of the first
    ones again. The in-context answer is the token that followed last time, the global one a token that
    no prompt contains: give that of *" the"*, or of a toy's noise token, where there is one.

    Difficulty: none for a model with an induction head; for one without, the answer is a guess among
    the vocabulary.

    Args:
        n: number of prompts.
        seed: of the tokens.
        d_vocab: tokens are drawn from `first_token` to `d_vocab - 1`.
        length: of the sequence that is repeated.
        global_token: the global answer; by default one that is drawn once for the task.
        first_token: leaves out special tokens, which usually come first.

    Returns:
        The task; its prompts and answers are token numbers, and it is scored without a BOS unless one is
        asked for.

    Raises:
        ValueError: if the vocabulary is too small for the sequence.

    Source: induction heads (Olsson et al. 2022, arXiv 2209.11895), section on repeated random tokens.

    Examples:
        >>> task = induction(n=2, d_vocab=50, length=4, seed=1)
        >>> tokens, answer = task.prompts[0], task.in_context[0][0]
        >>> tokens[tokens.index(tokens[-1]) + 1] == answer
        True
    """
    positive("n", n)
    positive("length", length)
    pool = [token for token in range(first_token, d_vocab) if token != global_token]
    if length < 2 or len(pool) < length + 1:
        raise ValueError(
            f"The vocabulary must have more than length={length} tokens (at least 2) from "
            f"first_token={first_token} up, got d_vocab={d_vocab}."
        )
    generator = random.Random(f"induction {seed}")
    if global_token is None:
        global_token = pool.pop(generator.randrange(len(pool)))
    prompts, answers = [], []
    for _ in range(n):
        tokens = generator.sample(pool, length)
        seen = generator.randrange(1, length)
        prompts.append((*tokens, *tokens[:seen]))
        answers.append((tokens[seen],))
    description = f"repeated random tokens, sequences of {length}; {n} prompts, seed {seed}"
    return Task("induction", prompts, answers, [(global_token,)] * n, description=description)
