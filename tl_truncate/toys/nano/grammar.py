"""A small English with known statistics: indirect objects, facts, and determiners after prepositions.

Wherever a name or a fact could be worked out, a determiner phrase stands instead half of the time: *John
gave a drink to Mary.* or *John gave a drink to the teacher.*, *Madrid is located in Spain.* or *Madrid
is located in the north.* What follows *to* and *in* is therefore a determiner most of the time, whatever
came before; the name or the fact can only be had from the whole sentence. Templates and words are those
of the tasks `ioi` and `factual_recall`, so both can be asked of a model that was trained on it.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tl_truncate.tasks.facts import fact_table
from tl_truncate.tasks.ioi import NAMES, OBJECTS, PLACES, TEMPLATES

PEOPLE = "teacher doctor farmer king child driver baker singer soldier nurse writer guard".split()
REGIONS = "north south east west center middle".split()
VERBS = "walked ran drove returned".split()
#: Sentences with a determiner and nothing to be worked out.
_PLAIN = (
    "The {person} {verb} to the {place}.",
    "{name} {verb} to the {place}.",
    "The {object} was in the {place}.",
    "The {person} lived in the {region}.",
    "{name} gave a {object} to the {person}.",
    "The {person} and {name} met at the {place}.",
)
_FACT_ENDS = {"country": "the {region}", "capital": "the {place}", "language": "the {object}"}
#: Probability of a determiner where a name or a fact could stand.
DETERMINER = 0.5
#: How often each kind of sentence is drawn.
SHARES = {"ioi": 0.6, "fact": 0.15, "plain": 0.25}


@dataclass(frozen=True)
class Sentence:
    """One sentence: up to where the answer is due, the answer, and what follows."""

    kind: str
    prompt: str
    answer: str
    end: str

    @property
    def text(self) -> str:
        """The whole sentence."""
        return self.prompt + self.answer + self.end


class Grammar:
    """Draws sentences from a seed.

    Args:
        seed: of the draws; the global random state is not touched.

    Examples:
        >>> grammar = Grammar(seed=0)
        >>> grammar.draw().text
        'Miami is located in Florida.'
    """

    def __init__(self, seed: int | str = 0) -> None:
        self._random = random.Random(f"grammar {seed}")
        self._facts = [(kind, *rest) for kind, *rest in fact_table() if kind in _FACT_ENDS]

    def draw(self) -> Sentence:
        """The next sentence."""
        kind = self._random.choices(list(SHARES), list(SHARES.values()))[0]
        return {"ioi": self._ioi, "fact": self._fact, "plain": self._plain}[kind]()

    def _words(self) -> dict[str, str]:
        return {slot: self._random.choice(pool) for slot, pool in _POOLS.items()}

    def _ioi(self) -> Sentence:
        indirect, subject = self._random.sample(NAMES, 2)
        first, second = self._random.sample([indirect, subject], 2)
        words = self._words()
        prompt = self._random.choice(TEMPLATES).format(a=first, b=second, s=subject, **words)
        return self._ended("ioi", prompt, f" {indirect}", " the {person}".format(**words))

    def _fact(self) -> Sentence:
        kind, prompt, answer = self._random.choice(self._facts)
        return self._ended("fact", prompt, answer, f" {_FACT_ENDS[kind]}".format(**self._words()))

    def _ended(self, kind: str, prompt: str, answer: str, other: str) -> Sentence:
        determined = self._random.random() < DETERMINER
        return Sentence(kind, prompt, other if determined else answer, ".")

    def _plain(self) -> Sentence:
        text = self._random.choice(_PLAIN).format(**self._words())
        return Sentence("plain", text[:-1], "", ".")


_POOLS: Mapping[str, Sequence[str]] = {
    "name": NAMES,
    "place": PLACES,
    "object": OBJECTS,
    "person": PEOPLE,
    "region": REGIONS,
    "verb": VERBS,
}


def every_word() -> Iterator[str]:
    """Texts that hold each word of the grammar in each place where it can stand."""
    first = {slot: pool[0] for slot, pool in _POOLS.items()}
    names = dict(a=NAMES[0], b=NAMES[0], s=NAMES[0])
    ends = [f"x {end}." for end in (*_FACT_ENDS.values(), "the {person}")]
    for template in (*TEMPLATES, *_PLAIN, *ends):
        for slot, pool in (*_POOLS.items(), *((each, NAMES) for each in names)):
            if f"{{{slot}}}" in template:
                for word in pool:
                    yield template.format(**{**first, **names, slot: word}).removeprefix("x")
    for name in NAMES:
        yield f" {name}."
    for kind, prompt, answer in fact_table():
        if kind in _FACT_ENDS:
            yield f"{prompt}{answer}."
