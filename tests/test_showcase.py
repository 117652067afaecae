"""The cut that the demo and the README begin with, beside what `evaluate` says of it."""

import pytest

import tl_truncate as tlt
from tl_truncate.cli.showcase import FOUND_ON, fresh_prompts, make_showcase
from tl_truncate.plots.showcase import Row

CUT = tlt.Cut("blocks.3.mlp.W_in", keep=0.1)


@pytest.fixture(scope="module")
def nano():
    return tlt.load_model("nano-pythia")


@pytest.fixture(scope="module")
def shown(nano):
    task = fresh_prompts(nano, n=12, seed=1)
    return make_showcase(nano, task, CUT, draws=2, progress=False)


def test_its_numbers_are_those_of_evaluate(nano, shown):
    alone = tlt.evaluate(nano, shown.task, CUT, progress=False)
    assert float(shown.rows[0].change) == pytest.approx(float(alone.change("p_in_context")), abs=1e-5)
    random = [tlt.RandomSubspace(CUT.site, CUT.keep, seed) for seed in (0, 1)]
    each = [
        float(tlt.evaluate(nano, shown.task, cut, progress=False).change("p_in_context"))
        for cut in random
    ]
    assert shown.rows[1].draws == pytest.approx(each, abs=1e-5)
    assert float(shown.rows[1].change) == pytest.approx(sum(each) / 2, abs=1e-5)
    assert shown.rows[3].draws == ()  # where nothing is kept there is nothing to draw


def test_its_bars_are_of_the_prompt_that_it_names(nano, shown):
    """Each column's probability of the name is that of this prompt in the scores."""
    name = shown.task.in_context[shown.place]
    scored = (shown.scores.baseline, shown.scores)
    for column, scores in zip(shown.columns[:2], scored, strict=True):
        wanted = scores.frame["p_in_context"][shown.place]
        assert dict(column.tokens)[name] == pytest.approx(wanted, abs=1e-5), column.title


def test_no_prompt_has_chosen_the_cut(nano):
    before = tlt.tasks.ioi(n=100, seed=FOUND_ON, tokenizer=nano.tokenizer).prompts
    assert not set(fresh_prompts(nano, n=40, seed=1).prompts) & set(before)
    with pytest.raises(ValueError, match="seed=0"):
        fresh_prompts(nano, n=40, seed=FOUND_ON)


def test_no_interval_is_cut_off(shown):
    """However far a change reaches, the axis does too, and words and numbers stay beside it."""
    figure = shown.draw()
    axis = figure.axes[-1]
    left, right = axis.get_xlim()
    for row in shown.rows:
        assert left < row.change.low <= row.change.high < right
    words = [text.get_text() for text in axis.texts]
    assert [words[2 * place] for place in range(4)] == [row.name for row in shown.rows]
    assert all(left <= text.get_position()[0] <= right for text in axis.texts)
    assert isinstance(shown.rows[0], Row)
