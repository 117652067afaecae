"""A prompt and its answers in a model's tokens."""

import unicodedata
from dataclasses import dataclass
from typing import Any

from tl_truncate.explore.asked import PromptAsked, Unreadable
from tl_truncate.tasks.encode import bos_token
from tl_truncate.tasks.words import has_unknown, token_ids

#: How a note begins that says of a blank; the page offers to do without.
BLANK = "a blank was put before"
_BEFORE_A_BLANK = ",.;:!?)]}%…"
_WITHOUT_BLANKS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


@dataclass(frozen=True)
class Answer:
    """One token to follow."""

    text: str
    id: int

    def to_json(self) -> dict[str, Any]:
        """As a page has it."""
        return {"text": self.text, "id": self.id}


@dataclass(frozen=True)
class Read:
    """A prompt in tokens.

    Attributes:
        tokens: with a BOS where the model has one.
        texts: of the tokens.
        in_context: its answer.
        global_: the other one.
        notes: what was done that was not asked.
    """

    tokens: tuple[int, ...]
    texts: tuple[str, ...]
    in_context: Answer | None
    global_: Answer | None
    notes: tuple[str, ...]


def read_prompt(model: Any, asked: PromptAsked) -> Read:
    """Tokens of a prompt and of its answers.

    Raises:
        Unreadable: if they are none of this model's.
    """
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise Unreadable("The model must have a tokenizer to read a prompt, got none.", field="text")
    ids = token_ids(asked.text, tokenizer)
    notes: list[str] = []
    answers = {
        field: _answer(tokenizer, asked, ids, given, field, notes)
        for field, given in (("in_context", asked.in_context), ("global", asked.global_))
    }
    one, other = answers.values()
    if one is not None and other is not None and one.id == other.id:
        raise Unreadable(
            f"The two answers must differ in their first token, got {one.text!r} for both.",
            field="global",
        )
    own = getattr(tokenizer, "bos_token_id", None)
    bos = bos_token(model, tokenizer, None)
    begins_with_bos = own is not None and ids[:1] == [own]
    if bos is not None and not begins_with_bos:
        ids = [bos, *ids]
    _check_fit(model, ids)
    texts = tuple(str(tokenizer.decode([each])) for each in ids)
    return Read(tuple(ids), texts, one, other, tuple(notes))


def _answer(
    tokenizer: Any, asked: PromptAsked, ids: list[int], given: str | None, field: str, notes: list[str]
) -> Answer | None:
    if given is None:
        return None
    written = given
    if not asked.exact and wants_a_blank(asked.text, given):
        written = f" {given}"
        notes.append(f"{BLANK} {given!r}")
    together = token_ids(asked.text + written, tokenizer)
    if together[: len(ids)] != ids or len(together) == len(ids):
        raise Unreadable(
            f"An answer must not change the tokens of its prompt, but {written!r} merges with its end. "
            "End the prompt at a word.",
            field=field,
        )
    rest = together[len(ids) :]
    if has_unknown(rest[:1], tokenizer):
        raise Unreadable(f"An answer must be known to the tokenizer, got {written!r}.", field=field)
    first = str(tokenizer.decode([rest[0]]))
    if len(rest) > 1:
        notes.append(f"{written.strip()!r} is {len(rest)} tokens: the first, {first!r}, is followed")
    return Answer(first, rest[0])


def wants_a_blank(text: str, answer: str) -> bool:
    """Whether a word was typed without the blank that running text has before it.

    Not so behind an opening bracket, a quotation mark or a sign, nor where words have no blanks.

    Examples:
        >>> wants_a_blank("The capital of France is", "Paris"), wants_a_blank("2+2=", "4")
        (True, False)
        >>> wants_a_blank('It is called "', "Paris"), wants_a_blank("東京は", "日本")
        (False, False)
    """
    if not text or not answer[0].isalnum() or _unspaced(answer[0]) or _unspaced(text[-1]):
        return False
    return text[-1].isalnum() or text[-1] in _BEFORE_A_BLANK


def _unspaced(sign: str) -> bool:
    return unicodedata.name(sign, "").startswith(_WITHOUT_BLANKS)


def _check_fit(model: Any, ids: list[int]) -> None:
    window = int(getattr(model.cfg, "n_ctx", 0) or 0)
    if not ids:
        raise Unreadable("The prompt must have at least one token, got none.", field="text")
    if window and len(ids) > window:
        raise Unreadable(
            f"The prompt must fit into the model's context of {window} tokens, got {len(ids)}.",
            field="text",
        )
    vocabulary = int(getattr(model.cfg, "d_vocab", 0) or 0)
    if vocabulary and max(ids) >= vocabulary:
        raise Unreadable(
            f"The tokenizer must fit the model's vocabulary of {vocabulary}, got token {max(ids)}.",
            field="text",
        )
