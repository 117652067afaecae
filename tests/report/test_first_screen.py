"""What every page opens with: one sentence, a few large figures and one picture, above the fold."""

import dataclasses
import re

import architectures
import harness
import numpy as np
import pytest
import samples
import torch
from folds import unfold

import tl_truncate as tlt
from tl_truncate.markup import interval
from tl_truncate.report.kinds.search import search_page
from tl_truncate.report.kinds.sweep import sweep_page
from tl_truncate.report.write import _page_of
from tl_truncate.statistics import q_values, shown_in

KINDS = (
    "sweep",
    "unfinished sweep",
    "removals",
    "search",
    "nothing found",
    "learned",
    "dynamics",
    "recall",
    "scores",
    "uncut scores",
    "side effects",
    "screen",
    "value gradients",
    "parts",
    "comparison",
    "families",
    "benchmarks",
    "adapter",
    "checkpoint",
    "two sweeps",
    "two scores",
)
#: A number that is none, as Python writes it, or an interval without a width.
NO_NUMBER = re.compile(r"\b[Nn]a[Nn]\b|\bNone\b(?! (?:were|of))|\[([+−-]?[0-9.]+), \1\]")


@pytest.fixture(scope="module")
def model(shared):
    return shared("bridge", "gpt2")


@pytest.fixture(scope="module")
def task():
    return samples.pairs("Mary", "John", "Paris", "Rome")


def _load(step):
    return architectures.randomise(architectures.bridge("neox-parallel"), step)


@pytest.fixture(scope="module")
def results(model, task, tmp_path_factory):
    quiet = dict(progress=False)
    cut, texts = tlt.Cut("blocks.1.mlp.W_in", 0.2), ["the store in Paris", "Mary gave a drink to John"]
    means = tlt.TokenMeans.fit(model, torch.arange(3, 30)[None], layers=[1], **quiet)
    ways = tlt.Ways(keeps=[0.5], ks=[2])
    grid = dict(keeps=[0.0, 0.1, 1.0], controls=["random_subspace", "norm_matched"], draws=3)
    sweep = tlt.sweep(model, task, **grid, **quiet)
    where = harness.write_tasks(tmp_path_factory.mktemp("tasks"))
    found = {
        "sweep": sweep,
        "unfinished sweep": dataclasses.replace(sweep, settings=()),
        "removals": tlt.sweep(model, task, cuts=[tlt.GlobalRemoval(1, "own_path")], **quiet),
        "search": tlt.search(
            model, task, keeps=[0.25, 0.5], splits=1, draws=2, null=True, texts=texts, **quiet
        ),
        "nothing found": tlt.search(
            model, task, cuts=[tlt.Cut("blocks.1.mlp.W_in", 1.0)], splits=1, texts=(), **quiet
        ),
        "learned": tlt.learn_mask(
            model, task, sites=["blocks.1.mlp.W_out"], budget=4, steps=3, texts=texts, **quiet
        ),
        "dynamics": tlt.dynamics(_load, [0, 1, 8], task, {"a quarter": cut}, **quiet),
        "recall": tlt.toys.train_recall(
            tlt.toys.RecallConfig.small(d_model=16, steps=4, eval_size=4), **quiet
        ),
        "scores": tlt.evaluate(model, task, cut, **quiet),
        "uncut scores": tlt.evaluate(model, task, **quiet),
        "side effects": tlt.side_effects(model, cut, texts, **quiet),
        "screen": tlt.attribute(model, task, **quiet),
        "value gradients": tlt.singular_value_gradients(model, task, **quiet),
        "parts": tlt.part_attribution(model, task, method="own_path", **quiet),
        "comparison": tlt.compare(model, task, 1, means, ways=ways, **quiet),
        "families": tlt.compare_chosen(model, task, means, ways=ways, texts=texts, null=True, **quiet),
        "two sweeps": [sweep, tlt.sweep(_load(3), task, **grid, **quiet)],
        "two scores": [
            tlt.evaluate(model, task, each, **quiet) for each in (cut, tlt.Cut(cut.site, 0.7))
        ],
    }
    folder = architectures.save_folder("neox-parallel", tmp_path_factory.mktemp("bases") / "neox")
    exported, places = tlt.load_model(str(folder)), tmp_path_factory.mktemp("exported")
    removed = tlt.Cut("blocks.1.mlp.W_out", tlt.DropTop(3))
    scores = tlt.evaluate(exported, task, removed, **quiet)
    tlt.export_adapter(exported, removed, places / "adapter", scores=scores)
    tlt.export_checkpoint(exported, removed, places / "checkpoint")
    found |= {"adapter": places / "adapter", "checkpoint": places / "checkpoint", "exported": scores}
    if pytest.importorskip("lm_eval"):
        found["benchmarks"] = tlt.evals.benchmark(
            model, cut, tasks=["words_choice"], include_path=where, progress=False
        )
    return found


@pytest.fixture(scope="module")
def pages(results, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    return {
        kind: tlt.write_report(results[kind], folder / f"{place}.html")
        for place, kind in enumerate(KINDS)
    }


@pytest.mark.parametrize("kind", KINDS)
class TestEveryKind:
    def test_the_answer_lies_above_the_fold(self, visit, pages, kind):
        page = visit(pages[kind], height=800, folded=True)
        sentence = page.locator("#answer .sentence")
        assert sentence.inner_text().endswith(".")
        numbers = page.locator("#answer .numbers > div")
        assert 2 <= numbers.count() <= 5
        picture = page.locator("#answer .picture svg:visible")
        assert picture.count() == 1
        assert picture.get_attribute("aria-label")
        for each in (sentence, *numbers.all(), picture):
            box = each.bounding_box()
            assert box["y"] >= 0
            assert box["y"] + box["height"] <= 800
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 1280
        # Pictures are there before the library of the charts, which is not read for them.
        assert page.evaluate("typeof Plotly") == "undefined"
        assert page.locator("details[open]").count() == 0

    def test_a_narrow_page_has_a_picture_of_its_own_and_tables_in_frames(self, visit, pages, kind):
        page = visit(pages[kind], width=400, folded=True)
        box = page.locator("#answer .picture svg:visible").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 400
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        unfold(page)
        # The first column stays where a table scrolls.
        places = page.evaluate(
            """[...document.querySelectorAll('.wide')].filter((frame) => frame.scrollWidth > frame.clientWidth + 4)
               .map((frame) => { frame.scrollLeft = 40;
                 const first = frame.querySelector('tbody th');
                 return [getComputedStyle(first).position,
                   first.getBoundingClientRect().left - frame.getBoundingClientRect().left]; })"""
        )
        assert all(position == "sticky" and abs(left) <= 1 for position, left in places)
        if kind in ("sweep", "search", "families"):
            assert places

    def test_everybody_can_read_it_and_no_number_is_none(self, visit, pages, kind):
        axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
        page = visit(pages[kind])
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") == (
                scheme == "dark"
            )
            found = axe.run(page).response["violations"]
            serious = [each for each in found if each["impact"] in ("serious", "critical")]
            assert [(each["id"], each["nodes"][0]["html"][:200]) for each in serious] == []
        page.evaluate("document.querySelectorAll('details').forEach((each) => each.open = true)")
        text = page.locator("body").inner_text()
        tips = " ".join(page.locator("title").all_text_contents())
        found = NO_NUMBER.search(f"{text} {tips}")
        assert found is None, text[max(0, found.start() - 80) : found.end() + 40]


def sentence_of(results, kind):
    return _page_of(results[kind]).answer.sentence


def figures_of(results, kind):
    return {each.name: each for each in _page_of(results[kind]).answer.numbers}


class TestTheNumbersAreTheResults:
    def test_a_sweep(self, results):
        sweep = results["sweep"]
        cuts = sweep.frame[sweep.frame["kind"] == "Cut"]
        best = cuts.loc[cuts["p_in_context_change"].idxmax()]
        told, numbers = sentence_of(results, "sweep"), figures_of(results, "sweep")
        assert shown_in(best, "p_in_context_change", signed=True) in told
        assert f"layer {best['layer']}, {best['matrix']}" in told
        assert ("raises" in told) == (best["p_in_context_change"] > 0)
        assert ("not clear" not in told) == (best["p_in_context_change_q"] < 0.05)
        assert numbers["best cut, picked here"].value == f"{best['p_in_context_change']:+.3f}"
        assert numbers["uncut: p(in-context)"].value == f"{float(sweep.baseline.p_in_context):.3f}"
        beside = sweep.beside_controls
        own = beside[(beside["site"] == best["site"]) & (beside["keep"] == best["keep"])]
        own = own[own["metric"] == "p_in_context"]
        if len(own):
            assert numbers["its control"].value == f"{own['control_change'].max():+.3f}"
        else:
            assert numbers["its control"].note == "none was scored"

    @pytest.mark.parametrize("kind", ["search", "learned"])
    def test_a_search(self, results, kind):
        found = results[kind]
        change = found.change()
        told, numbers = sentence_of(results, kind), figures_of(results, kind)
        assert interval(change, signed=True) in told
        assert numbers["change on test prompts"].value == f"{float(change):+.3f}"
        cost = found.cost
        ratio = float(cost.perplexity) / float(cost.uncut_perplexity)
        assert numbers["perplexity"].value == f"×{ratio:.3f}"
        assert (
            f"perplexity {float(cost.uncut_perplexity):.1f} becomes {float(cost.perplexity):.1f}" in told
        )
        if found.null is not None:
            assert interval(found.over_null(), signed=True) in told

    def test_nothing_found(self, results):
        assert "so nothing was cut" in sentence_of(results, "nothing found")

    def test_dynamics(self, results):
        table = results["dynamics"].frame
        last = table[table["step"] == 8].set_index("cut")
        told = sentence_of(results, "dynamics")
        assert shown_in(last.loc["uncut"], "p_in_context") in told
        assert shown_in(last.loc["uncut"], "p_global") in told
        assert shown_in(last.loc["a quarter"], "p_in_context_change", signed=True) in told

    def test_recall(self, results):
        run = results["recall"]
        last, told = run.history.iloc[-1], sentence_of(results, "recall")
        for column in ("p_correct", "p_noise", "p_correct_mlp1_dropped", "p_noise_mlp1_dropped"):
            assert f"{last[column]:.3f}" in told

    def test_scores(self, results):
        scores = results["scores"]
        change = scores.change("p_in_context")
        assert interval(change, signed=True) in sentence_of(results, "scores")
        assert figures_of(results, "scores")["change"].value == f"{float(change):+.3f}"
        uncut = results["uncut scores"]
        assert interval(uncut.p_in_context) in sentence_of(results, "uncut scores")

    def test_side_effects(self, results):
        found, told = results["side effects"], sentence_of(results, "side effects")
        assert interval(found.loss_change, signed=True) in told
        assert f"{float(found.uncut_perplexity):.1f} becomes {float(found.perplexity):.1f}" in told

    def test_screens(self, results):
        screen = results["screen"]
        table = screen.predict([0.5, 0.75, 0.9, 0.95])
        best = table.iloc[0]
        change = screen.effect(best["site"], best["keep"])
        assert interval(change, signed=True) in sentence_of(results, "screen")
        top = results["value gradients"].sites.iloc[0]
        assert f"{top['score']:.3g}" in sentence_of(results, "value gradients")

    def test_parts(self, results):
        found = results["parts"]
        block = found.largest("global", "global")[0]
        row = found.frame.set_index(["layer", "part", "answer"]).loc[(block, "global", "global")]
        assert f"block {block} adds" in sentence_of(results, "parts")
        assert f"{row['logits']:+.3f}" in sentence_of(results, "parts")

    def test_comparisons(self, results):
        frame = results["comparison"].frame
        own = frame[~frame.index.str.endswith("(control)") & (frame.index != "uncut")]
        best = own.loc[own["p_in_context_change"].idxmax()]
        told = sentence_of(results, "comparison")
        assert best.name in told
        assert shown_in(best, "p_in_context_change", signed=True) in told
        frame = results["families"].frame.drop(index="uncut")
        best = frame[frame["cut"] != "none"].sort_values("p_in_context_change").iloc[-1]
        assert shown_in(best, "p_in_context_change", signed=True) in sentence_of(results, "families")

    def test_exports(self, results):
        change = results["exported"].change("p_in_context")
        told, numbers = sentence_of(results, "adapter"), figures_of(results, "adapter")
        assert f"by {change}," in told
        assert ("leaves zero out" in told) == change.excludes_zero
        assert "layer 1, W_out, without the 3 largest" in told
        assert numbers["change"].value == f"{float(change):.3f}"
        size = sum(each.stat().st_size for each in results["adapter"].iterdir()) / 1e6
        assert numbers["size"].value == f"{size:,.1f} MB"
        assert "exported without scores" in sentence_of(results, "checkpoint")

    def test_benchmarks(self, results):
        frame, told = results["benchmarks"].frame, sentence_of(results, "benchmarks")
        own = frame[frame["change_low"].notna()]
        assert f"changes {int((own['q'] < 0.05).sum())} of {len(own)} number" in told
        assert shown_in(own.loc[own["q"].idxmin()], "change", signed=True) in told


class TestTheHeatmap:
    def test_the_best_cell_is_the_frames(self, visit, results, pages):
        sweep = results["sweep"]
        cuts = sweep.frame[sweep.frame["kind"] == "Cut"]
        best = cuts.loc[cuts["p_in_context_change"].idxmax()]
        page = visit(pages["sweep"], folded=True)
        marked = page.locator(".at-wide .best")
        assert marked.count() == 1
        assert f"layer {best['layer']}, {best['matrix']}" in marked.get_attribute("data-setting")
        assert page.locator(".at-wide .cell").count() == len(cuts)

    def test_a_click_shows_its_prompts(self, visit, pages):
        page = visit(pages["sweep"], folded=True)
        cell = page.locator(".at-wide .cell").nth(3)
        name = cell.get_attribute("data-setting")
        cell.click()
        assert page.locator("#prompts").get_attribute("open") is not None
        chosen = "document.querySelector('#setting').selectedOptions[0].textContent"
        assert page.evaluate(chosen) == name
        assert page.locator("#table tbody tr").count() > 0

    def test_the_keyboard_does_too(self, visit, pages):
        page = visit(pages["sweep"], folded=True)
        page.locator(".at-wide .best").focus()
        page.keyboard.press("Enter")
        assert page.locator("#prompts").get_attribute("open") is not None

    def test_layer_0_lies_at_the_bottom(self, visit, pages):
        page = visit(pages["sweep"], folded=True)
        tops = {
            layer: page.locator(f".at-wide [data-setting^='layer {layer}, W_in']").first.bounding_box()[
                "y"
            ]
            for layer in (0, 2)
        }
        assert tops[0] > tops[2]


class TestTwoRuns:
    def test_the_difference_is_that_by_hand(self, results):
        one, other = results["two sweeps"]
        site, keep = "blocks.1.mlp.W_out", 0.1
        apart = [
            (scores := each.scores(site, keep)).frame["p_in_context"]
            - scores.baseline.frame["p_in_context"]
            for each in (one, other)
        ]
        by_hand = np.asarray(apart[1] - apart[0])
        page = _page_of(results["two sweeps"])
        table = str(page.sections[2].before)
        row = re.search(r"layer 1, W_out, 10% kept</th>(.*?)</tr>", table)[1]
        cells = re.findall(r"<td>(.*?)</td>", row)
        assert float(cells[2].split(" ")[0]) == pytest.approx(by_hand.mean(), abs=5e-4)
        assert [float(cells[place].split(" ")[0]) for place in (0, 1)] == pytest.approx(
            [each.mean() for each in apart], abs=5e-4
        )
        low, high = map(float, re.findall(r"\[(.*?)\]", cells[2])[0].split(", "))
        se = by_hand.std(ddof=1) / len(by_hand) ** 0.5
        assert low < by_hand.mean() - 1.9 * se
        assert high > by_hand.mean() + 1.9 * se
        assert "paired on the same 12 prompts" in page.answer.sentence

    def test_the_answer_is_the_largest(self, results):
        page = _page_of(results["two sweeps"])
        first, _, _ = str(page.sections[2].before).partition("</table>")
        rows = re.findall(r"<tr>.*?</tr>", first)[1:]
        values = [float(re.findall(r"<td>(.*?)</td>", row)[2].split(" ")[0]) for row in rows]
        assert len(values) == 18
        largest = max(map(abs, values))
        shown = next(each for each in page.answer.numbers if each.name == "largest difference").value
        assert abs(float(shown)) == pytest.approx(largest, abs=1e-9)

    def test_other_prompts_are_not_paired(self, results, model, task):
        half = dataclasses.replace(
            task,
            prompts=task.prompts[:7],
            in_context=task.in_context[:7],
            global_=task.global_[:7],
        )
        cut = tlt.Cut("blocks.1.mlp.W_in", 0.2)
        other = tlt.evaluate(model, half, cut, progress=False)
        page = _page_of([results["scores"], other])
        assert "unpaired" in page.answer.sentence
        assert "the prompts are not the same (12 and 7 of pairs, 7 in both)" in page.answer.sentence
        own, few = (each.change("p_in_context") for each in (results["scores"], other))
        value = next(each for each in page.answer.numbers if each.name == "difference").value
        assert float(value) == pytest.approx(float(few) - float(own), abs=5e-4)

    def test_a_cut_is_named_where_the_models_are_one(self, results):
        page = _page_of(results["two scores"])
        assert "the second run" in page.answer.sentence

    def test_what_is_not_comparable_is_refused(self, results, model, task, tmp_path):
        scores, out = results["scores"], tmp_path / "a.html"
        renamed = tlt.evaluate(
            model,
            dataclasses.replace(task, name="others"),
            tlt.Cut("blocks.1.mlp.W_in", 0.2),
            progress=False,
        )
        with pytest.raises(ValueError, match="must have a task in common, got pairs and others"):
            tlt.write_report([scores, renamed], out)
        with pytest.raises(ValueError, match="must be of one kind, got a sweep and a search"):
            tlt.write_report([results["sweep"], results["search"]], out)
        with pytest.raises(ValueError, match="of a cut model and a table of scores of an uncut model"):
            tlt.write_report([scores, results["uncut scores"]], out)
        other = tlt.sweep(model, task, sites=["blocks.1.mlp.W_out"], keeps=[0.7], progress=False)
        with pytest.raises(ValueError, match="must have a setting in common"):
            tlt.write_report([results["sweep"], other], out)
        few = tlt.sweep(
            model, task, sites=["blocks.1.mlp.W_out"], keeps=[0.1], metrics=["rank"], progress=False
        )
        less = tlt.sweep(
            model, task, sites=["blocks.1.mlp.W_out"], keeps=[0.1], metrics=["accuracy"], progress=False
        )
        with pytest.raises(ValueError, match="must have a metric in common, got rank and accuracy"):
            tlt.write_report([few, less], out)
        goal = dataclasses.replace(results["search"], objective="accuracy")
        with pytest.raises(ValueError, match="same objective, got accuracy and p_in_context"):
            tlt.write_report([results["search"], goal], out)
        assert not list(tmp_path.iterdir())

    def test_from_folders(self, model, task, tmp_path):
        for name, keep in (("a", 0.1), ("b", 0.1)):
            tlt.sweep(
                model if name == "a" else _load(2),
                task,
                sites=["blocks.1.mlp.W_out"],
                keeps=[keep],
                run_dir=tmp_path / name / "run",
                progress=False,
            )
        from typer.testing import CliRunner

        from tl_truncate.cli import app

        out = tmp_path / "both.html"
        arguments = ["report", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(out)]
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
        assert "paired on the same 12 prompts" in out.read_text()


class TestWords:
    def test_the_sign_agrees_with_the_word(self, results):
        sweep = results["sweep"]
        text = " ".join(map(str, (sweep_page(sweep).sections[0].before, sweep)))
        assert not re.search(r"falls (most|least), by \+0\.(?!000)", text)
        assert not re.search(r"rises (most|least), by -0\.(?!000)", text)
        assert not re.search(r"largest fall[^\n]*, \+|largest rise[^\n]*, -", text)

    @pytest.mark.parametrize("sign", [1, -1])
    def test_where_all_changes_go_one_way(self, results, sign):
        """A smallest rise is no fall, and a smallest fall no rise."""
        frame = results["sweep"].frame
        for end in ("", "_low", "_high"):
            column = f"p_in_context_change{end}"
            frame[column] = sign * (frame[column].abs() + 0.01)
        shown = dataclasses.replace(results["sweep"].shown, frame=frame)
        from tl_truncate.experiments.sweep.view import sweep_words

        told = next(
            each for each in sweep_words(shown) if each.startswith("The probability of the in-c")
        )
        assert ("falls under no cut: it rises most, by +" in told) == (sign > 0)
        assert ("rises under no cut: it falls most, by -" in told) == (sign < 0)

    def test_settings_are_told_as_what_they_are(self, results):
        """Sites times amounts are cuts; draws of controls are beside them."""
        told = str(sweep_page(results["sweep"]).sections[0].before)
        grid = results["sweep"].grid
        drawn = [cut for cut in grid if not isinstance(cut, tlt.Cut)]
        assert f"18 cuts (6 sites, 3 amounts kept) and {len(drawn)} draws of controls" in told
        assert len(grid) == 18 + len(drawn)
        none = str(sweep_page(results["unfinished sweep"]).sections[0].before)
        assert f"0 of {len(grid)} settings are scored" in none

    def test_a_search_says_its_cuts_in_words(self, results):
        page = search_page(results["search"])
        text = " ".join(
            [page.answer.sentence, *(str(each.before + each.after) for each in page.sections[:5])]
        )
        assert "Cut(" not in text
        assert "Fraction(" not in text
        assert "blocks." not in text

    def test_a_task_without_global_answers_has_no_such_columns(self, results):
        """Metrics and texts are read off the result: what is not there is not shown."""
        scores = results["scores"]
        absent = ["p_global", "logit_diff", "global_"]
        base = dataclasses.replace(scores.baseline, frame=scores.baseline.frame.drop(columns=absent))
        page = _page_of(
            dataclasses.replace(scores, frame=scores.frame.drop(columns=absent), baseline=base)
        )
        text = " ".join(str(each.before) for each in page.sections)
        assert "p(global)" not in text + page.answer.sentence + str(page.answer.picture)
        (group,) = page.prompts
        assert group["titles"] == ["prompt", "right answer"]
        assert "p_global" not in group["series"][0]


def test_on_paper_everything_is_open_and_nothing_is_cut_off(visit, pages):
    page = visit(pages["search"], width=690, scheme="dark", folded=True)
    page.emulate_media(media="print")
    assert page.locator("#table").is_visible() or page.locator("#splits table").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("document.documentElement.scrollWidth") <= 690
    frames = page.evaluate(
        "[...document.querySelectorAll('.wide')].map((each) => each.scrollWidth - each.clientWidth)"
    )
    assert max(frames) <= 1


def test_q_of_two_runs_is_among_all_settings(results):
    from tl_truncate.report.kinds.pair import differences
    from tl_truncate.report.pairs.pair import pair_of

    found = differences(pair_of(results["two sweeps"], [None, None]), "p_in_context")
    wanted = q_values([each.value.p for each in found])
    assert [each.q for each in found] == pytest.approx(wanted.tolist(), nan_ok=True)
