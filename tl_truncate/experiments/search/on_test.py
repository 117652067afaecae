"""What the cuts that a search chose are worth on the test prompts, and what they cost."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from tl_truncate.corpora.texts import sample_texts
from tl_truncate.experiments.scoring.drawn import DrawnScores
from tl_truncate.experiments.scoring.evaluate import Scores, evaluate
from tl_truncate.experiments.scoring.memory import factor_bytes, prompts_that_fit
from tl_truncate.experiments.scoring.side_effects import (
    SideEffects,
    encode_passages,
    passages_that_fit,
    side_effects,
)
from tl_truncate.experiments.search.judge import Split
from tl_truncate.experiments.sweep.options import SweepOptions
from tl_truncate.surgery.controls import controls_of, draws_for
from tl_truncate.surgery.cut import Cuts, SiteCut
from tl_truncate.tasks.encode import EncodedTask


def check_report_fits(
    model: Any,
    encoded: Sequence[EncodedTask],
    grid: Sequence[SiteCut],
    greedy: int,
    texts: Sequence[str] | None,
    prepend_bos: bool | None,
    max_memory: int | None,
) -> None:
    """The search itself asks for its memory before it starts; its report must not fail after it."""
    if max_memory is None:
        return
    largest = max((cut.site for cut in grid), key=lambda site: factor_bytes(model, [site])[0])
    sites = [largest] * greedy
    for each in encoded:
        prompts_that_fit(model, each, sites, batch_size=1, max_memory=max_memory)
    if texts is None or texts:
        passages = encode_passages(model, texts, prepend_bos)
        passages_that_fit(model, passages, sites, batch_size=1, max_memory=max_memory)


def cost_of(
    model: Any,
    cuts: Cuts,
    texts: Sequence[str] | None,
    prepend_bos: bool | None,
    max_memory: int | None,
) -> SideEffects | None:
    """What the chosen cuts change on running text; None without cuts, or without texts."""
    chosen = sample_texts() if texts is None else texts
    if not cuts or not chosen:
        return None
    options: dict[str, Any] = dict(prepend_bos=prepend_bos, max_memory=max_memory, progress=False)
    return side_effects(model, cuts, chosen, **options)


def scores_of(
    model: Any, splits: Sequence[Split], cuts: Cuts, options: SweepOptions
) -> tuple[dict[str, Scores], dict[str, Scores]]:
    """Scores of some cuts on the validation and on the test part of each task."""
    validation, test = (
        {task.name: evaluate(model, task, cuts, **_asked_of(options)) for task in tasks}
        for tasks in zip(*((split.validation, split.test) for split in splits), strict=True)
    )
    return validation, test


def controls_on(
    model: Any,
    scores: Mapping[str, Scores],
    splits: Sequence[Split],
    cuts: Cuts,
    draws: int | None,
    options: SweepOptions,
    further: Mapping[str, Sequence[Sequence[SiteCut]]] = MappingProxyType({}),
) -> dict[str, dict[str, DrawnScores]]:
    """The controls of the chosen cuts on the test prompts, under several seeds, and further ones."""
    several = draws_for(len({cut.site for cut in cuts}), draws)
    found: dict[str, dict[str, DrawnScores]] = {}
    kinds = {**further, **controls_of(model, cuts, seed=options.seed, draws=several)}
    for kind, placebos in kinds.items():
        found[kind] = {}
        for split in splits:
            base = scores[split.test.name].baseline
            each = [
                evaluate(model, split.test, placebo, baseline=base, **_asked_of(options))
                for placebo in placebos
            ]
            found[kind][split.test.name] = DrawnScores(tuple(each))
    return found


def _asked_of(options: SweepOptions) -> dict[str, Any]:
    return dict(
        prepend_bos=options.prepend_bos,
        batch_size=options.batch_size,
        max_memory=options.max_memory,
        seed=options.seed,
        progress=False,
    )
