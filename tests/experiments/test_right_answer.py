"""Every study of a task with right answers alone: its numbers, and nothing of a global answer in it."""

import json

import pytest
from typer.testing import CliRunner

import tl_truncate as tlt
from tl_truncate import plots
from tl_truncate.cli import app
from tl_truncate.experiments.comparison.rows import row_of
from tl_truncate.report import write_report

SITE = "blocks.1.mlp.W_out"
PROMPTS = [f"{name} gave a drink to" for name in ("John", "Mary", "Paris", "Rome", "France", "Italy")]
NAMES = [" Mary", " John", " Mary", " John", " Mary", " John"]


@pytest.fixture
def right(drinks) -> tlt.Task:
    """The prompts of `drinks`, without its global answers."""
    return drinks.without_global()


def of_both(names) -> list[str]:
    """Those that speak of a global answer."""
    return [name for name in names if "global" in str(name) or "logit_diff" in str(name)]


def test_a_plain_screen_predicts_what_small_cuts_do(toy, right):
    """To first order: the prediction is the slope of the exact change as the cut's strength goes to 0."""
    screen = tlt.attribute(toy, right, sites=[SITE], progress=False)
    assert screen.metric == "p_in_context"
    step = 1e-3
    cuts = [tlt.Cut(SITE, 0.3, strength=sign * step) for sign in (1, -1)]
    ends = [float(tlt.evaluate(toy, right, cut).p_in_context) for cut in cuts]
    slope = (ends[0] - ends[1]) / (2 * step)
    assert float(screen.effect(SITE, 0.3)) == pytest.approx(slope, rel=2e-2, abs=1e-6)
    found = tlt.singular_value_gradients(toy, right, sites=[SITE], progress=False)
    assert found.screen.metric == "p_in_context"
    assert str(screen).startswith("Predicted change of p_in_context")


@pytest.mark.parametrize("metric", ["logit_diff", "p_global"])
def test_a_screen_of_what_is_absent_is_refused(toy, right, metric):
    with pytest.raises(ValueError, match=f"one of accuracy, p_in_context, rank, got '{metric}'"):
        tlt.attribute(toy, right, sites=[SITE], metric=metric, progress=False)


def test_a_search_reports_the_right_answer(toy):
    task = tlt.Task("gift", PROMPTS, NAMES)
    asked = dict(sites=[SITE], keeps=[0.0, 0.5], texts=(), splits=1, draws=2, progress=False)
    found = tlt.search(toy, task, objective="p_in_context", **asked)
    assert not of_both(found.summary()) + of_both(found.changes["metric"])
    assert set(found.changes["metric"]) == {"accuracy", "p_in_context"}
    assert not of_both([str(found), found._repr_html_()])
    test = found.test["gift"]
    if found.cuts:
        exact = tlt.evaluate(toy, task, found.cuts).frame.set_index("prompt")["p_in_context"]
        values = test.frame.set_index("prompt")["p_in_context"]
        assert values.tolist() == pytest.approx(exact[values.index].tolist(), abs=1e-6)
    with pytest.raises(ValueError, match="one of accuracy, p_in_context, rank, got 'logit_diff'"):
        tlt.search(toy, task, objective="logit_diff", **asked)


def test_a_mask_is_learned_for_the_right_answer(toy):
    task = tlt.Task("gift", PROMPTS * 2, NAMES * 2)
    found = tlt.learn_mask(toy, task, sites=[SITE], budget=4, steps=2, texts=(), draws=2, progress=False)
    assert found.objective == "p_in_context"
    with pytest.raises(ValueError, match="one of accuracy, p_in_context, rank, got 'logit_diff'"):
        tlt.learn_mask(toy, task, sites=[SITE], objective="logit_diff", texts=(), progress=False)


def test_rows_side_by_side_have_what_there_is(toy, right):
    scores = tlt.evaluate(toy, right, tlt.Cut(SITE, 0.3))
    row = row_of("cut", scores)
    assert not of_both(row)
    assert row["p_in_context"] == float(scores.p_in_context)


def test_parts_of_outputs_push_the_right_answer(toy, drinks, right):
    alone = tlt.part_attribution(toy, right, method="own_path", progress=False)
    both = tlt.part_attribution(toy, drinks, method="own_path", progress=False)
    assert set(alone.frame["answer"]) == {"in_context"}
    same = both.frame[both.frame["answer"] == "in_context"]["logits"]
    assert alone.frame["logits"].tolist() == pytest.approx(same.tolist(), abs=1e-5)
    assert alone.largest() == both.largest(answer="in_context")


def test_figures_and_reports_say_right_answer(toy, right, tmp_path):
    result = tlt.sweep(toy, right, sites=[SITE], keeps=[0.0, 0.3], run_dir=tmp_path / "run")
    titles = [axis.get_title() for axis in plots.heatmap(result).axes]
    assert "W_out: probability of the right answer" in titles
    (title,) = [axis.get_title() for axis in plots.ranks(result).axes]
    assert " ".join(title.split()).startswith("drinks: change of the probability of the right answer")
    for page in (result._repr_html_(), result.baseline._repr_html_()):
        assert "right answer" in page
        assert "global" not in page
        assert "in-context" not in page
    for each in (result, tlt.evaluate(toy, right, tlt.Cut(SITE, 0.3))):
        path = tmp_path / f"{type(each).__name__}.html"
        write_report(each, path)
        text = path.read_text()
        assert "right answer" in text
        assert "global answer" not in text
        assert "logit difference" not in text


def test_history_has_what_there_is(toy, drinks, right):
    from tl_truncate.experiments.training.history import History
    from tl_truncate.experiments.training.reading import Reading

    def history(task):
        scores = tlt.evaluate(toy, task)
        readings = {0: {"uncut": Reading.of(scores)}}
        return History(task, readings, asked=(0, 1), cuts=(), missing=(1,)), scores

    alone, scores = history(right)
    table = alone.table()
    assert not of_both(table)
    assert table.loc[0, "p_in_context"] == float(scores.p_in_context)
    both, _ = history(drinks)
    dynamics = tlt.Dynamics({"a": both, "b": alone}, (0, 1), {}, {}, None)
    assert not of_both(dynamics.frame)
    assert not dynamics.frame.loc[dynamics.frame["step"] == 0, "p_in_context"].isna().any()
    with pytest.raises(ValueError, match="must be one of accuracy, p_in_context, rank and"):
        dynamics.first_step("p_global", 0.3, task="b")


def test_the_command_line_takes_tables_without_a_global_column(tmp_path, monkeypatch, toy):
    from tl_truncate.cli.shared import model as models

    table = tmp_path / "gift.csv"
    table.write_text("prompt,in_context\nJohn gave a drink to, Mary\nMary gave a drink to, John\n")
    monkeypatch.setattr(models.ModelOptions, "load", lambda self: toy)
    asked = ["evaluate", "--model", "toy", "--task", str(table), "--cut", f"{SITE}=0.3", "--json"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout[done.stdout.index("{") :])
    task = tlt.Task("gift", ["John gave a drink to", "Mary gave a drink to"], [" Mary", " John"])
    exact = float(tlt.evaluate(toy, task, tlt.Cut(SITE, 0.3)).p_in_context)
    assert "p_global" not in json.dumps(told)
    assert f"{exact:.6f}"[:7] in json.dumps(told)
