"""A task as a tokenizer reads it; all prompts that do not fit it are told at once."""

from dataclasses import dataclass
from typing import Any

from tl_truncate.tasks.prompts import Prompts, faults_told
from tl_truncate.tasks.words import has_unknown, token_ids


@dataclass(frozen=True)
class Row:
    """A prompt's tokens and its answers': the right one and, if there is one, the global one."""

    prompt: list[int]
    answers: list[tuple[int, ...]]


def read_task(task: Prompts, tokenizer: Any) -> list[Row]:
    """The tokens of a task in text. Prompt and answer are read together, as a model would meet them.

    Raises:
        ValueError: naming every answer that merges with its prompt, is not one token in a task scored by
            token, or is not known to the tokenizer, and every prompt whose answers are the same tokens.
    """
    rows = [Row(token_ids(str(prompt), tokenizer), []) for prompt in task.prompts]
    wrong: list[str] = []
    for index, row in enumerate(rows):
        texts = [str(values[index]) for name, values in task.columns.items() if name != "prompts"]
        found = [_read(task, tokenizer, index, row.prompt, text) for text in texts]
        faults = [each for each in found if isinstance(each, str)]
        row.answers.extend(each for each in found if not isinstance(each, str))
        if not faults and len(set(row.answers)) < len(row.answers):
            faults = [
                f"The two answers of a prompt must differ in their tokens, got {texts[0]!r} and "
                f"{texts[1]!r} as {row.answers[0]} at {index}."
            ]
        wrong += faults
    if wrong:
        raise ValueError(faults_told(task.name, wrong))
    return rows


def _read(
    task: Prompts, tokenizer: Any, index: int, prompt: list[int], answer: str
) -> tuple[int, ...] | str:
    """The tokens of an answer, or what is wrong with it."""
    text = str(task.prompts[index])
    together = token_ids(text + answer, tokenizer)
    if together[: len(prompt)] != prompt or len(together) == len(prompt):
        return (
            f"An answer must not change the tokens of its prompt, but {answer!r} merges with the end "
            f"of {text[-20:]!r} at {index}. End the prompt at a word, and begin the answer with a "
            "space."
        )
    rest = tuple(together[len(prompt) :])
    if task.scoring == "token" and len(rest) != 1:
        return (
            f"An answer of {task.name!r} must be one token, got {answer!r} with {len(rest)} tokens at "
            f"{index}. Pass tokenizer=model.tokenizer where the task is made, or make it with "
            "scoring='sequence'."
        )
    if has_unknown(rest, tokenizer):
        return (
            f"An answer must be known to the tokenizer, got {answer!r} at {index}, which it reads as "
            f"{tokenizer.unk_token}."
        )
    return rest


def check_with(tokenizer: Any, task: Prompts) -> None:
    """Checks a task's answers where a tokenizer, or a model that has one, is given.

    Raises:
        ValueError: as `read_task`; or if the model has no tokenizer.
        TypeError: if it is neither.
    """
    if tokenizer is None or task.in_tokens:
        return
    own = getattr(tokenizer, "tokenizer", tokenizer) if hasattr(tokenizer, "cfg") else tokenizer
    if not callable(own):
        raise TypeError(
            f"tokenizer must be a Hugging Face tokenizer, or a model that has one, got "
            f"{tokenizer!r:.60}."
        )
    read_task(task, own)
