"""Families of cuts side by side: the same budget, the searches that they say, and how much each takes."""

import math
from dataclasses import dataclass, field, replace

import architectures
import inplace
import numpy as np
import pandas as pd
import pytest
import torch

import tl_truncate as tlt
from tl_truncate import plots
from tl_truncate.decompose.covariances.removed import removed_share
from tl_truncate.experiments.comparison.chosen import size_of
from tl_truncate.experiments.comparison.families import as_many, last_token
from tl_truncate.experiments.search.judge import split_task
from tl_truncate.experiments.search.placebos import placebos_of
from tl_truncate.surgery.cut import SiteCut

SITES = [f"blocks.{layer}.mlp.{matrix}" for layer in (0, 1, 2) for matrix in ("W_in", "W_out")]
NAMES = ["Mary", "John", "Paris", "London", "Rome", "Italy"]
PAIRS = [(a, b) for a in NAMES for b in NAMES if a != b]
TASK = tlt.Task(
    name="gifts",
    prompts=[f"When {a} and {b} went to the store , {a} gave a drink to" for a, b in PAIRS],
    in_context=[f" {b}" for _, b in PAIRS],
    global_=" the",
)
WAYS = tlt.Ways(
    keeps=(0.1, 0.5),
    ks=(2,),
    noise=(tlt.OutsideBulk(),),
    groups=(2,),
    pca=True,
    masses=(0.5, 0.9),
    mask=4,
)
OPTIONS = dict(texts=["the store in Paris"], progress=False)


def numbers(model, rows: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, model.cfg.d_vocab, (rows, 12), generator=generator)


class Fitted:
    """What families need of a model."""

    def __init__(self, model):
        data = numbers(model)
        self.means = tlt.TokenMeans.fit(model, data, progress=False)
        self.moments = tlt.OutputMoments.fit(model, data, sites=SITES, progress=False)
        self.factors = tlt.CurvatureFactors.fit(model, data, sites=SITES, progress=False)


@pytest.fixture(scope="module")
def fitted(shared):
    return Fitted(shared("bridge", "gpt2"))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("runs") / "run"


@pytest.fixture(scope="module")
def found(shared, fitted, run_dir):
    return compared(shared("bridge", "gpt2"), fitted, run_dir=run_dir)


def compared(toy, fitted, **more):
    return tlt.compare_chosen(
        toy,
        TASK,
        fitted.means,
        moments=fitted.moments,
        factors=fitted.factors,
        ways=WAYS,
        settings=4,
        null=True,
        **OPTIONS,
        **more,
    )


class TestFamilies:
    """Each is the search that one would make by hand."""

    def test_all_stand_in_the_table(self, found):
        assert found.frame.index.tolist() == [
            "uncut",
            "LASER",
            "noise",
            "clustered",
            "PCA",
            "PCA complement",
            "curvature",
            "targeted",
            "direction",
            "global removal",
            "dropping",
            "learned",
        ]

    def test_each_is_its_search(self, toy, fitted, found):
        families = WAYS.families(
            toy,
            fitted.means,
            [0, 1, 2],
            last_token(toy, TASK),
            moments=fitted.moments,
            factors=fitted.factors,
        )
        for family, cuts in as_many(families, 4, 0).items():
            null = bool(placebos_of(toy, cuts, 0))
            alone = tlt.search(
                toy, TASK, cuts=cuts, splits=1, max_perplexity_ratio=None, null=null, **OPTIONS
            )
            assert alone.cuts == found.found[family].cuts
            assert float(alone.change()) == pytest.approx(float(found.found[family].change()), abs=1e-6)
            row = found.frame.loc[family]
            assert row["settings"] == len(cuts)
            assert len(cuts) == min(4, len(families[family]))
            if null:
                assert row["over_null"] == pytest.approx(float(alone.over_null()), abs=1e-6)
                assert row["null_change"] == pytest.approx(float(alone.null.change()), abs=1e-6)

    def test_what_is_learned_is_learned_as_by_hand(self, toy, found):
        alone = tlt.learn_mask(
            toy, TASK, sites=SITES, budget=4, steps=4, objective="p_in_context", null=True, **OPTIONS
        )
        assert alone.cuts == found.found["learned"].cuts
        assert found.sizes["learned"].settings == alone.steps

    def test_nothing_random_is_beside_what_keeps_nothing(self, found):
        """A null that is the cut itself is none."""
        assert found.found["dropping"].null is None
        assert math.isnan(found.frame.loc["dropping", "over_null"])

    def test_the_same_prompts_judge_all(self, found):
        tests = [set(result.test["gifts"].frame["prompt"]) for result in found.found.values()]
        assert all(each == tests[0] for each in tests)
        chosen = [set(result.validation["gifts"].frame["prompt"]) for result in found.found.values()]
        assert all(not each & tests[0] for each in chosen)

    def test_the_token_is_that_of_prompts_that_choose(self, toy, fitted, monkeypatch):
        """The others have no say in it, though most prompts of all may end in another."""
        seen = []
        monkeypatch.setattr(
            "tl_truncate.experiments.comparison.chosen.last_token",
            lambda model, task, **more: seen.append(task.prompts) or last_token(model, task, **more),
        )
        tlt.compare_chosen(toy, TASK, fitted.means, ways=tlt.Ways(keeps=(0.5,), ks=(2,)), **OPTIONS)
        assert seen == [split_task(TASK, test_fraction=0.5, seed=0).validation.prompts]

    @pytest.mark.parametrize(
        ("cut", "kept"),
        [
            (tlt.Cut("blocks.1.mlp.W_in", 8), 0.25),
            (tlt.Clustered("blocks.1.mlp.W_in", [i // 16 for i in range(48)], 0.9), 1.0),
            (tlt.Ablated("blocks.1.mlp.W_out"), 0.0),
        ],
    )
    def test_what_is_left_is_a_share_of_the_full_rank(self, toy, fitted, cut, kept):
        task = tlt.Task(TASK.name, TASK.prompts, TASK.in_context, TASK.global_)
        result = tlt.search(toy, task, cuts=[cut], splits=1, max_perplexity_ratio=None, **OPTIONS)
        chosen = replace(result, cuts=tlt.Cuts(cut))
        size = size_of(toy, chosen, 1, fitted.moments, None, 0.0)
        assert size.kept == kept
        with inplace.edited(toy, (str(cut.site), lambda matrix: edited(toy, cut, matrix))):
            weight = inplace.read(toy, 1, cut.site.matrix)
            assert np.linalg.matrix_rank(weight, rtol=1e-4) == kept * 32

    def test_it_goes_on_and_comes_back(self, toy, fitted, found, run_dir, tmp_path):
        again = compared(toy, fitted, run_dir=run_dir)
        assert again.frame.equals(found.frame)
        assert (run_dir / "table.csv").exists()
        kept = tlt.ChosenComparison.load(run_dir / "result.json")
        assert kept.frame.equals(found.frame)
        found.save(tmp_path / "found.json")
        back = tlt.ChosenComparison.load(tmp_path / "found.json")
        assert back.frame["settings"].tolist()[1:] == found.frame["settings"].tolist()[1:]
        assert back.frame.equals(found.frame)

    def test_a_folder_of_another_result_is_refused_before_any_search(self, toy, fitted, tmp_path):
        tlt.evaluate(toy, TASK, progress=False).save_into(tmp_path / "run")
        before = sorted((tmp_path / "run").iterdir())
        with pytest.raises(ValueError, match="must be new, or hold a ChosenComparison"):
            compared(toy, fitted, run_dir=tmp_path / "run")
        assert sorted((tmp_path / "run").iterdir()) == before

    def test_results_that_do_not_say_their_weights_go_by_the_models_name(self, found):
        def told(model):
            searches = {}
            for family, each in found.found.items():
                scores = each.test[TASK.name]
                record = replace(scores.record, weights_hash="unknown", model=model)
                searches[family] = replace(each, test={TASK.name: replace(scores, record=record)})
            return replace(found, found=searches)

        assert plots.families([told("one"), told("one")]).axes
        with pytest.raises(ValueError, match="one model with the same weights"):
            plots.families([told("one"), told("other")])

    def test_controls_are_drawn_as_often_as_asked(self, toy, fitted, found):
        few = compared(toy, fitted, draws=2)
        for family, result in few.found.items():
            for kind, by_task in result.controls.items():
                drawn = by_task[TASK.name]
                others = found.found[family].controls[kind][TASK.name]
                assert len(drawn.draws) == min(2, len(others.draws))
                one, other = (each.draws[0] for each in (drawn, others))
                assert one.record == other.record
                # Fewer draws share a call, so that beginnings may be shared otherwise: float32's rounding.
                pd.testing.assert_frame_equal(one.frame, other.frame, rtol=0, atol=1e-6)
        with pytest.raises(ValueError, match="draws must be"):
            compared(toy, fitted, draws=0)

    def test_the_figure_shows_the_tables_numbers(self, found):
        other = tlt.ChosenComparison("gifts", dict(list(found.found.items())[:3]), found.sizes)
        figure = plots.families([found, other])
        first, second, cost = figure.axes
        families = found.frame.index[1:].tolist()
        assert [label.get_text() for label in first.get_yticklabels()] == families
        dots, crosses = (line.get_xdata() for line in first.lines[:2])
        changes = found.frame["p_in_context_change"][1:].fillna(0)
        assert np.allclose(np.asarray(dots, float), changes)
        nulls = found.frame["null_change"][1:]
        assert np.allclose(np.asarray(crosses, float), nulls, equal_nan=True)
        assert np.isnan(np.asarray(second.lines[1].get_xdata(), float)[3:]).all()
        losses = np.asarray(cost.lines[0].get_xdata(), float)
        assert np.allclose(losses, found.frame["loss_change"][1:], equal_nan=True)
        with pytest.raises(ValueError, match="one or more with the same objective, got none"):
            plots.families([])

    @pytest.mark.parametrize(
        ("missing", "wording"), [("moments", "OutputPCA"), ("factors", "Curvature")]
    )
    def test_what_a_family_needs_is_asked_for_before_work(self, toy, fitted, missing, wording):
        given = {"moments": fitted.moments, "factors": fitted.factors}
        given[missing] = None
        with pytest.raises(ValueError, match=rf"{wording}.* must have {missing}, got none.*fit\(model"):
            tlt.compare_chosen(toy, TASK, fitted.means, ways=WAYS, **given, **OPTIONS)


@pytest.mark.parametrize(
    ("ways", "objective", "wording"),
    [
        (tlt.Ways(keeps=(0.5,), mask=4), "accuracy", "no gradient"),
        (tlt.Ways(keeps=(0.5,), mask=10**6), "p_in_context", "budget must be at most"),
        (tlt.Ways(keeps=(0.5,), pca=True), "p_in_context", "data must say which directions"),
    ],
)
def test_what_a_family_refuses_comes_before_any_search(toy, fitted, tmp_path, ways, objective, wording):
    few = tlt.OutputMoments.fit(toy, numbers(toy, 1)[:, :5], sites=SITES, progress=False)
    options = dict(OPTIONS, ways=ways, objective=objective, moments=few, run_dir=tmp_path / "run")
    with pytest.raises(ValueError, match=wording):
        tlt.compare_chosen(toy, TASK, fitted.means, **options)
    assert not (tmp_path / "run" / "LASER").exists()


def test_a_null_has_as_much_to_choose_from(toy):
    """Cuts of equal rank at one site get draws of their own; what keeps nothing is there once."""
    site = "blocks.1.mlp.W_out"
    cuts = [
        tlt.Cut(site, 4),
        tlt.Cut(site, tlt.Without(range(4, 32))),
        tlt.Cut(site, 0),
        tlt.Ablated(site),
    ]
    found = placebos_of(toy, cuts, 3)
    assert found[:2] == [
        tlt.RandomSubspace(site, 4, 3),
        tlt.RandomSubspace(site, tlt.Without(range(4, 32)), 3),
    ]
    same = placebos_of(toy, [tlt.Cut(site, 4), tlt.Cut(site, tlt.Rank(4)), tlt.Cut(site, 4)], 3)
    assert same == [tlt.RandomSubspace(site, 4, seed) for seed in (3, 4, 5)]
    assert placebos_of(toy, [tlt.Cut(site, 0), tlt.Cut(site, 1.0)], 3) == []
    assert placebos_of(toy, [Unseeded(site), Unseeded(site)], 3) == [tlt.RandomSubspace(site, 4, 0)]


@dataclass(frozen=True, repr=False)
class Unseeded(SiteCut):
    """A user's own kind, with a list in it and a control that goes by no seed."""

    names: list = field(default_factory=list)

    def edit(self, model):
        return tlt.Ablated(self.site).edit(model)

    def controls(self, seed):
        return {"RandomSubspace": tlt.RandomSubspace(self.site, 4, 0)}


def test_a_kind_of_the_users_own_can_be_searched(toy):
    """Also one that has no hash."""
    site = "blocks.1.mlp.W_out"
    options = dict(OPTIONS, splits=2, max_perplexity_ratio=None)
    found = tlt.search(toy, TASK, cuts=[Unseeded(site)], null=True, **options)
    plain = tlt.search(toy, TASK, cuts=[tlt.Ablated(site)], **options)
    assert float(found.change()) == float(plain.change())
    assert len(found.cuts) == len(plain.cuts) == 1


class TestRemovedShare:
    """Against the outputs of the model, cut and uncut, on the data of the moments."""

    @pytest.mark.parametrize(("kind", "name"), architectures.CASES)
    def test_it_is_what_a_pass_loses(self, shared, kind, name):
        model = shared(kind, name, torch.float64)
        data = numbers(model, 10)
        site = "blocks.1.mlp.W_out"
        moments = tlt.OutputMoments.fit(model, data, sites=[site], progress=False)
        cuts = [
            tlt.Cut(site, 0.3),
            tlt.Cut(site, 0.8, strength=-0.5),
            tlt.OutputPCA(site, moments, 5),
            tlt.OutputPCA(site, moments, drop=3, strength=0.5),
            tlt.Clustered(site, 3, 0.2),
            tlt.NormMatched(site, 8, seed=1),
            tlt.Ablated(site),
        ]
        for cut in cuts:
            assert removed_share(model, [cut], moments) == pytest.approx(
                lost(model, data, cut), rel=1e-5
            )
        # Its E[x^T x] is over the positions that have a next token, of whatever corpus.
        other = numbers(model, 30)[10:]
        factors = tlt.CurvatureFactors.fit(model, other, sites=[site], progress=False)
        for mass in (0.1, 0.5):
            cut = tlt.Curvature(site, factors, mass)
            assert math.isnan(removed_share(model, [cut], moments))
            own = lost(model, other, cut, slice(None, -1))
            assert removed_share(model, [cut], moments, factors) == pytest.approx(own, rel=1e-5)

    def test_of_several_sites(self, toy, fitted):
        cuts = [tlt.Cut("blocks.0.mlp.W_in", 3), tlt.Cut("blocks.2.mlp.W_out", 5)]
        one, other = (removed_share(toy, [cut], fitted.moments) for cut in cuts)
        traces = [float(fitted.moments.of(cut.site).trace()) for cut in cuts]
        expected = (one * traces[0] + other * traces[1]) / sum(traces)
        assert removed_share(toy, cuts, fitted.moments) == pytest.approx(expected)

    def test_what_is_not_known(self, toy, fitted):
        removal = tlt.GlobalRemoval(1, means=fitted.means)
        assert math.isnan(removed_share(toy, [removal], fitted.moments))
        assert math.isnan(removed_share(toy, [tlt.Cut("blocks.1.attn.W_O", 3)], fitted.moments))

    def test_other_weights_are_refused(self, toy, fitted):
        with (
            inplace.edited(toy, ("blocks.1.mlp.W_out", inplace.top(0.5))),
            pytest.raises(ValueError, match="must be of the weight"),
        ):
            removed_share(toy, [tlt.Cut("blocks.1.mlp.W_out", 3)], fitted.moments)


def edited(model, cut, matrix):
    edit = cut.edit(model).moved(torch.device("cpu"), torch.float64)
    return edit.of_weight(torch.from_numpy(matrix.copy()).double(), 1.0).numpy()


def written(model, data) -> torch.Tensor:
    """What W_out of block 1 writes, without its bias."""
    linear = tlt.weights.locate.locate(model, tlt.Site.parse("blocks.1.mlp.W_out"))
    with torch.no_grad():
        value = inplace.outputs(model, data)["blocks.1.hook_mlp_out"]
    bias = linear.bias()
    return value if bias is None else value - bias


def lost(model, data, cut, positions=slice(None)) -> float:
    uncut = written(model, data)[:, positions]
    with tlt.truncated(model, cut):
        left = written(model, data)[:, positions]
    return float((uncut - left).square().sum() / uncut.square().sum())
