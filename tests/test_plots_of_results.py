"""Every result that draws itself, small and real: what the artists say is what the result says."""

import architectures
import legible
import numpy as np
import pytest
import torch
from samples import pairs

import tl_truncate as tlt
from tl_truncate import plots
from tl_truncate.decompose.parts import LogitAttribution
from tl_truncate.drawing import Drawn
from tl_truncate.experiments.scoring.metrics import label_of
from tl_truncate.experiments.search.result import paired
from tl_truncate.experiments.search.view import column_told
from tl_truncate.plots.shared import kinds
from tl_truncate.report.write import _page_of
from tl_truncate.toys.gradients import measured_step, population, predicted_step

SITE, TEXTS, QUIET = (
    "blocks.1.mlp.W_out",
    ["the store in Paris", "Mary gave a drink"],
    dict(progress=False),
)
CUT = tlt.Cut(SITE, 0.2)
ANSWERS = [False, True]


def _load(step):
    return architectures.randomise(architectures.bridge("neox-parallel"), step)


@pytest.fixture(scope="module")
def model(shared):
    return shared("bridge", "gpt2")


@pytest.fixture(scope="module")
def means(model):
    return tlt.TokenMeans.fit(model, torch.arange(3, 30)[None], layers=[1], **QUIET)


def _of_a_task(model, means, task, folder):
    """A result of each study, small."""
    swept = dict(grid=tlt.Grid(sites=[SITE], keeps=[0.5]), run_dir=folder)
    ways = tlt.Ways(keeps=[0.5], ks=[2])
    grid = dict(sites=[SITE, "blocks.0.mlp.W_in"], keeps=[0.0, 0.5], controls=["random_subspace"])
    searched = dict(sites=[SITE], keeps=[0.25, 0.5], splits=1, draws=2, null=True, texts=TEXTS)
    objective = "logit_diff" if task.has_global else "p_in_context"
    learned = dict(sites=[SITE], budget=4, steps=3, texts=TEXTS, draws=1, objective=objective)
    return {
        "sweep": tlt.sweep(model, task, **grid, **QUIET),
        "search": tlt.search(model, task, objective=objective, **searched, **QUIET),
        "learned": tlt.learn_mask(model, task, **learned, **QUIET),
        "dynamics": tlt.dynamics(_load, [0, 1, 8], task, {"cut": CUT}, **swept, **QUIET),
        "scores": tlt.evaluate(model, task, CUT, **QUIET),
        "uncut": tlt.evaluate(model, task, **QUIET),
        "screen": tlt.attribute(model, task, **QUIET),
        "value gradients": tlt.singular_value_gradients(model, task, **QUIET),
        "parts": tlt.part_attribution(model, task, method="own_path", **QUIET),
        "comparison": tlt.compare(model, task, 1, means, ways=ways, **QUIET),
        "families": tlt.compare_chosen(
            model, task, means, ways=ways, texts=TEXTS, objective=objective, **QUIET
        ),
    }


@pytest.fixture(scope="module")
def of_both(model, means, tmp_path_factory):
    """Results of a task with both answers."""
    task = pairs("Mary", "John", "Paris", "Rome")
    return _of_a_task(model, means, task, tmp_path_factory.mktemp("both"))


@pytest.fixture(scope="module")
def of_one(model, means, tmp_path_factory):
    """The same of a task with the right answer alone."""
    task = pairs("Mary", "John", "Paris", "Rome").without_global()
    return _of_a_task(model, means, task, tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def data():
    return tlt.toys.RecallData(tlt.toys.BigramTable.english(), length=16)


@pytest.fixture(scope="module")
def others(model, means, data):
    """Results that no task was asked for."""
    parts = tlt.decompose_mlp(model, torch.arange(3, 27).reshape(6, 4), 1, "own_path")
    steps = dict(trigger=data.fixed_triggers[0], noise_token=data.noise_token, learning_rate=1.0)
    return {
        "side effects": tlt.side_effects(model, CUT, TEXTS, **QUIET),
        "decomposition": parts,
        "logits": parts.logits([5, 6, 7, 8]),
        "shares": tlt.component_shares(model, SITE, means),
        "plan": tlt.plan(model, pairs("Mary", "John"), sites=[SITE], keeps=[0.5], device="a100"),
        "memory": tlt.toys.AssociativeMemory(8, 0.3).spectrum(1.0),
        "spectrum": tlt.spectrum(model, SITE),
        "one step": predicted_step(population(data), **steps),
        "recall": tlt.toys.train_recall(
            tlt.toys.RecallConfig.small(d_model=16, steps=4, eval_size=4), **QUIET
        ),
    }


def points(axis, names=None):
    """Of each row of a forest: its name, value, ends and whether it is hollow, from the top.

    Panels that share names have them at the left alone.
    """
    names = names or [label.get_text() for label in axis.get_yticklabels()]
    found = {}
    for container in axis.containers:
        mark = container.lines[0]
        bars = container.lines[2]
        ends = bars[0].get_segments()[0][:, 0] if bars else (np.nan, np.nan)
        name = names[int(mark.get_ydata()[0])] if names else ""
        found[name] = (*map(float, (mark.get_xdata()[0], *ends)), mark.get_markerfacecolor() == "none")
    return found


def row(value, hollow=False):
    return pytest.approx((float(value), value.low, value.high, hollow), nan_ok=True)


def words(figure):
    """All that is written on a figure, as a reader has it."""
    found = [text.get_text() for text in figure.findobj(match=lambda each: hasattr(each, "get_text"))]
    return " ".join(" ".join(found).split())


class TestWhatTheyShow:
    @pytest.mark.parametrize("cut", ["scores", "uncut"])
    @pytest.mark.parametrize("answers", ["of_both", "of_one"])
    def test_scores(self, request, answers, cut):
        found = request.getfixturevalue(answers)[cut]
        drawn = {name: each for axis in found.plot().axes for name, each in points(axis).items()}
        of = found.change if cut == "scores" else found.estimate
        wanted = [each for each in found.metrics if each != "rank"]
        assert drawn == {label_of(each, found.has_global).short: row(of(each)) for each in wanted}

    @pytest.mark.parametrize("name", ["search", "learned"])
    @pytest.mark.parametrize("answers", ["of_both", "of_one"])
    def test_what_was_searched(self, request, answers, name):
        found = request.getfixturevalue(answers)[name]
        axis = plots.searched(found).axes[0]
        drawn = points(axis)
        columns = found.columns("pairs")  # where nothing was chosen, nothing changes
        for place, (name, scores) in enumerate(columns.items()):
            change = paired(scores, found.objective)
            assert drawn[column_told(name)] == row(change, hollow=place > 1), name
        assert len(drawn) == len(columns)

    def test_a_cost(self, others):
        found = others["side effects"]
        for axis, value in zip(found.plot().axes, found.estimates.values(), strict=True):
            assert list(points(axis).values()) == [row(value)]

    def test_a_decomposition(self, others):
        found = others["decomposition"]
        table = found.fractions()
        left, right = found.plot().axes
        for axis, space in ((left, "variance"), (right, "logits")):
            drawn = points(axis, list(points(left)))
            for term in table.xs(space, level="space").itertuples():
                values = drawn[term.Index.replace("_", "-")][:3]
                assert values == pytest.approx((term.value, term.low, term.high)), (space, term.Index)

    def test_parts_say_what_adds_most(self, of_both):
        found = of_both["parts"]
        told = " ".join(found.plot().get_suptitle().split())
        for answer, name in (("in_context", "in-context"), ("global", "global")):
            own = found.frame[found.frame["answer"] == answer]
            row = own.loc[own["logits"].idxmax()]
            part = row["part"].replace("_", "-")
            most = f"layer {row['layer']}'s {part} part adds most to the {name} answer"
            assert f"{most} ({row['logits']:+.2g} nats)" in told

    def test_logits_of_parts(self, others):
        found = others["logits"]
        left, right = plots.logits(found, position=2).axes
        names = [f"token {token}" for token in (5, 6, 7, 8)]
        assert sorted(points(left)) == names
        for axis, part in ((left, found.global_), (right, found.in_context)):
            drawn = points(axis, list(points(left)))
            for place, name in enumerate(names):
                assert drawn[name][0] == pytest.approx(float(part[:, 2, place].mean()), rel=1e-5)
                assert drawn[name][1] < drawn[name][0] < drawn[name][2]

    def test_padding_is_no_row_of_logits(self, others):
        """A row of zeros would draw every mean towards zero, and say nothing."""
        found = others["logits"]
        parts = [torch.cat([each, torch.zeros_like(each)]) for each in (found.global_, found.in_context)]
        padded = LogitAttribution(found.token_ids, *parts, {})
        names = list(points(plots.logits(found).axes[0]))
        for one, other in zip(plots.logits(found).axes, plots.logits(padded).axes, strict=True):
            bare, beside = (points(axis, names) for axis in (one, other))
            assert beside == {name: pytest.approx(each) for name, each in bare.items()}
        empty = LogitAttribution(found.token_ids, *map(torch.zeros_like, parts), {})
        with pytest.raises(ValueError, match="got padding in all"):
            empty.plot()
        with pytest.raises(ValueError, match="The position must be one of 4, got 4"):
            found.plot(position=4)

    def test_shares(self, others):
        found = others["shares"]
        assert found.plot().axes[0].lines[0].get_ydata() == pytest.approx(found.values.numpy())

    @pytest.mark.parametrize("answers", ["of_both", "of_one"])
    def test_value_gradients(self, request, answers):
        found = request.getfixturevalue(answers)["value gradients"]
        axis = found.plot(sites=4).axes[0]
        table = found.sites.head(4)
        assert [bar.get_width() for bar in axis.patches] == pytest.approx(table["score"].tolist())
        places = [tlt.Site.parse(each) for each in table["site"]]
        names = [label.get_text() for label in axis.get_yticklabels()]
        assert names == [f"layer {each.layer}, {each.matrix}" for each in places]

    def test_a_plan(self, others):
        found = others["plan"]
        axis = found.plot().axes[0]
        assert [bar.get_width() for bar in axis.patches] == pytest.approx(found.frame["each"].tolist())
        assert [label.get_text() for label in axis.get_yticklabels()] == found.frame["step"].tolist()

    def test_a_memory(self, others):
        found = others["memory"]
        axis = found.plot().axes[0]
        bars = {round(bar.get_x() + bar.get_width() / 2): bar for bar in axis.patches}
        assert len(bars) == len(found.values)
        noise = {bar.get_facecolor() for place, bar in bars.items() if found.labels[place] == "noise"}
        rest = {bar.get_facecolor() for place, bar in bars.items() if found.labels[place] != "noise"}
        assert len(noise) == 1
        assert not noise & rest
        for place, bar in bars.items():
            assert bar.get_height() == pytest.approx(float(found.values[place]))

    @pytest.mark.parametrize("measured", ANSWERS)
    def test_one_step(self, others, data, measured):
        found = others["one step"]
        if measured:
            found = measured_step(data, data.sample(16, seed=0), learning_rate=1.0)
        axis = found.plot().axes[0]
        heights = [bar.get_height() for bar in axis.patches]
        row = found.update[data.fixed_triggers[0]]
        assert heights == pytest.approx(row.sort(descending=True).values[:12].tolist())
        assert heights[0] - heights[1] == pytest.approx(found.margin)
        assert axis.get_xticklabels()[0].get_text() == str(data.noise_token)

    @pytest.mark.parametrize("answers", ["of_both", "of_one"])
    def test_a_comparison(self, request, answers):
        found = request.getfixturevalue(answers)["comparison"]
        table = found.frame.drop(index="uncut")
        metrics = [each for each in ("p_in_context", "p_global") if each in table]
        figure = found.plot()
        for axis, metric in zip(figure.axes, metrics, strict=True):
            drawn = [each.lines[0].get_xdata()[0] for each in axis.containers]
            assert drawn == pytest.approx(table[f"{metric}_change"].tolist())
        two = [table.index[3], table.index[0]]
        (first, *_) = plots.comparison(found, ways=two).axes
        assert [text.get_text() for text in first.get_yticklabels()] == two
        with pytest.raises(ValueError, match="A way must be one of MLP dropped"):
            plots.comparison(found, ways=["nothing"])

    @pytest.mark.parametrize("answers", ["of_both", "of_one"])
    def test_families(self, request, answers):
        found = request.getfixturevalue(answers)["families"]
        objective = next(iter(found.found.values())).objective
        changes, cost = plots.families(found).axes
        table = found.frame.reindex(list(found.found))
        wanted = table[f"{objective}_change"].fillna(0.0).tolist()
        assert list(changes.containers[0].lines[0].get_xdata()) == pytest.approx(wanted)
        assert list(cost.lines[0].get_xdata()) == pytest.approx(
            table["loss_change"].tolist(), nan_ok=True
        )


#: All figures that a result of a task has.
OF_A_TASK = {
    "sweep": (plots.heatmap, plots.ranks),
    "search": (plots.searched,),
    "learned": (plots.learning, plots.searched),
    "dynamics": (plots.dynamics, plots.sweep_over_training, plots.settings_over_training),
    "scores": (plots.scores,),
    "uncut": (plots.scores,),
    "screen": (plots.attribution,),
    "value gradients": (plots.value_gradients,),
    "parts": (plots.parts,),
    "comparison": (plots.comparison,),
    "families": (plots.comparison, plots.families),
}


@pytest.mark.parametrize("name", OF_A_TASK)
class TestOneAnswer:
    def test_no_figure_speaks_of_another_answer(self, of_one, name):
        """Where one answer is right there is none in context, and none that is global."""
        for draw in OF_A_TASK[name]:
            told = words(draw(of_one[name]))
            for wrong in ("in-context answer", "p(in-context)", "global answer", "p(global)", "nan"):
                assert wrong not in told, (draw.__name__, told)

    def test_no_page_answers_with_another_one(self, of_one, name):
        answer = _page_of(of_one[name]).answer
        told = " ".join([answer.sentence, answer.caption, *(each.name for each in answer.numbers)])
        told += str(answer.picture)
        for wrong in ("in-context answer", "p(in-context)", "global answer", "p(global)", "nan"):
            assert wrong not in told, told


def test_layers_of_one_answer(of_one):
    found = of_one["sweep"]
    assert "right answer" in words(plots.layer_effects(found.frame, found.baselines))


def test_every_result_with_a_figure_is_looked_at(of_both, others):
    """A figure for a new kind of result has to come here, or stays unseen."""
    seen = [*of_both.values(), *others.values()]
    unseen = [kind for kind in kinds._FIGURES if not any(isinstance(each, kind) for each in seen)]
    assert unseen == []


def test_every_result_draws_its_own_figure(of_both, others):
    for name, found in {**of_both, **others}.items():
        assert isinstance(found, Drawn), name
        assert legible.faults(found.plot()) == [], name


@pytest.mark.parametrize("name", OF_A_TASK)
@pytest.mark.parametrize("answers", ["of_both", "of_one"])
def test_every_figure_can_be_read(request, answers, name):
    for draw in OF_A_TASK[name]:
        assert legible.faults(draw(request.getfixturevalue(answers)[name])) == [], draw.__name__


def test_checkpoints_say_what_to_draw(tmp_path):
    run = tlt.toys.NanoRun(tmp_path, (0, 1))
    with pytest.raises(
        TypeError, match=r"Call tlt\.dynamics\(run\.load, run\.checkpoints, task\)\.plot"
    ):
        run.plot()
