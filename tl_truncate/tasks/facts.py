"""Factual recall: the fact against the determiner that usually follows the same words."""

import random
from typing import Any

from tl_truncate.checks import positive
from tl_truncate.tasks.task import Task
from tl_truncate.tasks.words import token_count

# Each line: a subject and its answer.
CAPITALS = """
France Paris|Spain Madrid|Italy Rome|Germany Berlin|Russia Moscow|Japan Tokyo|China Beijing
Egypt Cairo|Greece Athens|Austria Vienna|Poland Warsaw|Ireland Dublin|Norway Oslo|Sweden Stockholm
Finland Helsinki|Denmark Copenhagen|Portugal Lisbon|Belgium Brussels|Hungary Budapest|Turkey Ankara
Iran Tehran|Iraq Baghdad|Syria Damascus|Lebanon Beirut|Israel Jerusalem|Cuba Havana|Kenya Nairobi
Canada Ottawa|Peru Lima|Chile Santiago|Thailand Bangkok|Vietnam Hanoi|Pakistan Islamabad
Afghanistan Kabul|Ukraine Kyiv|Indonesia Jakarta|Scotland Edinburgh|Colombia Bogota|Libya Tripoli
Serbia Belgrade
"""
CITIES = """
Paris France|Madrid Spain|Rome Italy|Berlin Germany|Moscow Russia|Tokyo Japan|Beijing China
Cairo Egypt|Athens Greece|Vienna Austria|Dublin Ireland|Oslo Norway|Stockholm Sweden|Lisbon Portugal
Brussels Belgium|Budapest Hungary|Istanbul Turkey|Tehran Iran|Baghdad Iraq|Havana Cuba
Nairobi Kenya|Toronto Canada|Lima Peru|Bangkok Thailand|Sydney Australia|Mumbai India|Munich Germany
Milan Italy|Barcelona Spain|Shanghai China|Osaka Japan|Jakarta Indonesia|Seattle Washington
Chicago Illinois|Houston Texas|Boston Massachusetts|Miami Florida|Venice Italy|Lyon France
Hamburg Germany
"""
LANGUAGES = """
France French|Spain Spanish|Italy Italian|Germany German|Russia Russian|Japan Japanese
Greece Greek|Poland Polish|Sweden Swedish|Turkey Turkish|Hungary Hungarian|Portugal Portuguese
Mexico Spanish|Brazil Portuguese|Egypt Arabic|Austria German|Argentina Spanish|Finland Finnish
Norway Norwegian|Denmark Danish|Israel Hebrew|Iran Persian|Iraq Arabic|Vietnam Vietnamese
"""
INVENTORS = """
telephone Alexander|phonograph Thomas|airplane Wright|dynamite Alfred|printing press Johannes
polio vaccine Jonas|theory of relativity Albert|World Wide Web Tim|theory of evolution Charles
law of gravity Isaac|steam engine James|cotton gin Eli
"""
_KINDS = (
    ("capital", CAPITALS, "The capital of {} is"),
    ("country", CITIES, "{} is located in"),
    ("language", LANGUAGES, "In {}, most of the people speak"),
    ("inventor", INVENTORS, "The {} is credited to"),
)


def fact_table() -> list[tuple[str, str, str]]:
    """All facts as (kind, prompt, answer), in a fixed order.

    Examples:
        >>> fact_table()[0]
        ('capital', 'The capital of France is', ' Paris')
    """
    rows = []
    for kind, table, template in _KINDS:
        for entry in table.strip().replace("\n", "|").split("|"):
            subject, answer = entry.strip().rsplit(" ", 1)
            rows.append((kind, template.format(subject), f" {answer}"))
    return rows


def factual_recall(n: int | None = None, seed: int = 0, *, tokenizer: Any | None = None) -> Task:
    """Facts about capitals, countries, languages and inventors, with *" the"* as the global answer.

    *Madrid is located in* continues with *" Spain"* by knowledge and with *" the"* by habit. The fact is
    the right answer: it is recalled from the weights, not read in the prompt. Its columns are called
    `in_context` all the same, since it depends on the whole prompt, where the determiner depends on
    its last word. `factual_recall().without_global()` asks for the right answers alone.

    Args:
        n: number of facts; all by default.
        seed: of their choice and order.
        tokenizer: leaves out facts whose answer is not one of its tokens. Without one, an answer of
            several tokens is refused on scoring.

    Returns:
        The task.

    Raises:
        ValueError: if n is not positive, or more than the facts there are.

    Source: Chen, Bruna and Bietti 2024 (arXiv 2406.03068), introduction; the facts are this
    package's own list.

    Examples:
        >>> len(factual_recall()) >= 100
        True
    """
    rows = fact_table()
    if tokenizer is not None:
        rows = [row for row in rows if token_count(row[2], tokenizer) == 1]
    if n is not None and positive("n", n) > len(rows):
        raise ValueError(f"n must be at most {len(rows)}, the facts there are, got {n}.")
    random.Random(f"facts {seed}").shuffle(rows)
    rows = rows[: len(rows) if n is None else n]
    return Task(
        "factual_recall",
        [prompt for _, prompt, _ in rows],
        [answer for _, _, answer in rows],
        " the",
        description=f"capitals, countries, languages and inventors, {len(rows)} facts, seed {seed}",
    )
