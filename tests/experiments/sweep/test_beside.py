"""Controls of a sweep's further cuts, and what is said of cuts and of the controls beside them."""

import re
from dataclasses import replace

import pytest
import torch
from architectures import with_tokenizer
from samples import PAIRS

import tl_truncate as tlt
from tl_truncate.experiments.sweep.grid import make_grid
from tl_truncate.experiments.sweep.view import sweep_words
from tl_truncate.report.answers.sweep import sweep_answer

SITE, OTHER = "blocks.1.mlp.W_out", "blocks.0.mlp.W_in"
BOTH = ("random_subspace", "norm_matched")
OPTIONS = dict(prepend_bos=False, progress=False)


@pytest.fixture(scope="module")
def model(shared):
    return with_tokenizer(shared("bridge", "gpt2", torch.float64))


@pytest.fixture(scope="module")
def moments(model):
    corpus = torch.randint(3, 90, (14, 9), generator=torch.Generator().manual_seed(1))
    return tlt.OutputMoments.fit(model, corpus, sites=[SITE])


class TestFurtherCuts:
    """`controls=` is for them too."""

    @pytest.mark.parametrize("first", ["cuts", "controls"])
    def test_as_if_they_had_been_given(self, model, moments, first):
        cuts = [
            tlt.Cut(SITE, 0.25),
            tlt.Cut(SITE, 0.25, strength=0.5),
            tlt.Cut(SITE, 1.0),
            tlt.Clustered(SITE, 4, 0.25),
            tlt.OutputPCA(SITE, moments, 5),
            tlt.RandomSubspace(SITE, 0.25, 1),
        ]
        given = cuts if first == "cuts" else cuts[::-1]
        asked = tlt.sweep(model, PAIRS, cuts=given, controls=BOTH, draws=3, seed=1, **OPTIONS)
        grid = [*cuts]
        for cut in (cuts[0], cuts[1], cuts[3], cuts[4]):
            for kind in ("RandomSubspace", "NormMatched"):
                grid += [each for s in (1, 2, 3) if (each := cut.controls(s)[kind]) not in grid]
        by_hand = tlt.sweep(model, PAIRS, cuts=grid, **OPTIONS)
        assert sorted(map(repr, asked.grid)) == sorted(map(repr, by_hand.grid))
        keys = ["site", "keep", "strength", "control", "metric"]
        found, expected = (
            each.beside_controls.astype({"keep": str}).sort_values(keys) for each in (asked, by_hand)
        )
        assert found[keys].values.tolist() == expected[keys].values.tolist()
        assert len(found) == 4 * 2 * len(asked.metrics)
        for column in ("change", "control_change", "difference", "q"):
            assert found[column].tolist() == pytest.approx(expected[column].tolist(), nan_ok=True)
        assert "No controls were scored" not in " ".join(sweep_words(asked.shown))

    def test_how_many_draws(self, model):
        cuts = [tlt.Cut(SITE, 0.25), tlt.Cut(SITE, 0.5)]
        assert len(make_grid(model, None, (), BOTH, 0, cuts)) == 2 + 2 * 2 * 16
        cuts += [tlt.Cut(OTHER, 0.5)]
        assert len(make_grid(model, None, (), BOTH, 0, cuts)) == 3 + 3 * 2 * 4
        assert len(make_grid(model, [SITE], (0.25,), BOTH, 0, cuts[2:], 2)) == 2 + 2 * 2 * 2

    def test_those_that_no_cut_has_are_refused(self, model):
        corpus = torch.randint(3, 90, (14, 9), generator=torch.Generator().manual_seed(1))
        means = tlt.TokenMeans.fit(model, corpus, layers=[1])
        removal = tlt.GlobalRemoval(1, means=means)
        message = "some cut of the sweep has them, got 'random_subspace'; these have ExchangedTokens"
        with pytest.raises(ValueError, match=message):
            tlt.sweep(model, PAIRS, cuts=[removal], controls=BOTH, **OPTIONS)
        with pytest.raises(ValueError, match="got 'norm_matched'; these have RandomSubspace"):
            make_grid(model, None, (), BOTH, 0, [tlt.GlobalDirection(SITE, means, int(corpus[0, 1]))])
        control = tlt.RandomSubspace(SITE, 4)
        with pytest.raises(ValueError, match="these have none"):
            make_grid(model, None, (), BOTH, 0, [control])
        # One that has some is enough, and the removal's own are given as cuts.
        direction = tlt.GlobalDirection(SITE, means, int(corpus[0, 1]))
        grid = make_grid(model, None, (), ("random_subspace",), 0, [removal, direction], 1)
        assert [cut.kind for cut in grid] == ["GlobalRemoval", "GlobalDirection", "RandomSubspace"]
        with pytest.raises(ValueError, match="must be given once"):
            make_grid(model, None, (), BOTH, 0, [tlt.Cut(SITE, 4), tlt.Cut(SITE, 4)])

    def test_exchanged_tokens_are_a_control(self, model):
        """Its draws share a row, no answer is picked among them, and the cut stands beside them."""
        corpus = torch.randint(3, 90, (14, 9), generator=torch.Generator().manual_seed(1))
        cut = tlt.GlobalRemoval(1, means=tlt.TokenMeans.fit(model, corpus, layers=[1]))
        draws = [cut.controls(seed)["ExchangedTokens"] for seed in range(4)]
        result = tlt.sweep(model, PAIRS, cuts=[cut, *draws], **OPTIONS)
        assert result.frame[["kind", "draws"]].values.tolist() == [
            ["GlobalRemoval", 1],
            ["ExchangedTokens", 4],
        ]
        assert result.best("logit_diff").cut == cut
        assert result.best("logit_diff", smallest=True).cut == cut
        row = result.beside_controls.set_index("metric").loc["logit_diff"]
        changes = [float(result.scores_of(each).change("logit_diff")) for each in draws]
        assert row["control"] == "ExchangedTokens"
        assert row["control_change"] == pytest.approx(sum(changes) / 4)


def told(answer) -> str:
    return f"{answer.sentence} {' '.join(f'{each.name} {each.value} {each.note}' for each in answer.numbers)}"


class TestWords:
    """A page says the kind of each control, and of two alike cuts the controls of the one it names."""

    @pytest.fixture(scope="class")
    def clustered(self, model):
        cuts = [tlt.Clustered(SITE, 4, 0.25, seed=seed) for seed in (0, 1)]
        return tlt.sweep(model, PAIRS, cuts=cuts, controls=BOTH, draws=6, **OPTIONS)

    def test_both_kinds_in_groups(self, clustered):
        shown = clustered.shown
        assert set(clustered.frame["kind"]) == {"Clustered", "RandomSubspace", "NormMatched"}
        assert set(shown.controls) == {"RandomSubspace", "NormMatched"}
        answer = told(sweep_answer(shown, "p_in_context"))
        assert "drawn in groups" not in answer
        words = " ".join(sweep_words(shown))
        assert "drawn in groups" not in words
        best = clustered.best("p_in_context").cut
        for kind, name in (("RandomSubspace", "random subspace"), ("NormMatched", "norm-matched")):
            draws = [best.controls(seed)[kind] for seed in range(6)]
            mean = sum(float(clustered.scores_of(each).change("p_in_context")) for each in draws) / 6
            assert f"{name} {mean:+.3f} (6 draws" in words

    @pytest.mark.parametrize(
        ("random", "norm", "expected"),
        [
            ("more", "more", r"and more than its controls \(random subspace, norm-matched\)"),
            ("alike", "more", "but a random subspace control may do as much"),
            ("more", "alike", "but a norm-matched control may do as much"),
        ],
    )
    def test_each_verdict_counts(self, clustered, random, norm, expected):
        shown = clustered.shown
        beside, frame = shown.beside.copy(), shown.frame.copy()
        up = frame["kind"] == "Clustered"
        frame.loc[up, "p_in_context_change"] = frame.loc[up, "p_in_context_change"].abs() + 0.1
        beside["verdict"] = beside["control"].map({"RandomSubspace": random, "NormMatched": norm})
        answer = sweep_answer(replace(shown, beside=beside, frame=frame), "p_in_context")
        assert re.search(expected, answer.sentence)

    @pytest.mark.parametrize(
        ("shift", "expected"),
        [
            (
                0.5,
                "Beside the largest rise of the probability of the in-context answer among cuts that have some, +0.500 at",
            ),
            (
                -0.5,
                "No cut that has some raises the probability of the in-context answer: beside the smallest fall, -0.500",
            ),
            (
                0.0,
                "the probability of the in-context answer: beside one that leaves it as it is, +0.000 at",
            ),
        ],
    )
    def test_a_fall_is_no_rise(self, clustered, shift, expected):
        beside = clustered.shown.beside.assign(change=shift)
        words = " ".join(sweep_words(replace(clustered.shown, beside=beside)))
        assert expected in words
        assert ("largest rise" in words) == (shift > 0)

    def test_controls_of_a_fit_are_found(self, model, moments):
        cut = tlt.OutputPCA(SITE, moments, keep=2)
        draws = [cut.controls(seed)["RandomSubspace"] for seed in range(6)]
        result = tlt.sweep(model, PAIRS, cuts=[cut, *draws], **OPTIONS)
        mean = sum(float(result.scores_of(each).change("p_in_context")) for each in draws) / 6
        answer = told(sweep_answer(result.shown, "p_in_context"))
        assert "with no control scored" not in answer
        assert f"its control {mean:+.3f} random subspace, 6 draws" in answer
        assert "(output PCA)" in " ".join(sweep_words(result.shown))

    def test_rows_of_several_tasks(self, model):
        other = replace(PAIRS.subset(range(4)), name="fewer")
        result = tlt.sweep(
            model, [PAIRS, other], sites=[SITE, OTHER], keeps=[0.0, 0.5], controls=BOTH, **OPTIONS
        )
        table, frame = result.beside_controls, result.frame
        assert len(table) == 2 * 2 * 2 * len(result.metrics)
        for _, row in table.iterrows():
            own = frame.loc[row["row"]]
            assert own[["task", "site", "keep", "kind"]].tolist() == [
                *row[["task", "site", "keep"]],
                "Cut",
            ]
            assert own[f"{row['metric']}_change"] == pytest.approx(row["change"])
