"""Worlds small enough to solve: in-context recall, associative memory, first gradients, nano-Pythia."""

from tl_truncate.toys.gradients import gradient_noise, one_step_margins
from tl_truncate.toys.memory.memory import AssociativeMemory
from tl_truncate.toys.memory.phases import memory_phases
from tl_truncate.toys.nano.nano import NanoConfig, NanoRun, nano_pythia
from tl_truncate.toys.recall.bayes import bayes_predictions, bigram_predictions
from tl_truncate.toys.recall.bigrams import BigramTable
from tl_truncate.toys.recall.config import RecallConfig
from tl_truncate.toys.recall.data import RecallBatch, RecallData
from tl_truncate.toys.recall.train import RecallRun, recall_task, train_recall

__all__ = [
    "AssociativeMemory",
    "BigramTable",
    "NanoConfig",
    "NanoRun",
    "RecallBatch",
    "RecallConfig",
    "RecallData",
    "RecallRun",
    "bayes_predictions",
    "bigram_predictions",
    "gradient_noise",
    "memory_phases",
    "nano_pythia",
    "one_step_margins",
    "recall_task",
    "train_recall",
]
