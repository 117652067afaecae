"""Prompts that have an in-context answer and a global one."""

from tl_truncate.tasks.deduction import deduction
from tl_truncate.tasks.facts import factual_recall
from tl_truncate.tasks.implied import implied_fact
from tl_truncate.tasks.induction import induction
from tl_truncate.tasks.ioi import ioi
from tl_truncate.tasks.override import in_context_override
from tl_truncate.tasks.phrases import phrase_composition
from tl_truncate.tasks.reversal import reversal
from tl_truncate.tasks.table import table_lookup
from tl_truncate.tasks.task import Task

__all__ = [
    "Task",
    "deduction",
    "factual_recall",
    "implied_fact",
    "in_context_override",
    "induction",
    "ioi",
    "phrase_composition",
    "reversal",
    "table_lookup",
]
