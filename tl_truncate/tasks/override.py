"""A stated counterfactual against a memorised capital."""

import random
from typing import Any

from tl_truncate.tasks.facts import CAPITALS
from tl_truncate.tasks.generate import Example, alternate, generate
from tl_truncate.tasks.task import Task

TEMPLATES = (
    "In this story, the capital of {country} is {city}. In this story, the capital of {country} is",
    "Suppose that the capital of {country} were {city}. Then the capital of {country} would be",
    "In the novel, {city} is the capital of {country}. In the novel, the capital of {country} is",
    "The government of {country} has moved to {city}, and {city} is now the capital. Today, the "
    "capital of {country} is",
    "From now on, the capital of {country} is {city}. The new capital of {country} is",
)


def in_context_override(n: int = 100, seed: int = 0, *, tokenizer: Any | None = None) -> Task:
    """*In this story, the capital of France is Rome. In this story, the capital of France is*.

    The in-context answer is the capital that the prompt states, the global one the capital that the
    weights know.

    Difficulty: the answer has only to be copied, against a memory. Small models follow a story more than
    a decree (*From now on* ...), where memory wins.

    Args:
        n: number of prompts.
        seed: of countries, cities and templates.
        tokenizer: draws again where a capital is not one of its tokens.

    Returns:
        The task.

    Raises:
        ValueError: if n is not positive, or there are too few different prompts.

    Source: the contrast is that of knowledge conflicts (Longpre et al. 2021, arXiv 2109.05052); the
    prompts are this package's own.

    Examples:
        >>> task = in_context_override(n=2)
        >>> task.in_context[0] in task.prompts[0], task.global_[0] in task.prompts[0]
        (True, False)
    """
    facts = [entry.strip().rsplit(" ", 1) for entry in CAPITALS.strip().replace("\n", "|").split("|")]

    def draw(generator: random.Random, index: int) -> Example:
        (country, true), (_, stated) = generator.sample(facts, 2)
        prompt = alternate(TEMPLATES, index).format(country=country, city=stated)
        return prompt, f" {stated}", f" {true}"

    description = "a stated counterfactual against a memorised capital"
    return generate(
        "in_context_override", draw, n=n, seed=seed, tokenizer=tokenizer, description=description
    )
