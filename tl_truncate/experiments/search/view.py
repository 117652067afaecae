"""A search as HTML: what was chosen, validation beside test, controls, and the cost on running text."""

from typing import TYPE_CHECKING

from markupsafe import Markup

from tl_truncate.experiments.scoring.view import LONG, NAMES, frame_table, record_table, setup
from tl_truncate.markup import details, interval, join, paragraphs, table
from tl_truncate.statistics import Estimate

if TYPE_CHECKING:
    from tl_truncate.experiments.scoring.evaluate import Metric, Scores
    from tl_truncate.experiments.scoring.side_effects import SideEffects
    from tl_truncate.experiments.search.result import SearchResult

_METRICS: tuple["Metric", ...] = ("logit_diff", "accuracy", "p_in_context", "p_global")


def search_html(found: "SearchResult") -> Markup:
    """What a notebook shows of a search."""
    record = next(iter(found.test.values())).record
    return Markup("<div>{}{}{}{}{}</div>").format(
        paragraphs(search_words(found)),
        join(splits_table(found, task) for task in found.test),
        Markup("") if found.cost is None else cost_table(found.cost),
        details("What was looked at", looks_table(found)),
        details("Where this comes from", record_table(record)),
    )


def search_words(found: "SearchResult") -> list[str]:
    """What was chosen and what it is worth, in sentences."""
    record = next(iter(found.test.values())).record
    goal = LONG[found.objective]
    asked = f"{found.settings['grid']} on {setup(record)}"
    if not found.cuts:
        names = ", ".join(found.test)
        return [f"No cut of {asked}, raised {goal} on the validation prompts of {names}."]
    names = ", ".join(map(repr, found.cuts))
    words = [f"Of {asked}, these were chosen because they raise {goal} on validation prompts: {names}."]
    for task in found.test:
        change = found.change(task)
        verdict = "The gain survives" if change.low > 0 else "The gain does not survive"
        words.append(
            f"{verdict} on {change.n} prompts of {task} that had no say in the choice: "
            f"{interval(change, signed=True)}. Choosing alone was worth {found.optimism(task):+.3f} on "
            "the validation prompts."
        )
        beside = [
            f"{kind} {interval(paired(by_task[task], found.objective), signed=True)}"
            for kind, by_task in found.controls.items()
        ]
        if beside:
            words.append(f"Controls that remove as much, of no particular meaning: {'; '.join(beside)}.")
    if found.cost is not None:
        words.append(
            f"The cost on running text: perplexity {found.cost.uncut_perplexity:.1f} becomes "
            f"{found.cost.perplexity:.1f}."
        )
    return words


def splits_table(found: "SearchResult", task: str) -> Markup:
    """The paired change of every metric on validation and on test prompts, and of the controls."""
    columns = {
        "validation": found.validation[task],
        "test": found.test[task],
        **{f"{kind}, test": by_task[task] for kind, by_task in found.controls.items()},
    }
    order = [found.objective, *(name for name in _METRICS if name != found.objective)]
    rows = [
        [NAMES[metric], *(interval(paired(each, metric), signed=True) for each in columns.values())]
        for metric in order
    ]
    caption = (
        f"{task}: paired change from the uncut model (95% bootstrap intervals). The validation prompts "
        "chose the cuts, the test prompts did not"
    )
    return table(["metric", *columns], rows, caption=caption)


def cost_table(cost: "SideEffects") -> Markup:
    """What the cuts do to running text."""
    rows = [
        ("perplexity, uncut", f"{cost.uncut_perplexity:.2f}"),
        ("perplexity, cut", f"{cost.perplexity:.2f}"),
        ("change of the loss, nats a token", interval(cost.loss_change, signed=True)),
        ("KL(uncut || cut), nats", interval(cost.kl)),
        ("same most probable token", interval(cost.agreement)),
    ]
    tokens = int(cost.frame["tokens"].sum())
    caption = f"Side effects on running text, {tokens} tokens of {len(cost.frame)} passages"
    return table(["what", "value"], rows, caption=caption)


def looks_table(found: "SearchResult") -> Markup:
    """The candidates of each look, and the best of them."""
    return frame_table(found.looks, "Each look at candidates, on validation prompts alone")


def paired(scores: "Scores", metric: "Metric") -> Estimate:
    """The paired change, which is zero where nothing was cut."""
    if scores.baseline is None:
        return Estimate(0.0, low=0.0, high=0.0, se=0.0, n=len(scores.frame))
    return scores.change(metric)
