"""Truncation in groups of columns: LASER with one group, nothing removed with all apart."""

import inplace
import numpy as np
import pytest
import torch
from architectures import CASES, with_tokenizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from luck import examples
from states import gradients

import tl_truncate as tlt
from tl_truncate.surgery.clustered import Blocks
from tl_truncate.surgery.controls import controls_of
from tl_truncate.surgery.grouping import Grouping, cluster_columns
from tl_truncate.weights.site import MATRICES

ROTARY = ("neox-parallel", "neox-sequential", "llama-grouped")
SITES = ("mlp.W_in", "mlp.W_out", "attn.W_Q", "attn.W_V.1", "attn.W_O", "attn.W_O.2")


def in_groups(labels, kept, strength: float = 1.0):
    """The columns of each label truncated by NumPy, on their own."""
    labels = np.asarray(labels)

    def change(matrix):
        left = matrix.copy()
        for label in np.unique(labels):
            own = matrix[:, labels == label]
            cut = inplace.truncate(own, slice(0, kept(min(own.shape))))
            left[:, labels == label] = own - strength * (own - cut)
        return left

    return change


def width(model, site: str) -> int:
    return tlt.spectrum(model, site).shape[1]


def labels_of(size: int, groups: int = 3) -> list[int]:
    """Unequal groups, spread over the coordinates."""
    return [(place * place) % 7 % groups for place in range(size)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_equals_in_place_editing(shared, tokens, kind, name, dtype):
    model = shared(kind, name, dtype)
    rotary = kind == "hooked" and name in ROTARY
    limit = 1e-4 if dtype == torch.float32 else 1e-6 if rotary else 1e-9
    for part in SITES:
        site = f"blocks.1.{part}"
        labels = labels_of(width(model, site))
        cut = tlt.Clustered(site, labels, 0.4)
        uncut = inplace.outputs(model, tokens)
        with inplace.edited(model, (site, in_groups(labels, lambda rank: int(0.4 * rank)))):
            wanted = inplace.outputs(model, tokens)
        for weights in (False, True):
            with tlt.truncated(model, cut, weights=weights):
                found = inplace.outputs(model, tokens)
            assert inplace.difference(found, wanted) <= limit, site
        assert inplace.difference(found, uncut) > 1e-3, site
        hooks = tlt.truncation_hooks(model, cut)
        with torch.no_grad():
            hooked = model.run_with_hooks(tokens, fwd_hooks=hooks)
        assert float((hooked - wanted["logits"]).abs().max()) <= limit, site


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_gradients_are_the_edited_models(shared, tokens, kind, name):
    model = shared(kind, name, torch.float64)
    for part in SITES:
        site = f"blocks.1.{part}"
        labels = labels_of(width(model, site))
        with inplace.edited(model, (site, in_groups(labels, lambda rank: int(0.4 * rank)))):
            wanted = gradients(model, tokens)
        for weights in (False, True):
            with tlt.truncated(model, tlt.Clustered(site, labels, 0.4), weights=weights):
                found = gradients(model, tokens)
            assert inplace.difference(found, wanted) <= 1e-9


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_one_group_is_laser_bit_for_bit(shared, tokens, kind, name):
    model = shared(kind, name)
    for site in tlt.find_sites(model, MATRICES, [1]):
        for keep in (0.3, tlt.DropTop(2), tlt.Energy(0.6), 0.0, 1.0):
            with torch.no_grad(), tlt.truncated(model, tlt.Cut(site, keep)):
                laser = model(tokens)
            for groups in (1, ["all"] * width(model, str(site))):
                cut = tlt.Clustered(site, groups, keep)
                with torch.no_grad(), tlt.truncated(model, cut):
                    assert torch.equal(model(tokens), laser), site
                assert cut.kept_rank(model) == tlt.Cut(site, keep).kept_rank(model)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_each_coordinate_alone_loses_nothing(shared, tokens, kind, name):
    model = shared(kind, name)
    uncut = model(tokens)
    for part in SITES:
        site = f"blocks.1.{part}"
        size = width(model, site)
        for groups in (range(size), torch.arange(size), np.arange(size), [str(i) for i in range(size)]):
            cut = tlt.Clustered(site, list(groups) if isinstance(groups, range) else groups, 1)
            with tlt.truncated(model, cut):
                assert torch.equal(model(tokens), uncut)
            assert cut.kept_rank(model) == size
        with tlt.truncated(model, tlt.Clustered(site, size, 0)):
            nothing = model(tokens)
        with tlt.truncated(model, tlt.Ablated(site)):
            assert torch.allclose(model(tokens), nothing, atol=1e-6)


def test_everything_kept_is_the_identity(toy, tokens):
    uncut = toy(tokens)
    for part in SITES:
        for groups in (1, 3, 5):
            with tlt.truncated(toy, tlt.Clustered(f"blocks.1.{part}", groups, 1.0)):
                assert torch.equal(toy(tokens), uncut)


@settings(
    max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    labels=st.lists(st.integers(0, 5), min_size=32, max_size=32),
    keep=st.sampled_from((0.0, 0.2, 0.5, 1.0)),
    strength=st.floats(-1, 2),
    order=st.permutations(range(6)),
)
def test_any_groups_any_strength_and_other_names(shared, labels, keep, strength, order):
    model, site = shared("bridge", "gpt2", torch.float64), "blocks.1.mlp.W_out"
    weight = inplace.read(model, 1, "W_out")
    wanted = in_groups(labels, lambda rank: int(keep * rank), strength)(weight)
    cut = tlt.Clustered(site, labels, keep, strength=strength)
    found = cut.edit(model).moved(torch.device("cpu"), torch.float64)
    left = found.of_weight(torch.tensor(weight.copy()), strength)
    assert np.abs(left.numpy() - wanted).max() <= 1e-9
    renamed = tlt.Clustered(site, [f"g{order[label]}" for label in labels], keep, strength=strength)
    assert renamed == cut
    assert hash(renamed) == hash(cut)
    assert cut.kept_rank(model) == sum(int(keep * min(48, labels.count(label))) for label in set(labels))


def test_the_order_of_coordinates_means_nothing(shared):
    """Columns that change places, with their labels, are cut alike."""
    model, site = shared("bridge", "gpt2", torch.float64), "blocks.1.mlp.W_out"
    labels, order = np.array(labels_of(32)), np.random.default_rng(0).permutation(32)

    def left(given):
        edit = tlt.Clustered(site, given, 0.4).edit(model)
        return edit.of_weight(torch.tensor(inplace.read(model, 1, "W_out").copy()), 1.0)

    plain = left(labels)
    with inplace.edited(model, (site, lambda matrix: matrix[:, order])):
        assert torch.allclose(left(labels[order]), plain[:, order], atol=1e-12)


class TestKMeans:
    """Groups that are found."""

    def planted(self, seed=0, groups=4, size=12):
        random = np.random.default_rng(seed)
        centres = random.normal(size=(groups, 40))
        labels = random.permutation(np.repeat(np.arange(groups), size))
        lengths = np.exp(random.normal(size=len(labels)))[:, None]
        columns = lengths * (centres[labels] + 0.1 * random.normal(size=(len(labels), 40)))
        return torch.tensor(columns.T), labels

    @pytest.mark.parametrize("seed", range(10))
    def test_planted_groups_are_found_whatever_the_columns_lengths(self, seed):
        weight, labels = self.planted(seed)
        found = cluster_columns(weight, 4, seed)
        assert Grouping(found) == Grouping(labels)

    def test_it_repeats_and_leaves_the_global_random_state_alone(self):
        weight = torch.randn(20, 60, generator=torch.Generator().manual_seed(1))
        state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
        found = [cluster_columns(weight, 5, seed) for seed in (0, 0, 1)]
        assert found[0] == found[1] != found[2]
        assert np.array_equal(np.random.get_state()[1], state)
        assert torch.equal(torch.get_rng_state(), torch_state)
        np.random.seed(5)
        assert cluster_columns(weight, 5, 0) == found[0]

    @pytest.mark.parametrize("groups", [1, 2, 3, 7, 30])
    def test_no_group_is_empty_where_columns_are_alike(self, groups):
        columns = torch.tensor([[1.0, 0.0, 2.0, 0.0, 0.0, 3.0], [0.0, 1.0, 0.0, 4.0, 0.0, 0.0]])
        weight = columns.repeat(1, 5)
        found = cluster_columns(weight, groups)
        assert set(found) == set(range(max(found) + 1))
        assert max(found) + 1 == min(groups, 3)  # two directions, and what has none

    @pytest.mark.parametrize("seed", range(5))
    def test_labels_are_numbered_as_they_appear(self, seed):
        weight = torch.randn(8, 50, generator=torch.Generator().manual_seed(seed))
        found = cluster_columns(weight, 12, seed)
        assert [found.index(label) for label in range(max(found) + 1)] == sorted(
            found.index(label) for label in range(max(found) + 1)
        )

    def test_each_column_is_nearest_to_its_own_centre(self):
        """What k-means stops at."""
        weight = torch.randn(20, 60, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        columns = (weight / weight.norm(dim=0)).T
        labels = torch.tensor(cluster_columns(weight, 5))
        centres = torch.stack([columns[labels == label].mean(0) for label in range(5)])
        assert torch.equal(torch.cdist(columns, centres).argmin(1), labels)

    def test_a_number_is_the_labels_that_are_found(self, toy):
        site = "blocks.1.mlp.W_in"
        weight = torch.tensor(inplace.read(toy, 1, "W_in").copy(), dtype=torch.float32)
        labels = cluster_columns(weight, 4, 3)
        both = (tlt.Clustered(site, 4, 0.3, seed=3), tlt.Clustered(site, labels, 0.3))
        edits = [cut.edit(toy) for cut in both]
        assert all(isinstance(edit, Blocks) for edit in edits)
        rows = torch.randn(5, 48, generator=torch.Generator().manual_seed(0))
        assert torch.equal(edits[0].kept(rows, None), edits[1].kept(rows, None))


class TestAsACut:
    """It is one like the others."""

    def test_json(self, tmp_path):
        cuts = [
            tlt.Clustered("blocks.1.mlp.W_in", 4, tlt.Energy(0.9), seed=2, strength=0.5),
            tlt.Clustered("blocks.1.mlp.W_in", ["a", "b", "a"], 3),
        ]
        cuts += [each for cut in cuts for each in cut.controls(5).values()]
        tlt.Cuts(cuts).save(tmp_path / "cuts.json")
        loaded = tlt.Cuts.load(tmp_path / "cuts.json")
        assert list(loaded) == cuts
        assert [hash(each) for each in loaded] == list(map(hash, cuts))
        assert list(map(repr, loaded)) == list(map(repr, cuts))

    def test_controls_are_of_as_much_in_the_same_groups(self, shared):
        model, site = shared("bridge", "gpt2", torch.float64), "blocks.1.mlp.W_in"
        weight = torch.tensor(inplace.read(model, 1, "W_in").copy())
        labels = np.array(labels_of(48))
        cut = tlt.Clustered(site, labels, 0.4)
        left = {None: cut.edit(model).of_weight(weight, 1.0)}
        drawn = [cut.controls(seed) for seed in (0, 1)]
        for kind in ("RandomSubspace", "NormMatched"):
            left[kind] = drawn[0][kind].edit(model).of_weight(weight, 1.0)
            assert not torch.allclose(left[kind], drawn[1][kind].edit(model).of_weight(weight, 1.0))
            assert drawn[0][kind].kept_rank(model) == cut.kept_rank(model)
        for label in range(3):
            own = torch.tensor(labels == label)
            ranks = {kind: int(torch.linalg.matrix_rank(each[:, own])) for kind, each in left.items()}
            assert ranks["RandomSubspace"] == ranks[None] == int(0.4 * min(32, int(own.sum())))
            gone = {kind: float((weight - each)[:, own].norm()) for kind, each in left.items()}
            assert gone["NormMatched"] == pytest.approx(gone[None], rel=1e-9)
        found = controls_of(model, [cut, tlt.Cut("blocks.0.mlp.W_in", 0.4)], seed=0, draws=2)
        assert set(found) == {"RandomSubspace", "NormMatched"}
        for keep in (0.0, 1.0):
            assert controls_of(model, [tlt.Clustered(site, labels, keep)], seed=0) == {}

    def test_sweeps_evaluations_and_seeds(self, shared, drinks):
        model = with_tokenizer(shared("bridge", "llama-grouped"))
        options = dict(prepend_bos=False, progress=False)
        cuts = [tlt.Clustered("blocks.1.mlp.W_in", 4, 0.3, seed=seed) for seed in (0, 1)]
        cuts += [tlt.Clustered("blocks.1.attn.W_O.2", 3, 0.5)]
        frame = tlt.sweep(model, drinks, cuts=cuts, **options).frame
        assert len(frame) == 3, "two seeds of k-means are two settings, not two draws of one"
        for cut, value in zip(cuts, frame["logit_diff"], strict=True):
            own = tlt.evaluate(model, drinks, cut, **options).logit_diff
            assert float(value) == pytest.approx(float(own), abs=1e-4)
        assert sorted(set(frame["keep"])) == ["0.3 in 4 groups", "0.5 in 3 groups"]

    def test_bfloat16_is_as_close_as_editing(self, shared, tokens):
        model, exact = (shared("bridge", "gpt2", dtype) for dtype in (torch.bfloat16, torch.float64))
        site, labels = "blocks.1.mlp.W_out", labels_of(32)
        change = in_groups(labels, lambda rank: int(0.4 * rank))
        with torch.no_grad():
            with inplace.edited(exact, (site, change)):
                reference = exact(tokens)
            with inplace.edited(model, (site, change)):
                own = (model(tokens).double() - reference).abs().max()
            with tlt.truncated(model, tlt.Clustered(site, labels, 0.4)):
                assert (model(tokens).double() - reference).abs().max() <= 2 * own

    def test_nested_with_others(self, shared, tokens):
        model = shared("bridge", "gpt2", torch.float64)
        sites = ("blocks.1.mlp.W_out", "blocks.1.mlp.W_in")
        labels = [labels_of(width(model, site)) for site in sites]
        edits = [
            (site, in_groups(own, lambda rank: int(0.4 * rank)))
            for site, own in zip(sites, labels, strict=True)
        ]
        with inplace.edited(model, *edits):
            wanted = inplace.outputs(model, tokens)
        cuts = [tlt.Clustered(site, own, 0.4) for site, own in zip(sites, labels, strict=True)]
        for order in (cuts, cuts[::-1]):
            with tlt.truncated(model, order[0]), tlt.truncated(model, order[1], order[1]):
                assert inplace.difference(inplace.outputs(model, tokens), wanted) <= 1e-9

    @pytest.mark.parametrize(
        ("make", "problem"),
        [
            (dict(groups=0), r"groups must be an integer from 1 up, got 0"),
            (dict(groups=True), r"groups must be a number of groups, or a label .* got True"),
            (dict(groups="ab"), r"groups must be a number of groups, or a label .* got 'ab'"),
            (dict(groups=[0.5, 1.0]), r"groups must be a number of groups, or a label"),
            (dict(groups=[]), r"groups must be a number of groups, or a label"),
            (dict(groups=33), r"groups must be at most 32, .* of blocks\.1\.mlp\.W_out, got 33"),
            (dict(groups=[0, 1]), r"a label for each of the 32 output coordinates .* got 2 labels"),
            (
                dict(groups=[0] * 30 + [1] * 2, keep=5),
                r"blocks\.1\.mlp\.W_out, group 1 of 2: Rank's k must be at most 2",
            ),
            (dict(keep=1.5), r"must be from 0 to 1"),
            (dict(keep=tlt.LaserCompat(0.1)), r"LaserCompat sketches whole weights"),
            (dict(seed=-1), r"A cut's seed must be an integer from 0 up"),
        ],
    )
    def test_bad_input(self, toy, make, problem):
        with pytest.raises(ValueError, match=problem):
            tlt.truncation_hooks(toy, tlt.Clustered("blocks.1.mlp.W_out", **make))
