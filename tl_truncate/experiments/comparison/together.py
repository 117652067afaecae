"""Comparisons of several tasks beside each other."""

from collections.abc import Sequence

from tl_truncate.experiments.comparison.chosen import ChosenComparison


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
    models = {(record.weights_hash, record.dtype): record.model for record in tested}
    if len(models) > 1:
        told = ", ".join(f"{model} ({weights})" for (weights, _), model in models.items())
        raise ValueError(f"Comparisons must be of one model with the same weights, got {told}.")
    return objectives.pop()


def families_of(several: Sequence[ChosenComparison]) -> list[str]:
    """The families that any of the comparisons has, in order."""
    return list(dict.fromkeys(family for each in several for family in each.found))
