"""What a choice may cost at most: the perplexity of running text, measured beside every choice."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tl_truncate.checks import real
from tl_truncate.experiments.scoring.running_text import encode_passages, mean_loss
from tl_truncate.experiments.sweep.grid import setting_key
from tl_truncate.experiments.sweep.places import UNCUT, Place
from tl_truncate.surgery.cut import Cuts

#: By how much perplexity may rise without another word: ten per cent.
MAX_RATIO = 1.1


@dataclass(frozen=True)
class Bound:
    """The bound that a choice was made under, and what became of it.

    Attributes:
        limit: most times that the perplexity may become of what it is uncut.
        ratio: of the chosen cuts, on the text of the choice; 1 if there are none.
        refused: compositions that raised the objective more than what was chosen, and broke the bound.
        passages: of the text of the choice.
        apart: whether the cost is reported on other text than chose.
    """

    limit: float
    ratio: float
    refused: int
    passages: int
    apart: bool

    def __str__(self) -> str:
        """In words.

        Examples:
            >>> print(Bound(limit=1.1, ratio=1.032, refused=0, passages=14, apart=True))
            bound on the cost: perplexity at most 1.1 times; 1.032 times on 14 passages of the choice
        """
        passages = f"{self.passages} passage{'' if self.passages == 1 else 's'}"
        kept = f"{self.ratio:.3f} times on {passages} of the choice"
        kept += "" if self.apart else ", the same text that the cost is of"
        return f"bound on the cost: perplexity at most {self.limit:g} times; {kept}{_refused(self)}"


def _refused(bound: Bound) -> str:
    if not bound.refused:
        return ""
    return f"; {bound.refused} that gained more {'was' if bound.refused == 1 else 'were'} over the bound"


@dataclass(frozen=True)
class Texts:
    """Running text in two: what the bound is measured on, and what the cost is reported on.

    Attributes:
        bound: passages of the choice; none without a bound.
        report: passages of the report, or None for the sample.
    """

    bound: tuple[str, ...]
    report: tuple[str, ...] | None

    @property
    def apart(self) -> bool:
        """Whether no passage is of both."""
        return self.report is not None and not set(self.bound) & set(self.report)


def divided_texts(
    model: Any, texts: Sequence[str] | None, limit: float | None, prepend_bos: bool | None
) -> Texts:
    """Every second passage chooses, the others report; a single one does both.

    Without texts of the caller's, `()`, nothing is reported, and the sample that ships with the package
    chooses: a bound that was asked for is never left away.

    Raises:
        ValueError: if a bound needs text that the model cannot read, for want of a tokenizer.
    """
    if limit is None:
        return Texts((), None if texts is None else tuple(texts))
    if getattr(model, "tokenizer", None) is None:
        raise ValueError(
            f"max_perplexity_ratio={limit:g} must have a model that reads running text, got one without "
            "a tokenizer. Give max_perplexity_ratio=None for a search whose cost has no bound."
        )
    nothing_is_reported = texts is not None and not texts
    asked = None if nothing_is_reported else texts
    # Of equal passages one would be on both sides.
    usable = list(dict.fromkeys(text for text, _ in encode_passages(model, asked, prepend_bos)))
    if nothing_is_reported:
        return Texts(tuple(usable[::2]), ())
    return Texts(tuple(usable[::2]), tuple(usable[1::2] or usable))


def check_limit(value: Any) -> float | None:
    """The bound as a number, or None for none.

    Raises:
        ValueError: if it is no number from 1 up.
    """
    limit = None if value is None else real(value)
    if value is not None and (limit is None or not 1 <= limit < math.inf):
        raise ValueError(
            "max_perplexity_ratio must be a number from 1 up, such as 1.1, or None for no bound, got "
            f"{value!r}."
        )
    return limit


@dataclass
class Limit:
    """Says of compositions whether they keep the bound; each is measured once.

    Attributes:
        at: where the model is.
        most: times that the perplexity may become.
        texts: passages that it is measured on.
        options: of the passes.
    """

    at: Place
    most: float
    texts: Sequence[str]
    options: dict[str, Any]
    _losses: dict[tuple[str, ...], float] = field(default_factory=dict)

    def ratio(self, cuts: Cuts) -> float:
        """Perplexity under the cuts by that of the uncut model, over all tokens of the texts."""
        return math.exp(min(self._loss(cuts) - self._loss(UNCUT), 700.0)) if cuts else 1.0

    def allows(self, cuts: Cuts) -> bool:
        """Whether the cuts keep the bound."""
        return self.ratio(cuts) <= self.most

    def _loss(self, cuts: Cuts) -> float:
        key = tuple(map(setting_key, cuts))
        if key not in self._losses:
            asked = partial(mean_loss, cuts=cuts, texts=self.texts, **self.options)
            self._losses[key] = self.at.ask(float, asked)
        return self._losses[key]
