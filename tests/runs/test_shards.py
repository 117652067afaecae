"""Shares of work: each unit in exactly one, about equal, and the same wherever they are made."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tl_truncate.runs.shards import Shard, as_shard, every_nth, require_folder, shards_in, share

COSTS = st.lists(st.floats(0, 1e12, allow_subnormal=False), max_size=25)
COUNTS = st.integers(1, 40)


class TestShares:
    @given(COSTS, COUNTS)
    def test_every_unit_is_in_exactly_one(self, costs, count):
        shares = [list(share(costs, Shard(count, index))) for index in range(1, count + 1)]
        assert [unit for each in shares for unit in each] == list(range(len(costs)))

    @given(COSTS, COUNTS)
    def test_costs_differ_from_an_nth_by_at_most_the_largest_unit(self, costs, count):
        exact = list(map(Fraction, costs))
        for index in range(1, count + 1):
            own = sum(exact[unit] for unit in share(costs, Shard(count, index)))
            assert abs(own - Fraction(sum(exact), count)) <= max(exact, default=0)

    @given(st.integers(0, 200), COUNTS)
    def test_of_equal_pieces_each_is_in_one_and_shares_differ_by_one(self, pieces, count):
        shares = [list(every_nth(pieces, Shard(count, index))) for index in range(1, count + 1)]
        assert sorted(unit for each in shares for unit in each) == list(range(pieces))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1

    def test_more_shards_than_units(self):
        sizes = [len(share([3.0, 3.0], Shard(5, index))) for index in range(1, 6)]
        assert sorted(sizes) == [0, 0, 0, 1, 1]


class TestWhatIsAsked:
    @pytest.mark.parametrize("asked", [(3, 8), [3, 8], "3/8", " 3 / 8", Shard(8, 3)])
    def test_the_third_of_eight(self, asked):
        assert str(as_shard(asked)) == "3/8"

    def test_jobs_numbered_from_nought_and_from_one_are_all_of_them(self):
        from_nought = {as_shard((index, 8)) for index in range(8)}
        assert from_nought == {as_shard((index, 8)) for index in range(1, 9)}
        assert len(from_nought) == 8

    def test_the_whole_run(self):
        assert as_shard(None) is None

    @pytest.mark.parametrize(
        "asked",
        [
            (9, 8),
            (-1, 8),
            (0, 0),
            (1, 0),
            (1.5, 8),
            (True, 8),
            (1, 2, 3),
            3,
            "3",
            "3/",
            "3 of 8",
            ("1", 2),
        ],
    )
    def test_no_share(self, asked):
        with pytest.raises(ValueError, match=r"shard must be which one and of how many, .* Got "):
            as_shard(asked)

    def test_without_a_folder(self):
        with pytest.raises(ValueError, match=r"A shard must have a run folder .*got 3/8 without one"):
            require_folder(Shard(8, 3), None)


def test_folders_of_shards_are_known_by_their_names(tmp_path):
    for name in ("10-of-12", "2-of-12", "notes", "1-of-2.part"):
        (tmp_path / "shards" / name).mkdir(parents=True)
    assert [str(shard) for shard, _ in shards_in(tmp_path)] == ["2/12", "10/12"]
