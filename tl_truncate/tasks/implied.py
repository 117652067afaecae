"""A stated rule and a property that everyone knows, and what follows from both."""

import random
from typing import Any

from tl_truncate.tasks.generate import Example, alternate, article, generate
from tl_truncate.tasks.task import Task

#: Members of kinds; that they belong there is never said in a prompt.
KINDS = {
    "bird": "sparrow eagle robin crow owl duck hawk pigeon".split(),
    "fish": "salmon trout shark tuna".split(),
    "fruit": "apple banana peach cherry plum".split(),
    "tool": "hammer wrench drill shovel saw".split(),
    "tree": "oak pine maple willow birch".split(),
    "insect": "bee ant beetle mosquito butterfly".split(),
    "vegetable": "carrot onion cabbage potato".split(),
}
COLOURS = "red blue green white black yellow".split()
TEMPLATES = (
    "Rule: {first} is painted {colour}; {second} is painted {other}. So the {item} is painted",
    "Rule: {first} is colored {colour}; {second} is colored {other}. So the {item} is colored",
)


def implied_fact(n: int = 100, seed: int = 0, *, tokenizer: Any | None = None) -> Task:
    """*Rule: a bird is painted red; a fish is painted blue. So the salmon is painted*.

    The rule is in the prompt, and that a salmon is a fish is not: the answer takes both. The in-context
    answer is the colour, the global one *" in"*, which often follows *painted* and *colored*.

    Difficulty: of the two colours in the prompt a guess is right half of the time, so an accuracy
    of .5 is what copying without knowing gives.

    Args:
        n: number of prompts.
        seed: of kinds, colours and items.
        tokenizer: draws again where a colour is not one of its tokens.

    Returns:
        The task.

    Raises:
        ValueError: if n is not positive, or there are too few different prompts.

    Source: Leap-of-Thought (Talmor et al. 2020, arXiv 2006.06609), which combines stated rules with
    implicit knowledge; the prompts are this package's own.

    Examples:
        >>> task = implied_fact(n=1)
        >>> task.in_context[0] in task.prompts[0], task.global_[0]
        (True, ' in')
    """

    def draw(generator: random.Random, index: int) -> Example:
        kind, rival = generator.sample(sorted(KINDS), 2)
        colour, other = generator.sample(COLOURS, 2)
        asked, answer = generator.choice([(kind, colour), (rival, other)])
        prompt = alternate(TEMPLATES, index).format(
            first=article(kind),
            second=article(rival),
            colour=colour,
            other=other,
            item=generator.choice(KINDS[asked]),
        )
        return prompt, f" {answer}", " in"

    description = "a stated rule and a property that is not stated"
    return generate("implied_fact", draw, n=n, seed=seed, tokenizer=tokenizer, description=description)
