"""Figures of a sweep with enough prompts for intervals: what is drawn is what the table says."""

from dataclasses import replace

import numpy as np
import pytest

import tl_truncate as tlt
from tl_truncate import plots
from tl_truncate.cli.showcase import fresh_prompts
from tl_truncate.experiments.scoring.metrics import label_of
from tl_truncate.weights.spoken import said_keep

DRAWS = 2
METRICS = ("accuracy", "p_in_context", "p_global", "logit_diff")


@pytest.fixture(scope="module")
def swept():
    """Of a model that has learned something: some of its changes are clear, and some are not."""
    model = tlt.load_model("nano-pythia")
    return tlt.sweep(
        model,
        fresh_prompts(model, n=20, seed=1),
        sites=tlt.find_sites(model, ("W_in", "W_out")),
        keeps=[0.0, 0.1, 0.5],
        controls=["random_subspace"],
        draws=DRAWS,
        progress=False,
    )


def ends(container):
    """The lower and the upper end of each bar, as they are drawn."""
    return np.array([segment[:, 1] for segment in container.lines[2][0].get_segments()])


def known(table, metric):
    return table[[f"{metric}_change_low", f"{metric}_change_high"]].to_numpy(float)


def test_there_is_something_to_see(swept):
    """Else what follows would hold of bars that are not there."""
    bars = known(swept.frame, "p_in_context")
    assert not np.isnan(bars).any()
    assert (bars[:, 0] < bars[:, 1]).all()
    controls = swept.frame[swept.frame["kind"] != "Cut"]
    assert set(controls["draws"]) == {DRAWS}
    for kind, own in swept.frame.groupby("kind"):
        assert 0 < int((own["p_in_context_change_q"] < 0.05).sum()) < len(own), kind


@pytest.mark.parametrize("metric", ["p_in_context", "logit_diff"])
def test_bars_of_ranks_end_where_intervals_do(swept, metric):
    site = "blocks.1.mlp.W_out"
    axis = plots.ranks(swept, [site], metrics=[metric]).axes[0]
    cut, control = axis.containers
    for container, kind in ((cut, "Cut"), (control, "RandomSubspace")):
        own = swept.frame[(swept.frame["site"] == site) & (swept.frame["kind"] == kind)]
        own = own.sort_values("rank")
        assert container.lines[0].get_ydata() == pytest.approx(own[f"{metric}_change"].to_numpy())
        assert ends(container) == pytest.approx(known(own, metric))
    filled, hollow = (each.lines[0].get_markerfacecolor() for each in (cut, control))
    assert (filled != "none", hollow) == (True, "none")
    assert cut.lines[0].get_color() == control.lines[0].get_color()


def test_ranks_show_the_sites_that_change_most(swept):
    cuts = swept.frame[swept.frame["kind"] == "Cut"]
    sizes = cuts["p_in_context_change"].abs().groupby(cuts["site"]).max()
    most = sizes.sort_values(ascending=False).index[:6]
    axis = plots.ranks(swept).axes[0]
    shown = axis.get_legend_handles_labels()[1]
    assert [f"blocks.{each.replace(' ', '.mlp.')}" for each in shown] == list(most)


@pytest.mark.parametrize("kind", ["Cut", "RandomSubspace"])
def test_cells_and_dots_of_a_heatmap(swept, kind):
    table = swept.frame[swept.frame["kind"] == kind]
    figure = plots.heatmap(swept, kind=kind, metrics=METRICS)
    panels = iter(axis for axis in figure.axes if axis.images)
    layers = sorted(set(table["layer"]))
    for matrix in ("W_in", "W_out"):
        for metric in METRICS:
            panel = next(panels)
            title = " ".join(panel.get_title().split())
            assert title == f"{matrix}: {label_of(metric).title}"
            own = table[table["matrix"] == matrix]
            keeps = sorted(set(own["keep"]))
            shown = np.asarray(panel.images[0].get_array())
            dots = {tuple(map(int, at)) for each in panel.collections for at in each.get_offsets()}
            for row in own.itertuples():
                y, x = layers.index(row.layer), keeps.index(row.keep)
                assert shown[y, x] == pytest.approx(getattr(row, f"{metric}_change"))
                unclear = not getattr(row, f"{metric}_change_q") < 0.05
                assert ((x, y) in dots) == unclear, (matrix, metric, row.site, row.keep)
    assert next(panels, None) is None


def test_layers_have_their_changes_bars_and_hollow_controls(swept):
    table = swept.frame[swept.frame["matrix"] == "W_out"]
    groups = dict(tuple(table.groupby(["keep", "kind"])))
    figure = plots.layer_effects(table, swept.baselines, metrics=METRICS)
    for axis, metric in zip(figure.axes, METRICS, strict=True):
        assert len(axis.containers) == len(groups)
        for container in axis.containers:
            points = container.lines[0]
            hollow = points.get_markerfacecolor() == "none"
            kept, _, control = container.get_label().partition(", ")
            assert bool(control) == hollow
            keep = {"nothing kept": 0.0, "10% kept": 0.1, "50% kept": 0.5}[kept]
            own = groups[keep, "RandomSubspace" if hollow else "Cut"].sort_values("layer")
            assert points.get_ydata() == pytest.approx(own[f"{metric}_change"].to_numpy())
            assert ends(container) == pytest.approx(known(own, metric))
            assert np.rint(np.asarray(points.get_xdata(), float)).tolist() == sorted(own["layer"])
            assert points.get_linestyle() == "None"
        # The title says where the change is largest, either way; of cuts alone.
        cuts = table[table["kind"] == "Cut"]
        row = cuts.loc[cuts[f"{metric}_change"].abs().idxmax()]
        told = f"most at layer {row['layer']}, {said_keep(row['keep'])}: {row[f'{metric}_change']:+.2g}"
        assert " ".join(axis.get_title().split()).endswith(told)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("smallest", [False, True])
def test_the_best_is_that_of_all_cuts_tried_one_by_one(swept, metric, smallest):
    changes = {
        setting.cut: float(swept.scores_of(setting.cut).change(metric))
        for setting in swept.settings
        if type(setting.cut) is tlt.Cut
    }
    most = (min if smallest else max)(changes.values())
    found = swept.best(metric, smallest=smallest)
    assert float(found.change) == pytest.approx(most)
    assert changes[found.cut] == pytest.approx(most)
    row = swept.frame[
        (swept.frame["kind"] == "Cut")
        & (swept.frame["site"] == str(found.cut.site))
        & (swept.frame["keep"] == found.cut.label)
    ].iloc[0]
    assert found.q == pytest.approx(row[f"{metric}_change_q"])
    assert [found.change.low, found.change.high] == pytest.approx(
        row[[f"{metric}_change_low", f"{metric}_change_high"]].tolist()
    )


@pytest.mark.parametrize("smallest", [False, True])
def test_no_control_is_the_best(swept, smallest):
    """Where a control changes more than every cut, the best is a cut all the same."""
    sign = -1 if smallest else 1
    worth = [sign * float(swept.scores_of(each.cut).change("p_in_context")) for each in swept.settings]
    control = [type(each.cut) is not tlt.Cut for each in swept.settings]
    most = max(value for value, drawn in zip(worth, control, strict=True) if drawn)
    left = [
        setting
        for setting, value, drawn in zip(swept.settings, worth, control, strict=True)
        if drawn or value < most
    ]
    # Draws share a row, whose mean need not be beyond a cut: one draw of each is enough.
    left = [each for each in left if getattr(each.cut, "seed", 0) == 0]
    found = replace(swept, settings=tuple(left)).best("p_in_context", smallest=smallest)
    assert type(found.cut) is tlt.Cut
    assert sign * float(found.change) == pytest.approx(
        max(value for value, drawn in zip(worth, control, strict=True) if value < most and not drawn)
    )


def test_the_best_refuses_what_was_not_swept(swept):
    with pytest.raises(ValueError, match="must be one of accuracy, p_in_context, p_global, logit_diff"):
        swept.best("rank")
    with pytest.raises(ValueError, match="The task must be one of ioi, got 'drinks'"):
        swept.best("p_global", task="drinks")


def test_a_sweep_of_ranks_draws_itself(toy, drinks):
    """A rank's column has another name than the metric."""
    options = dict(sites=["blocks.1.mlp.W_out"], keeps=[0.0, 0.5], metrics=["rank"], progress=False)
    swept = tlt.sweep(toy, drinks, **options)
    (shown,) = (axis.images[0].get_array() for axis in swept.plot().axes if axis.images)
    uncut = tlt.evaluate(toy, drinks, progress=False)
    for keep, value in zip((0.0, 0.5), np.asarray(shown)[0], strict=True):
        cut = tlt.Cut("blocks.1.mlp.W_out", keep)
        wanted = tlt.evaluate(toy, drinks, cut, baseline=uncut, progress=False).change("rank")
        assert value == pytest.approx(float(wanted))
    both = tlt.sweep(toy, [drinks, replace(drinks, name="others")], **options)
    with pytest.raises(ValueError, match=r"none. Give task= \(--task\): one of drinks, others"):
        both.plot()


def test_settings_that_lie_on_no_map_draw_themselves(toy, drinks):
    """Cuts of one place, of another kind, of single heads: a line each, with the numbers of `evaluate`."""
    site, head = "blocks.1.mlp.W_out", "blocks.1.attn.W_O.2"
    options = dict(metrics=["logit_diff"], progress=False)
    drawn = [tlt.RandomSubspace(site, 0.2, seed=seed) for seed in (0, 1)]
    of_one_place = [tlt.Cut(site, 0.2), tlt.Cut(site, 0.2, strength=0.5), *drawn]
    for cuts in (of_one_place, [tlt.Ablated(site)], [tlt.Cut(head, 0.2), tlt.Cut(head, 0.5)]):
        result = tlt.sweep(toy, drinks, cuts=cuts, **options)
        (axis,) = result.plot().axes
        names = [label.get_text() for label in axis.get_yticklabels()]
        lines = [line for line in axis.lines if len(line.get_xdata()) == 1]
        values = {name: line.get_xdata()[0] for name, line in zip(names, lines, strict=True)}
        assert len(values) == len(set(names)) == len(result.frame)
        own = [tlt.evaluate(toy, drinks, cut, progress=False).change("logit_diff") for cut in cuts]
        wanted = [*own[:2], (own[2] + own[3]) / 2] if len(cuts) == 4 else own
        assert list(values.values()) == pytest.approx(list(map(float, wanted)), abs=1e-6)
        hollow = [line.get_markerfacecolor() == "none" for line in lines]
        assert hollow == [False, False, True][: len(wanted)]


def test_of_many_settings_the_largest_are_drawn_and_it_says_so(swept):
    assert len(swept.frame) > 30
    figure = plots.settings(swept)
    changes = swept.frame["p_in_context_change"]
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 1]
    wanted = changes.loc[sorted(changes.abs().nlargest(30).index)]
    assert [line.get_xdata()[0] for line in lines] == pytest.approx(wanted.tolist())
    assert f"the 30 largest changes of {len(changes)}" in figure.get_suptitle()
