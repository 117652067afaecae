"""A short table in text, and a question about one of its cells."""

import random
from typing import Any

from tl_truncate.tasks.generate import Example, alternate, generate
from tl_truncate.tasks.ioi import NAMES
from tl_truncate.tasks.task import Task

CITIES = "Paris London Rome Berlin Madrid Moscow Tokyo Dublin Vienna Lisbon Athens Oslo".split()
COLOURS = "red blue green white black yellow".split()
_ROWS = 3
TEMPLATES = (
    "Name | City | Color\n{rows}\n\n{name} lives in",
    "Name | City | Color\n{rows}\n\nAccording to the table, {name} lives in the city of",
    "Name | City | Color\n{rows}\n\nThe table says that {name} lives in",
)


def table_lookup(n: int = 100, seed: int = 0, *, tokenizer: Any | None = None) -> Task:
    """*Name, City, Color; Mary, Paris, red; ... Mary lives in*: one cell of a small table.

    Three rows of names, cities and colours. The in-context answer is the city in the row of the name,
    the global one *" the"*, which often follows *in* and *of*.

    Difficulty: one lookup among three rows, so a guess among the cities of the table is right a third of
    the time.

    Args:
        n: number of prompts.
        seed: of the cells.
        tokenizer: draws again where a city is not one of its tokens.

    Returns:
        The task.

    Raises:
        ValueError: if n is not positive, or there are too few different prompts.

    Source: questions over tables in text, as in PReasM (Yoran et al. 2021, arXiv 2107.07261); the
    prompts are this package's own.

    Examples:
        >>> task = table_lookup(n=1)
        >>> task.prompts[0].count("|"), task.in_context[0] in task.prompts[0]
        (8, True)
    """

    def draw(generator: random.Random, index: int) -> Example:
        names = generator.sample(NAMES, _ROWS)
        cities = generator.sample(CITIES, _ROWS)
        colours = generator.sample(COLOURS, _ROWS)
        cells = zip(names, cities, colours, strict=True)
        rows = "\n".join(" | ".join(row) for row in cells)
        asked = generator.randrange(_ROWS)
        prompt = alternate(TEMPLATES, index).format(rows=rows, name=names[asked])
        return prompt, f" {cities[asked]}", " the"

    description = "one cell of a table of three rows"
    return generate("table_lookup", draw, n=n, seed=seed, tokenizer=tokenizer, description=description)
