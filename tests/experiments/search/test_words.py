"""What a search says of itself: of no more cuts than it looked at, and in the direction of the numbers."""

import dataclasses
import re

import pandas as pd
import pytest
import samples

import tl_truncate as tlt
from tl_truncate.experiments.search.judge import Judge
from tl_truncate.experiments.search.view import looked_at, search_words
from tl_truncate.report.answers.search import search_answer
from tl_truncate.statistics import Estimate

SITES = [f"blocks.{layer}.mlp.{matrix}" for layer in range(3) for matrix in ("W_in", "W_out")]
KEEPS = [0.0, 0.25, 0.5]
TASK = samples.pairs("Mary", "John", "Paris", "Rome", "London", "France")


def search(model, **options):
    usual = dict(sites=SITES, keeps=KEEPS, texts=(), max_perplexity_ratio=None)
    return tlt.search(model, TASK, **{**usual, **options}, splits=1, draws=1, progress=False)


def without_a_choice(found):
    """The same search, as if no cut had raised anything."""
    test = {task: each.baseline for task, each in found.test.items()}
    return dataclasses.replace(found, cuts=(), test=test, controls={})


def every_word(found):
    shown = found.shown
    return [str(found), search_words(shown)[0], search_answer(found, shown).sentence]


def figure(found, name):
    return {each.name: each for each in search_answer(found, found.shown).numbers}[name]


@pytest.fixture
def model(shared):
    return shared("bridge", "gpt2")


class TestNothingWasChosen:
    """Only the cuts of the last look were asked all prompts; of the others nothing is known there."""

    @pytest.fixture
    def asked(self, monkeypatch):
        """The cuts of each look, by how many prompts they were asked."""
        looks, look = {}, Judge.look

        def note(judge, around, additions, prompts, label):
            looks.setdefault(prompts, set()).update(additions)
            return look(judge, around, additions, prompts, label)

        monkeypatch.setattr(Judge, "look", note)
        return looks

    def test_by_halving(self, model, asked):
        found = without_a_choice(search(model))
        first, last = (len(asked[end]) for end in (min(asked), max(asked)))
        assert first == 18 > last
        for told in every_word(found):
            assert f"({last} of 18 settings) raised" in told
            assert "No cut that was looked at on all validation prompts of pairs" in told
        number = figure(found, "cuts looked at")
        assert (number.value, number.note) == (str(last), "of 18 settings, on all validation prompts")

    def test_within_a_budget(self, model, asked):
        found = without_a_choice(search(model, budget=4))
        first, last = (len(asked[end]) for end in (min(asked), max(asked)))
        assert 18 > first > last
        for told in every_word(found):
            assert f"({last} of {first} that were tried, of 18 settings) raised" in told

    @pytest.mark.parametrize("greedy", [1, 3])
    def test_of_all(self, model, asked, greedy):
        found = search(model, method="laser", greedy=greedy, keeps=[1.0])
        assert not found.cuts
        assert sum(map(len, asked.values())) == 6
        for told in every_word(found):
            assert told.startswith("No cut of 6 settings raised")
        assert figure(found, "cuts looked at").value == "6"

    def test_a_second_quarter_is_counted_too(self):
        looks = pd.DataFrame(dict(prompts=[8, 18, 18], candidates=[12, 3, 3]))
        assert (looked_at(looks).first, looked_at(looks).last) == (12, 6)

    def test_a_mask(self, model):
        """Of masks those were looked at that the learning came by, and they have a price."""
        found = tlt.learn_mask(
            model, TASK, sites=SITES[:1], budget=4, steps=2, texts=(), draws=1, progress=False
        )
        for told in every_word(without_a_choice(found)):
            assert "No mask of 32 components that was looked at raised" in told
            assert "by more than the price of its components" in told


@pytest.mark.parametrize("limit", [1.01, 1.02])
def test_more_than_what_was_chosen_means_more(model, monkeypatch, limit):
    """What an early step refused is held against what all steps came to, not against that step's own."""
    refused, pick = [], Judge.pick

    def note(judge, ranked, best):
        found = pick(judge, ranked, best)
        refused.extend(candidate.cuts for candidate in ranked[: found.refused])
        return found

    monkeypatch.setattr(Judge, "pick", note)
    sites = [str(site) for site in tlt.find_sites(model, ("W_in", "W_out", "W_O", "W_V"))]
    found = search(model, sites=sites, greedy=3, max_perplexity_ratio=limit)
    prompts = found.validation["pairs"].frame["prompt"]
    validation = TASK.subset([TASK.prompts.index(prompt) for prompt in prompts])
    gain, *others = (
        float(tlt.evaluate(model, validation, cuts, progress=False).change("p_in_context"))
        for cuts in (found.cuts, *refused)
    )
    assert found.bound.refused == sum(value > gain for value in others)
    assert found.bound.refused < len(others)


class TestBesideTheNull:
    """The difference to the null has a sign, and more is better."""

    @pytest.fixture(scope="class")
    def found(self, shared):
        return search(shared("bridge", "gpt2"), keeps=[0.0, 0.5], method="laser", null=True)

    @pytest.mark.parametrize(
        ("change", "over", "p", "told"),
        [
            (0.05, 0.04, 0.01, "and +0.040 [+0.030, +0.050] beyond what the same search finds among"),
            (0.05, -0.04, 0.01, "but the same search among random cuts does better (difference -0.040"),
            (0.05, 0.04, 0.6, "but the same search among random cuts may find as much (difference +0"),
            (-0.05, 0.04, 0.01, "and the same search among random cuts does worse (difference +0.040"),
            (-0.05, -0.04, 0.01, "but the same search among random cuts does better (difference -0."),
            (0.0, 0.0, 1.0, "but the same search among random cuts may find as much (difference "),
            (0.05, 0.04, float("nan"), "with too few prompts to hold it against the same search among"),
        ],
    )
    def test_every_direction(self, found, monkeypatch, change, over, p, told):
        kind = type(found)
        for name, value in (("change", change), ("over_null", over)):
            made = Estimate(value, low=value - 0.01, high=value + 0.01, se=0.01, n=15, p=p)
            monkeypatch.setattr(kind, name, lambda self, task=None, made=made: made)
        assert told in search_answer(found, found.shown).sentence
        text = str(found)
        assert f"the difference of the cuts to it: {over:+.3f}" in text
        assert "do more by" not in text

    def test_one_cut_is_one(self, found):
        assert len(found.cuts) == 1
        assert re.match("1 cut, chosen for p_in_context", str(found))
