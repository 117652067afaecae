"""Whose a control is: what the cut itself says, for every kind of cut that has some."""

import pytest
import torch
from architectures import with_tokenizer
from samples import PAIRS

import tl_truncate as tlt
from tl_truncate.experiments.scoring.drawn import are_draws, draws_together
from tl_truncate.surgery.controls import RotatedComponents, controls_of, is_control
from tl_truncate.surgery.counterparts import UnknownControlsWarning, control_kind, own_controls
from tl_truncate.surgery.cut import SiteCut
from tl_truncate.surgery.spoken import said_cut

SITE = "blocks.1.mlp.W_out"


@pytest.fixture(scope="module")
def cuts(shared):
    """Cuts of one site that look alike in twos: of other groups, fits, tokens or strengths."""
    model = shared("bridge", "gpt2")
    corpora = [
        torch.randint(3, 90, (14, 9), generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)
    ]
    moments = [tlt.OutputMoments.fit(model, corpus, sites=[SITE]) for corpus in corpora]
    factors = [tlt.CurvatureFactors.fit(model, corpus, sites=[SITE]) for corpus in corpora]
    means = [tlt.TokenMeans.fit(model, corpus, layers=[1]) for corpus in corpora]
    seen = [int(corpus[0, 1]) for corpus in corpora]
    return [
        *(tlt.Cut(SITE, keep) for keep in (8, 0.25, 24, tlt.Energy(0.7))),
        tlt.Cut(SITE, 8, strength=0.5),
        tlt.Ablated(SITE),
        *(tlt.Clustered(SITE, 4, 0.25, seed=seed) for seed in (0, 1)),
        *(tlt.OutputPCA(SITE, each, tlt.Energy(0.5)) for each in moments),
        *(tlt.OutputPCA(SITE, each, 5) for each in moments),
        *(tlt.Curvature(SITE, each, 0.9) for each in factors),
        *(tlt.GlobalDirection(SITE, each, token) for each, token in zip(means, seen, strict=True)),
        *(tlt.GlobalRemoval(1, means=each) for each in means),
        tlt.InContextRemoval(1, means=means[0]),
    ]


def test_each_control_is_that_of_the_cuts_that_give_it(cuts):
    """By brute force: all draws of all cuts beside one another."""
    for cut in cuts:
        assert not is_control(cut)
        for kind, control in cut.controls(7).items():
            assert is_control(control)
            assert control.kind == kind
            assert own_controls(control) == {}
            for other in cuts:
                gives = control in other.controls(7).values()
                assert control_kind([control], [other]) == (kind if gives else None), (control, other)


def test_alike_cuts_have_controls_of_their_own(cuts):
    """Two random subspaces of one rank may be both's; what is drawn in groups or on a fit is one's."""
    by_norm = [cut for cut in cuts if isinstance(cut, (tlt.OutputPCA, tlt.Curvature, tlt.Clustered))]
    for cut in by_norm:
        owners = [each for each in by_norm if control_kind([cut.controls(2)["NormMatched"]], [each])]
        assert owners == [cut]


def test_draws_are_one_control_as_cuts_and_as_json(cuts):
    for cut in cuts:
        for kind in cut.controls(0):
            draws = [cut.controls(seed)[kind] for seed in range(3)]
            assert draws_together([*draws, cut]) == [[0, 1, 2], [3]]
            first, second = ([each.to_json()] for each in draws[:2])
            assert are_draws(first, second)
            assert not are_draws(first, first)
            assert not are_draws(first, [cut.to_json()])


def test_cuts_made_together(shared, cuts):
    """As they are drawn, in any order, also where one is the cut itself or two are of one site."""
    model = shared("bridge", "gpt2")
    own = [tlt.Cut(SITE, 8), tlt.Ablated("blocks.0.mlp.W_in"), tlt.Cut(SITE, 24), cuts[6]]
    for kind, drawn in controls_of(model, own, seed=0, draws=3).items():
        for placebo in drawn:
            assert control_kind(placebo, own) == kind
            assert control_kind(placebo[::-1], own) == kind
            assert control_kind(placebo[:-1], own) is None
            assert control_kind([*placebo[:-1], own[-1].controls(0)["NormMatched"]], own) == (
                kind if kind == "NormMatched" else None
            )
    assert control_kind(own, own) is None
    assert control_kind([], own) is None


def test_turned_components_are_beside_the_cut_of_the_same_numbers():
    keep = tlt.Without([3, 8])
    turned = RotatedComponents(SITE, keep, 5)
    assert control_kind([turned], [tlt.Cut(SITE, keep)]) == "RotatedComponents"
    assert control_kind([turned], [tlt.Cut(SITE, tlt.Without([3]))]) is None


def test_a_fit_that_is_not_at_hand_is_said(cuts):
    lost = SiteCut.from_json(cuts[8].to_json())
    with pytest.warns(UnknownControlsWarning, match="OutputPCA.* must say what its controls are, but"):
        assert own_controls(lost) == {}


def test_in_words():
    cut = tlt.Clustered(SITE, 4, 0.25)
    said = [said_cut(control) for control in cut.controls(0).values()]
    assert [each.rpartition(" (")[2] for each in said] == ["random subspace)", "norm-matched)"]


def test_sweep_of_controls_beside_cuts_that_look_alike(shared, cuts):
    """What a table says of each cut is what its own draws say, one by one."""
    model = with_tokenizer(shared("bridge", "gpt2"))
    alike = cuts[6:14]
    drawn = {
        (place, kind): [cut.controls(seed)[kind] for seed in range(3)]
        for place, cut in enumerate(alike)
        for kind in cut.controls(0)
    }
    grid = [*alike]
    for draws in drawn.values():
        grid += [each for each in draws if each not in grid]
    result = tlt.sweep(model, PAIRS, cuts=grid, prepend_bos=False, progress=False)
    table, frame = result.beside_controls, result.frame
    found = table[table["metric"] == "logit_diff"].set_index(["row", "control"])
    assert found.index.is_unique
    assert len(found) == len(drawn)
    rows = [frame.index[place] for place in range(len(alike))]
    for (place, kind), draws in drawn.items():
        row = found.loc[(rows[place], kind)]
        own = float(result.scores_of(alike[place]).change("logit_diff"))
        changes = [float(result.scores_of(each).change("logit_diff")) for each in draws]
        assert row["draws"] == 3
        assert row["change"] == pytest.approx(own, abs=1e-12)
        assert row["control_change"] == pytest.approx(sum(changes) / 3, abs=1e-12)
        assert row["keep"] == alike[place].label
