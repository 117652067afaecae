"""Adjective-noun phrases whose joint meaning decides."""

import random
from typing import Any

from tl_truncate.tasks.generate import Example, generate
from tl_truncate.tasks.task import Task

# Each entry: a phrase and the word for it.
PHRASES = """
baby dog puppy|baby cat kitten|baby cow calf|baby bear cub|baby sheep lamb
female horse mare|male cow bull|male chicken rooster|female chicken hen|frozen water ice
dried grape raisin|young man boy|young woman girl|married woman wife|married man husband
female child girl|male child boy|dead body corpse|evening meal dinner
morning meal breakfast|midday meal lunch|female king queen|large town city
small river stream|flying mammal bat|yellow metal gold|hot season summer
cold season winter|female sibling sister|male sibling brother|female parent mother
male parent father|solid water ice|king's son prince|king's daughter princess
male actress actor|unmarried man bachelor|strong wind storm|tall hill mountain
"""
TEMPLATES = (
    "Q: What is the word for a large boat? A: ship. Q: What is the word for a {phrase}? A:",
    "A large boat is called a ship. A {phrase} is called a",
    "A large boat is known as a ship. A {phrase} is known as a",
    "Another word for a large boat is ship. Another word for a {phrase} is",
)


def phrase_composition(n: int = 100, seed: int = 0, *, tokenizer: Any | None = None) -> Task:
    """*A large boat is called a ship. A baby dog is called a*: neither word decides, both do.

    The in-context answer is the word for the phrase, the global one the noun by itself, which is what
    a reader of the last word alone would repeat.

    Difficulty: vocabulary that the model must have; one example shows the form, and there is nothing to
    copy.

    Args:
        n: number of prompts.
        seed: of the phrases and templates.
        tokenizer: leaves out phrases whose word is not one of its tokens.

    Returns:
        The task.

    Raises:
        ValueError: if n is not positive, or there are too few different prompts.

    Source: phrases whose meaning is not that of a part, as in the study of composition (Mitchell and
    Lapata 2008); the phrases are this package's own.

    Examples:
        >>> task = phrase_composition(n=3)
        >>> all(noun in prompt for noun, prompt in zip(task.global_, task.prompts))
        True
    """
    entries = [entry.strip().rsplit(" ", 1) for entry in PHRASES.strip().replace("\n", "|").split("|")]

    def draw(generator: random.Random, index: int) -> Example:
        phrase, word = generator.choice(entries)
        noun = phrase.split()[-1]
        return generator.choice(TEMPLATES).format(phrase=phrase), f" {word}", f" {noun}"

    description = "adjective-noun phrases and the word for them"
    return generate(
        "phrase_composition", draw, n=n, seed=seed, tokenizer=tokenizer, description=description
    )
