"""Prompts that have an in-context answer and a global one."""

from tl_truncate.tasks.facts import factual_recall
from tl_truncate.tasks.ioi import ioi
from tl_truncate.tasks.task import Task

__all__ = ["Task", "factual_recall", "ioi"]
