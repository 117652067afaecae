"""The map of a model: what a cut of each site would do to one prompt, to first order."""

from collections.abc import Iterator, Sequence
from typing import Any

from tl_truncate.experiments.scoring.answers import plan_batches
from tl_truncate.experiments.scoring.differentiable import Differentiable
from tl_truncate.experiments.screening.attribute import component_effects, values_and_gradients
from tl_truncate.explore.answered.answers import top
from tl_truncate.explore.answered.session import Message, Prepared
from tl_truncate.surgery.circuits import sides
from tl_truncate.tasks.encode import EncodedPrompt, EncodedTask
from tl_truncate.tasks.task import Task
from tl_truncate.weights.keep import Fraction
from tl_truncate.weights.linear import Linear
from tl_truncate.weights.locate import carrier
from tl_truncate.weights.site import Site
from tl_truncate.weights.spectra.spectrum import shared_spectrum

_KEEP = Fraction(0.5)
_SAID = "the smaller half of each spectrum removed"


def screened(model: Any, prepared: Prepared, sites: Sequence[Site]) -> Iterator[Message | None]:
    """Predicted changes, block by block; each message has all that is known so far.

    A spectrum that is not at hand is computed, which takes up to a second, so there is a step without a
    message behind each.
    """
    task, ids, metric, said = _as_task(model, prepared)
    encoded = EncodedTask((EncodedPrompt(prepared.read.tokens, *ids),), False)
    linears: dict[Site, Linear] = {site: carrier(model, site) for site in sites}
    (batch,) = plan_batches([encoded], 1, apart=True)
    seen = values_and_gradients(model, task, linears, batch, metric)
    yield None
    found: list[Message] = []
    for place, site in enumerate(sites):
        spec = shared_spectrum(model, site)
        effects = component_effects(*seen.pop(site), *sides(model, spec))[0].double()
        stays = _KEEP.indices(spec.S, spec.shape)
        effect = float(effects.sum() - effects[stays].sum())
        found.append({"site": str(site), "effect": effect})
        last = place + 1 == len(sites) or sites[place + 1].layer != site.layer
        yield {"kind": "map", "sites": list(found), "metric": said, "keep": _SAID} if last else None


def _as_task(
    model: Any, prepared: Prepared
) -> tuple[Task, tuple[tuple[int], tuple[int]], Differentiable, str]:
    """The prompt as a task of token numbers, with what is predicted."""
    one, other = prepared.read.in_context, prepared.read.global_
    best = [token for token, _ in top(prepared.before)]
    metric: Differentiable = "p_in_context"
    if one is not None and other is not None:
        pair, metric, said = (one.id, other.id), "logit_diff", "log p(in-context) − log p(global)"
    elif other is not None:
        pair, metric, said = (_another(best, other.id), other.id), "p_global", f"p({other.text.strip()})"
    else:
        chosen = best[0] if one is None else one.id
        text = str(model.tokenizer.decode([chosen])).strip()
        pair, said = (chosen, _another(best, chosen)), f"p({text})"
    ids = ((pair[0],), (pair[1],))
    prompt = list(prepared.read.tokens)
    task = Task(name="prompt", prompts=[prompt], in_context=[ids[0]], global_=[ids[1]])
    return task, ids, metric, said


def _another(ids: Sequence[int], than: int) -> int:
    """A task has two answers, of which only one is asked here."""
    return next(each for each in ids if each != than)
