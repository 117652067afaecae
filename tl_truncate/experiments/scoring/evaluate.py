"""Scoring a model on a task, uncut and cut, prompt by prompt."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from tl_truncate.checks import natural, positive
from tl_truncate.drawing import Drawn
from tl_truncate.experiments.scoring.answers import Batch, Outcome, Sheet, plan_batches
from tl_truncate.experiments.scoring.estimates import estimate_changes, estimate_values
from tl_truncate.experiments.scoring.memory import prompts_that_fit
from tl_truncate.experiments.scoring.metrics import Metric, check_metric, metrics_of
from tl_truncate.experiments.scoring.together.scored import scored_batches
from tl_truncate.experiments.scoring.view import ShownScores, scores_html
from tl_truncate.replay.acting import watch_hooks
from tl_truncate.runs.codec import LEFT_OUT, NEEDED
from tl_truncate.runs.files import rows_of
from tl_truncate.runs.record import OF_THE_WEIGHTS, Record, make_record
from tl_truncate.runs.saved import Saved
from tl_truncate.statistics import Estimate
from tl_truncate.surgery.cut import Cuts, SiteCut
from tl_truncate.surgery.hooks import active_cuts, truncated
from tl_truncate.tasks.encode import EncodedTask, encode
from tl_truncate.tasks.task import Task
from tl_truncate.weights.identity.content import hashed_once
from tl_truncate.weights.identity.deterministic import require_deterministic
from tl_truncate.weights.locate import n_layers
from tl_truncate.weights.spectra.cache import forgetting


@dataclass(frozen=True, repr=False)
class Scores(Drawn, Saved):
    """A model's scores on a task, with intervals, and paired with the uncut model's.

    Attributes:
        frame: one row per prompt: prompt, in_context, global_, and the metrics. Where the task has no
            global answer, there are no columns global_, p_global and logit_diff.
        record: what the scores came from.
        baseline: the uncut model's scores on the same prompts; None if these are they.
        resamples: has no effect; of versions whose intervals were drawn.
        drawn: by kind, the draws of controls that were scored beside the cuts, as `tl-truncate evaluate
            --controls` does; against the same baseline, and so without one of their own.

    The metrics, each an `Estimate` (a float with `.low`, `.high`, `.se`):
        accuracy: share of prompts whose most probable continuation is the right answer; one that is
            tied with others counts as its share, 1 / (number of tied tokens).
        p_in_context, p_global: probability of the answers, from 0 to 1.
        logit_diff: in-context minus global, in nats (log-probabilities for sequences).
        rank: how many tokens are more probable than the right answer, and half of those that are as
            probable; the worst token's for a sequence.
    """

    frame: pd.DataFrame
    record: Record
    baseline: "Scores | None" = field(default=None, metadata={NEEDED: True})
    resamples: int = field(default=2000, kw_only=True)
    drawn: "Mapping[str, tuple[Scores, ...]]" = field(
        default_factory=dict, kw_only=True, metadata={LEFT_OUT: True}
    )

    @property
    def has_global(self) -> bool:
        """Whether the prompts have a global answer beside the right one."""
        return "p_global" in self.frame

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Those that there are."""
        return tuple(metric for metric in metrics_of(self) if metric in self.frame)

    def estimate(self, metric: Metric) -> Estimate:
        """The mean of a metric over the prompts.

        Raises:
            ValueError: if there is no such metric.
        """
        column = check_metric(metric, self)
        return estimate_values(column, self.frame[column])

    def change(self, metric: Metric) -> Estimate:
        """Cut minus uncut, paired by prompt.

        Raises:
            ValueError: if there is no such metric, or no baseline.
        """
        if self.baseline is None:
            raise ValueError(
                "A change must have a baseline, but these are the uncut model's own scores. "
                "Call evaluate with cuts."
            )
        column = check_metric(metric, self)
        return estimate_changes(column, self.frame[column] - self.baseline.frame[column])

    @property
    def accuracy(self) -> Estimate:
        """Share of prompts answered in context."""
        return self.estimate("accuracy")

    @property
    def p_in_context(self) -> Estimate:
        """Mean probability of the in-context answer."""
        return self.estimate("p_in_context")

    @property
    def p_global(self) -> Estimate:
        """Mean probability of the global answer."""
        return self.estimate("p_global")

    @property
    def logit_diff(self) -> Estimate:
        """Mean logit difference, in-context minus global, in nats."""
        return self.estimate("logit_diff")

    @property
    def rank(self) -> Estimate:
        """Mean rank of the in-context answer; 0 is the most probable token."""
        return self.estimate("rank")

    def summary(self) -> pd.DataFrame:
        """One row per metric: value, its interval, and with a baseline the paired change and its."""
        rows = []
        for metric in self.metrics:
            value = self.estimate(metric)
            row: dict[str, Any] = dict(metric=metric, value=float(value), low=value.low, high=value.high)
            if self.baseline is not None:
                change = self.change(metric)
                row.update(
                    uncut=float(self.baseline.estimate(metric)),
                    change=float(change),
                    change_low=change.low,
                    change_high=change.high,
                )
            rows.append(row)
        return pd.DataFrame(rows).set_index("metric")

    def to_json(self) -> dict[str, Any]:
        """Summary and record as plain data."""
        return {"record": self.record.to_json(), "summary": rows_of(self.summary().reset_index())}

    @property
    def shown(self) -> ShownScores:
        """The scores as plain data, for pages."""
        uncut = None if self.baseline is None else self.baseline.shown
        return ShownScores(self.summary(), self.frame, self.record.to_json(), uncut)

    def __str__(self) -> str:
        record = self.record
        head = (
            f"{record.task}: {record.n_prompts} prompts on {record.model} "
            f"({record.weights} weights, {record.bos} BOS)"
        )
        lines = [head]
        for metric in self.metrics:
            line = f"  {metric:<13}{self.estimate(metric)!s:<24}"
            if self.baseline is not None:
                line += f"  change {self.change(metric)}"
            lines.append(line.rstrip())
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return scores_html(self.shown)

    def __repr__(self) -> str:
        return str(self)


def evaluate(
    model: Any,
    task: Task,
    cuts: SiteCut | Sequence[SiteCut] = (),
    *,
    baseline: Scores | None = None,
    shots: int | None = None,
    prepend_bos: bool | None = None,
    batch_size: int = 32,
    max_memory: int | None = None,
    resamples: int = 2000,
    seed: int = 0,
    progress: bool = True,
) -> Scores:
    """Scores a model on a task with all the cuts active, paired with the uncut model.

    Inside a `truncated` context the cuts of that context belong to both sides, and to the record.
    Prompts of equal length share a batch, so nothing is ever padded and a prompt's score does not
    depend on its company. Only the answers' positions are unembedded.

    Args:
        model: a HookedTransformer or TransformerBridge in evaluation mode.
        task: prompts and answers.
        cuts: made together; none scores the uncut model alone.
        baseline: the uncut model's scores from an earlier call on the same task, to save a pass; of the
            same weights, in the same precision.
        shots: so many of the prompts, answered, in front of each of the others:
            `task.with_demonstrations(shots, seed)`. For several numbers on the same prompts call it with
            `reserve`, or `sweep(..., shots=(0, 1, 4, 16))`.
        prepend_bos: overrides the model's default; the record says what was done.
        batch_size: prompts in a pass.
        max_memory: most bytes beside the model, by an estimate; fewer prompts share a pass then.
        resamples: has no effect; of versions whose intervals were drawn.
        seed: for the record, and of the demonstrations; nothing else is drawn.
        progress: shows a bar if it takes longer than two seconds.

    Returns:
        Scores with intervals; `.change(metric)` is paired by prompt.

    Raises:
        ValueError: if the task does not fit the tokenizer, a cut addresses nothing, the model has
            active dropout, the memory does not suffice, or the baseline is of other prompts or another
            model; before any pass runs. And if logits are not finite.
        TypeError: if an argument is of the wrong kind.

    Examples:
        >>> task = tlt.Task(name="drink", prompts=["Mary gave a drink to"], in_context=[" John"],
        ...             global_=" the")
        >>> tlt.evaluate(model, task).record.n_prompts
        1
    """
    _check_arguments(model, task, batch_size)
    resamples, seed = positive("resamples", resamples), natural("seed", seed)
    task = task if shots is None else task.with_demonstrations(shots, seed)
    with hashed_once(model), forgetting(max_memory is not None):
        return _evaluate(
            model,
            task,
            Cuts(cuts),
            baseline,
            prepend_bos=prepend_bos,
            batch_size=batch_size,
            max_memory=max_memory,
            resamples=resamples,
            seed=seed,
            progress=progress,
        )


def _evaluate(
    model: Any,
    task: Task,
    chosen: Cuts,
    baseline: Scores | None,
    *,
    prepend_bos: bool | None,
    batch_size: int,
    max_memory: int | None,
    resamples: int,
    seed: int,
    progress: bool,
) -> Scores:
    """`evaluate`, while the weights are known."""
    encoded = encode(model, task, prepend_bos=prepend_bos)
    around = Cuts(active_cuts(model))  # of contexts that the caller has entered
    uncut_record = make_record(model, task, cuts=around, prepend_bos=encoded.prepend_bos, seed=seed)
    check_baseline(baseline, uncut_record)
    rows = prompts_that_fit(model, encoded, cuts=chosen, batch_size=batch_size, max_memory=max_memory)

    def scores(active: Cuts, uncut: Scores | None) -> Scores:
        both = Cuts(around, active)
        record = replace(uncut_record, cuts=tuple(cut.to_json() for cut in both))
        with truncated(model, *active), watch_hooks(model) as acting:
            frame = _score(model, task, both, encoded, rows, progress)
        record = replace(record, acting=tuple(sorted(acting.places)))
        if uncut is not None:
            _require_same_hooks("that change what passes ", uncut.record.acting, record.acting)
        return Scores(frame, record, uncut, resamples=resamples)

    # The cut model comes first, so that a cut that cannot be made fails before any pass.
    found = scores(chosen, baseline)
    return replace(found, baseline=scores(Cuts(), None)) if chosen and baseline is None else found


def check_task(task: Any) -> None:
    """Checks that something is a task.

    Raises:
        TypeError: if it is none.
    """
    if not isinstance(task, Task):
        raise TypeError(f"task must be a Task, such as tlt.tasks.ioi(n=100), got {task!r}.")


def as_tasks(task: Any) -> list[Task]:
    """One task or several.

    Raises:
        ValueError: if there is none, or two have the same name.
        TypeError: if something is not a task.
    """
    tasks = [task] if isinstance(task, Task) else list(task) if isinstance(task, (list, tuple)) else task
    if not isinstance(tasks, list):
        raise TypeError(f"task must be a Task or a list of tasks, got {task!r}.")
    for each in tasks:
        check_task(each)
    names = [each.name for each in tasks]
    if not tasks or len(set(names)) < len(names):
        raise ValueError(f"Tasks must be one or more with different names, got {names}.")
    return tasks


def check_model(model: Any) -> None:
    """Checks that a model can be scored.

    Raises:
        TypeError: if it is no TransformerLens model.
        ValueError: if dropout is active.
    """
    n_layers(model)
    require_deterministic(model)


def _check_arguments(model: Any, task: Any, batch_size: Any) -> None:
    check_task(task)
    positive("batch_size", batch_size)
    check_model(model)


def check_baseline(baseline: Any, wanted: Record) -> None:
    """Checks that a baseline, if there is one, is of the uncut model that a record is of.

    Raises:
        TypeError: if it is no Scores.
        ValueError: if it has cuts of its own, or is of other prompts, weights or hooks.
    """
    if baseline is None:
        return
    if not isinstance(baseline, Scores):
        raise TypeError(f"baseline must be the Scores of an uncut model, got {baseline!r}.")
    found = baseline.record
    if found.cuts != wanted.cuts:
        raise ValueError(
            f"The baseline must be of the uncut model, got scores with {len(found.cuts)} cuts."
        )
    if (found.task_hash, found.prepend_bos) != (wanted.task_hash, wanted.prepend_bos):
        raise ValueError(
            "The baseline must be of the same prompts and BOS, got scores of task "
            f"{found.task_hash} (BOS {found.prepend_bos}) for task {wanted.task_hash} (BOS "
            f"{wanted.prepend_bos})."
        )
    _require_same_hooks("", found.hooks, wanted.hooks)
    other = [name for name in OF_THE_WEIGHTS if getattr(found, name) != getattr(wanted, name)]
    if other:
        told = "; ".join(f"{name} {getattr(found, name)}, now {getattr(wanted, name)}" for name in other)
        raise ValueError(
            "The baseline must be of the same model with the same weights, processing and precision, "
            f"got scores of {found.model} that differ in: {told}. Leave it away to score it anew."
        )


def _require_same_hooks(which: str, then: Sequence[str], now: Sequence[str]) -> None:
    """That a baseline was scored under hooks at the same places.

    Raises:
        ValueError: if it was not. Whether a hook of PyTorch's acts is known behind a pass alone.
    """
    if tuple(then) != tuple(now):
        before, after = (", ".join(each) or "none" for each in (then, now))
        raise ValueError(
            f"The baseline must be of the model under the same hooks, got scores with hooks {which}at "
            f"{before}, now there are hooks {which}at {after}. Leave it away to score it anew, or take "
            "the hooks away if they are not wanted (model.reset_hooks() for TransformerLens')."
        )


def _score(
    model: Any, task: Task, cuts: Cuts, encoded: EncodedTask, batch_size: int, progress: bool
) -> pd.DataFrame:
    sheet = Sheet([task], cuts)
    # A prompt whose answers take rows of their own is done with the last; equal ones share theirs.
    left = Counter(place for batch in plan_batches([encoded], batch_size) for place in _asked(batch))
    bar = tqdm(
        total=len(task), disable=not progress, desc=task.name, unit="prompt", delay=2, leave=False
    )
    with bar:
        for batch, logits in scored_batches(model, encoded, batch_size):
            sheet.fill(batch, logits)
            left.subtract(_asked(batch))
            bar.update(sum(not left[place] for place in set(_asked(batch))))
    return score_frame(task, [len(each.prompt) for each in encoded.prompts], sheet.outcomes()[0])


def _asked(batch: Batch) -> list[int]:
    """The prompts that a batch's answers are of, each as often as it has answers there."""
    return [answer.prompt for answers in batch.answers for answer in answers]


def score_frame(task: Task, n_tokens: Sequence[int], outcome: Outcome) -> pd.DataFrame:
    """One row per prompt: the texts, the metrics, and n_tokens."""
    frame = pd.concat([task.to_frame(), outcome.metrics()], axis=1)
    frame["n_tokens"] = n_tokens
    return frame
