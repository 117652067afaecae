"""A sweep at each checkpoint: as a sweep of that model by itself, kept per step, and drawn."""

import architectures
import pandas as pd
import pytest
from samples import PAIRS, SEQUENCES

import tl_truncate as tlt
from tl_truncate import plots
from tl_truncate.replay.layer import SiteReplay
from tl_truncate.weights.spoken import said_site

SITES = ["blocks.0.mlp.W_out", "blocks.2.mlp.W_in"]
GRID = tlt.Grid(sites=SITES, keeps=[0.0, 0.3], controls=["random_subspace"], draws=2)
OPTIONS = dict(prepend_bos=False, progress=False)


def load(step):
    return architectures.randomise(architectures.bridge("neox-parallel"), step)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def history(run_dir):
    def gone_at_four(step):
        if step == 4:
            raise OSError("gone")
        return load(step)

    with pytest.warns(tlt.BadCheckpointWarning):
        return tlt.dynamics(
            gone_at_four, [0, 1, 4, 8], [PAIRS, SEQUENCES], grid=GRID, run_dir=run_dir, **OPTIONS
        )


def alone(step, **options):
    return tlt.sweep(
        load(step), [PAIRS, SEQUENCES], sites=SITES, keeps=[0.0, 0.3], controls=["random_subspace"],
        draws=2, batch_size=32, **OPTIONS | options,
    )  # fmt: skip


def test_each_is_a_sweep_by_itself(history, run_dir):
    for step in (0, 8):
        expected = alone(step).frame
        pd.testing.assert_frame_equal(
            history.sweep(step, task="pairs").frame, expected, check_exact=True
        )
        again = tlt.Dynamics.load(run_dir).sweep(step, task="sequences")
        pd.testing.assert_frame_equal(again.frame, expected, check_exact=True)
    frame = history.sweep_frame
    assert list(frame.columns[:3]) == ["task", "step", "site"]
    own = (
        frame[(frame["task"] == "pairs") & (frame["step"] == 8)]
        .drop(columns="step")
        .reset_index(drop=True)
    )
    expected = alone(8).frame
    expected = expected[expected["task"] == "pairs"].reset_index(drop=True)
    pd.testing.assert_frame_equal(own, expected, check_exact=True, check_dtype=False)
    gap = frame[frame["step"] == 4]
    assert len(gap) == 2 * len(expected)
    assert gap["p_in_context_change"].isna().all()


def test_more_keeps_later_compute_nothing_twice(history, run_dir, monkeypatch):
    made, original = [], SiteReplay.logits

    def count(self, state, passed, which):
        made.append(which)
        return original(self, state, passed, which)

    monkeypatch.setattr(SiteReplay, "logits", count)
    options = dict(sites=SITES, controls=["random_subspace"], draws=2)
    same = tlt.dynamics(load, [0, 1, 8], [PAIRS, SEQUENCES], grid=GRID, run_dir=run_dir, **OPTIONS)
    assert made == []
    assert same.finished
    more = tlt.Grid(keeps=[0.0, 0.3, 0.6], **options)
    found = tlt.dynamics(load, [8], [PAIRS, SEQUENCES], grid=more, run_dir=run_dir, **OPTIONS)
    assert made != []
    whole = tlt.sweep(
        load(8), [PAIRS, SEQUENCES], keeps=[0.0, 0.3, 0.6], batch_size=32, **options | OPTIONS
    )
    frame = found.sweep(8, task="pairs").frame
    pd.testing.assert_frame_equal(frame, whole.frame, rtol=0, atol=1e-5)
    before = frame[frame["keep"] < 0.6].reset_index(drop=True)
    columns = ["site", "kind", "keep", "p_in_context", "logit_diff"]
    pd.testing.assert_frame_equal(before[columns], alone(8).frame[columns], check_exact=True)


def test_grids_asked_beside_different_tasks_are_all_told(tmp_path):
    def asked(tasks, keeps, site):
        grid = tlt.Grid(sites=[site], keeps=keeps)
        return tlt.dynamics(load, [0, 1], tasks, grid=grid, run_dir=tmp_path, **OPTIONS)

    asked([PAIRS, SEQUENCES], [0.0, 0.3], SITES[0])
    asked(PAIRS, [0.3, 0.6], SITES[0])
    found = asked(PAIRS, [0.5], SITES[1])
    wanted = [(SITES[0], 0.0), (SITES[0], 0.3), (SITES[0], 0.6), (SITES[1], 0.5)]
    for history in (found, tlt.Dynamics.load(tmp_path)):
        for step in (0, 1):
            frame = history.sweep(step, task="pairs").frame
            assert list(zip(frame["site"], frame["keep"], strict=True)) == wanted
            for row, (site, keep) in zip(frame.itertuples(), wanted, strict=True):
                scores = tlt.evaluate(load(step), PAIRS, tlt.Cut(site, keep), prepend_bos=False)
                assert row.p_in_context_change == pytest.approx(
                    float(scores.change("p_in_context")), abs=1e-6
                )
        table = history.sweep_frame
        own = table[table["task"] == "pairs"]
        assert own.groupby("step").size().to_dict() == {0: 4, 1: 4}
        assert len(table) - len(own) in (0, 4)  # of the other task all rows, where it was asked too


def test_a_step_without_its_sweep_is_not_finished(tmp_path):
    tlt.dynamics(load, [0, 1], PAIRS, run_dir=tmp_path, **OPTIONS)
    tlt.dynamics(load, [0], PAIRS, grid=GRID, run_dir=tmp_path, **OPTIONS)
    found = tlt.Dynamics.load(tmp_path)
    assert found.missing == (1,)
    assert not found.finished
    with pytest.raises(ValueError, match="must be one whose grid was swept, 0, got 1"):
        found.sweep(1)


def test_shards_sweep_into_one_folder(history, tmp_path):
    for index in (1, 2):
        tlt.dynamics(
            load, [0, 1, 8], [PAIRS, SEQUENCES], grid=GRID, run_dir=tmp_path, shard=(index, 2), **OPTIONS
        )
    found = tlt.merge(tmp_path).sweep_frame
    expected = history.sweep_frame
    expected = expected[expected["step"] != 4].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, expected, check_exact=True, check_dtype=False)


def test_figures(history):
    axis = plots.sweep_over_training(history, task="pairs").axes[0]
    image = axis.images[0].get_array()
    frame = history.of("pairs").sweep_frame  # with what a later call has asked of step 8
    own = frame[frame["step"] == 8]
    assert image.shape == (len(own), 4)
    assert image.mask.all(axis=0).tolist() == [False, False, True, False]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0", "1", "4", "8"]
    figure = plots.settings_over_training(history, task="pairs", metric="logit_diff")
    assert [each.get_title() for each in figure.axes] == list(map(said_site, SITES))
    assert len(figure.axes[0].lines) == (own["site"] == SITES[0]).sum()
    with pytest.raises(ValueError, match="The task must be one of pairs, sequences, got None"):
        plots.sweep_over_training(history)
    with pytest.raises(ValueError, match="must have been asked for 'rank'"):
        plots.sweep_over_training(history, task="pairs", metric="rank")


def test_a_figure_draws_no_two_settings_as_one(tmp_path):
    cuts = [tlt.Cut(SITES[0], 0.3), tlt.Cut(SITES[0], 0.3, strength=-1.0)]
    grid = tlt.Grid(cuts=cuts)
    history = tlt.dynamics(load, [0, 1], PAIRS, grid=grid, run_dir=tmp_path, **OPTIONS)
    said = r"2 that it would draw as one: .*, Cut\(.*strength=-1.0\). Sweep them apart"
    for draw in (plots.sweep_over_training, plots.settings_over_training):
        with pytest.raises(ValueError, match=said):
            draw(history)
    for draw in (plots.heatmap, plots.ranks):
        with pytest.raises(ValueError, match=said):
            draw(history.sweep(1))


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match="grid must come with run_dir"):
        tlt.dynamics(load, [0], PAIRS, grid=GRID, **OPTIONS)
    with pytest.raises(ValueError, match="Controls must be among"):
        tlt.Grid(controls=["placebo"])
    with pytest.raises(ValueError, match="metrics must be a list"):
        tlt.Grid(metrics=["loss"])
    found = tlt.dynamics(load, [0], PAIRS, **OPTIONS)
    with pytest.raises(ValueError, match="must have been asked for a grid"):
        _ = found.sweep_frame
