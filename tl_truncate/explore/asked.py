"""What a page asks, read from JSON: everything that can be wrong with it is found here."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tl_truncate.explore.rules import RULES
from tl_truncate.surgery.cut import Cut
from tl_truncate.weights.locate import carrier
from tl_truncate.weights.site import Site

#: Longest message, prompt and answer, in characters, and most cuts at once.
MESSAGE, TEXT, ANSWER, CUTS = 65_536, 4_000, 200, 32
#: The largest number that a cut may have.
_MOST = 2.0**53
#: Most prompts of an evaluation.
PROMPTS = 200


class Unreadable(ValueError):
    """A request that cannot be answered, with the field that it is about if it is one of the page's."""

    def __init__(self, message: str, *, field: str | None = None, id: int | None = None) -> None:
        super().__init__(message)
        self.field, self.id = field, id


@dataclass(frozen=True)
class Asked:
    """A request.

    Attributes:
        id: which its answers repeat.
    """

    id: int


@dataclass(frozen=True)
class HelloAsked(Asked):
    """What there is to explore."""


@dataclass(frozen=True)
class PromptAsked(Asked):
    """A prompt and the answers to follow; None where none is.

    Attributes:
        exact: whether answers stand behind the prompt as they are, or with the blank of running text.
    """

    text: str
    in_context: str | None
    global_: str | None
    exact: bool = False


@dataclass(frozen=True)
class Chosen:
    """A cut as a page names it."""

    site: Site
    rule: str
    amount: float
    strength: float = 1.0

    def cut(self, model: Any) -> Cut:
        """The cut in a model.

        Raises:
            ValueError: if the model has no such site.
        """
        rank = min(carrier(model, self.site).shape)
        return Cut(self.site, RULES[self.rule].keep(self.amount, rank), strength=self.strength)


@dataclass(frozen=True)
class CutAsked(Asked):
    """The model under some cuts, of which the first is looked at."""

    cut: Chosen
    others: tuple[Chosen, ...]
    control: bool

    @property
    def cuts(self) -> tuple[Chosen, ...]:
        """All of them."""
        return (*self.others, self.cut)


@dataclass(frozen=True)
class PythonAsked(Asked):
    """The lines of Python that do the same."""

    cuts: tuple[Chosen, ...]


@dataclass(frozen=True)
class EvaluateAsked(Asked):
    """Scores on a task."""

    task: str
    n: int
    cuts: tuple[Chosen, ...]


@dataclass(frozen=True)
class StopAsked(Asked):
    """An end to the evaluation."""


def read(message: str | bytes | Mapping[str, Any]) -> Asked:
    """A request from its JSON.

    Raises:
        Unreadable: if it is none, says what is wrong.

    Examples:
        >>> read('{"kind": "hello", "id": 1}')
        HelloAsked(id=1)
        >>> read({"kind": "prompt", "id": 2, "text": "Mary gave", "in_context": " John"}).global_
    """
    data = _data(message)
    number = data.get("id")
    if isinstance(number, bool) or not isinstance(number, int) or abs(number) > 2**53:
        raise Unreadable(f"A request's id must be a whole number, got {_shown(number)}.")
    reader = _READERS.get(str(data.get("kind")))
    if reader is None:
        known = ", ".join(_READERS)
        raise Unreadable(
            f"A request's kind must be one of {known}, got {_shown(data.get('kind'))}.", id=number
        )
    try:
        return reader(number, data)
    except Unreadable as problem:
        problem.id = number
        raise
    except (ValueError, TypeError, OverflowError) as problem:
        raise Unreadable(str(problem), id=number) from None


def _data(message: str | bytes | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(message, Mapping):
        return message
    if len(message) > MESSAGE:
        raise Unreadable(f"A request must have at most {MESSAGE} characters, got {len(message)}.")
    try:
        data = json.loads(message)
    except (ValueError, RecursionError):
        raise Unreadable("A request must be JSON, got something else.") from None
    if not isinstance(data, dict):
        raise Unreadable("A request must be a JSON object, got something else.")
    return data


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _text(data: Mapping[str, Any], name: str, most: int) -> str | None:
    value = data.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise Unreadable(f"The {_NAMES[name]} must be text, got {_shown(value)}.", field=name)
    if len(value) > most:
        raise Unreadable(
            f"The {_NAMES[name]} must have at most {most:,} characters, got {len(value):,}.", field=name
        )
    if any("\ud800" <= sign <= "\udfff" for sign in value):
        raise Unreadable(f"The {_NAMES[name]} must be whole characters, got half of one.", field=name)
    return value


_NAMES = {"text": "prompt", "in_context": "in-context answer", "global": "global answer", "task": "task"}


def _prompt(number: int, data: Mapping[str, Any]) -> PromptAsked:
    text = _text(data, "text", TEXT)
    if text is None:
        raise Unreadable("The prompt must be text, got none.", field="text")
    in_context, global_ = (_text(data, name, ANSWER) or None for name in ("in_context", "global"))
    return PromptAsked(number, text, in_context, global_, data.get("exact") is True)


def _real(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -_MOST <= value <= _MOST:
        raise Unreadable(f"{name} must be a finite number, got {_shown(value)}.")
    return float(value)


def _chosen(value: Any) -> Chosen:
    if not isinstance(value, Mapping) or not isinstance(value.get("site"), str):
        raise Unreadable(f"A cut must name its site, rule and amount, got {_shown(value)}.")
    name = value.get("rule")
    rule = RULES.get(name) if isinstance(name, str) else None
    if rule is None:
        raise Unreadable(f"A cut's rule must be one of {', '.join(RULES)}, got {_shown(name)}.")
    amount = 0.0 if rule.unit == "none" else rule.check(_real("A cut's amount", value.get("amount")))
    strength = _real("A cut's strength", value.get("strength", 1.0))
    return Chosen(Site.parse(value["site"][:200]), rule.name, amount, strength)


def _several(value: Any) -> tuple[Chosen, ...]:
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)) or len(value) > CUTS:
        raise Unreadable(f"Cuts must be a list of at most {CUTS}, got {_shown(value)}.")
    return tuple(map(_chosen, value))


def _cut(number: int, data: Mapping[str, Any]) -> CutAsked:
    return CutAsked(
        number, _chosen(data.get("cut")), _several(data.get("cuts")), data.get("control") is True
    )


def _evaluate(number: int, data: Mapping[str, Any]) -> EvaluateAsked:
    task, n = _text(data, "task", ANSWER), data.get("n")
    if isinstance(n, bool) or not isinstance(n, int) or not 2 <= n <= PROMPTS:
        raise Unreadable(
            f"The number of prompts must be a whole number from 2 to {PROMPTS}, got {_shown(n)}."
        )
    if task is None:
        raise Unreadable("The task must have a name, got none.")
    return EvaluateAsked(number, task, n, _several(data.get("cuts")))


_READERS: dict[str, Callable[[int, Mapping[str, Any]], Asked]] = {
    "hello": lambda number, data: HelloAsked(number),
    "prompt": _prompt,
    "cut": _cut,
    "python": lambda number, data: PythonAsked(number, _several(data.get("cuts"))),
    "evaluate": _evaluate,
    "stop": lambda number, data: StopAsked(number),
}
