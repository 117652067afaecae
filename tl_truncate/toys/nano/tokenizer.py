"""The word-level tokenizer of the grammar."""

from functools import lru_cache
from typing import Any

from tl_truncate.toys.nano.grammar import every_word

_END, _UNKNOWN = "<|endoftext|>", "<unk>"


@lru_cache
def vocabulary() -> tuple[str, ...]:
    """Every token of the grammar; a word with a space before it is another token, as for GPT-2."""
    words = {piece for text in every_word() for piece in pieces(text)}
    return (_END, _UNKNOWN, *sorted(words))


@lru_cache
def _splitter() -> Any:
    from tokenizers import pre_tokenizers

    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def pieces(text: str) -> list[str]:
    """A text as the tokenizer splits it."""
    return [piece for piece, _ in _splitter().pre_tokenize_str(text)]


def make_tokenizer() -> Any:
    """The word-level tokenizer of the grammar; `<|endoftext|>` is its BOS, as it is Pythia's."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    numbers = {word: number for number, word in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token=_UNKNOWN))
    tokenizer.pre_tokenizer = _splitter()
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=_END, eos_token=_END, pad_token=_END, unk_token=_UNKNOWN
    )
