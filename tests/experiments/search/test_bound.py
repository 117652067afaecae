"""The bound on what a choice may cost: against brute force, and where the best cut breaks the model."""

import itertools
import json
import math
from html import escape

import pytest
import torch
from architectures import word_tokenizer
from planted import planted as planted_model

import tl_truncate as tlt
from tl_truncate.experiments.scoring.running_text import mean_loss
from tl_truncate.experiments.search.bound import divided_texts
from tl_truncate.experiments.search.judge import split_task
from tl_truncate.runs.codec import plain, read

NAMES = ["Mary", "John", "Paris", "London", "Rome", "France", "Italy"]
KEEPS = [0.0, 0.2, 0.5]
SITES = ["blocks.0.mlp.W_out", "blocks.1.mlp.W_in", "blocks.2.mlp.W_out"]
TEXTS = [
    "the store in Paris is in France",
    "Mary went to the store in London",
    "When Mary went to London , John went to Rome .",
    "the store gave a drink to John",
]
CHOOSES, REPORTS = TEXTS[::2], TEXTS[1::2]
GRID = [tlt.Cut(site, keep) for site in SITES for keep in KEEPS]


def pairs_task() -> tlt.Task:
    pairs = list(itertools.permutations(NAMES, 2))[:36]
    prompts = [f"When {a} and {b} went to the store , {a} gave a drink to" for a, b in pairs]
    return tlt.Task("pairs", prompts, [f" {b}" for _, b in pairs], " the")


def options(**changed):
    usual = dict(sites=SITES, keeps=KEEPS, texts=TEXTS, splits=1, draws=1, progress=False)
    return {**usual, **changed}


def ratio(model, cuts, texts) -> float:
    found = tlt.side_effects(model, cuts, texts, progress=False)
    return float(found.perplexity) / float(found.uncut_perplexity)


@pytest.fixture
def model(shared):
    return shared("bridge", "neox-parallel")


@pytest.fixture
def split():
    return split_task(pairs_task(), test_fraction=0.5, seed=0)


def brute_force(model, validation, texts, limit, grid=GRID):
    """The best of all cuts that keep the bound, by plain calls; None if none of these helps."""
    gains = {cut: float(tlt.evaluate(model, validation, cut, progress=False).change("p_in_context"))
             for cut in grid}  # fmt: skip
    allowed = [cut for cut in grid if gains[cut] > 1e-7 and ratio(model, cut, texts) <= limit]
    return max(allowed, key=gains.get, default=None), gains


def own_texts(model):
    """What the model itself says, word by word, after some beginnings."""
    found = []
    for start in ("Mary", "the store in", "When John", "Paris is"):
        tokens = model.tokenizer(start, add_special_tokens=False)["input_ids"]
        for _ in range(8):
            tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
        found.append(model.tokenizer.decode(tokens))
    return found


def limits(model, texts=CHOOSES):
    """Bounds between the costs of all cuts, so that each lets through one more."""
    ratios = sorted(ratio(model, cut, texts) for cut in GRID)
    return [max(1.0, (one + other) / 2) for one, other in itertools.pairwise(ratios)]


class TestAgainstBruteForce:
    def test_the_published_search_under_every_bound(self, model, split):
        chosen = set()
        texts = own_texts(model)  # which any cut makes worse
        for limit in (1.0, *limits(model, texts[::2])[::3], 1e9):
            found = tlt.search(
                model, pairs_task(), method="laser", **options(texts=texts, max_perplexity_ratio=limit)
            )
            best, gains = brute_force(model, split.validation, texts[::2], limit)
            assert found.cuts == (() if best is None else (best,))
            better = [cut for cut in GRID if gains[cut] > (0.0 if best is None else gains[best])]
            assert found.bound.refused == len([cut for cut in better if gains[cut] > 1e-7])
            chosen.add(found.cuts)
        assert len(chosen) >= 2  # the bound decides

    def test_by_default(self, model, split):
        """The probability of the answer, and a tenth more perplexity."""
        found = tlt.search(model, pairs_task(), method="laser", **options())
        assert (found.objective, found.bound.limit) == ("p_in_context", 1.1)
        assert found.settings["max_perplexity_ratio"] == 1.1
        best, _ = brute_force(model, split.validation, CHOOSES, 1.1)
        assert found.cuts == (best,)

    def test_halving_does_not_stop_at_those_that_break_the_bound(self, model, split):
        """A quarter of the cuts comes to the last look. If all of it is too dear, the next one does."""
        for limit in sorted({*limits(model)})[:4]:
            found = tlt.search(model, pairs_task(), **options(max_perplexity_ratio=limit))
            best, gains = brute_force(model, split.validation, CHOOSES, limit)
            assert bool(found.cuts) == (best is not None)
            if found.cuts:
                assert ratio(model, found.cuts, CHOOSES) <= limit
                assert gains[found.cuts[0]] > 0

    def test_compositions_keep_it_together(self, model):
        for method, limit in itertools.product(("halving", "laser"), limits(model)[3:6]):
            found = tlt.search(
                model, pairs_task(), method=method, greedy=3, **options(max_perplexity_ratio=limit)
            )
            if found.cuts:
                assert found.bound.ratio == pytest.approx(ratio(model, found.cuts, CHOOSES), rel=1e-6)
            assert found.bound.ratio <= limit

    def test_none_turns_it_off(self, model, split):
        found = tlt.search(model, pairs_task(), method="laser", **options(max_perplexity_ratio=None))
        best, _ = brute_force(model, split.validation, CHOOSES, math.inf)
        assert found.cuts == (best,)
        assert found.bound is None
        assert found.cost.frame["text"].tolist() == TEXTS


class TestWhereTheBestBreaksTheModel:
    """Without the part that says ` the`, the name gains most, and text of ` the` is lost."""

    SITE = "blocks.2.mlp.W_out"
    TEXTS = (
        "the the the the the the the",
        "the the the the the",
        "the the the the",
        "the the the the the the",
    )

    @pytest.fixture
    def planted(self):
        tokenizer = word_tokenizer()
        mary, john, the = (
            tokenizer(text, add_special_tokens=False)["input_ids"][0]
            for text in (" Mary", " John", " the")
        )
        return planted_model("bridge", [mary, john], the)

    @pytest.fixture
    def task(self):
        prompts = [f"{place} gave a drink to" for place in ("When Mary", "When John", "Mary", "John",
                   "the store", "Mary and", "John and", "to Mary", "to John", "a store")]  # fmt: skip
        return tlt.Task("drinks", prompts, [" Mary", " John"] * 5, " the")

    def test_it_is_not_chosen(self, planted, task):
        cuts = [tlt.Cut(self.SITE, 0.0), tlt.Cut(self.SITE, tlt.Without((5, 11))),
                tlt.Cut(self.SITE, tlt.Without((11,)))]  # fmt: skip
        asked = dict(cuts=cuts, texts=self.TEXTS, splits=1, draws=1, prepend_bos=False, progress=False)
        free = tlt.search(planted, task, max_perplexity_ratio=None, **asked)
        assert ratio(planted, free.cuts, list(self.TEXTS)) > 1.1
        bounded = tlt.search(planted, task, **asked)
        assert bounded.cuts != free.cuts
        assert bounded.bound.refused >= 1
        assert bounded.bound.ratio <= 1.1


class TestWhatIsSaid:
    def test_the_cost_stands_beside_every_verdict(self, model, tmp_path):
        found = tlt.search(model, pairs_task(), run_dir=tmp_path, **options())
        before, after = found.cost.uncut_perplexity, found.cost.perplexity
        told = f"{found.verdict()}; perplexity {before:.1f} -> {after:.1f}, {after / before:.2f} times"
        assert told in str(found)
        row = found.summary().iloc[0]
        assert row["perplexity_ratio"] == pytest.approx(ratio(model, found.cuts, REPORTS))
        assert escape(found.cost_told) in found._repr_html_()
        again = tlt.SearchResult.load(tmp_path)
        assert again.bound == found.bound
        assert str(again) == str(found)
        assert json.loads(json.dumps(found.to_json()))["bound"]["limit"] == 1.1

    def test_text_that_chooses_does_not_report(self, model):
        found = tlt.search(model, pairs_task(), **options())
        assert found.cost.frame["text"].tolist() == REPORTS
        assert (found.bound.passages, found.bound.apart) == (2, True)
        assert found.bound.ratio == pytest.approx(ratio(model, found.cuts, CHOOSES), rel=1e-6)

    def test_what_breaks_the_bound_on_the_other_text_is_said(self, model):
        """The text of the choice is another's: nothing is hidden by it."""
        cut = next(cut for cut in GRID if ratio(model, cut, REPORTS) > ratio(model, cut, CHOOSES) > 0)
        limit = max(1.0, (ratio(model, cut, REPORTS) + ratio(model, cut, CHOOSES)) / 2)
        asked = options(sites=None, cuts=[cut], max_perplexity_ratio=limit)
        found = tlt.search(model, pairs_task(), **asked)
        over = bool(found.cuts) and ratio(model, found.cuts, REPORTS) > limit
        assert ("over the bound" in found.cost_told) == over

    def test_one_passage_does_both_and_says_so(self, model):
        found = tlt.search(model, pairs_task(), **options(texts=TEXTS[:1]))
        assert found.cost.frame["text"].tolist() == TEXTS[:1]
        assert not found.bound.apart
        assert "the same text" in str(found.bound)

    def test_equal_passages_are_on_one_side(self, model):
        texts = divided_texts(model, [TEXTS[0]] * 5 + [TEXTS[1]], 1.1, None)
        assert (texts.bound, texts.report) == ((TEXTS[0],), (TEXTS[1],))

    def test_where_nothing_keeps_it_nothing_is_chosen(self, model):
        free = tlt.search(model, pairs_task(), **options(max_perplexity_ratio=None))
        texts = own_texts(model)
        dear = [cut for cut in GRID if ratio(model, cut, texts[::2]) > 1.0001]
        asked = dict(sites=None, cuts=dear, texts=texts, max_perplexity_ratio=1.0)
        found = tlt.search(model, pairs_task(), **options(**asked))
        assert free.cuts
        assert found.cuts == ()
        assert not found.survives
        assert found.bound.refused > 0
        assert "within the bound on the cost" in str(found)
        assert float(found.change()) == 0.0
        assert found.summary()["perplexity_ratio"].tolist() == [1.0]

    def test_without_texts_the_sample_decides(self, model):
        from tl_truncate.corpora.texts import sample_texts

        found = tlt.search(model, pairs_task(), **options(texts=()))
        assert found.cost is None
        passages = list(sample_texts())[::2]
        assert found.bound.ratio == pytest.approx(ratio(model, found.cuts, passages), rel=1e-5)
        assert f"perplexity {found.bound.ratio:.2f} times" in str(found)

    def test_the_null_is_chosen_under_the_same_bound(self, model):
        found = tlt.search(
            model, pairs_task(), null=True, **options(keeps=[0.2, 0.5], max_perplexity_ratio=1.0)
        )
        assert found.null.bound.limit == found.bound.limit == 1.0
        assert ratio(model, found.null.cuts, CHOOSES) <= 1.0 + 1e-6


class TestRefusals:
    @pytest.mark.parametrize("value", [0.9, 0, -1, "1.1", float("nan"), float("inf"), True])
    def test_no_bound(self, model, value):
        with pytest.raises(ValueError, match="max_perplexity_ratio must be a number from 1 up"):
            tlt.search(model, pairs_task(), **options(max_perplexity_ratio=value))

    def test_without_a_tokenizer(self, shared):
        task = tlt.tasks.induction(n=12, d_vocab=97, length=4)
        model = shared("bridge", "no-norm")
        asked = options(texts=(), prepend_bos=False)
        with pytest.raises(ValueError, match=r"without a tokenizer\. Give max_perplexity_ratio=None"):
            tlt.search(model, task, **asked)
        assert tlt.search(model, task, **asked, max_perplexity_ratio=None).bound is None

    def test_text_that_is_none(self, model):
        with pytest.raises(ValueError, match="at least one text of two tokens"):
            tlt.search(model, pairs_task(), **options(texts=["Mary"], prepend_bos=False))


class TestFolders:
    def test_another_bound_has_the_looks_in_common(self, model, tmp_path):
        """And the result is that of the bound that was asked for last."""
        for limit in (1.1, None, 1.0):
            asked = options(max_perplexity_ratio=limit)
            found = tlt.search(model, pairs_task(), run_dir=tmp_path, **asked)
            alone = tlt.search(model, pairs_task(), **asked)
            assert found.cuts == alone.cuts
            assert found.summary().equals(alone.summary())
            assert tlt.SearchResult.load(tmp_path).bound == alone.bound

    def test_a_folder_from_before_there_was_a_bound(self, model, tmp_path):
        """It goes on as it was asked, and with a bound it is another search."""
        before = dict(objective="logit_diff", max_perplexity_ratio=None)
        found = tlt.search(model, pairs_task(), run_dir=tmp_path, **options(**before))
        manifest = json.loads((tmp_path / "manifest.json").read_text())
        del manifest["max_perplexity_ratio"]
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        again = tlt.search(model, pairs_task(), run_dir=tmp_path, **options(**before))
        assert again.summary().equals(found.summary())
        with pytest.raises(ValueError, match="differs in: objective"):
            tlt.search(model, pairs_task(), run_dir=tmp_path, **options())
        bounded = options(objective="logit_diff", max_perplexity_ratio=1.0)
        other = tlt.search(model, pairs_task(), run_dir=tmp_path, **bounded)
        assert other.cuts == tlt.search(model, pairs_task(), **bounded).cuts


def test_the_mean_loss_is_that_of_side_effects(model):
    cut = tlt.Cut(SITES[0], 0.2)
    found = tlt.side_effects(model, cut, TEXTS, progress=False)
    assert mean_loss(model, tlt.Cuts(cut), TEXTS) == pytest.approx(math.log(found.perplexity), abs=1e-6)
    assert mean_loss(model, tlt.Cuts(), TEXTS) == pytest.approx(
        math.log(found.uncut_perplexity), abs=1e-6
    )


def test_texts_travel_to_workers(model):
    texts = divided_texts(model, TEXTS, 1.1, None)
    assert read(type(texts), json.loads(json.dumps(plain(texts)))) == texts
