"""One model that is explored: prompts are read and passed once, and cuts are answered from there."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from tl_truncate.explore.answered.answers import both_tops, plain, probabilities, runs, sampled, top
from tl_truncate.explore.answered.replayed import Ends, Passes
from tl_truncate.explore.answered.state import State
from tl_truncate.explore.asked import Chosen, CutAsked, PromptAsked
from tl_truncate.explore.reading import BLANK, Answer, Read, read_prompt
from tl_truncate.surgery.controls import controls_of
from tl_truncate.surgery.cut import Cut, SiteCut, kept_components
from tl_truncate.weights.spectra.spectrum import shared_spectrum
from tl_truncate.weights.spoken import percent, said_keep, said_site

Message = dict[str, Any]
_SEED = 0


@dataclass
class Prepared:
    """A prompt that was read, and the model's passes of it.

    Attributes:
        asked: of the page.
        read: in tokens.
        passes: of the model.
        before: probabilities of the next token, uncut.
        lens: of the uncut model, once they were asked for.
    """

    asked: PromptAsked
    read: Read
    passes: Passes
    before: Float[Tensor, " d_vocab"]
    state: State
    lens: dict[str, list[float]] | None = None
    controls: dict[tuple[SiteCut, ...], Float[Tensor, " d_vocab"]] = field(default_factory=dict)

    @property
    def answers(self) -> dict[str, Answer | None]:
        """By their names on the page."""
        return {"in_context": self.read.in_context, "global": self.read.global_}


def prepare(model: Any, asked: PromptAsked) -> Prepared:
    """Reads a prompt and passes it.

    Raises:
        ValueError: if it is none of this model's.
    """
    read = read_prompt(model, asked)
    state, passes = State.of(model), Passes(model, read.tokens)
    if not state.holds(model):  # a Bridge's first pass leaves hooks of its own
        state, passes = State.of(model), Passes(model, read.tokens)
    before = probabilities(passes.uncut.logits)
    prepared = Prepared(asked, read, passes, before, state)
    prepared.lens = _lens(prepared, passes.uncut, before)
    return prepared


def prompt_answer(model: Any, prepared: Prepared) -> Message:
    """What a page hears of its prompt."""
    read, texts = prepared.read, _texts(model, [token for token, _ in top(prepared.before)])
    answers = {name: None if each is None else each.to_json() for name, each in prepared.answers.items()}
    return {
        "kind": "prompt",
        "tokens": list(read.texts),
        **answers,
        "top": [{"token": texts[token], "id": token, "p": p} for token, p in top(prepared.before)],
        "lens": prepared.lens,
        "notes": [*read.notes, *_notes(prepared)],
        "blank": any(note.startswith(BLANK) for note in read.notes),
    }


def _notes(prepared: Prepared) -> Iterator[str]:
    if prepared.passes.reason is not None:
        yield f"each cut takes a pass through the whole model: {prepared.passes.reason}"
    if prepared.lens is None:
        yield "no logit lens: the model carries hooks, which would see its readings"


def cut_answer(model: Any, prepared: Prepared, asked: CutAsked) -> Message:
    """What a page hears of its cuts.

    Raises:
        ValueError: if they cannot be made.
    """
    start = time.perf_counter()
    cuts = [each.cut(model) for each in asked.cuts]
    ends = prepared.passes.cut(cuts)
    after = probabilities(ends.logits)
    control = _control(model, prepared, cuts, after) if asked.control else None
    rows = both_tops(prepared.before, after)
    texts = _texts(model, [token for token, *_ in rows])
    answer: Message = {
        "kind": "cut",
        "top": plain(rows, texts),
        **_of_answers(prepared, after, None if control is None else control[0]),
        "spectrum": spectrum_answer(model, asked.cut, cuts[-1]),
        "said": said(asked.cut, cuts[-1]),
        "others": [said(*each) for each in zip(asked.others, cuts, strict=False)],
        "replayed_from": ends.from_layer,
    }
    if asked.control:
        answer["lens"] = _both_lenses(prepared, ends, after)
    if control is not None:
        p, what = control
        answer["control"] = {
            "what": what,
            "top": [{"id": row[0], "p": float(p[row[0]])} for row in rows],
        }
    answer["milliseconds"] = 1e3 * (time.perf_counter() - start)
    return answer


def said(chosen: Chosen, cut: Cut) -> str:
    """A cut in words: `layer 27, W_out, 10% kept`.

    Examples:
        >>> from tl_truncate.weights.site import Site
        >>> chosen = Chosen(Site.parse("blocks.27.mlp.W_out"), "largest", 0.1)
        >>> said(chosen, Cut("blocks.27.mlp.W_out", 0.1))
        'layer 27, W_out, 10% kept'
    """
    strength = "" if cut.strength == 1.0 else f", strength {cut.strength:g}"
    kept = said_keep(cut.keep)
    if chosen.rule == "smallest" and 0 < chosen.amount < 1:
        kept = f"smallest {percent(chosen.amount)} kept ({kept.removesuffix(' kept')})"
    return f"{said_site(cut.site)}, {kept}{strength}"


def spectrum_answer(model: Any, chosen: Chosen, cut: Cut) -> Message:
    """The singular values, and which are kept."""
    spec = shared_spectrum(model, chosen.site)
    kept = kept_components(spec, cut.keep, cut.site)
    return {
        "values": sampled(spec.S),
        "kept": runs(kept),
        "rank": spec.max_rank,
        "count": len(kept),
    }


def _of_answers(prepared: Prepared, after: Tensor, control: Tensor | None) -> Message:
    found: Message = {}
    for name, answer in prepared.answers.items():
        if answer is None:
            found[name] = None
            continue
        draws = [] if control is None else [float(control[answer.id])]
        before = float(prepared.before[answer.id])
        found[name] = {"before": before, "after": float(after[answer.id]), "control": draws}
    return found


def _control(
    model: Any, prepared: Prepared, cuts: Sequence[Cut], after: Tensor
) -> tuple[Float[Tensor, " d_vocab"], str]:
    """What random subspaces of the same ranks do, and what they are."""
    drawn = controls_of(model, cuts, seed=_SEED).get("RandomSubspace")
    if not drawn:
        return after, "the cut itself: there is nothing to draw"
    placebo = tuple(drawn[0])
    if placebo not in prepared.controls:
        prepared.controls.clear()  # of the drag before
        prepared.controls[placebo] = probabilities(prepared.passes.cut(placebo).logits)
    ranks = sorted({cut.kept_rank(model) for cut in cuts})
    many = "random subspace" if len(cuts) == 1 else "random subspaces"
    return prepared.controls[placebo], f"{many} of rank {', '.join(map(str, ranks))}, 1 draw"


def _lens(prepared: Prepared, ends: Ends, last: Tensor) -> dict[str, list[float]] | None:
    """What each block's residual stream would answer, and last the model itself."""
    asked = {name: answer.id for name, answer in prepared.answers.items() if answer is not None}
    if not asked:
        return {}
    read = prepared.passes.read(ends.left)
    if read is None:
        return None
    p = probabilities(read)
    return {name: [*p[:, token].tolist(), float(last[token])] for name, token in asked.items()}


def _both_lenses(prepared: Prepared, ends: Ends, after: Tensor) -> Message | None:
    cut = _lens(prepared, ends, after)
    if cut is None or prepared.lens is None:
        return None
    return {name: {"uncut": prepared.lens[name], "cut": values} for name, values in cut.items()}


def _texts(model: Any, ids: Sequence[int]) -> dict[int, str]:
    return {token: str(model.tokenizer.decode([token])) for token in ids}
