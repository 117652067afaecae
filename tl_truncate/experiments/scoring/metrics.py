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


#: What there is only where prompts have a global answer beside the right one.
OF_BOTH: tuple[Metric, ...] = ("p_global", "logit_diff")


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
#: The same where there is one answer, which is the right one.
_OF_ONE: dict[Metric, Label] = {
    "accuracy": Label("accuracy", "accuracy", "the share of prompts answered right"),
    "p_in_context": Label(
        "p(answer)", "probability of the right answer", "the probability of the right answer"
    ),
    "rank": Label("rank of the answer", "rank of the right answer", "the rank of the right answer"),
}
# In a table of cuts `rank` is how many components are kept.
_COLUMNS: dict[str, str] = {"rank": "answer_rank"}


def label_of(name: str, has_global: bool = True) -> Label:
    """What a metric, or its column in a table of cuts, is called.

    Args:
        name: of the metric or column.
        has_global: whether there is a global answer, from which the other one is told apart: of a task,
            of a record, and of whatever shows a result.

    Examples:
        >>> label_of("answer_rank").short
        'rank of the in-context answer'
        >>> label_of("p_in_context", has_global=False).title
        'probability of the right answer'
    """
    own = {column: metric for metric, column in _COLUMNS.items()}
    metric: Any = own.get(name, name)
    return LABELS[metric] if has_global else _OF_ONE.get(metric, LABELS[metric])


def answer_names(has_global: bool = True) -> tuple[str, ...]:
    """What the answers are called in words.

    Examples:
        >>> answer_names(), answer_names(has_global=False)
        (('in-context answer', 'global answer'), ('right answer',))
    """
    return ("in-context answer", "global answer") if has_global else ("right answer",)


def answer_name(answer: str, has_global: bool = True) -> str:
    """What an answer of a table, `in_context` or `global`, is called in words.

    Examples:
        >>> answer_name("in_context"), answer_name("in_context", has_global=False)
        ('in-context answer', 'right answer')
    """
    return f"{answer.replace('_', '-')} answer" if has_global else "right answer"


def metrics_of(found: Any, among: Sequence[Metric] = METRICS) -> tuple[Metric, ...]:
    """The metrics that a task, several tasks, a record or a result has.

    Of several tasks those that all of them have.

    Args:
        found: whatever says whether it `has_global` answers, or a list of such.
        among: the metrics to choose from, whose order is kept.

    Examples:
        >>> task = tlt.Task(name="fact", prompts=["Madrid is in"], in_context=[" Spain"])
        >>> metrics_of(task)
        ('accuracy', 'p_in_context', 'rank')
    """
    several = found if isinstance(found, (list, tuple)) else [found]
    both = all(each.has_global for each in several)
    return tuple(metric for metric in among if both or metric not in OF_BOTH)


def require_metrics(metrics: Sequence[str], found: Any) -> None:
    """That all of some metrics are there.

    Raises:
        ValueError: naming those that are.
    """
    there = metrics_of(found)
    absent = [metric for metric in metrics if metric not in there]
    if absent:
        raise ValueError(
            f"A metric of a task with no global answer must be one of {', '.join(there)}, got "
            f"{', '.join(map(repr, absent))}. Give the Task its global_ answers to have it."
        )


def title_of(column: str, has_global: bool = True) -> str:
    """What stands above a panel that shows a column of a table.

    Examples:
        >>> title_of("p_global_change"), title_of("perplexity")
        ('change of the probability of the global answer', 'perplexity')
    """
    metric = column.removesuffix("_change")
    if metric not in (*METRICS, *_COLUMNS.values()):
        return column
    label = label_of(metric, has_global)
    return label.title if metric == column else f"change of {label.told}"


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


def check_metric(name: Any, found: Any = None) -> Metric:
    """A metric by its name.

    Args:
        name: of the metric.
        found: what must have it, if anything.

    Raises:
        ValueError: if there is no such metric, or what was found has none.
    """
    if name not in METRICS:
        raise ValueError(f"A metric must be one of {', '.join(METRICS)}, got {name!r}.")
    if found is not None:
        require_metrics([name], found)
    metric: Metric = name
    return metric
