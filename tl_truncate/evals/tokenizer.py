"""The tokenizer as its files have it, which is what the harness itself reads."""

import copy
import json
from typing import Any


def plain_tokenizer(model: Any) -> Any:
    """A model's tokenizer without the BOS that TransformerLens has it put in front of every text.

    TransformerLens reads a tokenizer again with `add_bos_token=True`, also where its files say
    otherwise, as those of Pythia and GPT-2 do, and takes EOS for the BOS that a tokenizer lacks, which a
    chat template then shows. The harness reads what the files say.

    Args:
        model: with a tokenizer.

    Returns:
        A copy, or what the files have.

    Raises:
        ValueError: if there is no tokenizer, or its files cannot be read again to find out.
    """
    own = getattr(model, "tokenizer", None)
    if own is None:
        raise ValueError(
            "The model must have a tokenizer to be asked by lm-eval, got none. Give tokenizer=..., or "
            "load the model with one."
        )
    if not _puts_bos(own) and not may_have_borrowed_bos(own):
        return copy.deepcopy(own)
    found = read_again(own)
    found.chat_template = own.chat_template  # may have been set since
    return found


def _puts_bos(tokenizer: Any) -> bool:
    return tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [
        tokenizer.bos_token_id
    ]


def may_have_borrowed_bos(tokenizer: Any) -> bool:
    """Whether a chat template may show an EOS for the BOS that the files do not have."""
    return (
        tokenizer.chat_template is not None
        and tokenizer.bos_token is not None
        and tokenizer.bos_token == tokenizer.eos_token
    )


def read_again(own: Any) -> Any:
    """The tokenizer as its files have it.

    Raises:
        ValueError: if they cannot be read, or are another one's.
    """
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(own.name_or_path, local_files_only=True)
    except (OSError, ValueError) as problem:
        raise ValueError(
            f"The tokenizer's files must be there, to see whether a BOS in front of texts is theirs or "
            f"TransformerLens', but {own.name_or_path!r} cannot be read "
            f"({str(problem).splitlines()[0]}). Say add_bos_token=False, as most models of GPT-NeoX and "
            "GPT-2 have it, or add_bos_token=True, as Llama has it; or give tokenizer=... ."
        ) from problem
    if found.get_vocab() != own.get_vocab():
        raise ValueError(
            f"The tokenizer must be the one in {own.name_or_path!r}, but its tokens are others. Give "
            "tokenizer=... ."
        )
    return found


def tokenizer_key(tokenizer: Any, add_bos_token: bool | None) -> str:
    """What tells two tokenizers apart: their content, and what they put in front."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content: Any = sorted(tokenizer.get_vocab().items())
    if backend is not None:
        # How the last call filled up and cut off is there too, and says nothing of the next one.
        whole = json.loads(backend.to_str())
        content = {name: part for name, part in whole.items() if name not in ("padding", "truncation")}
    special = {name: str(each) for name, each in tokenizer.special_tokens_map.items()}
    cleans = getattr(tokenizer, "clean_up_tokenization_spaces", None)  # of texts that were generated
    facts = [type(tokenizer).__name__, content, special, tokenizer.chat_template, add_bos_token, cleans]
    return json.dumps(facts, sort_keys=True)
