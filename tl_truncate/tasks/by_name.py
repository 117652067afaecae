"""The tasks that are made for a tokenizer, by the names that commands and pages have for them."""

from collections.abc import Callable

from tl_truncate import tasks as generators
from tl_truncate.tasks.task import Task

#: Generators that take n, seed and a tokenizer.
GENERATED: dict[str, Callable[..., Task]] = {
    "ioi": generators.ioi,
    "facts": generators.factual_recall,
    "in_context_override": generators.in_context_override,
    "reversal": generators.reversal,
    "implied_fact": generators.implied_fact,
    "table_lookup": generators.table_lookup,
    "deduction": generators.deduction,
    "phrase_composition": generators.phrase_composition,
}
