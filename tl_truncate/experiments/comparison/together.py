"""Comparisons of several tasks beside each other."""

from collections.abc import Sequence

from tl_truncate.experiments.comparison.chosen import ChosenComparison
from tl_truncate.runs.record import Record


def objective_of(several: Sequence[ChosenComparison]) -> str:
    """The metric that all searches of the comparisons wanted to rise.

    Raises:
        ValueError: if there is none, or they differ in it or in the model's weights.
    """
    found = [result for each in several for result in each.found.values()]
    objectives = {result.objective for result in found}
    if len(objectives) != 1:
        raise ValueError(
            "Comparisons must be one or more with the same objective, got "
            f"{', '.join(sorted(objectives)) or 'none'}."
        )
    tested = [scores.record for result in found for scores in result.test.values()]
    models = {_weights(record): record.model for record in tested}
    if len(models) > 1:
        told = ", ".join(f"{model} ({weights})" for (weights, *_), model in models.items())
        raise ValueError(f"Comparisons must be of one model with the same weights, got {told}.")
    return objectives.pop()


def _weights(record: Record) -> tuple[str, ...]:
    """What tells models apart; of results from before weights were noted, their names."""
    noted = record.weights_hash != Record().weights_hash
    return (record.weights_hash, record.dtype, *(() if noted else (record.model, record.weights)))


def has_global_of(several: Sequence[ChosenComparison]) -> bool:
    """Whether the prompts of all comparisons have global answers."""
    return all(result.has_global for each in several for result in each.found.values())


def families_of(several: Sequence[ChosenComparison]) -> list[str]:
    """The families that any of the comparisons has, in order."""
    return list(dict.fromkeys(family for each in several for family in each.found))
