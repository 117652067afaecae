"""Two-step syllogisms, instantiation and negation."""

import random
from typing import Any

from tl_truncate.tasks.generate import Example, alternate, generate
from tl_truncate.tasks.ioi import NAMES
from tl_truncate.tasks.task import Task

KINDS = "cat dog horse rabbit wolf fox bear tiger lion goat duck frog".split()
GROUPS = "runner hunter climber swimmer singer dancer dreamer traveler reader walker".split()
QUALITIES = (
    "tired happy rich poor brave quiet angry lazy strong young hungry kind honest careful famous clever"
).split()
TEMPLATES = (
    "All {kind}s are {group}s. All {group}s are {quality}. So all {kind}s are",
    "Every {kind} is a {group}. Every {group} is {quality}. {name} is a {kind}. Therefore, {name} is",
    "If {name} is a {group}, then {name} is {quality}. {name} is a {group}. So {name} is",
    "{name} is either {other} or {quality}. {name} is not {other}. So {name} is",
)


def deduction(n: int = 100, seed: int = 0, *, tokenizer: Any | None = None) -> Task:
    """*All cats are runners. All runners are tired. So all cats are*: syllogisms and negation, in turns.

    Four forms: two universal statements, two and an individual, an implication, and a disjunction with
    one side denied. The in-context answer is the conclusion; the global one is *" a"*, which follows
    *is* in text at large (*" not"* after *are*).

    Difficulty: the first form can be solved by copying the last quality; the last names a wrong one
    twice, and is what small models fail.

    Args:
        n: number of prompts, a quarter of each form.
        seed: of the words.
        tokenizer: draws again where a quality is not one of its tokens.

    Returns:
        The task.

    Raises:
        ValueError: if n is not positive, or there are too few different prompts.

    Source: the kinds of inference of ALERT (Yu et al. 2022, arXiv 2212.08286) and APOLLO (Sanyal et al.
    2022, arXiv 2212.09282); the prompts are this package's own.

    Examples:
        >>> deduction(n=1).prompts[0].endswith("are")
        True
    """

    def draw(generator: random.Random, index: int) -> Example:
        quality, other = generator.sample(QUALITIES, 2)
        prompt = alternate(TEMPLATES, index).format(
            kind=generator.choice(KINDS),
            group=generator.choice(GROUPS),
            name=generator.choice(NAMES),
            quality=quality,
            other=other,
        )
        return prompt, f" {quality}", " not" if prompt.endswith("are") else " a"

    description = "two-step syllogisms, implication and negation, a quarter each"
    return generate("deduction", draw, n=n, seed=seed, tokenizer=tokenizer, description=description)
