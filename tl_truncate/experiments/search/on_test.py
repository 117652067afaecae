"""What the cuts that a search chose are worth on the test prompts, and what they cost."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

from tl_truncate.corpora.texts import sample_texts
from tl_truncate.experiments.scoring.drawn import DrawnScores
from tl_truncate.experiments.scoring.evaluate import Scores
from tl_truncate.experiments.scoring.memory import factor_bytes, prompts_that_fit
from tl_truncate.experiments.scoring.metrics import metrics_of
from tl_truncate.experiments.scoring.running_text import encode_passages, passages_that_fit
from tl_truncate.experiments.scoring.side_effects import SideEffects, side_effects
from tl_truncate.experiments.search.asked import Asked
from tl_truncate.experiments.search.judge import Split
from tl_truncate.experiments.sweep.grid import setting_key
from tl_truncate.experiments.sweep.places import Place
from tl_truncate.surgery.controls import controls_of, draws_for
from tl_truncate.surgery.cut import Cuts, SiteCut
from tl_truncate.tasks.encode import EncodedTask
from tl_truncate.tasks.task import Task


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
    at: Place,
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
    return at.ask(SideEffects, partial(side_effects, cuts=cuts, texts=chosen, **options))


def scores_of(
    asked: Asked, splits: Sequence[Split], cuts: Cuts
) -> tuple[dict[str, Scores], dict[str, Scores]]:
    """Scores of some cuts on the validation and on the test part of each task."""
    validation, test = (
        {task.name: asked.scores(task, cuts) for task in tasks}
        for tasks in zip(*((split.validation, split.test) for split in splits), strict=True)
    )
    return validation, test


def controls_on(
    asked: Asked,
    splits: Sequence[Split],
    cuts: Cuts,
    draws: int | None,
    further: Mapping[str, Sequence[Sequence[SiteCut]]] = MappingProxyType({}),
) -> dict[str, dict[str, DrawnScores]]:
    """The controls of the chosen cuts on the test prompts, under several seeds, and further ones."""
    several = draws_for(len({cut.site for cut in cuts}), draws)
    drawing = partial(controls_of, cuts=tuple(cuts), seed=asked.options.seed, draws=several)
    drawn = asked.at.ask(dict[str, list[list[SiteCut]]], drawing)
    tests = [split.test for split in splits]
    found: dict[str, dict[str, DrawnScores]] = {}
    for kind, placebos in {**further, **drawn}.items():
        scores = _of_placebos(asked, tests, placebos)
        found[kind] = {test.name: DrawnScores(tuple(scores[test.name])) for test in tests}
    return found


def _of_placebos(
    asked: Asked, tests: Sequence[Task], placebos: Sequence[Sequence[SiteCut]]
) -> dict[str, list[Scores]]:
    """By task the scores of each draw. Draws at one site share the passes below it."""
    if any(len(each) != 1 for each in placebos):
        return {test.name: [asked.scores(test, Cuts(each)) for each in placebos] for test in tests}
    cuts = [cut for (cut,) in placebos]
    options = replace(asked.options, metrics=metrics_of(list(tests)), progress=False, label="controls")
    different = {setting_key(cut): cut for cut in cuts}
    result = asked.at.sweep(tests, list(different.values()), options)
    return {
        test.name: [
            replace(result.scores_of(cut, task=test.name), baseline=asked.scores(test)) for cut in cuts
        ]
        for test in tests
    }
