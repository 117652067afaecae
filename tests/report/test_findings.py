"""What a page states is what the result says: each statement beside a result made to tell it apart."""

import dataclasses
import html
import re

import numpy as np
import pandas as pd
import pytest
import samples

import tl_truncate as tlt
from tl_truncate import plots
from tl_truncate.colours import scale_end
from tl_truncate.experiments.scoring.answers import Outcome
from tl_truncate.experiments.scoring.evaluate import score_frame
from tl_truncate.experiments.search.bound import Bound
from tl_truncate.experiments.sweep.result import Setting, SweepResult
from tl_truncate.experiments.sweep.view import heat_frame, heat_table
from tl_truncate.report.answers.screening import screen_answer
from tl_truncate.report.answers.training import dynamics_answer
from tl_truncate.report.answers.ways import _against_null, _most
from tl_truncate.report.charts import heat_chart, rank_chart
from tl_truncate.report.kinds.pair import differences, pair_page
from tl_truncate.report.kinds.search import search_page
from tl_truncate.report.kinds.sweep import sweep_page
from tl_truncate.report.pairs.pair import pair_of
from tl_truncate.report.pairs.sides import control_of
from tl_truncate.report.write import _page_of
from tl_truncate.runs.record import Record

SITE, PROMPTS = "blocks.1.mlp.W_out", 60
UNCUT = dict(
    model="made up",
    model_class="none",
    n_layers=2,
    dtype="float32",
    device="cpu",
    weights="raw",
    prepend_bos=False,
    seed=0,
    cuts=(),
    versions={"tl-truncate": "0"},
)


def made_sweep(shifts, metric="p_in_context"):
    """A sweep whose settings move a metric by what is given, up to a little noise."""
    rng = np.random.default_rng(0)
    task = tlt.tasks.ioi(n=PROMPTS, seed=0)
    before = rng.normal(100, 5, PROMPTS)

    def outcome(shift):
        noise = rng.normal(0, 1, PROMPTS)
        moved = 0.3 + shift + 0.01 * noise if metric == "p_in_context" else np.full(PROMPTS, 0.3)
        ranks = before + shift + 0.5 * noise if metric == "rank" else before
        return Outcome(tuple(np.log(moved)), (-2.0,) * PROMPTS, tuple(map(float, ranks)))

    record = Record(**UNCUT, task=task.name, task_hash=task.hash, n_prompts=PROMPTS)
    base = tlt.Scores(score_frame(task, [15] * PROMPTS, outcome(0.0)), record)
    settings = tuple(Setting(cut, 8, (outcome(shift),)) for cut, shift in shifts)
    cuts = tuple(cut for cut, _ in shifts)
    return SweepResult((task,), {task.name: base}, settings, cuts, (metric,), UNCUT)


def draws(kind, shift, spread, strength=1.0):
    """Eight draws of a control of which the mean moves by a shift."""
    return [
        (kind(SITE, 0.5, seed, strength=strength), shift + spread * (seed - 3.5)) for seed in range(8)
    ]


def answer_of(result):
    answer = sweep_page(result).answer
    return answer.sentence, {each.name: each for each in answer.numbers}


class TestAFallBesideItsControls:
    """Of what falls, the control that falls most is nearest, and less is further."""

    @pytest.fixture(scope="class")
    def sweep(self):
        controls = draws(tlt.RandomSubspace, -26.5, 1.0) + draws(tlt.NormMatched, 13.5, 1.0)
        return made_sweep([(tlt.Cut(SITE, 0.5), -50.0), *controls], "rank")

    def test_the_answer(self, sweep):
        sentence, numbers = answer_of(sweep)
        assert "lowers the rank" in sentence
        assert "and more than its controls (random subspace, norm-matched)" in sentence
        assert float(numbers["its control"].value) == pytest.approx(-26.5, abs=0.5)
        assert "random subspace" in numbers["its control"].note

    def test_the_table_and_the_summary(self, sweep):
        page = sweep_page(sweep)
        told = " ".join(str(each.before) for each in page.sections)
        assert "the cut does more" in told
        assert "the cut does less" not in told

    def test_a_control_that_falls_further(self):
        shifts = [(tlt.Cut(SITE, 0.5), -10.0), *draws(tlt.RandomSubspace, -30.0, 0.5)]
        assert "but a random subspace control does more" in answer_of(made_sweep(shifts, "rank"))[0]


class TestOneMatrixCutWithTwoStrengths:
    """A cut and its amplification share site and keep: each has its own name and its own controls."""

    CUT, REVERSED = tlt.Cut(SITE, 0.5), tlt.Cut(SITE, 0.5, strength=-1.0)

    def made(self, *, reverse=False):
        cuts = [(self.CUT, -0.02), (self.REVERSED, 0.15)]
        controls = [
            draws(tlt.RandomSubspace, -0.1, 0.003),
            draws(tlt.RandomSubspace, 0.148, 0.003, strength=-1.0),
        ]
        if reverse:
            cuts, controls = cuts[::-1], controls[::-1]
        return made_sweep([*cuts, *controls[0], *controls[1]])

    @pytest.mark.parametrize("reverse", [False, True])
    def test_the_answer(self, reverse):
        sentence, numbers = answer_of(self.made(reverse=reverse))
        assert "Cutting layer 1, W_out, 50% kept, strength -1 raises" in sentence
        assert "but a random subspace control may do as much" in sentence
        assert float(numbers["its control"].value) == pytest.approx(0.148, abs=0.003)

    def test_the_texts(self):
        sweep = self.made()
        assert str(sweep.best("p_in_context")).startswith("layer 1, W_out, 50% kept, strength -1: ")
        told = str(sweep)
        assert "rise of p_in_context: layer 1, W_out, 50% kept, strength -1, +0.1" in told
        assert "fall of p_in_context: layer 1, W_out, 50% kept, -0.0" in told
        words = str(sweep_page(sweep).sections[0].before)
        assert re.search(
            r"rises most, by \+0\.1\S* \[.*?\] at layer 1, W_out, 50% kept, strength -1", words
        )
        assert "50% kept, strength -1, they give: random subspace +0.14" in words
        assert words.count("random subspace") == 1

    def test_the_charts(self):
        """Neither hides the other: two cells, two curves."""
        shown = self.made().shown
        heat = heat_chart(shown.frame, list(shown.baselines), ["p_in_context"])
        cells = [panel["cells"] for panel in heat.panels]
        names = {cell[-1] for each in cells for cell in each}
        assert all(len({tuple(cell[:2]) for cell in each}) == len(each) for each in cells)
        assert {"layer 1, W_out, 50% kept", "layer 1, W_out, 50% kept, strength -1"} <= names
        (ranks,) = rank_chart(shown.frame, shown.baselines, ["p_in_context"]).panels
        changes = {each["name"]: each["y"] for each in ranks["series"] if not each["control"]}
        assert set(changes) == {"layer 1, W_out", "layer 1, W_out, strength -1"}
        assert changes["layer 1, W_out"] < changes["layer 1, W_out, strength -1"]


class TestOnePageOfTwoRuns:
    """Settings are one where nothing tells them apart, and not where their words do not."""

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (tlt.Cut(SITE, tlt.Components((0, 1))), tlt.Cut(SITE, tlt.Components((2, 3)))),
            (tlt.Cut(SITE, tlt.Without((0, 1))), tlt.Cut(SITE, tlt.Without((2, 3)))),
            (tlt.Clustered(SITE, groups=2, keep=0.5), tlt.Clustered(SITE, groups=4, keep=0.5)),
        ],
        ids=["components", "without", "groups"],
    )
    def test_cuts_that_sound_alike(self, one, other):
        first, second = made_sweep([(one, 0.1)]), made_sweep([(other, 0.2)])
        with pytest.raises(ValueError, match="must have a setting in common"):
            pair_of([first, second], [None, None])
        both = made_sweep([(one, 0.1), (other, 0.2)])
        more = made_sweep([(one, 0.1), (other, 0.25)])
        pair = pair_of([both, more], [None, None])
        assert [pair.one.cuts[name] for name in pair.settings] == [one, other]
        found = differences(pair, "p_in_context")
        assert len({each.setting for each in found}) == 2
        assert [float(each.value) for each in found] == pytest.approx([0, 0.05], abs=0.01)
        assert pair_of([both, first], [None, None]).settings == pair.settings[:1]

    def test_the_controls_are_those_of_the_strength(self):
        cuts = [(tlt.Cut(SITE, 0.5), 0.1), (tlt.Cut(SITE, 0.5, strength=-1.0), 0.1)]
        one, other = (
            made_sweep(
                [
                    *cuts,
                    *draws(tlt.RandomSubspace, up, 0.001),
                    *draws(tlt.RandomSubspace, -up, 0.001, strength=-1.0),
                ]
            )
            for up in (0.0, 0.1)
        )
        pair = pair_of([one, other], [None, None])
        for setting, wanted in zip(pair.settings, (0.1, -0.1), strict=True):
            sides = [control_of(side, setting, "p_in_context") for side in (pair.one, pair.other)]
            moved = sides[1]["RandomSubspace"] - sides[0]["RandomSubspace"]
            assert moved == pytest.approx(wanted, abs=0.01)


class TestDynamics:
    """A control is no cut that does most, and stands beside the cut whose control it is."""

    @pytest.fixture(scope="class")
    def history(self, shared):
        model = shared("bridge", "gpt2")
        cuts = {"cut": tlt.Cut(SITE, 0.5), "other": tlt.RandomSubspace(SITE, 0.0)}
        for seed in range(3):
            name = "random" if not seed else f"random #{seed + 1}"
            cuts[name] = tlt.RandomSubspace(SITE, 0.1, seed)
            cuts[name.replace("random", "norm")] = tlt.NormMatched(SITE, 0.5, seed)
        task = samples.pairs("Mary", "John", "Paris", "Rome")
        return tlt.dynamics(lambda step: model, [0], task, cuts, progress=False)

    def test_the_best_is_a_cut(self, history):
        table = history.frame.set_index("cut")["p_in_context_change"]
        assert table.drop("uncut").abs().idxmax() != "cut"
        answer = dynamics_answer(history)
        assert "; cut " in answer.sentence
        numbers = {each.name: each for each in answer.numbers}
        assert float(numbers["change by cut"].value) == pytest.approx(table["cut"], abs=5e-4)

    def test_its_control_is_its_own(self, history):
        """Neither the control of another amount nor that which moves most."""
        (control,) = (each for each in dynamics_answer(history).numbers if each.name == "its control")
        assert control.note == "norm, 3 draws"

    def test_without_controls_of_its_own(self, history):
        (told,) = history.histories.values()
        cuts = {name: cut for name, cut in told.made.items() if "norm" not in name}
        made = {**cuts, "norm": cuts["random"]}
        told = dataclasses.replace(told, made=made, given={})
        fewer = dataclasses.replace(history, histories={told.task.name: told})
        (control,) = (each for each in dynamics_answer(fewer).numbers if each.name == "its control")
        assert control.note == "none was scored"


def test_nothing_found_within_a_bound(shared):
    """Cuts that raised the objective and cost too much are no cuts that raised nothing."""
    model, names = shared("bridge", "gpt2"), ("Mary", "John", "Paris", "Rome")
    found = tlt.search(
        model, samples.pairs(*names), keeps=[0.5], splits=1, draws=1, texts=(), progress=False
    )
    bound = Bound(limit=1.0, ratio=1.0, refused=3, passages=4, apart=False)
    nothing = dataclasses.replace(
        found, cuts=(), test={task: each.baseline for task, each in found.test.items()}, bound=bound
    )
    reason = "within the bound on the cost: 3 that did raise the perplexity to more than 1 times"
    assert reason in str(nothing)
    assert f"by more than rounding {reason}, so nothing was cut" in search_page(nothing).answer.sentence


class TestWhatIsBest:
    """The best of changes that all rise, that all fall, and of which one is exactly none."""

    @pytest.fixture
    def model(self, shared):
        return shared("bridge", "gpt2")

    @staticmethod
    def swept(model, keeps, metric):
        task = samples.pairs("Mary", "John", "Paris", "Rome")
        return tlt.sweep(model, task, sites=[SITE], keeps=keeps, metrics=[metric], progress=False)

    @pytest.mark.parametrize("metric", ["rank", "p_in_context", "accuracy"])
    def test_one_that_stays_as_it_is(self, model, metric):
        """Beside cuts that make it worse it is the best, and no word that nothing moves."""
        sweep = self.swept(model, [0.0, 1.0], metric)
        column = f"{'answer_rank' if metric == 'rank' else metric}_change"
        changes = sweep.frame[column] * (-1 if metric == "rank" else 1)
        assert changes[1] == 0
        sentence, _ = answer_of(sweep)
        if changes[0] > 0:
            assert "No cut" not in sentence
        elif changes[0] < 0:
            assert "No cut betters" in sentence
            assert "the best, layer 1, W_out, all kept, leaves it as it is, with no" in sentence
        else:
            assert sentence.startswith("No cut moves")

    @pytest.mark.parametrize("metric", ["rank", "p_in_context"])
    def test_no_cut_moves_only_where_none_does(self, model, metric):
        sentence, _ = answer_of(self.swept(model, [1.0], metric))
        goal = dict(rank="rank", p_in_context="probability")[metric]
        still = f"No cut moves the {goal} of the in-context answer on pairs"
        assert sentence == f"{still}, with no control scored."
        both = [(tlt.Cut(SITE, 0.5), 3.0), (tlt.Cut(SITE, 1.0), 0.0)]
        made = made_sweep(both, "rank")
        still = dataclasses.replace(made.settings[1], outcomes=(outcome_of(made.baseline),))
        sentence, _ = answer_of(dataclasses.replace(made, settings=(made.settings[0], still)))
        assert sentence.startswith("No cut betters the rank of the in-context answer on ")
        assert "all kept, leaves it as it is, with no control scored; it was picked" in sentence

    @pytest.mark.parametrize(
        ("metric", "shifts", "mark"),
        [
            ("p_in_context", (0.1, -0.1, -0.1), "largest rise"),
            ("p_in_context", (-0.2, -0.1, -0.2), "smallest fall"),
            ("rank", (5.0, -50.0, 5.0), "largest fall"),
            ("rank", (50.0, 20.0, 50.0), "smallest rise"),
        ],
    )
    def test_the_frame_of_the_heatmap(self, metric, shifts, mark):
        sites = [f"blocks.{layer}.mlp.W_out" for layer in range(3)]
        sweep = made_sweep(
            [(tlt.Cut(site, 0.5), by) for site, by in zip(sites, shifts, strict=True)], metric
        )
        answer = sweep_page(sweep).answer
        assert f"frame: the {mark}" in str(answer.picture)
        framed = re.findall(r'aria-label="Best: ([^"]*)"', str(answer.picture))[0]
        best = sweep.frame.loc[
            sweep.frame["answer_rank_change"].idxmin()
            if metric == "rank"
            else sweep.frame["p_in_context_change"].idxmax()
        ]
        assert framed.startswith(f"layer {best['layer']}, W_out, 50% kept: ")

    @pytest.mark.parametrize(
        ("low", "high", "names"),
        [
            (-0.2, 0.1, ("largest predicted rise", "largest predicted fall")),
            (-0.2, -0.1, ("smallest predicted fall", "largest predicted fall")),
            (0.1, 0.2, ("largest predicted rise", "smallest predicted rise")),
            (-0.2, 0.0, ("highest predicted change", "largest predicted fall")),
        ],
    )
    def test_a_screen(self, model, low, high, names):
        task = samples.pairs("Mary", "John", "Paris", "Rome")
        screen = tlt.attribute(model, task, sites=[SITE], metric="p_in_context", progress=False)
        rows = [
            dict(site=SITE, layer=1, matrix="W_out", keep=keep, p_in_context_change=value)
            | dict(p_in_context_change_low=value - 0.01, p_in_context_change_high=value + 0.01)
            | dict(p_in_context_change_q=0.01)
            for keep, value in ((0.5, low), (0.9, high))
        ]
        answer = screen_answer(screen, pd.DataFrame(rows))
        told = {each.name: each.value for each in answer.numbers}
        assert (told[names[0]], told[names[1]]) == (f"{high:+.3f}", f"{low:+.3f}")
        assert f"frame: the {names[0].replace('predicted ', '')}" in str(answer.picture)

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (0.2, "mean raises p most, by +0.200 [+0.190, +0.210]"),
            (-0.2, "none raises p: the best, mean, lowers it by -0.200 [-0.210, -0.190]"),
            (0.0, "none raises p: the best, mean, leaves it as it is"),
        ],
    )
    def test_a_way(self, change, told):
        ends = dict(p_change=change, p_change_low=change - 0.01, p_change_high=change + 0.01)
        assert _most(pd.Series(ends, name="mean"), "p_change", "p") == told

    @pytest.mark.parametrize(
        ("over", "q", "change", "told"),
        [
            (-0.05, 0.001, 0.1, "but the same search among random cuts does better (difference -0.050"),
            (-0.05, 0.001, -0.1, "but the same search among random cuts does better (difference -0.0"),
            (0.05, 0.001, 0.1, "and +0.050 [+0.040, +0.060] beyond what the same search finds among"),
            (0.05, 0.001, -0.1, "and the same search among random cuts does worse (difference +0.050"),
            (-0.05, 0.2, 0.1, "but the same search among random cuts may find as much (difference -"),
            (0.0, 1.0, 0.1, "but the same search among random cuts may find as much (difference "),
            (0.05, float("nan"), 0.1, "with too few prompts to hold it against the same search"),
            (float("nan"), 0.1, 0.1, "with no search among random cuts beside it"),
        ],
    )
    def test_a_family_beside_its_null(self, over, q, change, told):
        row = dict(over_null=over, over_null_low=over - 0.01, over_null_high=over + 0.01)
        assert _against_null(
            pd.Series({**row, "over_null_q": q, "change": change}), "change"
        ).startswith(told)


def outcome_of(scores):
    """What the uncut model said, as the outcome of a cut that changes nothing."""
    frame = scores.frame
    logs = [tuple(np.log(frame[each])) for each in ("p_in_context", "p_global")]
    return Outcome(*logs, tuple(frame["rank"]))


class TestSeveralKindsOfCuts:
    """What is best is best among all kinds, for the page as for the result."""

    def test_the_best_is_the_results(self):
        removed, site = tlt.Ablated("blocks.0.mlp.W_in"), "blocks.0.mlp.W_out"
        cuts = [(tlt.Cut(site, 0.5), -0.1), (tlt.Cut(site, 0.9), -0.05), (removed, 0.05)]
        sweep = made_sweep([*cuts, *draws(tlt.RandomSubspace, 0.2, 0.001)])
        assert sweep.best("p_in_context").cut == removed
        sentence, numbers = answer_of(sweep)
        assert "Cutting layer 0, W_in, nothing kept (ablated) raises" in sentence
        assert numbers["q"].note == "among 1 cut of its kind"
        words = str(sweep_page(sweep).sections[0].before)
        assert re.search(r"rises most, by \S+ \[.*?\] at layer 0, W_in, nothing kept \(ablated\)", words)
        assert "of 3 changes are clear" in words

    def test_a_grid_of_one_kind_has_its_q_among_all(self):
        sweep = made_sweep([(tlt.Cut(SITE, 0.5), 0.1), (tlt.Cut(SITE, 0.9), 0.05)])
        assert answer_of(sweep)[1]["q"].note == "among 2 cuts"


class TestWhatElseDiffers:
    def test_cuts_around_one_run(self, shared):
        """Changes of a model that was cut already are not those of a whole one."""
        model, task = shared("bridge", "gpt2"), samples.pairs("Mary", "John", "Paris", "Rome")
        options = dict(sites=[SITE], keeps=[0.5], progress=False)
        whole = tlt.sweep(model, task, **options)
        runs = []
        for chosen in (tlt.Components((0, 1)), tlt.Components((2, 3))):
            with tlt.truncated(model, tlt.Cut("blocks.0.mlp.W_in", chosen)):
                runs.append(tlt.sweep(model, task, **options))
        told = "cut all along: layer 0, W_in, components 0, 1 kept on one side, nothing on the other"
        pair = pair_of([runs[0], whole], [None, None])
        assert told in pair.unlike
        assert told in pair_page(pair).answer.sentence
        (apart,) = pair_of(runs, [None, None]).unlike
        told = [f"layer 0, W_in, components {two} kept" for two in ("0, 1", "2, 3")]
        assert apart == f"cut all along: {told[0]} on one side, {told[1]} on the other"
        assert pair_of([runs[0], runs[0]], [None, None]).unlike == []

    def test_tasks_that_are_left_out(self, shared):
        model, task = shared("bridge", "gpt2"), samples.pairs("Mary", "John", "Paris", "Rome")
        tasks = [task, dataclasses.replace(task, name="others"), dataclasses.replace(task, name="more")]
        options = dict(sites=[SITE], keeps=[0.5], progress=False)
        several = tlt.sweep(model, tasks, **options)
        pair = pair_of([several, several], [None, None])
        told = "oth runs have also others and more, of which this page says nothing"
        page = pair_page(pair)
        assert f"; b{told}." in page.answer.sentence
        assert f"B{told}." in str(page.sections[0].before)
        alone = pair_page(pair_of([several, tlt.sweep(model, task, **options)], [None, None]))
        assert "says nothing" not in alone.answer.sentence


class TestWhatIsCalledUncut:
    """Inside a context the uncut model is a cut one, and pages and figures say so."""

    def test_it_is_said(self, shared):
        model, task = shared("bridge", "gpt2"), samples.pairs("Mary", "John", "Paris", "Rome")
        around, cut = tlt.Cut("blocks.0.mlp.W_in", 0.0), tlt.Cut(SITE, 0.5)
        quiet = dict(progress=False)
        with tlt.truncated(model, around):
            uncut = tlt.evaluate(model, task, **quiet)
            found = [
                tlt.evaluate(model, task, cut, **quiet),
                tlt.sweep(model, task, sites=[SITE], keeps=[0.0, 0.5], **quiet),
                tlt.attribute(model, task, **quiet),
                tlt.part_attribution(model, task, method="own_path", **quiet),
            ]
        told = "layer 0, W_in, nothing kept was cut all along"
        for result in found:
            assert told in _page_of(result).answer.sentence
            assert told in " ".join(result.plot().get_suptitle().split())
        searched = dict(sites=[SITE], keeps=[0.25, 0.5], splits=1, draws=2, texts=(), **quiet)
        with tlt.truncated(model, around):
            for objective in ("logit_diff", "p_in_context"):
                result = tlt.search(
                    model, task, objective=objective, max_perplexity_ratio=None, **searched
                )
                assert told in _page_of(result).answer.sentence
        assert "nothing was cut but layer 0, W_in, nothing kept" in _page_of(uncut).answer.sentence
        assert told in uncut.plot().get_suptitle()
        whole = tlt.evaluate(model, task, **quiet)
        assert "nothing was cut." in _page_of(whole).answer.sentence
        assert "all along" not in _page_of(tlt.evaluate(model, task, cut, **quiet)).answer.sentence


CELL = r'<g[^>]*data-setting[^>]*>.*?<rect[^>]*?x="([^"]+)"[^>]*?y="([^"]+)"'
PLACES = [
    [tlt.Cut(f"blocks.{layer}.mlp.W_out", keep) for layer in range(4) for keep in keeps]
    for keeps in (
        [tlt.LaserCompat(0.3, seed=0), tlt.LaserCompat(0.3, seed=1)],
        [tlt.Without([0]), tlt.Without([1])],
        [tlt.Components((0, 1)), tlt.Components((2, 3))],
        [0.123451, 0.123459],
    )
]


@pytest.mark.parametrize("cuts", PLACES, ids=lambda cuts: type(cuts[0].keep).__name__)
class TestEverySettingHasAPlaceAndAName:
    """Where labels are equal nothing hides another: on the first picture, in charts and in tables."""

    def settings(self, cuts):
        return made_sweep([(cut, 0.01 * place) for place, cut in enumerate(cuts)])

    def test_of_one_run(self, cuts):
        sweep = self.settings(cuts)
        page = sweep_page(sweep)
        names = [each["name"] for each in page.prompts[0]["settings"]]
        assert len(set(names)) == len(cuts)
        (wide, *_) = re.findall(r"<svg.*?</svg>", str(page.answer.picture), re.S)
        cells = re.findall(CELL, wide, re.S)
        assert len(cells) == len(set(cells)) == len(cuts)
        told = {html.unescape(each) for each in re.findall(r'data-setting="([^"]+)"', wide)}
        assert told == set(names)
        chart = heat_chart(sweep.shown.frame, ["ioi"], ["p_in_context"])
        drawn = [cell for panel in chart.panels for cell in panel["cells"]]
        assert len({tuple(cell[:2]) for cell in drawn}) == len(cuts)
        assert {cell[-1] for cell in drawn} == set(names)
        table = heat_table(heat_frame(sweep.shown.frame, "ioi"), "p_in_context", "x")
        assert len(re.findall(r'title="[+-]', str(table))) == len(cuts)

    def test_of_two(self, cuts):
        pair = pair_of([self.settings(cuts), self.settings(cuts[::-1])], ["one", "other"])
        (wide, *_) = re.findall(r"<svg.*?</svg>", str(pair_page(pair).answer.picture), re.S)
        cells = re.findall(CELL, wide, re.S)
        assert len(cells) == len(set(cells)) == len(cuts)


def test_strengths_and_kinds_of_two_runs_have_panels_of_their_own():
    cuts = [
        cut
        for layer in range(3)
        for site in [f"blocks.{layer}.mlp.W_out"]
        for cut in (tlt.Cut(site, 0.5), tlt.Cut(site, 0.5, strength=0.3), tlt.Ablated(site))
    ]
    runs = [made_sweep([(cut, sign * 0.1) for cut in cuts]) for sign in (1, -1)]
    (wide, *_) = re.findall(
        r"<svg.*?</svg>", str(pair_page(pair_of(runs, [None] * 2)).answer.picture), re.S
    )
    for told in ("W_out", "W_out, strength 0.3", "W_out, ablated"):
        assert f">{told}<" in wide


def test_what_is_no_control_is_not_drawn_as_one():
    cuts = [tlt.Cut(SITE, 0.1), tlt.Ablated(SITE), tlt.RandomSubspace(SITE, 0.1, seed=0)]
    sweep = made_sweep([(cut, 0.1) for cut in cuts])
    chart = rank_chart(sweep.shown.frame, sweep.shown.baselines, ["p_in_context"])
    controls = {each["name"]: each["control"] for each in chart.panels[0]["series"]}
    assert controls == {
        "layer 1, W_out": False,
        "layer 1, W_out (ablated)": False,
        "layer 1, W_out (random subspace)": True,
    }
    hollow = {
        each.get_label(): each.lines[0].get_markerfacecolor() == "none"
        for each in plots.ranks(sweep).axes[0].containers
    }
    assert [label for label, is_hollow in hollow.items() if not is_hollow] == [
        "1 W_out",
        "1 W_out (ablated)",
    ]
    assert sum(hollow.values()) == 1


@pytest.mark.parametrize("layers", [[0, 2], [2, 0], [1]])
def test_parts_of_some_layers(shared, layers):
    """The sentence is of the blocks that were asked, and each has its marks beside its row."""
    model, task = shared("bridge", "gpt2"), samples.pairs("Mary", "John", "Paris", "Rome")
    found = tlt.part_attribution(model, task, method="own_path", layers=layers, progress=False)
    own = found.frame[(found.frame["part"] == "global") & (found.frame["answer"] == "global")]
    most = own.loc[own["logits"].idxmax(), "layer"]
    blocks = f"{len(layers)} block{'' if len(layers) == 1 else 's'}"
    start = f"Of {blocks} looked at, the global part of block {most} adds most"
    assert _page_of(found).answer.sentence.startswith(start)
    left, right = found.plot().axes[:2]
    names = [label.get_text() for label in left.get_yticklabels()]
    low, high = right.get_ylim()
    for container in right.containers:
        (mark, *_) = container.lines
        assert [names[round(y)] for y in mark.get_ydata()] == [str(each) for each in found.layers]
        assert all(low < y < high for y in mark.get_ydata())


def test_too_few_are_called_what_they_are(shared):
    model = shared("bridge", "gpt2")
    task = samples.pairs("Mary", "John", "Paris", "Rome").subset(range(4))
    options = dict(sites=[SITE], keeps=[0.1], controls=["random_subspace", "norm_matched"], draws=3)
    sentence = _page_of(tlt.sweep(model, task, **options, progress=False)).answer.sentence
    assert (
        "too few draws or prompts to hold it against its random subspace and norm-matched controls"
        in sentence
    )
    effects = tlt.side_effects(
        model, tlt.Cut(SITE, 0.1), texts=["Mary gave a drink to John"] * 3, progress=False
    )
    assert "with too few passages to tell it from chance" in _page_of(effects).answer.sentence


def test_a_change_of_nothing_is_none(shared):
    model, task = shared("bridge", "gpt2"), samples.pairs("Mary", "John", "Paris", "Rome")
    for told in (
        _page_of(tlt.evaluate(model, task, tlt.Cut(SITE, 1.0), progress=False)).answer.sentence,
        _page_of(tlt.side_effects(model, tlt.Cut(SITE, 1.0), progress=False)).answer.sentence,
    ):
        assert re.search(r"leaves .* as it is|moves .* by less than 0\.001", told)
        assert "does not move" not in told


def test_single_heads_of_a_screen_are_drawn(shared):
    model, task = shared("bridge", "gpt2"), samples.pairs("Mary", "John", "Paris", "Rome")
    for sites, names in (
        ([SITE, "blocks.1.attn.W_O.2"], ["W_out", "W_O.2"]),
        (["blocks.1.attn.W_O.2"], ["W_O.2"]),
    ):
        screen = tlt.attribute(model, task, sites=sites, progress=False)
        axes = [axis for axis in screen.plot().axes if axis.get_title()]
        assert [axis.get_title() for axis in axes] == names
        for axis, site in zip(axes, sites):
            own = screen.frame[screen.frame["site"] == site]["effect"].sum()
            assert np.nansum(axis.images[0].get_array()) == pytest.approx(float(own))


def test_rounding_has_no_colour():
    assert scale_end([1e-8, -2e-8]) >= 1e-4
    assert scale_end([0.5, -0.5]) == 0.5


def test_amounts_of_layers_are_told_apart(shared):
    model, task = shared("bridge", "gpt2"), samples.pairs("Mary", "John", "Paris", "Rome")
    sites = ["blocks.1.mlp.W_out", "blocks.2.mlp.W_out", "blocks.1.mlp.W_in"]
    sweep = tlt.sweep(model, task, sites=sites, keeps=[1, 1.0], progress=False)
    drawn = {
        each.get_label(): each.lines[0].get_ydata().tolist()
        for each in plots.layer_effects(sweep.frame, sweep.baselines).axes[0].containers
    }
    for (matrix, keep), own in sweep.frame.groupby(["matrix", sweep.frame["keep"].map(repr)]):
        told = {"1": "rank 1 kept", "1.0": "all kept"}[keep]
        assert drawn[f"{matrix}, {told}"] == pytest.approx(own["p_in_context_change"].tolist())
    assert len(drawn) == 4
