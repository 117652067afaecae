"""Worlds small enough to solve: noisy in-context recall, associative memory, gradient noise, a nano-Pythia."""

from tl_truncate.toys.bigrams import BigramTable
from tl_truncate.toys.recall import RecallRun, recall_task, train_recall
from tl_truncate.toys.recall_config import RecallConfig
from tl_truncate.toys.recall_data import RecallBatch, RecallData

__all__ = [
    "BigramTable",
    "RecallBatch",
    "RecallConfig",
    "RecallData",
    "RecallRun",
    "recall_task",
    "train_recall",
]
