"""Of which model and which prompts a plan is: what is read before anything is counted."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from tl_truncate.checkpoints import require_checkpoints
from tl_truncate.checks import positive
from tl_truncate.models.outline import Outline, live_outline, outline_of, read_outline
from tl_truncate.tasks.encode import EncodedTask, encode
from tl_truncate.tasks.task import Task
from tl_truncate.weights.locate import n_layers


def outline_for(
    model: Any, checkpoint: int | None, checkpoints: Sequence[int], dtype: torch.dtype | str
) -> Outline:
    """The outline of a model, however it was given.

    Raises:
        ValueError: if a checkpoint is asked for that there is not.
        TypeError: if it is no model.
        OSError: if its configuration cannot be had.
    """
    if checkpoint is not None and len(checkpoints):
        raise ValueError(
            f"Give either checkpoint or checkpoints, got {checkpoint!r} and {list(checkpoints)!r}."
        )
    name = model.asked if isinstance(model, Outline) else model if isinstance(model, str) else None
    if name is None and (checkpoint is not None or len(checkpoints)):
        given = list(checkpoints) if checkpoint is None else checkpoint
        raise ValueError(
            f"checkpoints must go with the name of a model, got {given} and {type(model).__name__}."
        )
    if name is not None and len(checkpoints):
        require_checkpoints(name, checkpoints)
    if isinstance(model, str):
        # Of all checkpoints the configuration and the tokenizer are those of the last.
        step = checkpoints[-1] if len(checkpoints) else checkpoint
        return read_outline(model, checkpoint=step, dtype=dtype)
    if isinstance(model, Outline):
        return model
    if hasattr(model, "num_hidden_layers") and hasattr(model, "to_dict"):
        return outline_of(model, dtype=dtype)
    if not isinstance(model, nn.Module):
        raise TypeError(
            "model must be a name, a folder, a configuration of transformers or a TransformerLens "
            f"model, got {type(model).__name__}."
        )
    n_layers(model)
    return live_outline(model)


def encoded_for(
    outline: Outline, tasks: Sequence[Task], prepend_bos: bool | None, tokens: int | None
) -> list[EncodedTask]:
    """The prompts as the model reads them; without a tokenizer so many tokens each, none of them shared.

    Raises:
        ValueError: if they do not fit the model, or nobody says how many tokens they have.
    """
    if tokens is None:
        if outline.model.tokenizer is None and not all(task.in_tokens for task in tasks):
            raise ValueError(
                f"{outline.name} must have a tokenizer for its prompts' tokens to be counted, got none. "
                "Say how many a prompt has, such as tokens=20."
            )
        return [encode(outline.model, task, prepend_bos=prepend_bos) for task in tasks]
    if outline.model.tokenizer is not None:
        raise ValueError(
            f"tokens must be left away where a tokenizer counts them, got {tokens} for {outline.name}."
        )
    length = positive("tokens", tokens)
    # No two begin alike, so that nothing is taken to be shared.
    vocabulary, starts = int(outline.model.cfg.d_vocab), iter(range(sum(map(len, tasks))))
    made = [
        Task(
            task.name,
            [[next(starts) % vocabulary] * length for _ in task.prompts],
            [[0]] * len(task),
            [[1]] * len(task),
        )
        for task in tasks
    ]
    return [encode(outline.model, task) for task in made]
