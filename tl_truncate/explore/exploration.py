"""What there is to explore, and who answers which question."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

from tl_truncate.explore.answered.python import as_python
from tl_truncate.explore.answered.scored import evaluated
from tl_truncate.explore.answered.screened import screened
from tl_truncate.explore.answered.session import Message, Prepared, cut_answer, prepare, prompt_answer
from tl_truncate.explore.asked import (
    Asked,
    CutAsked,
    EvaluateAsked,
    HelloAsked,
    PromptAsked,
    PythonAsked,
    Unreadable,
)
from tl_truncate.explore.desk import Visitor
from tl_truncate.explore.prompts import Example
from tl_truncate.explore.rules import RULES
from tl_truncate.explore.tasks import TaskMaker
from tl_truncate.surgery.hooks import truncation_hooks
from tl_truncate.weights.identity.provenance import source
from tl_truncate.weights.locate import carrier, n_layers
from tl_truncate.weights.site import MATRICES, Site
from tl_truncate.weights.spoken import said_site, short_site

#: Where a good first cut is, from the bottom to the top of a model.
_DEPTH = 0.78
Steps = Iterator[Message | None]
#: Where the map is another model's by now: no colours, and why.
NO_MAP: Message = {
    "kind": "map",
    "sites": [],
    "metric": "",
    "keep": "",
    "why": "the model has changed: the next prompt has a map of it",
}


@dataclass(frozen=True)
class Exploration:
    """A model, with prompts and tasks to begin with.

    Attributes:
        model: a HookedTransformer or TransformerBridge.
        sites: on the map.
        prompts: to begin with.
        tasks: by name.
        loaded: the arguments of `load_model` that give the model, as code, if it was loaded so.
    """

    model: Any
    sites: tuple[Site, ...]
    prompts: tuple[Example, ...]
    tasks: dict[str, TaskMaker]
    loaded: str | None = None

    def answer(self, visitor: Visitor, asked: Asked) -> Steps:
        """The answers to a question, one at each step."""
        match asked:
            case HelloAsked():
                yield self._hello()
            case PromptAsked():
                yield from self._prompt(visitor, asked)
            case CutAsked():
                yield self._cut(visitor, asked)
            case PythonAsked():
                yield self._python(visitor, asked)
            case EvaluateAsked():
                yield from self._evaluate(asked)

    def _hello(self) -> Message:
        matrices = [name for name in MATRICES if any(site.matrix == name for site in self.sites)]
        return {
            "kind": "hello",
            "model": source(self.model),
            "layers": n_layers(self.model),
            "matrices": matrices,
            "sites": [
                dict(
                    site=str(site),
                    layer=site.layer,
                    matrix=site.matrix,
                    said=said_site(site),
                    short=short_site(site),
                    rank=min(carrier(self.model, site).shape),
                )
                for site in self.sites
            ],
            "prompts": [each.to_json() for each in self.prompts],
            "tasks": list(self.tasks),
            "rules": [rule.to_json() for rule in RULES.values()],
            "cuts": [],
            "start": {"site": str(self._start), "rule": "largest", "amount": 0.5},
        }

    @property
    def _start(self) -> Site:
        layer = round(_DEPTH * (n_layers(self.model) - 1))
        here = [site for site in self.sites if site.layer == layer] or list(self.sites)
        return next((site for site in here if site.matrix == "W_gate"), here[-1])

    def _prompt(self, visitor: Visitor, asked: PromptAsked) -> Steps:
        visitor.memory.pop("prepared", None)  # a prompt that cannot be read leaves none behind
        prepared = prepare(self.model, asked)
        visitor.memory["prepared"] = prepared
        yield prompt_answer(self.model, prepared)
        while not (yield from self._map(visitor, prepared)):
            newer: Prepared | None = visitor.memory.get("prepared")
            if newer is None or newer.asked is not asked:
                return  # there is a newer prompt
            prepared = newer  # of a model that has changed: all of its map is found anew

    def _map(self, visitor: Visitor, prepared: Prepared) -> Generator[Message | None, None, bool]:
        """The map's messages; whether it was drawn to its end for what was prepared."""
        for message in screened(self.model, prepared, self.sites):
            if visitor.memory.get("prepared") is not prepared:
                return False
            whole = message is not None and len(message["sites"]) == len(self.sites)
            state = prepared.state
            if not (state.holds(self.model, thoroughly=True) if whole else state.unmoved(self.model)):
                yield NO_MAP  # gradients of one model and spectra of another are of none
                return True
            yield message
        return True

    def _cut(self, visitor: Visitor, asked: CutAsked) -> Message:
        prepared = self._prepared(visitor, thoroughly=asked.control)
        return cut_answer(self.model, prepared, asked)

    def _prepared(self, visitor: Visitor, *, thoroughly: bool) -> Prepared:
        """The page's prompt, passed again if the model is no more what it was."""
        prepared: Prepared | None = visitor.memory.get("prepared")
        if prepared is None:
            raise Unreadable("A prompt must be read before a cut, but none was.", field="text")
        same = prepared.state.holds(self.model, thoroughly=thoroughly)
        if not same or (thoroughly and not prepared.passes.still()):
            prepared = visitor.memory["prepared"] = prepare(self.model, prepared.asked)
            visitor.send(NO_MAP)
        return prepared

    def _python(self, visitor: Visitor, asked: PythonAsked) -> Message:
        prepared = self._prepared(visitor, thoroughly=False)
        truncation_hooks(self.model, [each.cut(self.model) for each in asked.cuts])  # can they be made?
        text = as_python(self.model, prepared, asked.cuts, loaded=self.loaded)
        return {"kind": "python", "text": text}

    def _evaluate(self, asked: EvaluateAsked) -> Steps:
        if asked.task not in self.tasks:
            raise Unreadable(f"The task must be one of {', '.join(self.tasks)}, got {asked.task!r}.")
        task = self.tasks[asked.task](asked.n)
        yield from evaluated(self.model, task, asked)
