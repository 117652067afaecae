"""The metrics of a task: their order in every table, and what they are called."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

Metric = Literal["accuracy", "p_in_context", "p_global", "logit_diff", "rank"]
METRICS: tuple[Metric, ...] = get_args(Metric)
#: What is scored where nothing else is asked for.
SCORED: tuple[Metric, ...] = METRICS[:-1]
#: What is shown where there is room for two.
PROBABILITIES: tuple[Metric, ...] = ("p_in_context", "p_global")


@dataclass(frozen=True)
class Label:
    """What a metric is called.

    Attributes:
        short: in menus and above columns.
        title: above a panel of a figure.
        told: in a sentence.
    """

    short: str
    title: str
    told: str


LABELS: dict[Metric, Label] = {
    "accuracy": Label("accuracy", "accuracy", "the share of prompts answered in context"),
    "p_in_context": Label(
        "p(in-context)",
        "probability of the in-context answer",
        "the probability of the in-context answer",
    ),
    "p_global": Label(
        "p(global)", "probability of the global answer", "the probability of the global answer"
    ),
    "logit_diff": Label(
        "logit difference, nats",
        "logit difference (nats)",
        "the logit difference, in-context minus global, in nats",
    ),
    "rank": Label(
        "rank of the in-context answer",
        "rank of the in-context answer",
        "the rank of the in-context answer",
    ),
}
# In a table of cuts `rank` is how many components are kept.
_COLUMNS: dict[str, str] = {"rank": "answer_rank"}


def label_of(name: str) -> Label:
    """What a metric, or its column in a table of cuts, is called.

    Examples:
        >>> label_of("answer_rank").short
        'rank of the in-context answer'
    """
    own = {column: metric for metric, column in _COLUMNS.items()}
    return LABELS[own.get(name, name)]  # type: ignore[index]


def title_of(column: str) -> str:
    """What stands above a panel that shows a column of a table.

    Examples:
        >>> title_of("p_global_change"), title_of("perplexity")
        ('change of the probability of the global answer', 'perplexity')
    """
    metric = column.removesuffix("_change")
    if metric not in (*METRICS, *_COLUMNS.values()):
        return column
    return label_of(metric).title if metric == column else f"change of {label_of(metric).told}"


def column_of(metric: str) -> str:
    """The column of a metric in a table of cuts."""
    return _COLUMNS.get(metric, metric)


def first(metric: str, metrics: Sequence[Metric] = SCORED) -> list[Metric]:
    """The metrics with one of them in front, which is what a reader came for.

    Examples:
        >>> first("logit_diff")
        ['logit_diff', 'accuracy', 'p_in_context', 'p_global']
    """
    return sorted(metrics, key=lambda each: each != metric)


def check_metric(name: Any) -> Metric:
    """A metric by its name.

    Raises:
        ValueError: if there is no such metric.
    """
    if name not in METRICS:
        raise ValueError(f"A metric must be one of {', '.join(METRICS)}, got {name!r}.")
    found: Metric = name
    return found
