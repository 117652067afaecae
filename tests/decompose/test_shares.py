"""Shares of components that write nothing: not known, never chosen."""

import inplace
import pytest
import torch

import tl_truncate as tlt

SITE = "blocks.1.mlp.W_out"


@pytest.fixture(scope="module")
def corpus() -> torch.Tensor:
    return torch.randint(3, 90, (30, 12), generator=torch.Generator().manual_seed(0))


class TestWhatIsNotThere:
    """A weight of rank 9 has 9 shares, edited or cut, in every precision: the rest is rounding."""

    KEPT = 9

    def shares(self, model, corpus, way):
        if way == "edited":
            with inplace.edited(model, (SITE, inplace.top(0.3))):
                return tlt.component_shares(
                    model, SITE, tlt.TokenMeans.fit(model, corpus, progress=False)
                )
        with tlt.truncated(model, tlt.Cut(SITE, 0.3), weights=way == "weights"):
            return tlt.component_shares(model, SITE, tlt.TokenMeans.fit(model, corpus, progress=False))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    @pytest.mark.parametrize("way", ["edited", "cut", "weights"])
    def test_only_what_is_written_has_a_share(self, shared, corpus, way, dtype):
        shares = self.shares(shared("bridge", "gpt2", dtype), corpus, way)
        assert shares.known == self.KEPT
        assert shares.values[: self.KEPT].isfinite().all()
        assert shares.values[self.KEPT :].isnan().all()
        assert sorted(shares.order[: self.KEPT].tolist()) == list(range(self.KEPT))
        for k in range(self.KEPT + 1):
            for rule in (shares.without_most_global(k), shares.without_least_global(k)):
                assert set(rule.components) <= set(range(self.KEPT))
        assert set(shares.without_above(0.0).components) == set(range(self.KEPT))
        for rule in (shares.without_most_global, shares.without_least_global):
            with pytest.raises(
                ValueError, match=r"from 0 to 9, those of .* that write more than rounding"
            ):
                rule(self.KEPT + 1)
        assert "nan" not in repr(shares)

    def test_the_first_are_those_of_the_whole_matrix_of_that_rank(self, shared, corpus):
        """By the plain sums, with the components of NumPy."""
        model = shared("bridge", "gpt2", torch.float64)
        shares = self.shares(model, corpus, "cut")
        own = self.shares(model, corpus, "edited")
        torch.testing.assert_close(shares.values[:9], own.values[:9], rtol=1e-9, atol=1e-12)

    def test_in_bfloat16(self, shared, corpus):
        assert self.shares(shared("bridge", "gpt2", torch.bfloat16), corpus, "cut").known == self.KEPT

    def test_a_model_as_it_is_has_all(self, shared, corpus):
        for dtype in (torch.float64, torch.float32):
            model = shared("bridge", "gpt2", dtype)
            means = tlt.TokenMeans.fit(model, corpus, progress=False)
            assert tlt.component_shares(model, SITE, means).known == 32

    def test_families_choose_among_what_is_there(self, shared, corpus):
        model = shared("bridge", "gpt2", torch.float64)
        ways = tlt.Ways(keeps=[0.5], ks=[4, 16])
        with tlt.truncated(model, tlt.Cut(SITE, 0.3)):
            means = tlt.TokenMeans.fit(model, corpus, layers=[1], progress=False)
            targeted = ways.families(model, means, [1], None)["targeted"]
            names = ways.side_by_side(model, means, 1, None, 0, 2)
        assert {len(cut.keep.components) for cut in targeted} == {4}
        assert not [name for name in names if name.startswith("16 ")]
