"""Indirect object identification: the prompt says the name, the corpus says *the*."""

import random
from typing import Any

from tl_truncate.checks import positive
from tl_truncate.tasks.task import Task
from tl_truncate.tasks.words import single_token_words

NAMES = [
    "Mary",
    "John",
    "Tom",
    "James",
    "Robert",
    "Michael",
    "William",
    "David",
    "Richard",
    "Joseph",
    "Thomas",
    "Charles",
    "Daniel",
    "Matthew",
    "Anthony",
    "Mark",
    "Paul",
    "Steven",
    "Andrew",
    "Kevin",
    "Brian",
    "George",
    "Edward",
    "Jason",
    "Ryan",
    "Jacob",
    "Eric",
    "Jonathan",
    "Scott",
    "Frank",
    "Peter",
    "Henry",
    "Adam",
    "Alice",
    "Anna",
    "Emma",
    "Sarah",
    "Laura",
    "Jessica",
    "Jennifer",
    "Elizabeth",
    "Linda",
    "Susan",
    "Karen",
    "Lisa",
    "Nancy",
    "Emily",
    "Michelle",
    "Amanda",
    "Melissa",
    "Rebecca",
    "Rachel",
    "Maria",
    "Julia",
    "Kate",
    "Amy",
    "Jane",
    "Rose",
    "Grace",
]
PLACES = [
    "store",
    "park",
    "school",
    "office",
    "station",
    "library",
    "hospital",
    "market",
    "museum",
    "garden",
    "beach",
    "restaurant",
    "church",
    "hotel",
    "theater",
    "zoo",
    "farm",
    "bank",
    "house",
    "river",
]
OBJECTS = [
    "drink",
    "book",
    "ring",
    "bone",
    "ball",
    "gift",
    "letter",
    "phone",
    "key",
    "box",
    "card",
    "map",
    "pen",
    "coin",
    "flower",
    "photo",
    "cake",
    "hat",
    "basket",
    "necklace",
]
TEMPLATES = (
    "When {a} and {b} went to the {place}, {s} gave a {object} to",
    "After {a} and {b} went to the {place}, {s} gave a {object} to",
    "Then {a} and {b} went to the {place}, and {s} gave a {object} to",
    "Then, {a} and {b} went to the {place}. {s} gave a {object} to",
    "While {a} and {b} were at the {place}, {s} gave a {object} to",
    "When {a} and {b} were working at the {place}, {s} gave a {object} to",
    "When {a} and {b} came back from the {place}, {s} gave a {object} to",
    "Afterwards, {a} and {b} went to the {place}. {s} gave a {object} to",
    "Then, {a} and {b} were working at the {place}. {s} decided to give a {object} to",
    "After {a} and {b} found a {object} at the {place}, {s} handed it to",
    "At the {place}, {a} and {b} were talking, and then {s} handed a {object} to",
    "On Monday, {a} and {b} met at the {place}, and {s} lent a {object} to",
    "After {a} and {b} had lunch at the {place}, {s} handed the {object} to",
)
_LEAST_NAMES, _LEAST_WORDS = 40, 20


def ioi(n: int = 100, seed: int = 0, *, tokenizer: Any | None = None) -> Task:
    """Indirect object identification: *When Mary and John went to the store, John gave a drink to*.

    Half of the prompts name the indirect object first (ABBA), half second (BABA). The in-context
    answer is the name that occurs once, the global one *" the"*.

    Args:
        n: number of prompts.
        seed: of the choice of names, words and templates; the global random state is not touched.
        tokenizer: restricts the pools to its single-token words, for tokenizers with a small
            vocabulary of names. The pools are single tokens for the tokenizers of GPT-2, Pythia and
            SmolLM2 families as far as they are known; a name of several tokens is refused on scoring.

    Returns:
        The task, with `n` prompts.

    Raises:
        ValueError: if n is not positive, or too few words are single tokens.

    The templates were chosen from 27 by what the uncut SmolLM2-135M makes of them: those on which it
    gives the name a probability of at least .49, less one that names no object. A model on which
    another set would be easy may find these hard.

    Source: Wang et al. 2022 (arXiv 2211.00593), section 2; the contrast with *the* is that of Chen,
    Bruna and Bietti 2024 (arXiv 2406.03068). Templates and pools are this package's own.

    Examples:
        >>> task = ioi(n=4, seed=0)
        >>> len(task), set(task.global_)
        (4, {' the'})
    """
    positive("n", n)
    names = single_token_words(NAMES, tokenizer, least=_LEAST_NAMES, kind="names")
    places = single_token_words(PLACES, tokenizer, least=_LEAST_WORDS // 2, kind="places")
    objects = single_token_words(OBJECTS, tokenizer, least=_LEAST_WORDS // 2, kind="objects")
    generator = random.Random(f"ioi {seed}")
    prompts, answers = [], []
    for index in range(n):
        indirect, subject = generator.sample(names, 2)
        first, second = (indirect, subject) if index % 2 == 0 else (subject, indirect)
        prompts.append(
            generator.choice(TEMPLATES).format(
                a=first,
                b=second,
                s=subject,
                place=generator.choice(places),
                object=generator.choice(objects),
            )
        )
        answers.append(f" {indirect}")
    return Task(
        "ioi",
        prompts,
        answers,
        " the",
        description=f"indirect object identification, {n} prompts, seed {seed}, ABBA and BABA",
    )
