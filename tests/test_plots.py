"""Figures show the numbers of the result, and are written whole."""

import architectures
import numpy as np
import pytest
from samples import pairs

import tl_truncate as tlt
from tl_truncate import plots
from tl_truncate.plots.shared import kinds
from tl_truncate.weights.keep.noise import fit_bulk


@pytest.fixture(scope="module")
def result(shared, drinks_task):
    model = shared("bridge", "llama-grouped")
    return tlt.sweep(
        model,
        drinks_task,
        sites=tlt.find_sites(model, ("W_in", "W_gate", "W_out")),
        keeps=[0.0, 0.1, 0.5],
        controls=["random_subspace"],
        prepend_bos=False,
        progress=False,
    )


def images(figure):
    return [axis for axis in figure.axes if axis.images]


def test_a_heatmap_shows_the_changes(result):
    figure = plots.heatmap(result)
    panels = images(figure)
    assert len(panels) == 6
    table = result.frame[result.frame["kind"] == "Cut"]
    for panel in panels:
        matrix, _, metric = panel.get_title().partition(": ")
        column = "p_in_context_change" if "in-context" in metric else "p_global_change"
        part = table[table["matrix"] == matrix].sort_values(["layer", "keep"])
        shown = np.asarray(panel.images[0].get_array())
        assert shown == pytest.approx(part[column].to_numpy().reshape(3, 3))
        assert [label.get_text() for label in panel.get_xticklabels()] == ["0%", "10%", "50%"]
        dots = sum(len(each.get_offsets()) for each in panel.collections)
        assert dots == int((~(part[f"{column}_q"] < 0.05)).sum())


def test_controls_have_their_own_heatmap(result):
    figure = plots.heatmap(result, kind="RandomSubspace", metrics=["logit_diff"])
    assert len(images(figure)) == 3


def test_rank_curves_show_the_values(result):
    site = "blocks.1.mlp.W_out"
    figure = plots.ranks(result, [site], metrics=["p_in_context"])
    axis = figure.axes[0]
    cut, control = axis.containers
    own = result.frame[(result.frame["site"] == site) & (result.frame["kind"] == "Cut")]
    assert list(map(int, cut.lines[0].get_xdata())) == [0, 1, 2]
    labels = [label.get_text() for label in axis.get_xticklabels()]
    assert labels == list(map(str, sorted(own["rank"])))
    assert list(cut.lines[0].get_ydata()) == pytest.approx(own["p_in_context_change"].tolist())
    # The bars are those of the paired change.
    ends = np.array([segment[:, 1] for segment in cut.lines[2][0].get_segments()])
    known = own[["p_in_context_change_low", "p_in_context_change_high"]].to_numpy(float)
    # Four prompts are too few for an interval: such a point has no bar.
    alone = own["p_in_context_change"].to_numpy(float)[:, None]
    assert ends == pytest.approx(np.where(np.isnan(known), alone, known))
    assert control.lines[0].get_markerfacecolor() == "none"
    assert len(plots.ranks(result).axes) == 2


def test_an_attribution_sums_its_parts(shared, drinks_task):
    model = shared("bridge", "llama-grouped")
    screen = tlt.attribute(model, drinks_task, prepend_bos=False, progress=False)
    figure = plots.attribution(screen)
    for panel in images(figure):
        part = screen.frame[screen.frame["matrix"] == panel.get_title()]
        shown = np.asarray(panel.images[0].get_array())
        assert shown.sum(1) == pytest.approx(part.groupby("layer")["effect"].sum().to_numpy(), abs=1e-5)


def drawn_values(figure, part):
    """Of the points of one colour, by their places among the components."""
    removed, kept = figure.axes[1].lines[:2]
    line = kept if part == "kept" else removed
    return list(map(int, line.get_xdata())), list(line.get_ydata())


@pytest.mark.parametrize("keep", [None, 0.25, tlt.DropTop(3), tlt.Band(2, 9)])
def test_a_spectrum_shows_its_values_its_bulk_and_what_is_kept(shared, keep):
    spec = tlt.spectrum(shared("bridge", "gpt2"), "blocks.1.mlp.W_in")
    figure = plots.spectrum(spec, keep, bins=20)
    rule = tlt.OutsideBulk() if keep is None else keep
    chosen = spec.kept(rule).tolist()
    places, values = drawn_values(figure, "kept")
    assert places == chosen
    assert values == pytest.approx(spec.S.double()[chosen].tolist())
    assert len(drawn_values(figure, "removed")[0]) == spec.max_rank - len(chosen)
    histogram, by_component = figure.axes
    heights = sum(patch.get_height() for patch in histogram.patches)
    assert heights == spec.max_rank
    bulk = fit_bulk(spec.S, spec.shape)
    curve, *edges = histogram.lines
    assert [line.get_xdata()[0] for line in edges] == pytest.approx([bulk.lower, bulk.upper])
    assert [line.get_ydata()[0] for line in by_component.lines[2:]] == pytest.approx(
        [bulk.lower, bulk.upper]
    )
    # As many values lie under the curve as between its edges, in the units of the bars.
    between = sum(bulk.lower <= value <= bulk.upper for value in spec.S.tolist())
    x, y = curve.get_xdata(), curve.get_ydata()
    width = histogram.patches[0].get_width()
    assert np.trapezoid(y, x) / width == pytest.approx(between, rel=0.01)
    assert figure.get_suptitle().startswith("layer ")
    assert f"{len(chosen)} of 32 components" in figure.get_suptitle()


def test_a_circuit_has_no_law_of_noise(shared):
    spec = tlt.spectrum(shared("bridge", "gpt2"), "blocks.1.attn.OV.2")
    figure = plots.spectrum(spec, 3)
    assert drawn_values(figure, "kept")[0] == [0, 1, 2]
    assert figure.axes[0].lines[:] == []
    with pytest.raises(ValueError, match="a product of smaller"):
        plots.spectrum(spec)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_files(result, tmp_path, suffix):
    path = tmp_path / f"heat.{suffix}"
    plots.save(plots.heatmap(result), path)
    start = path.read_bytes()[:5]
    assert start == (b"\x89PNG\r" if suffix == "png" else b"<?xml")
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_bad_input(result, tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.png or \.svg"):
        plots.save(plots.heatmap(result), tmp_path / "heat.pdf")
    with pytest.raises(ValueError, match="The task must be one of drinks"):
        plots.heatmap(result, task="ioi")
    with pytest.raises(ValueError, match="The kind must be one of Cut, RandomSubspace"):
        plots.heatmap(result, kind="NormMatched")
    with pytest.raises(ValueError, match="must have been asked for rank"):
        plots.heatmap(result, metrics=["rank"])
    with pytest.raises(ValueError, match="must have the site"):
        plots.ranks(result, ["blocks.0.attn.W_Q"])


def test_dynamics_show_the_means_and_their_intervals(drinks_task):
    def load(step):
        return architectures.randomise(architectures.bridge("neox-parallel"), step)

    cut = tlt.Cut("blocks.1.mlp.W_in", 0.25)
    history = tlt.dynamics(load, [0, 1, 8], drinks_task, {"quarter": cut}, name="a/run", progress=False)
    figure = plots.dynamics(history)
    assert [axis.get_title() for axis in figure.axes] == ["uncut", "quarter: 1 W_in, 25%"]
    for axis, name in zip(figure.axes, ("uncut", "quarter"), strict=True):
        table = history.frame[history.frame["cut"] == name]
        lines = {line.get_label(): line for line in axis.lines}
        for metric, title in {"p_global": "global", "p_in_context": "in-context"}.items():
            line = lines[f"probability of the {title} answer"]
            assert list(line.get_xdata()) == [0, 1, 8]
            assert line.get_ydata() == pytest.approx(table[metric].to_numpy())
    assert "4 prompts, run" in figure.get_suptitle()


def test_recall_shows_its_history():
    config = tlt.toys.RecallConfig.small(d_model=16, steps=4, eval_size=4)
    run = tlt.toys.train_recall(config, progress=False)
    figure = plots.recall(run)
    first = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    assert first["p(noise)"] == pytest.approx(run.history["p_noise"].to_numpy())
    dropped = run.history["p_correct_mlp1_dropped"].to_numpy()
    assert first["p(correct), last MLP dropped"] == pytest.approx(dropped)
    assert [len(axis.lines) for axis in figure.axes] == [4, 3, 3]


def test_phases_show_the_ratios():
    table = tlt.toys.memory_phases(ns=(2, 8), alphas=(0.3, 0.5), times=(1.0, 100.0))
    figure = plots.phases(table)
    for axis, time in zip(images(figure), (1.0, 100.0), strict=True):
        shown = np.asarray(axis.images[0].get_array())
        part = table[table["time"] == time].sort_values(["n", "alpha"])
        assert shown == pytest.approx(np.log2(part["ratio"].to_numpy().reshape(2, 2)))


def test_gradient_noise_shows_the_ratios():
    data = tlt.toys.RecallData(tlt.toys.BigramTable.english(), length=16)
    table = tlt.toys.gradient_noise(data, batch_sizes=(1, 2), n=32)
    margins = tlt.toys.one_step_margins(data, n=8)
    figure = plots.gradient_noise(table, margins)
    drawn = {each.get_label(): each.lines[0].get_ydata() for each in figure.axes[0].containers}
    part = table[(table["matrix"] == "feed_forward")]
    # Matplotlib 3.9 hands error bars back as objects.
    assert drawn["feed-forward: noise"].astype(float) == pytest.approx(part["snr"].to_numpy())
    assert figure.axes[1].lines[1].get_ydata() == pytest.approx(margins["measured"].to_numpy())


def test_learning_shows_its_history(shared):
    model = shared("bridge", "gpt2")
    options = dict(sites=["blocks.1.mlp.W_out"], budget=4, steps=12, texts=(), draws=1, progress=False)
    found = tlt.learn_mask(model, pairs("Mary", "John", "Paris", "Rome"), **options)
    worth, size = plots.learning(found).axes
    history = found.history
    assert worth.lines[0].get_ydata() == pytest.approx(history["change"].to_numpy())
    assert size.lines[0].get_ydata() == pytest.approx(history["components"].to_numpy())
    assert worth.lines[-1].get_xdata()[0] == found.best_step


def test_layers_show_paired_changes_and_no_line_joins_them(result):
    table = result.frame[result.frame["matrix"] == "W_out"]
    axis = plots.layer_effects(table, result.baselines).axes[0]
    first, _, control = axis.containers[:3]  # of nothing kept there is no control
    own = table[(table["kind"] == "Cut") & (table["keep"] == 0.0)]
    assert list(first.lines[0].get_ydata()) == pytest.approx(own["p_in_context_change"].tolist())
    assert {each.lines[0].get_linestyle() for each in axis.containers} == {"None"}
    assert control.lines[0].get_markerfacecolor() == "none"
    assert first.lines[0].get_markerfacecolor() != "none"


@pytest.mark.parametrize("name", sorted(kinds.takes()))
def test_every_figure_refuses_what_it_does_not_draw(result, name):
    wrong = result.scores("blocks.1.mlp.W_out", 0.5)
    if name == "scores":
        wrong = result
    with pytest.raises(
        TypeError, match=rf"plots\.{name} must have a .* as its first argument, got a"
    ) as told:
        getattr(plots, name)(wrong)
    assert "or result.plot()" in str(told.value)


def test_a_table_must_have_its_columns(result):
    with pytest.raises(TypeError, match=r"columns n, alpha, time, ratio, got one without n, alpha"):
        plots.phases(result.frame)


def test_results_draw_themselves(result):
    assert len(images(result.plot(metrics=["p_in_context"]))) == 3
    scores = result.scores("blocks.1.mlp.W_out", 0.5)
    left, right = scores.plot().axes
    drawn = [float(each.lines[0].get_xdata()[0]) for axis in (left, right) for each in axis.containers]
    wanted = [float(scores.change(m)) for m in ("accuracy", "p_in_context", "p_global", "logit_diff")]
    assert drawn == pytest.approx(wanted)


@pytest.mark.parametrize("smallest", [False, True])
def test_the_best_setting_is_a_cut_and_says_how_it_was_chosen(result, smallest):
    found = result.best("p_in_context", smallest=smallest)
    table = result.frame[result.frame["kind"] == "Cut"]
    place = table["p_in_context_change"].idxmin() if smallest else table["p_in_context_change"].idxmax()
    row = table.loc[place]
    assert (str(found.cut.site), found.cut.label) == (row["site"], row["keep"])
    assert float(found.change) == pytest.approx(row["p_in_context_change"])
    assert found.q == pytest.approx(row["p_in_context_change_q"], nan_ok=True)
    assert "Chosen on these prompts" in str(found)
    with pytest.raises(ValueError, match="must be one of accuracy"):
        result.best("rank")
