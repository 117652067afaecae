"""A is B; B is ?"""

import random
from typing import Any

from tl_truncate.tasks.generate import Example, alternate, generate
from tl_truncate.tasks.ioi import NAMES
from tl_truncate.tasks.task import Task

ROLES = (
    "doctor teacher lawyer driver singer writer painter nurse farmer baker pilot soldier sailor manager "
    "captain judge"
).split()
TEMPLATES = (
    "{a} is the {role}. {b} is the {other}. So the {asked} is",
    "In this village, {a} is the {role} and {b} is the {other}. The {asked} is called",
    "{a} is the {role}. {b} is the {other}. The name of the {asked} is",
)


def reversal(n: int = 100, seed: int = 0, *, tokenizer: Any | None = None) -> Task:
    """*Mary is the doctor. John is the teacher. The teacher is*: what was said, asked backwards.

    The in-context answer is the name that was given the role, the global one *" the"*, which follows
    *is* in text at large.

    Difficulty: the role precedes nothing that could be copied, so the link has to be followed against
    the order of reading; of the two names a guess is right half of the time.

    Args:
        n: number of prompts.
        seed: of names, roles and the one that is asked for.
        tokenizer: draws again where a name is not one of its tokens.

    Returns:
        The task.

    Raises:
        ValueError: if n is not positive, or there are too few different prompts.

    Source: the reversal curse (Berglund et al. 2023, arXiv 2309.12288), with the statement in the prompt
    in place of the training data; the prompts are this package's own.

    Examples:
        >>> reversal(n=1).prompts[0].count(" is ")
        2
    """

    def draw(generator: random.Random, index: int) -> Example:
        a, b = generator.sample(NAMES, 2)
        role, other = generator.sample(ROLES, 2)
        asked, answer = generator.choice([(role, a), (other, b)])
        prompt = alternate(TEMPLATES, index).format(a=a, b=b, role=role, other=other, asked=asked)
        return prompt, f" {answer}", " the"

    description = "A is B; B is ?, with a second pair beside it"
    return generate("reversal", draw, n=n, seed=seed, tokenizer=tokenizer, description=description)
