"""What lies beside exported weights: a model card for people, and the cuts and their origin as JSON."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from tl_truncate.experiments.scoring.evaluate import Scores
from tl_truncate.experiments.scoring.metrics import METRICS
from tl_truncate.export.published.base import Base
from tl_truncate.runs.files import write_json
from tl_truncate.surgery.cut import Cuts, SiteCut
from tl_truncate.weights.files import as_path
from tl_truncate.weights.identity.content import weights_hash
from tl_truncate.weights.identity.provenance import of_model, versions

#: The cuts and where they come from; `Cuts.load` reads it.
RECORD = "tl_truncate.json"
_HOW = {
    "adapter": """from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained({base}{revision})
model = PeftModel.from_pretrained(base, "this folder")""",
    "checkpoint": """from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("this folder")""",
}


@dataclass(frozen=True)
class Card:
    """What is to be said of exported cuts.

    Attributes:
        kind: `adapter` or `checkpoint`.
        model: that the cuts were made in; None where no model was loaded for it.
        base: the weights that they were made in.
        compared: whether the model's weights were compared with the base's files.
        cuts: all of them, in their order.
        changes: of each changed tensor its module or name, its cuts, and a word about it.
        scores: of the cut model.
    """

    kind: Literal["adapter", "checkpoint"]
    model: Any
    base: Base
    compared: bool
    cuts: Cuts
    changes: Sequence[tuple[str, tuple[SiteCut, ...], str]]
    scores: Scores | None = None

    @cached_property
    def record(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "format": 1,
            "cuts": [cut.to_json() for cut in self.cuts],
            "kind": self.kind,
            "base": {"name": self.base.name, "revision": self.base.revision},
            "compared_with_files": self.compared,
            "model": {} if self.model is None else of_model(self.model),
            "versions": versions(),
            "scores": None if self.scores is None else _rows(self.scores),
        }

    def as_json(self) -> str:
        """As one line, for the head of a safetensors file."""
        return json.dumps(self.record)

    def as_markdown(self) -> str:
        """As a page."""
        parts = [self._head(), self._loading(), self._changes(), self._origin()]
        if self.scores is not None:
            parts.append(_scores(self.scores))
        return "\n\n".join(parts) + "\n"

    def _head(self) -> str:
        library = "peft" if self.kind == "adapter" else "transformers"
        base = "" if self._is_local else f"base_model: {self.base.name}\n"
        head = f"---\n{base}library_name: {library}\ntags: [tl-truncate]\n---"
        what = (
            "A LoRA adapter that takes parts of some weights away"
            if self.kind == "adapter"
            else "A checkpoint of which parts of some weights were taken away"
        )
        return f"{head}\n\n# {self._title()}, cut\n\n{what}, made with tl_truncate. No bias is changed."

    @property
    def _is_local(self) -> bool:
        """Whether the base is a folder, whose path is no name that a hub knows."""
        return self.base.folder is not None and Path(self.base.name).is_dir()

    def _title(self) -> str:
        if not self._is_local:
            return str(self.base)
        known = self.record["model"].get("model", self.base.name)
        return Path(known).name if Path(known).is_dir() else str(known)

    def _loading(self) -> str:
        revision = "" if self.base.revision is None else f", revision={self.base.revision!r}"
        code = _HOW[self.kind].format(base=repr(self.base.name), revision=revision)
        return f"```python\n{code}\n```"

    def _changes(self) -> str:
        rows = [
            f"| `{name}` | {'; '.join(f'`{cut!r}`' for cut in cuts)} | {note} |"
            for name, cuts, note in self.changes
        ]
        return "\n".join(["| changed | cuts | |", "|---|---|---|", *rows])

    def _origin(self) -> str:
        known = (
            "They were compared with the base's files, and are the same."
            if self.compared
            else "They were **not** compared with the base's files, which were not at hand."
        )
        if self.model is None:
            told = "The weights were read from the base's files."
        else:
            facts = self.record["model"]
            told = (
                f"The cuts were made in {facts['model']} ({facts['model_class']}, {facts['dtype']}, "
                f"weights {facts['weights_hash']}). {known}"
            )
        named = ", ".join(f"{name} {version}" for name, version in versions().items())
        return f"{told} The cuts as data are in `{RECORD}` (`tl_truncate.Cuts.load`). Versions: {named}."


def _rows(scores: Scores) -> dict[str, Any]:
    metrics = [metric for metric in METRICS if metric in scores.frame]
    return {
        "task": scores.record.task,
        "n_prompts": scores.record.n_prompts,
        "metrics": {
            metric: {
                "uncut": None if scores.baseline is None else str(scores.baseline.estimate(metric)),
                "cut": str(scores.estimate(metric)),
                "change": None if scores.baseline is None else str(scores.change(metric)),
            }
            for metric in metrics
        },
    }


def _scores(scores: Scores) -> str:
    found = _rows(scores)
    rows = [
        f"| {metric} | {each['uncut'] or ''} | {each['cut']} | {each['change'] or ''} |"
        for metric, each in found["metrics"].items()
    ]
    title = f"{found['task']}, {found['n_prompts']} prompts, with 95% intervals:"
    return "\n".join([title, "", "| metric | uncut | cut | change |", "|---|---|---|---|", *rows])


def write_card(folder: Path, card: Card) -> None:
    """Writes the card and the record."""
    (folder / "README.md").write_text(card.as_markdown(), encoding="utf-8")
    write_json(folder / RECORD, card.record)


def require_new(path: str | os.PathLike[str]) -> Path:
    """A path at which nothing is yet, or an empty folder.

    Raises:
        ValueError: if there is something.
    """
    target = as_path(path).resolve()  # of links and dots, since the folder is renamed into its place
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ValueError(f"The folder to export to must be new, got {target}, which exists.")
    above = next(each for each in target.parents if each.exists())
    if not above.is_dir():
        raise ValueError(f"The folder to export to must lie in a folder, but {above} is none.")
    return target


def require_no_scores(scores: Any) -> None:
    """Refuses scores for a folder, of which nobody knows whether they are of its weights.

    Raises:
        ValueError: if there are some.
    """
    if scores is not None:
        raise ValueError(
            "Scores must come with the model that they are of, got them with a folder, not loaded. "
            "Give the model: tlt.load_model(folder)."
        )


def require_scores_of(scores: Any, cuts: Cuts, model: Any) -> None:
    """Refuses scores of another cut or of other weights, which would stand on the card as this one's.

    Raises:
        TypeError: if they are no scores.
        ValueError: if they are of something else.
    """
    if scores is None:
        return
    if not isinstance(scores, Scores):
        raise TypeError(f"scores must be what tlt.evaluate returns, got {type(scores).__name__}.")
    own, told = (
        json.dumps(list(each)) for each in ([cut.to_json() for cut in cuts], scores.record.cuts)
    )
    if own != told:
        raise ValueError(
            f"The scores must be of the cuts that are exported, {cuts!r}, got scores of "
            f"{len(scores.record.cuts)} cuts: {told}."
        )
    if scores.record.weights_hash != weights_hash(model):
        raise ValueError(
            f"The scores must be of the weights that are exported, got scores of {scores.record.model} "
            "with other weights. Score this model."
        )
