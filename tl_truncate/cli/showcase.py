"""A cut that is worth it, on prompts that did not choose it: what the demo and the README begin with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from tl_truncate.experiments.scoring.drawn import DrawnScores
from tl_truncate.experiments.scoring.evaluate import Scores
from tl_truncate.experiments.sweep.sweep import sweep
from tl_truncate.plots.showcase import Column, Row, showcase
from tl_truncate.surgery.controls import Ablated, NormMatched, RandomSubspace
from tl_truncate.surgery.cut import Cut, SiteCut
from tl_truncate.surgery.hooks import truncated
from tl_truncate.tasks.ioi import ioi
from tl_truncate.tasks.task import Task
from tl_truncate.weights.spoken import said_keep, said_site

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Found on the demo model with prompts of seed 0.
FOUND = Cut("blocks.23.mlp.W_gate", keep=0.5)
FOUND_ON = 0
_TOKENS = 5
_OF_RANK = "random subspaces of its rank"


@dataclass(frozen=True)
class Showcase:
    """A cut beside its controls.

    Attributes:
        cut: what was cut.
        task: the prompts.
        scores: of the cut, paired with the uncut model.
        rows: the cut's change of p(name) first, then those of its controls.
        columns: what the model says next on one prompt.
        place: which prompt that is: where cut and control change p(name) most nearly as on average.
    """

    cut: Cut
    task: Task
    scores: Scores
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    place: int

    def __str__(self) -> str:
        lines = [f"{said_site(self.cut.site)}, {said_keep(self.cut.keep)}, {len(self.task)} prompts:"]
        if self.scores.baseline is not None:
            lines.append(f"  p(name) {self.scores.baseline.p_in_context} -> {self.scores.p_in_context}")
        return "\n".join([*lines, *(f"  {_said(row)}" for row in self.rows)])

    def draw(self) -> "Figure":
        """The picture."""
        assert self.task.global_ is not None  # which the names of this task are compared with
        answers = (self.task.in_context[self.place], self.task.global_[self.place])
        return showcase(
            str(self.task.prompts[self.place]),
            answers=(str(answers[0]), str(answers[1])),
            columns=self.columns,
            rows=self.rows,
            message=f"{len(self.task)} prompts that did not choose the cut: "
            "change of p(name), 95% intervals",
        )


def _said(row: Row) -> str:
    change = row.change
    spread = (
        f"; {len(row.draws)} draws: {min(row.draws):+.3f} to {max(row.draws):+.3f}" if row.draws else ""
    )
    return f"{row.name}: {float(change):+.3f} [{change.low:.3f}, {change.high:.3f}]{spread}"


def fresh_prompts(model: Any, *, n: int, seed: int) -> Task:
    """Indirect objects of a seed, without those that the cut was found on.

    Raises:
        ValueError: if none is left, as of the seed that the cut was found with.
    """
    drawn = ioi(n=n, seed=seed, tokenizer=model.tokenizer)
    before = set(ioi(n=100, seed=FOUND_ON, tokenizer=model.tokenizer).prompts)
    new = [place for place, prompt in enumerate(drawn.prompts) if prompt not in before]
    if not new:
        raise ValueError(f"The seed must draw prompts that seed {FOUND_ON} did not, got seed={seed}.")
    return drawn.subset(new)


def make_showcase(
    model: Any, task: Task, cut: Cut = FOUND, *, draws: int = 16, progress: bool = True, **passes: Any
) -> Showcase:
    """Scores a cut beside random subspaces of its rank and of its norm, and beside no weight at all.

    Args:
        model: a HookedTransformer or TransformerBridge with a tokenizer.
        task: prompts that did not choose the cut.
        cut: of one matrix.
        draws: of each random control.
        progress: shows a bar.
        passes: further options of `sweep`.

    Returns:
        The paired changes, and the next tokens of a prompt that is changed as most are.
    """
    controls: dict[str, list[SiteCut]] = {
        _OF_RANK: [RandomSubspace(cut.site, cut.keep, seed) for seed in range(draws)],
        "random subspaces of its norm": [NormMatched(cut.site, cut.keep, seed) for seed in range(draws)],
        f"no {cut.site.matrix} at all": [Ablated(cut.site)],
    }
    every = [cut, *(each for kind in controls.values() for each in kind)]
    result = sweep(model, task, cuts=every, progress=progress, **passes)
    scores = result.scores_of(cut)
    rows = [Row("the cut", scores.change("p_in_context"))]
    for name, drawn in controls.items():
        whole = DrawnScores(tuple(result.scores_of(each) for each in drawn))
        each = tuple(float(draw.change("p_in_context")) for draw in whole.draws)
        rows.append(Row(name, whole.change("p_in_context"), each if len(each) > 1 else ()))
    of_random = [_changes(result.scores_of(each)) for each in controls[_OF_RANK]]
    place = typical_place([_changes(scores), pd.concat(of_random, axis=1).mean(axis=1)])
    asked = (model, str(task.prompts[place]), scores.record.prepend_bos)
    random = controls[_OF_RANK]
    kept = said_keep(cut.keep)
    columns = (
        Column("uncut", "the model as it is", _next_tokens(*asked, [[]])),
        Column("cut", f"{said_site(cut.site)}, {kept}", _next_tokens(*asked, [[cut]])),
        Column(
            "control",
            f"random subspaces, {kept}: mean of {draws}",
            _next_tokens(*asked, [[each] for each in random]),
        ),
    )
    return Showcase(cut, task, scores, tuple(rows), columns, place)


def typical_place(changes: Sequence[pd.Series]) -> int:
    """Where several changes are nearest to what they are on average, all in all: a prompt like most.

    Examples:
        >>> typical_place([pd.Series([0.0, 0.2, 0.4]), pd.Series([0.0, -0.1, 0.1])])
        1
    """
    away = sum((each - each.mean()).abs() for each in changes)
    return int(pd.Series(away).argmin())


def _changes(scores: Scores) -> pd.Series:
    assert scores.baseline is not None
    return scores.frame["p_in_context"] - scores.baseline.frame["p_in_context"]


@torch.no_grad()
def _next_tokens(
    model: Any, prompt: str, bos: bool | None, ways: Sequence[list[SiteCut]]
) -> tuple[tuple[str, float], ...]:
    """The likeliest next tokens, by their mean probability over several ways to cut."""
    tokens, found = model.to_tokens(prompt, prepend_bos=bos), []
    for cuts in ways:
        with truncated(model, cuts):
            found.append(model(tokens)[0, -1].float().softmax(-1))
    top = torch.stack(found).mean(0).topk(_TOKENS)
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return tuple((model.tokenizer.decode([index]), value) for index, value in pairs)
