"""The metrics that have a gradient, as functions of logits that autograd sees."""

from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from tl_truncate.experiments.scoring.answers import Batch
from tl_truncate.experiments.scoring.metrics import require_metrics
from tl_truncate.surgery.edit import in_compute_precision
from tl_truncate.tasks.task import Task

Differentiable = Literal["logit_diff", "p_in_context", "p_global"]


def objective_on(
    name: str,
    value: Any,
    task: Task,
    among: tuple[str, ...] = get_args(Differentiable),
) -> Any:
    """A metric that has a gradient and that a task has; by default the logit difference, or where there
    is no global answer the probability of the right one.

    Args:
        name: of the option, for the error.
        value: that was asked for; None is the default.
        task: prompts and answers.
        among: the metrics to choose from.

    Raises:
        ValueError: if it is not among them, or needs global answers and the task has none.
    """
    if value is None:
        return "logit_diff" if task.has_global else "p_in_context"
    check_differentiable(name, value, among)
    require_metrics([value], task)
    return value


def check_differentiable(
    name: str, value: Any, among: tuple[str, ...] = get_args(Differentiable)
) -> None:
    """Checks an option that names a metric.

    Raises:
        ValueError: if it is not among them; accuracy and rank are steps, whose gradient is zero.
    """
    if value in among:
        return
    steps = (
        " Those that count (accuracy, rank) have no gradient." if value in ("accuracy", "rank") else ""
    )
    raise ValueError(f"{name} must be one of {', '.join(among)}, got {value!r}.{steps}")


def log_probabilities(
    batch: Batch, logits: Float[Tensor, "batch positions d_vocab"]
) -> Float[Tensor, " answers"]:
    """Of each answer that a batch is asked for, in nats."""
    where = batch.places.to(logits.device)
    precise = in_compute_precision(logits)
    log_probability = precise.log_softmax(-1)[where.rows, where.columns, where.tokens]
    return torch.where(where.inside, log_probability, 0.0).sum(-1)


def totals(
    batch: Batch, log_probability: Float[Tensor, " answers"], metric: Differentiable
) -> Float[Tensor, ""]:
    """A metric, summed over the answers of a batch.

    Over all batches of a task that is the sum over its prompts, also where a prompt's two answers are
    read off different rows.
    """
    asked = [answer for answers in batch.answers for answer in answers]
    in_context, global_ = _SIGNS[metric]
    signs = [in_context if answer.kind == "in_context" else global_ for answer in asked]
    values = log_probability if metric == "logit_diff" else log_probability.exp()
    return (torch.tensor(signs, device=values.device, dtype=values.dtype) * values).sum()


#: What each kind of answer counts: in-context, global.
_SIGNS: dict[Differentiable, tuple[float, float]] = {
    "logit_diff": (1.0, -1.0),
    "p_in_context": (1.0, 0.0),
    "p_global": (0.0, 1.0),
}
