"""Sites and keeps in words."""

import numpy as np
import pytest

import tl_truncate as tlt
from tl_truncate.weights.keep import Keep
from tl_truncate.weights.spoken import said_keep, said_site, short_keep, short_site

RULES = [
    tlt.Rank(3),
    tlt.Fraction(0.1),
    tlt.Energy(0.5),
    tlt.DropTop(1),
    tlt.DropTop(4),
    tlt.Band(2, 8),
    tlt.Band(2, 2),
    tlt.Components([1, 4]),
    tlt.Without([0]),
    tlt.LaserCompat(0.1, 3),
    tlt.MarchenkoPastur(),
    tlt.OptimalThreshold(),
    tlt.OutsideBulk(),
]


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_no_rule_shows_its_code(rule):
    for said in (said_keep(rule), short_keep(rule)):
        assert type(rule).__name__ not in said
        assert "=" not in said
        assert len(said) > 1


def test_every_rule_is_among_them():
    own = {kind for name, kind in Keep._rules.items() if kind.__module__.startswith("tl_truncate.")}
    assert {type(rule) for rule in RULES} == own


@pytest.mark.parametrize("rule", RULES[:7], ids=repr)
def test_what_a_table_shows_is_said_as_the_rule_is(rule):
    assert said_keep(rule.table_label) == said_keep(rule)
    assert short_keep(rule.table_label) == short_keep(rule)


def test_numbers_of_numpy_are_ranks_and_fractions():
    assert said_keep(np.int64(8)) == "rank 8 kept"
    assert said_keep(np.float64(0.25)) == "25% kept"


@pytest.mark.parametrize(
    "text", ["", "G(12)", "0.1 in 4 groups", "Rank(k=-1)", "PCA 0.1", "Energy(x=1)"]
)
def test_other_text_stays_as_it_is(text):
    assert said_keep(text) == short_keep(text) == text


@pytest.mark.parametrize("text", ["", "uncut", "blocks.1", "27 W_out"])
def test_what_is_no_site_stays_as_it_is(text):
    assert said_site(text) == short_site(text) == text
