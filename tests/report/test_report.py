"""The report in a real browser: what it shows, what it asks of the network, who can read it."""

import dataclasses
import re

import pandas as pd
import pytest
import samples
import torch

import tl_truncate as tlt

NASTY = """<script>document.title = 'owned'</script> "Mary" & 'John' went to the store , John gave a drink to"""
WIDTHS = (1280, 400)


@pytest.fixture(scope="module")
def task(drinks_task):
    return tlt.Task(
        "drinks <b>&</b>",
        [*drinks_task.prompts, NASTY],
        [*drinks_task.in_context, " Mary"],
        [*drinks_task.global_, " the"],
        description="<img src=x onerror=alert(1)>",
    )


@pytest.fixture(scope="module")
def sweep(shared, task):
    model = shared("bridge", "llama-grouped")
    return tlt.sweep(
        model,
        task,
        sites=tlt.find_sites(model, ("W_in", "W_gate", "W_out")),
        keeps=[0.0, 0.1, 0.5],
        controls=["random_subspace", "norm_matched"],
        prepend_bos=False,
        progress=False,
    )


@pytest.fixture(scope="module")
def written(sweep, tmp_path_factory):
    return tlt.write_report(sweep, tmp_path_factory.mktemp("report") / "sweep.html")


def heat(page):
    """The heatmap's values as the browser holds them."""
    return page.evaluate("document.querySelector('[data-chart=heat] .plot').data[0].z")


def expected(sweep, matrix, metric, kind="Cut"):
    table = sweep.frame
    part = table[(table["matrix"] == matrix) & (table["kind"] == kind)]
    return part.pivot(index="layer", columns="keep", values=f"{metric}_change").to_numpy().tolist()


def close(shown, wanted):
    for row, other in zip(shown, wanted, strict=True):
        assert [each for each in row if each is not None] == pytest.approx(
            [each for each in other if each == each], rel=1e-3, abs=1e-9
        )


def choose(page, chart, menu, option):
    page.locator(f"[data-chart={chart}]").get_by_label(menu).select_option(label=option)


def test_the_menus_change_the_heatmap(visit, written, sweep):
    page = visit(written)
    close(heat(page), expected(sweep, "W_in", "p_in_context"))
    choose(page, "heat", "matrix", "W_out")
    close(heat(page), expected(sweep, "W_out", "p_in_context"))
    choose(page, "heat", "metric", "p(global)")
    close(heat(page), expected(sweep, "W_out", "p_global"))
    choose(page, "heat", "kind", "norm-matched")
    close(heat(page), expected(sweep, "W_out", "p_global", "NormMatched"))
    assert "W_out, p(global), norm-matched" in page.locator("[data-chart=heat] figcaption").inner_text()


def test_the_dots_are_the_changes_that_may_be_none(visit, written, sweep):
    page = visit(written)
    dots = page.evaluate("document.querySelector('[data-chart=heat] .plot').data[1].x.length")
    table = sweep.frame[(sweep.frame["matrix"] == "W_in") & (sweep.frame["kind"] == "Cut")]
    assert dots == int((~(table["p_in_context_change_q"] < 0.05)).sum())


def test_rank_curves_have_the_values_and_their_intervals(visit, written, sweep):
    page = visit(written)
    choose(page, "ranks", "site", "layer 1, W_out")
    plot = "document.querySelector('[data-chart=ranks] .plot').data"
    own = sweep.frame[(sweep.frame["site"] == "blocks.1.mlp.W_out") & (sweep.frame["kind"] == "Cut")]
    assert page.evaluate(f"{plot}[0].y") == pytest.approx(own["p_in_context"].tolist(), rel=1e-3)
    up = (own["p_in_context_high"] - own["p_in_context"]).tolist()
    assert page.evaluate(f"{plot}[0].error_y.array") == pytest.approx(up, abs=1e-4)
    names = page.evaluate(f"{plot}.map((each) => each.name)")
    assert "layer 1, W_out (random subspace)" in names


def test_a_prompt_shows_as_text(visit, written):
    page = visit(written)
    assert "owned" not in page.title()
    assert page.locator("#table tbody th").all_inner_texts()[-1] == NASTY
    assert page.locator("img").count() == page.locator("main b").count() == 0


def rows(page):
    return page.locator("#table tbody tr").count()


def test_the_table_filters_and_sorts(visit, written, task):
    page = visit(written)
    assert rows(page) == len(task)
    page.get_by_label("filter").fill("capital of FRANCE")
    assert rows(page) == 1
    assert page.get_by_role("status").inner_text() == f"1 of {len(task)} prompts."
    page.get_by_label("filter").fill("")
    for direction, sign in (("descending", -1), ("ascending", 1)):
        page.get_by_role("button", name="p(in-context) uncut").click()
        title = page.locator(f"th[aria-sort={direction}]")
        assert title.inner_text().startswith("p(in-context) uncut")
        shown = [float(each) for each in page.locator("#table tbody td:nth-child(4)").all_inner_texts()]
        assert shown == sorted(shown, key=lambda value: sign * value)


def test_the_table_has_the_numbers_of_the_setting(visit, written, sweep):
    page = visit(written)
    page.get_by_label("setting").select_option(label="layer 2, W_in, 10% kept")
    scores = sweep.scores("blocks.2.mlp.W_in", 0.1)
    shown = [float(each) for each in page.locator("#table tbody td:nth-child(5)").all_inner_texts()]
    assert shown == pytest.approx(scores.frame["p_in_context"].tolist(), abs=5e-4)
    before = [float(each) for each in page.locator("#table tbody td:nth-child(4)").all_inner_texts()]
    assert before == pytest.approx(sweep.baseline.frame["p_in_context"].tolist(), abs=5e-4)


def test_a_click_on_a_cell_shows_its_prompts(visit, written):
    page = visit(written)
    page.locator("[data-chart=heat]").scroll_into_view_if_needed()
    box = page.locator("[data-chart=heat] .heatmaplayer").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5)
    page.wait_for_function(
        "document.querySelector('#setting').selectedOptions[0].textContent === 'layer 1, W_in, 10% kept'"
    )


def test_the_keyboard_is_enough(visit, written):
    page = visit(written)
    page.locator("[data-chart=heat]").get_by_label("matrix").focus()
    page.keyboard.press("ArrowDown")
    assert "W_gate" in page.locator("[data-chart=heat] figcaption").inner_text()
    page.locator("#table thead button").first.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_everybody_can_read_it(visit, written, scheme, width):
    """axe-core finds nothing serious, and nothing has to be scrolled sideways."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = visit(written, width=width, scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((each) => each.open = true)")
    found = axe.run(page).response["violations"]
    serious = [each for each in found if each["impact"] in ("serious", "critical")]
    assert [(each["id"], each["nodes"][0]["html"][:200]) for each in serious] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_colours_follow_the_menu(visit, written):
    page = visit(written)
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    page.get_by_label("Colours").select_option("dark")
    assert page.evaluate(colour) != light
    page.get_by_label("Colours").select_option("light")
    assert page.evaluate(colour) == light


def test_it_prints_on_white(visit, written):
    page = visit(written, scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.get_by_label("filter").is_visible()
    assert len(page.pdf()) > 10_000


def test_a_search(visit, shared, tmp_path):
    model = shared("bridge", "llama-grouped")
    many = samples.pairs("Mary", "John", "Paris", "Rome")
    found = tlt.search(
        model,
        many,
        keeps=[0.25, 0.5],
        splits=1,
        texts=["the store in Paris", "<i>Mary</i> gave a drink to John"],
        run_dir=tmp_path / "search",
        prepend_bos=False,
        progress=False,
    )
    assert found.cuts
    page = visit(tlt.write_report(tmp_path / "search", tmp_path / "search.html"))
    change, chosen = found.change(), found.validation[many.name].change(found.objective)
    plot = "document.querySelector('[data-chart=splits] .plot').data[0]"
    assert page.evaluate(f"{plot}.x")[:2] == pytest.approx([float(chosen), float(change)], rel=1e-3)
    text = page.locator("main").inner_text()
    assert f"perplexity {found.cost.uncut_perplexity:.1f} [" in text
    assert "random subspace, test" in text
    assert rows(page) == 6
    page.locator("#group").select_option(label=f"{many.name}, validation")
    assert page.get_by_role("status").inner_text() == "6 of 6 prompts."


def test_dynamics(visit, drinks_task, tmp_path):
    import architectures

    def load(step):
        return architectures.randomise(architectures.bridge("neox-parallel"), step)

    cut = tlt.Cut("blocks.1.mlp.W_in", 0.25)
    history = tlt.dynamics(
        load,
        [0, 1, 8],
        drinks_task,
        {"<b>quarter</b>": cut},
        parts=tlt.Parts(["Mary gave a drink to John", "the store in Paris"]),
        run_dir=tmp_path / "run",
        progress=False,
    )
    page = visit(tlt.write_report(tmp_path, tmp_path / "dynamics.html"))
    plot = "document.querySelector('[data-chart=curves] .plot').data[1]"
    table = history.frame[history.frame["cut"] == "<b>quarter</b>"]
    assert page.evaluate(f"{plot}.y") == pytest.approx(table["p_in_context"].tolist(), rel=1e-3)
    assert page.locator("main b").count() == 0
    assert page.get_by_label("setting").locator("option").count() == 6
    layers = page.locator("[data-chart=parts]").get_by_label("layer").locator("option").all_inner_texts()
    assert layers == sorted(set(map(str, history.parts_frame["layer"])))


def test_recall(visit, tmp_path):
    config = tlt.toys.RecallConfig.small(d_model=16, steps=4, eval_size=4)
    run = tlt.toys.train_recall(config, run_dir=tmp_path / "run", progress=False)
    page = visit(tlt.write_report(tmp_path / "run", tmp_path / "recall.html"))
    plot = "document.querySelector('[data-chart=curves] .plot').data"
    names = page.evaluate(f"{plot}.map((each) => each.name)")
    place = names.index("p noise")
    assert page.evaluate(f"{plot}[{place}].y") == pytest.approx(
        run.history["p_noise"].tolist(), rel=1e-3
    )
    assert "noisy token" not in page.title()


class TestFiles:
    def test_nothing_is_half_written(self, sweep, tmp_path, monkeypatch):
        path = tlt.write_report(sweep, tmp_path / "deep" / "report.html")
        before = path.read_text()
        monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            tlt.write_report(sweep, path)
        assert path.read_text() == before
        assert [each.name for each in path.parent.iterdir()] == ["report.html"]

    def test_an_unfinished_sweep_says_so(self, sweep, tmp_path):
        from dataclasses import replace

        some = replace(sweep, settings=sweep.settings[:4])
        text = tlt.write_report(some, tmp_path / "some.html").read_text()
        assert f"4 of {len(sweep.grid)} settings" in text
        assert "The run is not finished" in text
        none = tlt.write_report(replace(sweep, settings=()), tmp_path / "none.html").read_text()
        assert f"0 of {len(sweep.grid)} settings" in none

    def test_no_run_no_report(self, tmp_path):
        with pytest.raises(ValueError, match=r"must hold a run, got .* without one\. Give the"):
            tlt.write_report(tmp_path)
        (tmp_path / "00-cut").mkdir()
        (tmp_path / "00-cut" / "manifest.json").write_text('{"kind": "sweep"}')
        with pytest.raises(ValueError, match="A search that has not ended has no report"):
            tlt.write_report(tmp_path)
        (tmp_path / "manifest.json").write_text('{"kind": "nano-pythia"}')
        with pytest.raises(
            ValueError,
            match="must be one of search, sweep, dynamics, recall, learn_mask, benchmark, got kind",
        ):
            tlt.write_report(tmp_path)

    @pytest.mark.parametrize("controls", [False, True])
    def test_ninety_sites_make_a_page_that_can_be_sent(self, tmp_path, controls):
        path = tlt.write_report(samples.large_sweep(controls=controls), tmp_path / "large.html")
        assert path.stat().st_size <= 6e6

    def test_too_many_readings_are_left_out_of_the_table(self, sweep, tmp_path, monkeypatch):
        monkeypatch.setattr("tl_truncate.report.prompts.MOST_READINGS", 50)
        text = tlt.write_report(sweep, tmp_path / "some.html").read_text()
        left = re.search(r'"left_out":(\d+)', text)
        assert int(left[1]) == len(sweep.frame) - 10  # a control's draws are one

    def test_a_missing_package_is_named(self, sweep, tmp_path, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ModuleNotFoundError, match=r"pip install '\.\[report\]'"):
            tlt.write_report(sweep, tmp_path / "report.html")


class TestSavedResults:
    """Scores, side effects, screens, parts and comparisons have a page, from the result or its file."""

    @pytest.fixture(scope="class")
    def results(self, shared, drinks_task):
        model = shared("bridge", "gpt2")
        cut = tlt.Cut("blocks.1.mlp.W_in", 0.2)
        means = tlt.TokenMeans.fit(model, torch.arange(3, 30)[None], layers=[1], progress=False)
        ways = tlt.Ways(keeps=[0.5], ks=[2])
        texts = ["the <b>store</b> in Paris", "Mary gave a drink to John"]
        return {
            "scores": tlt.evaluate(model, drinks_task, cut, progress=False),
            "side effects": tlt.side_effects(model, cut, texts, progress=False),
            "screen": tlt.attribute(model, drinks_task, progress=False),
            "parts": tlt.part_attribution(model, drinks_task, method="own_path", progress=False),
            "comparison": tlt.compare(model, drinks_task, 1, means, ways=ways, progress=False),
            "chosen": tlt.compare_chosen(model, drinks_task, means, ways=ways, texts=(), progress=False),
        }

    @pytest.mark.parametrize("width", WIDTHS)
    @pytest.mark.parametrize(
        ("name", "chart"),
        [
            ("scores", None),
            ("side effects", None),
            ("screen", "heat"),
            ("parts", "layers"),
            ("comparison", "ways"),
            ("chosen", "families"),
        ],
    )
    def test_the_page(self, visit, results, tmp_path, name, chart, width):
        path = tmp_path / ("a.safetensors" if name == "screen" else "a.json")
        results[name].save(path)
        from_file = tlt.write_report(path, tmp_path / "file.html")
        direct = tlt.write_report(results[name], tmp_path / "direct.html")
        assert from_file.read_text() == direct.read_text()
        page = visit(direct, width=width)
        assert page.locator("#summary p").first.inner_text()
        assert page.locator("main b").count() == 0
        if chart is not None:
            assert page.locator(f"[data-chart={chart}] .plot .main-svg").count() > 0
        wide = page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert wide <= 0

    def test_the_numbers_are_the_results(self, visit, results, tmp_path):
        page = visit(tlt.write_report(results["screen"], tmp_path / "screen.html"))
        text = page.evaluate("document.querySelector('[data-chart=heat] .plot').data[0].text[0][0]")
        assert "logit difference" not in text  # what it is under the cut is not known
        cells = [[each for each in row if each is not None] for row in heat(page)]
        wanted = [
            [
                float(results["screen"].effect(f"blocks.{layer}.mlp.W_in", keep))
                for keep in (0.5, 0.75, 0.9, 0.95)
            ]
            for layer in range(3)
        ]
        close(cells, wanted)
        page = visit(tlt.write_report(results["comparison"], tmp_path / "comparison.html"))
        shown = page.evaluate("document.querySelector('[data-chart=ways] .plot').data[0].x")
        assert shown == pytest.approx(results["comparison"].frame["p_in_context"].tolist(), rel=1e-3)


class TestFamilies:
    """Comparisons of several tasks have one picture: families down, tasks across, the cost beside."""

    @pytest.fixture(scope="class")
    def several(self, shared, drinks_task, tmp_path_factory):
        model, folder = shared("bridge", "gpt2"), tmp_path_factory.mktemp("families")
        means = tlt.TokenMeans.fit(model, torch.arange(3, 30)[None], layers=[1], progress=False)
        ways, texts = tlt.Ways(keeps=[0.5, 0.8], ks=[2]), ["the <b>store</b> in Paris"]
        renamed = dataclasses.replace(drinks_task, name="<i>others</i>")
        return {
            folder / str(place): tlt.compare_chosen(
                model,
                task,
                means,
                ways=ways,
                texts=texts,
                null=True,
                objective="logit_diff",
                run_dir=folder / str(place),
                progress=False,
            )
            for place, task in enumerate((drinks_task, renamed))
        }

    @pytest.mark.parametrize("width", WIDTHS)
    def test_the_picture(self, visit, several, tmp_path, width):
        page = visit(tlt.write_report(list(several.values()), tmp_path / "a.html"), width=width)
        data = page.evaluate(
            "document.querySelector('[data-chart=families] .plot').data.map((each) => each.x)"
        )
        wanted = []
        for found in several.values():
            own = found.frame.drop(index="uncut")
            wanted += [own["logit_diff_change"].fillna(0.0).tolist(), own["null_change"].tolist()]
        wanted += [
            [float(result.cost.loss_change) if result.cuts else None for result in found.found.values()]
            for found in several.values()
        ]
        close(data, wanted)
        titles = page.locator("[data-chart=families] .plot").text_content()
        assert "<i>others</i>" in titles
        assert page.locator("main i").count() == 0
        wide = page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert wide <= 0

    def test_from_folders(self, several, tmp_path):
        direct = tlt.write_report(list(several.values()), tmp_path / "direct.html")
        folders = tlt.write_report(list(several), tmp_path / "folders.html")
        assert folders.read_text() == direct.read_text()
        one = tlt.write_report(next(iter(several)), tmp_path / "one.html")
        own = tlt.write_report(next(iter(several.values())), tmp_path / "own.html")
        assert one.read_text() == own.read_text()

    def test_what_does_not_fit_together(self, several, sweep, shared, drinks_task, tmp_path):
        found = next(iter(several.values()))
        with pytest.raises(ValueError, match="must be of compare_chosen, got SweepResult"):
            tlt.write_report([found, sweep], tmp_path / "a.html")
        with pytest.raises(ValueError, match="same objective, got none"):
            tlt.write_report([], tmp_path / "a.html")
        model = shared("bridge", "llama-grouped")
        means = tlt.TokenMeans.fit(model, torch.arange(3, 30)[None], layers=[1], progress=False)
        ways = tlt.Ways(keeps=[0.5], ks=[2])
        options = dict(ways=ways, texts=(), objective="logit_diff", prepend_bos=False, progress=False)
        other = tlt.compare_chosen(model, drinks_task, means, **options)
        with pytest.raises(ValueError, match="one model with the same weights"):
            tlt.write_report([found, other], tmp_path / "a.html")
        assert not list(tmp_path.iterdir())


class TestKeeps:
    """Ranks stand beside shares as what they are, whatever is in one column."""

    @pytest.fixture(scope="class")
    def mixed(self, shared, drinks_task):
        model = shared("bridge", "gpt2")
        keeps = [1, 8, 0.5, 1.0]
        return tlt.sweep(model, drinks_task, sites=["blocks.1.mlp.W_out"], keeps=keeps, progress=False)

    def test_the_table(self, mixed):
        assert mixed.frame["keep"].tolist() == [1, 8, 0.5, 1.0]
        assert [type(keep) for keep in mixed.frame["keep"]] == [int, int, float, float]
        assert "keep 8.0" not in str(mixed)

    def test_the_notebook(self, mixed):
        page = mixed._repr_html_()
        assert "800%" not in page
        for head in ("rank 1 kept", "rank 8 kept", "50% kept", "all kept"):
            assert f">{head}<" in page
        changes = mixed.frame["p_in_context_change"]
        assert sum(
            page.count(f">{change:+.3f}<") + page.count(f">({change:+.3f})<") for change in set(changes)
        )

    def test_the_page(self, visit, mixed, tmp_path):
        page = visit(tlt.write_report(mixed, tmp_path / "mixed.html"))
        axis = page.evaluate("document.querySelector('[data-chart=heat] .plot').layout.xaxis.ticktext")
        assert axis == ["rank 1", "rank 8", "50%", "100%"]
        assert heat(page)[0] == pytest.approx(
            mixed.frame["p_in_context_change"].tolist(), rel=1e-3, abs=1e-9
        )

    def test_predictions(self, shared, drinks_task):
        screen = tlt.attribute(shared("bridge", "gpt2"), drinks_task, progress=False)
        assert {type(keep) for keep in screen.predict([8, 0.5])["keep"]} == {int, float}


def test_a_folder_with_a_result_and_a_run_is_not_guessed_at(sweep, shared, drinks_task, tmp_path):
    model = shared("bridge", "gpt2")
    tlt.evaluate(model, drinks_task, progress=False).save_into(tmp_path)
    tlt.sweep(
        model,
        drinks_task,
        sites=["blocks.1.mlp.W_out"],
        keeps=[0.5],
        run_dir=tmp_path / "run",
        progress=False,
    )
    with pytest.raises(ValueError, match=r"must hold one run or result, got result\.json and run in"):
        tlt.write_report(tmp_path, tmp_path / "report.html")
    assert "drinks" in tlt.write_report(tmp_path / "result.json", tmp_path / "report.html").read_text()


def test_removals_alone_can_be_shown(shared, drinks_task, tmp_path):
    model = shared("bridge", "gpt2")
    result = tlt.sweep(model, drinks_task, cuts=[tlt.GlobalRemoval(1, "own_path")], progress=False)
    assert "(global removal)" in tlt.write_report(result, tmp_path / "report.html").read_text()
    assert "No cut has a control beside it" in result._repr_html_()


def test_cuts_of_a_context_are_no_cuts_of_the_call(shared, drinks_task, tmp_path):
    model = shared("bridge", "gpt2")
    outer, inner = tlt.Cut("blocks.0.mlp.W_in", 0.5), tlt.Cut("blocks.1.mlp.W_in", 0.2)
    with tlt.truncated(model, outer):
        scores = tlt.evaluate(model, drinks_task, inner, progress=False)
    assert "1 cut at work" in tlt.write_report(scores, tmp_path / "report.html").read_text()


class TestNotebooks:
    """The fragments that a notebook shows escape what they show, and have the numbers."""

    def test_a_sweep(self, sweep):
        page = sweep._repr_html_()
        assert "<b>" not in page
        assert "drinks &lt;b&gt;&amp;&lt;/b&gt;" in page
        row = sweep.frame.iloc[0]
        assert f"{row['p_in_context_change']:+.3f}" in page

    def test_scores(self, sweep):
        scores = sweep.scores("blocks.1.mlp.W_out", 0.1)
        page = scores._repr_html_()
        assert "<script>" not in page
        assert "&lt;script&gt;document.title" in page
        change = scores.change("p_global")
        assert f"{float(change):+.3f} [{change.low:+.3f}, {change.high:+.3f}]" in page
        assert "paired change" not in sweep.baseline._repr_html_()

    def test_a_search(self, shared):
        model = shared("bridge", "llama-grouped")
        task = samples.pairs("Mary", "John", "Paris", "Rome")
        options = dict(texts=(), splits=1, prepend_bos=False, progress=False)
        found = tlt.search(model, task, keeps=[0.5], **options)
        page = found._repr_html_()
        change = found.change()
        assert f"{float(change):+.3f} [{change.low:+.3f}, {change.high:+.3f}]" in page
        assert "validation" in page

    def test_a_decomposition(self, toy):
        parts = tlt.decompose_mlp(toy, ["Mary gave <script> to John"], layer=1, method="own_path")
        page = parts._repr_html_()
        assert "<script>" not in page
        value = parts.fractions().loc[("global", "variance"), "value"]
        assert f"{value:.3f}" in page


def test_the_command(sweep, shared, task, tmp_path):
    from typer.testing import CliRunner

    from tl_truncate.cli import app

    tlt.sweep(
        shared("bridge", "llama-grouped"),
        task,
        sites=["blocks.1.mlp.W_out"],
        run_dir=tmp_path / "ioi" / "run",
        prepend_bos=False,
        progress=False,
    )
    done = CliRunner().invoke(app, ["report", str(tmp_path / "ioi")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "ioi" / "report.html").exists()
    wrong = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert wrong.exit_code == 2
    assert "must hold a run" in wrong.stderr


def test_numbers_are_short_and_finite():
    from tl_truncate.report.page import in_script, rounded

    assert rounded(pd.Series([1 / 3, float("inf"), 0.0])) == [0.3333, None, 0.0]
    assert "<" not in in_script({"a": "</script><!--"})
