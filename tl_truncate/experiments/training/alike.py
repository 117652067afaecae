"""What is the same at every checkpoint of a run, by the records of its lines.

A manifest has what was asked for. How `load` makes models, and which default they have of a BOS, is
known when they are there: of checkpoints that processes read at the same time, from their lines alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tl_truncate.experiments.training.reading import UNCUT, said_of
from tl_truncate.experiments.training.steps import steps_told
from tl_truncate.runs.manifests import HOOKS, TOKENS
from tl_truncate.runs.record import OF_THE_WEIGHTS, Record

_HASH, _PROCESSING = "weights_hash", "weights"
# A name, a device and versions are noted and may differ; prompts, seed and cuts are in the manifest.
_OF_ALL = tuple(name for name in OF_THE_WEIGHTS if name not in (_HASH, _PROCESSING))
_UNKNOWN = Record().to_json()


def require_alike(lines: Sequence[Mapping[str, Any]], remedy: str) -> None:
    """That lines are of models that were made in one way, and of the same weights at the same step.

    What a line of an earlier version does not say is not compared.

    Args:
        lines: of a run folder.
        remedy: what to do if they are not.

    Raises:
        ValueError: if they are not, with what differs and at which steps.

    Examples:
        >>> def line(step, dtype):
        ...     record = {"task": "ioi", "dtype": dtype}
        ...     return {"step": step, "tasks": {"ioi": {"readings": {"uncut": {"record": record}}}}}
        >>> require_alike([line(0, "float32"), line(1, "float32")], "Use another folder.")
        >>> require_alike([line(0, "float32"), line(1, "float64")], "Use another folder.")
        Traceback (most recent call last):
        ValueError: ... differ in: dtype (float32 at step 0; float64 at step 1). Use another folder.
    """
    found: dict[str, dict[str, set[int]]] = {}
    for line in lines:
        for about, value in _facts(line):
            found.setdefault(about, {}).setdefault(value, set()).add(line["step"])
    told = [
        f"{about} ({'; '.join(f'{value} at {steps_told(sorted(at))}' for value, at in values.items())})"
        for about, values in found.items()
        if len(values) > 1
    ]
    if told:
        raise ValueError(
            "All checkpoints of a run must be read as models of one class, precision and processing, "
            "with one tokenizer and the same hooks, with or without a BOS, each step with the same "
            f"weights for all tasks, but they differ in: {'; '.join(told)}. {remedy}"
        )


def different(before: Record, now: Mapping[str, Any]) -> str:
    """In what a model is another than that of a record, with both values; nothing if it is not.

    Args:
        before: the record.
        now: what `of_model` tells of the model.
    """
    return "; ".join(
        f"{name} ({getattr(before, name)}, now {now[name]})"
        for name in OF_THE_WEIGHTS
        if now[name] != getattr(before, name)
    )


def _facts(line: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a line says of what must be the same, each with its value in words."""
    for task, said in said_of(line).items():
        record = said["readings"][UNCUT]["record"]
        known = {name: value for name, value in record.items() if value != _UNKNOWN.get(name)}
        yield from ((name, str(known[name])) for name in _OF_ALL if name in known)
        yield from _processed(str(known.get(_PROCESSING, "")))
        # A task in token numbers has none by default, whatever the others have.
        if "prepend_bos" in known:
            yield f"prepend_bos of {task}", str(known["prepend_bos"])
        if HOOKS in said:
            yield HOOKS, ", ".join(said[HOOKS]) or "none"
        if TOKENS in said:
            yield f"{TOKENS} of {task}", str(said[TOKENS])
        if _HASH in known:
            yield f"{_HASH} of step {line['step']}", str(known[_HASH])
        # Cuts that were around the call; their numbers may be fitted to each checkpoint.
        around = [f"{cut.get('kind')} of {cut.get('site')}" for cut in record.get("cuts", ())]
        yield "cuts around the run", ", ".join(around) or "none"


def _processed(told: str) -> Iterator[tuple[str, str]]:
    """What can be compared between steps of how weights were processed, as looking at them tells.

    Before training norms have unit weights and biases are zero, as if they had been folded, or the other
    way round. So folded value biases do not count, nor does a norm that only its weights tell of.
    """
    words = set(filter(None, told.split(", ")))
    if not words:
        return
    centred, folded = "centred writing weights" in words, "folded layer norm" in words
    compatible = "compatibility mode" in words
    yield "compatibility mode", "on" if compatible else "off"
    yield "quantised", ", ".join(sorted(word for word in words if "quantised" in word)) or "not"
    if centred or not folded or not compatible:
        yield "processing", "folded or centred" if centred or folded else "raw"
