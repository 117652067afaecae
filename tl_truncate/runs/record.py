"""What a result came from: model, weights' processing, versions, prompts, seed, cuts."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from tl_truncate.runs.codec import LEFT_OUT
from tl_truncate.surgery.cut import SiteCut
from tl_truncate.tasks.task import Task
from tl_truncate.weights.identity.hooks import hooks_at
from tl_truncate.weights.identity.provenance import of_model, versions

#: The fields of a record by which two results are of the same function: what is only a name, such as the
#: model's, or changes a number by rounding alone, such as the device, is none of them.
OF_THE_WEIGHTS = ("model_class", "n_layers", "dtype", "weights", "weights_hash")


@dataclass(frozen=True)
class Record:
    """The circumstances of a result, as plain data.

    Each has a default, so that a record of another version, which lacks one or has one more, is read.
    """

    model: str = "unknown"
    model_class: str = "unknown"
    n_layers: int = 0
    dtype: str = "unknown"
    device: str = "unknown"
    weights: str = "unknown"
    weights_hash: str = "unknown"
    task: str = "unknown"
    task_hash: str = "unknown"
    n_prompts: int = 0
    prepend_bos: bool | None = None
    seed: int = 0
    cuts: tuple[dict[str, Any], ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    # Written only where there is no global answer: folders of other versions do not say.
    has_global: bool = field(default=True, metadata={LEFT_OUT: True})
    # Hook points that carried hooks of TransformerLens. Written only where there are any, as above.
    hooks: tuple[str, ...] = field(default=(), metadata={LEFT_OUT: True})
    # Modules on which a hook of PyTorch's changed what passed; likewise.
    acting: tuple[str, ...] = field(default=(), metadata={LEFT_OUT: True})

    def to_json(self) -> dict[str, Any]:
        """The record as plain data for a JSON file."""
        found = asdict(self)
        for each in fields(self):
            if each.metadata.get(LEFT_OUT) and getattr(self, each.name) == each.default:
                del found[each.name]
        return found

    @property
    def bos(self) -> str:
        """With or without a BOS, in words."""
        return bos_words(self.prepend_bos)


def bos_words(prepend_bos: bool | None) -> str:
    """What was done about a BOS, in a word; None is a record that does not say.

    Examples:
        >>> bos_words(True)
        'with'
    """
    return "with or without" if prepend_bos is None else "with" if prepend_bos else "without"


def make_record(
    model: Any, task: Task, *, cuts: Sequence[SiteCut], prepend_bos: bool, seed: int
) -> Record:
    """Notes the circumstances of a result.

    Args:
        model: that was asked.
        task: what it was asked.
        cuts: that were active.
        prepend_bos: whether a BOS was in front of the prompts.
        seed: for the record; nothing is drawn.
    """
    named: dict[str, Any] = dict(task=task.name, task_hash=task.hash, n_prompts=len(task))
    named |= dict(has_global=task.has_global)
    return _record(model, named, cuts, prepend_bos, seed)


def make_text_record(
    model: Any, texts: Sequence[str], *, cuts: Sequence[SiteCut], prepend_bos: bool, seed: int
) -> Record:
    """Notes the circumstances of a result on running text, whose passages are its prompts.

    Args:
        model: that was asked.
        texts: that it read.
        cuts: that were active.
        prepend_bos: whether a BOS was in front of the passages.
        seed: for the record; nothing is drawn.
    """
    named = dict(task="running text", task_hash=texts_hash(texts), n_prompts=len(texts))
    return _record(model, named, cuts, prepend_bos, seed)


def texts_hash(texts: Sequence[str]) -> str:
    """The same for the same passages, and only for those."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()[:16]


def _record(
    model: Any, named: dict[str, Any], cuts: Sequence[SiteCut], prepend_bos: bool, seed: int
) -> Record:
    return Record(
        **of_model(model),
        **named,
        prepend_bos=prepend_bos,
        seed=seed,
        cuts=tuple(cut.to_json() for cut in cuts),
        hooks=tuple(hooks_at(model)),
        versions=versions(),
    )
