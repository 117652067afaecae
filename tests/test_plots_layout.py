"""Figures of sweeps of any size can be read: no text lies on another, none leaves the sheet."""

import legible
import pytest
from samples import KEEPS, large_sweep

from tl_truncate import plots
from tl_truncate.plots.shared.style import sheet

LONG = "capitals_of_countries_in_a_context_that_states_another_capital_than_the_known_one"
SIZES = [(layers, keeps, LONG) for layers in (1, 30) for keeps in (1, 3, 8)]


@pytest.mark.parametrize(("layers", "keeps", "name"), [*SIZES, (1, 1, "ioi"), (30, 8, "ioi")])
def test_sweeps_of_any_size(layers, keeps, name):
    kept = (*KEEPS, 0.95)[:keeps] if keeps > 1 else (0.1,)
    found = large_sweep(layers=layers, prompts=12, controls=layers == 1, keeps=kept, name=name)
    table = found.frame[found.frame["matrix"] == "W_out"]
    drawn = {
        "heatmap": plots.heatmap(found),
        "all metrics": plots.heatmap(found, metrics=found.metrics),
        "one metric": plots.heatmap(found, metrics=["accuracy"]),
        "ranks": plots.ranks(found),
        "one site": plots.ranks(found, ["blocks.0.mlp.W_in"], metrics=["logit_diff"]),
        "layers": plots.layer_effects(table, found.baselines),
        "one of layers": plots.layer_effects(table, found.baselines, metrics=("accuracy",)),
        "scores": found.scores("blocks.0.mlp.W_in", kept[-1]).plot(),
        "uncut": found.baseline.plot(),
    }
    faults = {place: legible.faults(figure) for place, figure in drawn.items()}
    assert {place: each for place, each in faults.items() if each} == {}


def test_what_cannot_be_read_is_seen():
    """Else none of the tests above would say anything."""
    figure = sheet(3, 2)
    figure.text(0.2, 0.5, "one text")
    figure.text(0.25, 0.5, "another")
    figure.text(0.95, 0.1, "a third one, beyond the right end")
    assert legible.faults(figure) == [
        "'a third one, beyond the right end' leaves the sheet",
        "'one text' lies on 'another'",
    ]
