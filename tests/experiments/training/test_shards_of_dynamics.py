"""Shards of dynamics: every n-th checkpoint in a process of its own, and together what one process makes."""

import architectures
import pandas as pd
import pytest
from samples import PAIRS, SEQUENCES

import tl_truncate as tlt
from tl_truncate.runs.folder import RunFolder

CUTS = {
    "top": tlt.Cut("blocks.1.mlp.W_in", 0.2),
    "same": tlt.Cut("blocks.1.mlp.W_in", 0.5),
    "two": [tlt.Cut("blocks.0.mlp.W_out", 4), tlt.Cut("blocks.2.mlp.W_in", 8)],
}
OPTIONS = dict(prepend_bos=False, progress=False)
STEPS = [0, 1, 2, 4, 8]


def load(step):
    return architectures.randomise(architectures.bridge("neox-parallel"), step)


def ask(run_dir, shard, steps=STEPS, load=load, **options):
    return tlt.dynamics(
        load, steps, [PAIRS, SEQUENCES], CUTS, run_dir=run_dir, shard=shard, **OPTIONS | options
    )


@pytest.fixture(scope="module")
def whole():
    return tlt.dynamics(load, STEPS, [PAIRS, SEQUENCES], CUTS, **OPTIONS)


def test_together_they_are_one_process(whole, tmp_path):
    asked = []

    def load_and_note(step):
        asked.append(step)
        return load(step)

    for index, steps in {3: [2], 1: [0, 4], 2: [1, 8]}.items():
        asked.clear()
        part = ask(tmp_path, (index, 3), load=load_and_note)
        assert part.checkpoints == tuple(steps)
        assert part.finished
        assert str(part).startswith(f"shard {index}/3: pairs: 6 prompts")
        # One that is there shows that the weights are of the same training run.
        assert sorted(set(asked)) == sorted(
            {*steps, *([] if index == 3 else [max(2, {1: 2, 2: 4}[index])])}
        )
    read = tlt.Dynamics.load(tmp_path)
    pd.testing.assert_frame_equal(read.frame, whole.frame, check_exact=True)
    found = tlt.merge(tmp_path)
    pd.testing.assert_frame_equal(found.frame, whole.frame, check_exact=True)
    assert found.finished
    # It is an ordinary run folder now, which goes on.
    more = tlt.dynamics(load, [*STEPS, 16], [PAIRS, SEQUENCES], CUTS, run_dir=tmp_path, **OPTIONS)
    assert more.checkpoints == (0, 1, 2, 4, 8, 16)
    assert len(RunFolder(tmp_path).lines()) == 6


def test_a_missing_shard_is_named_and_its_steps_are_gaps(whole, tmp_path):
    ask(tmp_path, (1, 3))
    ask(tmp_path, (3, 3))
    with pytest.warns(tlt.UnfinishedShardsWarning, match="2/3 has not begun"):
        found = tlt.Dynamics.load(tmp_path)
    assert found.missing == (1, 8)
    assert found.frame[found.frame["step"] == 8]["p_global"].isna().all()
    with pytest.raises(ValueError, match="2/3 has not begun"):
        tlt.merge(tmp_path)
    ask(tmp_path, (2, 3))
    pd.testing.assert_frame_equal(tlt.merge(tmp_path).frame, whole.frame, check_exact=True)


def test_a_bad_checkpoint_does_not_hold_up_the_others(whole, tmp_path):
    def gone_at_one(step):
        if step == 1:
            raise OSError("gone")
        return load(step)

    ask(tmp_path, (1, 2))
    with pytest.warns(tlt.BadCheckpointWarning):
        ask(tmp_path, (2, 2), load=gone_at_one)
    for found in (tlt.Dynamics.load(tmp_path), tlt.merge(tmp_path), tlt.merge(tmp_path)):
        assert found.failed == {1: "OSError: gone"}
        assert found.missing == (1,)
    # The shard goes on and is merged again; or the whole does.
    ask(tmp_path, (2, 2))
    pd.testing.assert_frame_equal(tlt.merge(tmp_path).frame, whole.frame, check_exact=True)


def test_shards_of_something_else_are_refused(tmp_path):
    ask(tmp_path, (1, 3), name="EleutherAI/pythia-14m")
    with pytest.raises(ValueError, match=r"2/3 differs from 1/3 in: .*model"):
        ask(tmp_path, (2, 3), name="EleutherAI/pythia-31m")
    with pytest.raises(ValueError, match=r"differs from 1/3 in: .*seed"):
        ask(tmp_path, (2, 3), name="EleutherAI/pythia-14m", seed=1)
    with pytest.raises(ValueError, match="must be of one number"):
        ask(tmp_path, (2, 4), name="EleutherAI/pythia-14m")

    def others(step):
        return load(step + 100)

    with pytest.raises(ValueError, match=r"load must give the weights .* at step 4 it gives others"):
        ask(tmp_path, (2, 3), load=others, name="EleutherAI/pythia-14m")
    with pytest.raises(ValueError, match="must have a run folder"):
        ask(None, (1, 2))
    with pytest.raises(ValueError, match="shard must be which one"):
        ask(tmp_path, (4, 3))


def test_more_shards_than_checkpoints(tmp_path):
    empty = ask(tmp_path, (3, 3), [0, 1])
    assert empty.checkpoints == ()
    assert empty.frame.empty
    ask(tmp_path, (1, 3), [0, 1])
    ask(tmp_path, (2, 3), [0, 1])
    assert tlt.merge(tmp_path).checkpoints == (0, 1)


def test_a_name_stands_for_the_same_even_where_it_was_not_asked_for_again(tmp_path):
    """Nor is it another's to redefine."""
    first, other, third = (tlt.Cut(f"blocks.{layer}.mlp.W_in", 0.2) for layer in range(3))

    def part(index, cuts):
        return tlt.dynamics(load, [0, 1], PAIRS, cuts, run_dir=tmp_path, shard=(index, 2), **OPTIONS)

    part(1, {"a": first})
    part(1, {"b": other})
    for index in (1, 2):
        with pytest.raises(ValueError, match=r"'a' of cuts is another one now than for what .*1-of-2"):
            part(index, {"a": third})
    part(1, {"a": first, "b": other})
    part(2, {"a": first, "b": other})
    assert tlt.merge(tmp_path).finished
