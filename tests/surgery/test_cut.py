"""Cuts as values: compared, printed, stored."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tl_truncate as tlt

naturals = st.integers(0, 60)
units = st.floats(0, 1)
keeps = st.one_of(
    st.builds(tlt.Rank, naturals),
    st.builds(tlt.Fraction, units),
    st.builds(tlt.Energy, units),
    st.builds(tlt.DropTop, naturals),
    st.builds(lambda i, n: tlt.Band(i, i + n), naturals, naturals),
    st.builds(tlt.Components, st.sets(naturals)),
    st.just(tlt.MarchenkoPastur()),
    st.just(tlt.OptimalThreshold()),
    st.just(tlt.OutsideBulk()),
    st.builds(tlt.LaserCompat, units, naturals),
)
sites = st.one_of(
    st.builds(tlt.Site, naturals, st.sampled_from(("W_in", "W_gate", "W_out"))),
    st.builds(tlt.Site, naturals, st.sampled_from(("W_Q", "W_K", "W_V", "W_O")), st.none() | naturals),
    st.builds(tlt.Site, naturals, st.sampled_from(("QK", "OV")), naturals),
)
strengths = st.floats(-3, 3)


def exact(keep) -> bool:
    return not isinstance(keep, tlt.LaserCompat)


cuts = st.one_of(
    st.builds(tlt.Cut, sites, keeps, strength=strengths),
    st.builds(tlt.RandomSubspace, sites, keeps, naturals, strength=strengths),
    st.builds(tlt.NormMatched, sites, keeps, naturals, strength=strengths),
    st.builds(tlt.Ablated, sites, strength=strengths),
    st.builds(
        tlt.Clustered, sites, st.integers(1, 9), keeps.filter(exact), naturals, strength=strengths
    ),
)


@given(st.lists(cuts, max_size=4))
def test_json_round_trip(tmp_path_factory, chosen):
    path = tmp_path_factory.mktemp("cuts") / "cuts.json"
    tlt.Cuts(chosen).save(path)
    assert tlt.Cuts.load(path) == tuple(chosen)
    assert [each.name for each in path.parent.iterdir()] == ["cuts.json"], "no temporary file is left"
    json.loads(path.read_text())


@given(cuts)
def test_cuts_are_values(cut):
    same = type(cut).from_json(cut.to_json())
    assert same == cut
    assert hash(same) == hash(cut)
    assert repr(same) == repr(cut)
    assert str(cut.site) in repr(cut)
    with pytest.raises(AttributeError):
        cut.strength = 2.0


@given(cuts, cuts)
def test_cuts_flattens(first, second):
    assert tlt.Cuts(first, [second, (first,)]) == (first, second, first)


def test_numbers_are_rules():
    assert tlt.Cut("blocks.0.mlp.W_in", 3).keep == tlt.Rank(3)
    assert tlt.Cut("blocks.0.mlp.W_in", 0.1).keep == tlt.Fraction(0.1)
    assert tlt.Cut("blocks.0.mlp.W_in", 1).keep == tlt.Rank(1)
    assert tlt.Cut("blocks.0.mlp.W_in", 1.0).keep == tlt.Fraction(1.0)
    assert tlt.Cut(tlt.Site(0, "W_in"), tlt.Energy(0.9)).keep == tlt.Energy(0.9)
