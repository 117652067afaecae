"""The live view in a real browser: what a hand does there, and that the numbers are those of a direct pass."""

import json
import re
import threading
from pathlib import Path
from urllib.parse import quote

import pytest
import torch
from live import BROWSER, act, browsing, choose, drag, place, rest, serving

import tl_truncate as tlt
from tl_truncate.explore.asked import EvaluateAsked
from tl_truncate.explore.show import exploration
from tl_truncate.markup import PALETTE

pytest.importorskip("playwright.sync_api", exc_type=ImportError)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here: `make browser` installs it")

ASSETS = Path(tlt.__file__).parent / "explore" / "assets"
PROMPT = "When Mary and John went to the store , John gave a drink to"
NASTY = """<script>document.title = 'owned'</script> "Mary" & <b>John</b> gave a drink to"""
SITE, OTHER = "blocks.1.mlp.W_out", "blocks.2.attn.W_O"
#: Pieces of text that lie on one another, on the page that is open.
OVERLAPS = """() => {
  const boxes = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const parent = node.parentElement;
    const unseen = ".tlx-hidden, script, option, textarea";
    if (!node.textContent.trim() || parent.closest(unseen) || !parent.checkVisibility()) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const box of range.getClientRects()) boxes.push([box, node.textContent]);
  }
  const found = [];
  boxes.forEach(([a, one], place) => boxes.slice(place + 1).forEach(([b, other]) => {
    const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (wide > 1 && high > 5) found.push([one, other]);
  }));
  return found;
}"""


@pytest.fixture(scope="module")
def model(shared):
    return shared("bridge", "llama-grouped")


@pytest.fixture(scope="module")
def task(drinks_task):
    return drinks_task


@pytest.fixture(scope="module")
def server(model, task):
    with serving(exploration(model, task)) as door:
        yield door


@pytest.fixture(scope="module")
def chromium():
    with browsing() as browser:
        yield browser


@pytest.fixture
def visit(chromium, server):
    """Opens the view and fails if it complains or asks anybody else for anything."""
    contexts, said, asked = [], [], []

    def go(url=None, *, width=1280, height=800, scheme="light", before=None, **options):
        context = chromium.new_context(
            viewport=dict(width=width, height=height), color_scheme=scheme, **options
        )
        contexts.append(context)
        context.set_default_timeout(120_000)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda problem: said.append(str(problem)))
        page.on("request", lambda request: asked.append(request.url))
        if before is not None:
            before(page)
        page.goto(url or server.address)
        rest(page)
        return page

    yield go
    for context in contexts:
        context.close()
    assert said == []
    own = (f"http://127.0.0.1:{server.port}/", "data:")
    assert [url for url in asked if not url.startswith(own)] == []


def write(page, field, text):
    """Types into one of the fields above, and waits for what follows."""

    def doing():
        page.get_by_label(field, exact=True).fill(text)
        page.keyboard.press("Enter")

    act(page, doing)


def slide(page, share):
    """Types an exact share into the field beside the slider."""
    act(page, lambda: page.get_by_label("amount").fill(str(100 * share)))


def shown(page):
    """The numbers on the page: tokens before and after, and the large ones of both answers."""
    rows = {
        int(row.get_attribute("data-id")): (
            figure(row.locator(".tlx-was").text_content()),
            figure(row.locator(".tlx-is").text_content()),
        )
        for row in page.locator(".tlx-row").all()
    }
    answers = {
        kind: tuple(
            figure(page.locator(f"[data-answer={kind}] .tlx-number-{when}").text_content())
            for when in ("before", "after")
        )
        for kind in ("in_context", "global")
    }
    return rows, answers


def figure(text):
    """A number as it is read; what is less than can be shown is none."""
    return 0.0 if text.startswith("<") else float(text.replace("−", "-"))


def direct(model, text, *cuts):
    """Next tokens by a pass of the whole model, with nothing shared."""
    with torch.no_grad(), tlt.truncated(model, *cuts):
        return model(model.to_tokens(text))[0, -1].double().softmax(-1)


def agrees(page, model, text, *cuts, answers=(" Mary", " the")):
    rows, large = shown(page)
    before, after = direct(model, text), direct(model, text, *cuts)
    assert len(rows) >= 5
    for token, (was, now) in rows.items():
        assert was == pytest.approx(float(before[token]), abs=6e-4)
        assert now == pytest.approx(float(after[token]), abs=6e-4)
    assert {int(before.argmax()), int(after.argmax())} <= set(rows)
    for kind, answer in zip(("in_context", "global"), answers, strict=True):
        token = model.tokenizer.encode(answer, add_special_tokens=False)[-1]
        assert large[kind] == pytest.approx((float(before[token]), float(after[token])), abs=6e-4)


#: What each row of the next tokens says, and where its marks are; and how long one is, in probability.
RINGS = """() => {
  const at = (row, kind, name) => Number(row.querySelector(`.${kind}`).getAttribute(name));
  const given = window.answered.control.top, top = window.answered.top;
  const rows = [...document.querySelectorAll(".tlx-row")].map((row) => {
    const id = Number(row.dataset.id), own = top.find((each) => each.id === id);
    return {before: own.before, after: own.after, control: given.find((each) => each.id === id).p,
      ring: at(row, "tlx-control", "cx") - at(row, "tlx-track", "x"), grey: at(row, "tlx-before", "width"),
      bar: at(row, "tlx-after", "width"), track: at(row, "tlx-track", "width")};
  });
  const most = rows.reduce((one, other) => (one.before > other.before ? one : other));
  return rows.map((row) => ({...row, scale: most.grey / most.track / most.before}));
}"""

#: Forty moves of the knob before anything can be answered.
AT_ONCE = """() => {
  const slider = document.querySelector(".tlx-slider");
  for (let step = 39; step >= 0; step -= 1) {
    slider.value = 0.1 + 0.02 * step;
    slider.dispatchEvent(new Event("input"));
  }
}"""


class TestACut:
    def test_a_drag_ends_where_a_pass_of_the_model_does(self, visit, model):
        page = visit()
        choose(page, SITE)
        page.get_by_label("What stays").select_option(label="largest kept")
        slide(page, 1.0)
        agrees(page, model, PROMPT)
        act(page, lambda: drag(page, 1.0, 0.3))
        share = float(page.locator(".tlx-slider").input_value())
        assert share == pytest.approx(0.3, abs=0.03)
        agrees(page, model, PROMPT, tlt.Cut(SITE, keep=share))

    def test_one_question_is_on_its_way_at_a_time(self, visit):
        sent, most = set(), []

        def watch(page):
            page.on("websocket", listen)

        def listen(socket):
            socket.on("framesent", lambda frame: went(json.loads(frame)))
            socket.on("framereceived", lambda frame: sent.discard(json.loads(frame)["id"]))

        def went(message):
            if message["kind"] == "cut":
                sent.add(message["id"])
                most.append(len(sent))

        page = visit(before=watch)
        most.clear()
        act(page, lambda: page.evaluate(AT_ONCE))
        assert max(most) == 1
        assert len(most) <= 3  # the first, the last, and the last with its control
        assert page.locator(".tlx-said").inner_text().endswith(", 10% kept")

    def test_what_belongs_to_an_earlier_amount_is_not_shown_beside_a_later_one(self, visit):
        """While the knob moves, no control is shown, and the lens is faint."""
        page = visit()
        control = page.locator("[data-answer=in_context] .tlx-number-control")
        assert figure(control.text_content()) >= 0
        page.evaluate(
            """() => {
              const root = document.querySelector(".tlx");
              window.seen = [];
              root.addEventListener("tlx-drawn", ({detail}) => window.seen.push([
                detail.full, root.querySelector("[data-answer=in_context] .tlx-number-control").textContent,
                root.querySelectorAll(".tlx-control:not(.tlx-none)").length,
                root.querySelector("[data-answer=in_context]").classList.contains("tlx-stale")]));
            }"""
        )
        act(page, lambda: drag(page, 0.5, 0.2))
        *moving, last = page.evaluate("window.seen")
        assert moving
        for full, text, rings, stale in moving:
            assert (text == "…" and rings == 0 and stale) or full
        assert last[0]
        assert last[1] != "…"
        assert last[2] > 0
        assert not last[3]

    def test_two_cuts_are_made_together_and_one_is_taken_back(self, visit, model):
        page = visit()
        choose(page, SITE)
        slide(page, 0.25)
        page.get_by_role("button", name="Add to cuts").click()
        choose(page, OTHER)
        slide(page, 0.5)
        first, second = tlt.Cut(SITE, keep=0.25), tlt.Cut(OTHER, keep=0.5)
        agrees(page, model, PROMPT, first, second)
        assert page.locator(".tlx-chip").all_inner_texts()[0].startswith("layer 1, W_out, 25% kept")
        act(page, page.get_by_role("button", name="remove layer 1, W_out").click)
        agrees(page, model, PROMPT, second)
        assert page.locator(".tlx-chip").count() == 0

    def test_a_cut_that_is_added_at_once_is_called_what_it_is(self, visit):
        """Before its answer is there, and where no answer comes: in no words of another cut."""
        page = visit()
        choose(page, SITE)
        slide(page, 0.5)
        add = (
            "[...document.querySelectorAll('button')].find((each) => each.textContent === 'Add to cuts')"
        )
        act(page, lambda: page.evaluate(f"({AT_ONCE})(); {add}.click()"))
        assert page.locator(".tlx-chip span").all_inner_texts() == ["layer 1, W_out, 10% kept"]
        act(
            page,
            lambda: page.evaluate(
                f"document.querySelector(\"[data-site='{OTHER}']\").click(); {add}.click()"
            ),
        )
        assert page.locator(".tlx-chip span").all_inner_texts()[1] == "layer 2, W_O, 10% kept"
        page.get_by_label("In-context answer", exact=True).fill(" the")
        page.keyboard.press("Enter")
        page.locator(".tlx-problem", has_text="must differ").wait_for()
        page.get_by_label("amount").fill("30")
        page.get_by_role("button", name="Add to cuts").click()
        assert page.locator(".tlx-chip span").all_inner_texts()[1].endswith("largest kept: 30%")
        assert page.get_by_role("button", name="Copy as Python").is_disabled()  # of which prompt?

    def test_a_chip_says_where_the_knob_holds_instead(self, visit, model):
        page = visit()
        choose(page, SITE)
        slide(page, 0.25)
        page.get_by_role("button", name="Add to cuts").click()
        slide(page, 1.0)
        agrees(page, model, PROMPT)
        chip = page.locator(".tlx-chip span")
        assert chip.inner_text() == "layer 1, W_out, 25% kept: the knob holds instead"
        choose(page, OTHER)
        assert chip.inner_text() == "layer 1, W_out, 25% kept"
        agrees(page, model, PROMPT, tlt.Cut(SITE, keep=0.25), tlt.Cut(OTHER, keep=1.0))

    def test_a_count_goes_as_far_as_its_matrix(self, visit, model):
        page = visit()
        wide, narrow = "blocks.1.mlp.W_in", "blocks.1.attn.W_K"
        ranks = [min(tlt.spectrum(model, site).shape) for site in (wide, narrow)]
        assert ranks[0] > ranks[1]
        choose(page, wide)
        act(page, lambda: page.get_by_label("What stays").select_option(label="largest kept, counted"))
        act(page, lambda: page.get_by_label("amount").fill(str(ranks[0] - 1)))
        agrees(page, model, PROMPT, tlt.Cut(wide, keep=ranks[0] - 1))
        page.reload()
        rest(page)
        assert page.get_by_label("amount").input_value() == str(ranks[0] - 1)
        agrees(page, model, PROMPT, tlt.Cut(wide, keep=ranks[0] - 1))
        choose(page, narrow)
        assert page.get_by_label("amount").input_value() == str(ranks[1])
        assert page.locator(".tlx-slider").get_attribute("max") == str(ranks[1])
        agrees(page, model, PROMPT, tlt.Cut(narrow, keep=ranks[1]))

    @pytest.mark.parametrize(
        ("rule", "amount", "share"),
        [("largest kept", "25", 0.25), ("smallest kept", "25", 0.75), ("largest removed", "8", 0.25)],
    )
    def test_the_knob_stands_where_the_kept_part_ends(self, visit, rule, amount, share):
        page = visit()
        choose(page, SITE)  # of rank 32
        act(page, lambda: page.get_by_label("What stays").select_option(label=rule))
        act(page, lambda: page.get_by_label("amount").fill(amount))
        across = place(page, share)[0]
        box = page.locator(".tlx-kept").bounding_box()
        end = box["x"] + (box["width"] if rule == "largest kept" else 0)
        assert end == pytest.approx(across, abs=2)
        # The knob itself: a press where it stands leaves it there.
        before = page.locator(".tlx-slider").input_value()
        page.mouse.click(*place(page, share))
        rest(page)
        after = page.locator(".tlx-slider").input_value()
        assert float(after) == pytest.approx(float(before), abs=0.02 if "kept" in rule else 1)

    def test_every_ring_lies_on_the_axis(self, visit, model):
        """Where the control has more of a token than both bars, the axis reaches to it."""
        page = visit()
        page.evaluate(
            """() => document.querySelector(".tlx").addEventListener(
                "tlx-drawn", ({detail}) => { if (detail.full) window.answered = detail.answer; })"""
        )
        seen = 0
        for site in (SITE, OTHER, "blocks.0.mlp.W_in", "blocks.0.attn.W_V"):
            choose(page, site)
            for share in (0.0, 0.1):
                slide(page, share)
                rows = page.evaluate(RINGS)
                end = max(max(row["before"], row["after"], row["control"]) for row in rows)
                for row in rows:
                    for one, other in (("control", "ring"), ("before", "grey"), ("after", "bar")):
                        scale = row[other] / row["track"]
                        assert row[one] * rows[0]["scale"] == pytest.approx(scale, abs=0.02)
                seen += any(row["control"] == end for row in rows)
        assert seen, "no control was beyond the bars: nothing was shown"

    def test_a_second_cut_of_one_matrix_replaces_the_first(self, visit, model):
        page = visit()
        choose(page, SITE)
        slide(page, 0.25)
        page.get_by_role("button", name="Add to cuts").click()
        slide(page, 0.5)
        agrees(page, model, PROMPT, tlt.Cut(SITE, keep=0.5))
        page.get_by_role("button", name="Add to cuts").click()
        assert page.locator(".tlx-chip").count() == 1

    def test_the_keyboard_is_enough(self, visit, model):
        page = visit()
        choose(page, SITE)
        page.keyboard.press("ArrowUp")
        page.keyboard.press("ArrowLeft")
        cell = page.evaluate("document.activeElement.dataset.site")
        assert cell == "blocks.2.mlp.W_gate"
        act(page, lambda: page.keyboard.press("Enter"))
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "tlx-slider"
        act(page, lambda: page.keyboard.press("Home"))
        agrees(page, model, PROMPT, tlt.Cut(cell, keep=0.0))
        page.get_by_role("button", name="Add to cuts").focus()
        page.keyboard.press("Space")
        page.keyboard.press("Shift+Tab")
        assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("remove")
        page.keyboard.press("Enter")
        assert page.locator(".tlx-chip").count() == 0


class TestAPrompt:
    def test_typed(self, visit, model):
        page = visit()
        choose(page, SITE)
        slide(page, 0.25)
        text = "The capital of France is"
        write(page, "Prompt", text)
        write(page, "In-context answer", " Paris")
        agrees(page, model, text, tlt.Cut(SITE, keep=0.25), answers=(" Paris", " the"))

    def test_an_answer_is_followed_as_typed_where_one_says_so(self, visit):
        page = visit()
        write(page, "Prompt", "Mary and John ,")
        write(page, "In-context answer", "Mary")
        pill = page.locator("[data-answer=in_context] .tlx-pill")
        assert pill.inner_text() == "·Mary"
        act(page, page.get_by_role("button", name="follow as typed").click)
        assert pill.inner_text() == "Mary"
        assert page.get_by_role("button", name="follow as typed").count() == 0
        page.reload()
        rest(page)
        assert pill.inner_text() == "Mary"

    def test_of_markup_is_text(self, visit, model):
        page = visit()
        write(page, "Prompt", NASTY)
        assert page.title() == "explore"
        assert page.locator(".tlx b").count() == 1  # the title's own
        assert page.locator(".tlx script").count() == 0
        before = direct(model, NASTY)
        for token, (was, _) in shown(page)[0].items():
            assert was == pytest.approx(float(before[token]), abs=6e-4)

    def test_an_answer_that_cannot_be_one_says_why(self, visit):
        page = visit()
        page.get_by_label("In-context answer", exact=True).fill(" the")
        page.keyboard.press("Enter")
        page.locator(".tlx-problem", has_text="The two answers must differ").wait_for()
        assert page.get_by_label("Global answer", exact=True).get_attribute("aria-invalid") == "true"

    def test_a_reload_keeps_it(self, visit):
        page = visit()
        choose(page, OTHER)
        slide(page, 0.37)
        page.get_by_role("button", name="Add to cuts").click()
        write(page, "Prompt", "Mary gave a drink to")
        before = shown(page)
        page.reload()
        rest(page)
        assert page.get_by_label("Prompt", exact=True).input_value() == "Mary gave a drink to"
        assert page.locator("[aria-selected=true]").get_attribute("data-site") == OTHER
        assert page.locator(".tlx-chip").count() == 1
        assert shown(page) == before

    def test_two_tabs_keep_apart(self, visit, model):
        one, other = visit(), visit()
        choose(one, SITE)
        choose(other, OTHER)
        slide(one, 0.25)
        write(other, "Prompt", "Mary gave a drink to")
        slide(other, 0.5)
        slide(one, 0.1)
        agrees(one, model, PROMPT, tlt.Cut(SITE, keep=0.1))
        agrees(other, model, "Mary gave a drink to", tlt.Cut(OTHER, keep=0.5))


class TestAnAddress:
    @pytest.mark.parametrize(
        "state",
        [
            None,
            [],
            {"cuts": None},
            {"cuts": "abc"},
            {"cuts": [None, 3, {"site": SITE}, {"site": 5, "rule": "largest", "amount": 0.5}]},
            {"cuts": [{"site": SITE, "rule": "magic", "amount": 0.5}], "amount": "much", "site": 3},
            {"prompt": {}, "n": "many", "task": 7},
            {"prompt": {"text": 3}, "rule": None},
        ],
    )
    def test_that_holds_anything_shows_the_view(self, visit, server, model, state):
        page = visit(f"{server.address}#{quote(json.dumps(state))}")
        assert page.locator(".tlx-chip").count() == 0
        rows, _ = shown(page)
        before = direct(model, page.get_by_label("Prompt", exact=True).input_value())
        assert all(
            was == pytest.approx(float(before[token]), abs=6e-4) for token, (was, _) in rows.items()
        )

    def test_words_of_a_chip_are_those_of_its_cut(self, visit, server):
        cuts = [{"site": OTHER, "rule": "largest", "amount": 0.25, "said": "nothing at all"}]
        page = visit(f"{server.address}#{quote(json.dumps({'cuts': cuts, 'site': SITE}))}")
        assert page.locator(".tlx-chip span").all_inner_texts() == ["layer 2, W_O, 25% kept"]

    def test_another_one_in_an_open_page_is_gone_to(self, visit, server, model):
        page = visit()
        text = "The capital of France is"
        there = {"prompt": {"text": text, "in_context": " Paris", "global": " the"}, "site": SITE}
        page.evaluate("window.old = true")
        page.goto(f"{server.address}#{quote(json.dumps({**there, 'rule': 'largest', 'amount': 0.25}))}")
        page.wait_for_function("!window.old")
        rest(page)
        agrees(page, model, text, tlt.Cut(SITE, keep=0.25), answers=(" Paris", " the"))


class TestTheMap:
    def test_says_what_the_screen_says(self, visit, model):
        page = visit()
        page.locator(".tlx-legend", has_text="predicted change").wait_for()
        page.locator(f"[data-site='{SITE}'][aria-label*=':']").wait_for()  # they come block by block
        label = page.locator(f"[data-site='{SITE}']").get_attribute("aria-label")
        assert re.fullmatch(r"layer 1, W_out: [+−]?\d.*", label)

    def test_up_is_up(self, visit):
        page = visit()
        lower = page.locator("[data-site='blocks.0.mlp.W_out']").bounding_box()
        higher = page.locator("[data-site='blocks.2.mlp.W_out']").bounding_box()
        assert higher["y"] < lower["y"]


class TestTakenElsewhere:
    def test_python_is_in_the_clipboard(self, visit, model):
        page = visit(permissions=["clipboard-read", "clipboard-write"])
        choose(page, SITE)
        slide(page, 0.25)
        page.get_by_role("button", name="Copy as Python").click()
        page.get_by_text("copied", exact=True).wait_for()
        text = page.evaluate("navigator.clipboard.readText()")
        room = {"model": model}
        exec(text, room)
        for token, (_, now) in shown(page)[0].items():
            assert now == pytest.approx(float(room["p"][token]), abs=6e-4)

    def test_without_a_clipboard_the_text_is_selected(self, visit):
        page = visit()
        page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
        page.get_by_role("button", name="Copy as Python").click()
        page.get_by_text("to copy").wait_for()
        assert page.evaluate("getSelection().toString()") == page.locator(".tlx-code").input_value()

    def test_an_evaluation_is_that_of_the_library(self, visit, model, task):
        page = visit()
        choose(page, SITE)
        slide(page, 0.25)
        page.locator(".tlx-evaluation select").select_option(task.name)
        page.get_by_role("button", name="Evaluate").click()
        page.locator(".tlx table tbody tr").first.wait_for()
        uncut = tlt.evaluate(model, task, progress=False)
        cut = tlt.evaluate(model, task, tlt.Cut(SITE, keep=0.25), progress=False)
        cells = page.locator("[data-metric='p(in-context)'] td").all_inner_texts()
        assert figure(cells[0]) == pytest.approx(float(uncut.p_in_context), abs=6e-4)
        assert figure(cells[1]) == pytest.approx(float(cut.p_in_context), abs=6e-4)
        change = figure(cells[2].split(" ")[0])
        assert change == pytest.approx(float(cut.p_in_context) - float(uncut.p_in_context), abs=1e-3)
        write(page, "Prompt", "Mary gave a drink to")
        assert (
            page.locator("[data-metric='p(in-context)'] td").all_inner_texts() == cells
        )  # of no prompt
        slide(page, 0.5)
        assert page.locator(".tlx table").count() == 0  # it was of another cut


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 900, 400])
def test_everybody_can_read_it(visit, scheme, width):
    """axe-core finds nothing, nothing is to be scrolled sideways, and no text lies on another."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = visit(width=width, scheme=scheme)
    page.get_by_role("button", name="Add to cuts").click()
    page.get_by_role("button", name="Evaluate").click()
    page.locator(".tlx table tbody tr").first.wait_for()
    found = axe.run(page).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"][:200]) for each in found] == []
    size = page.evaluate(
        "(({scrollWidth, clientWidth, scrollHeight}) => [scrollWidth, clientWidth, scrollHeight])(document.documentElement)"
    )
    assert size[0] <= size[1]
    if width == 1280:
        assert size[2] <= 800
    assert page.evaluate(OVERLAPS) == []
    background = page.evaluate("getComputedStyle(document.querySelector('.tlx')).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) > 384) == (scheme == "light")


def test_the_colours_are_the_packages():
    css = (ASSETS / "explore.css").read_text().upper()
    assert [colour for colour in PALETTE[:3] if colour not in css] == []


#: Shows the view as anywidget does, in a cell of some width; the kernel is the page's own socket.
IN_A_CELL = """async ([socket, width]) => {
  const {default: widget} = await import("./explore.js");
  const line = new WebSocket(socket), heard = [];
  await new Promise((opened) => { line.onopen = opened; });
  line.onmessage = ({data}) => heard.forEach((each) => each(JSON.parse(data)));
  window.kept ??= {};
  const model = {
    on: (name, each) => heard.push(each),
    off: (name, each) => heard.splice(heard.indexOf(each), 1),
    send: (message) => line.send(JSON.stringify(message)),
    get: () => window.kept,
    set: (name, value) => { window.pending = value; },
    save_changes: () => { window.kept = window.pending; },
  };
  const cell = document.createElement("div");
  cell.style.width = `${width}px`;
  window.end?.();
  document.body.replaceChildren(cell);
  window.end = widget.render({model, el: cell});
}"""


class TestInACell:
    @pytest.mark.parametrize("width", [1000, 620])
    def test_of_a_notebook_it_fits_and_is_kept(self, visit, server, model, width):
        page = visit()
        cell = [server.address.replace("http", "ws").replace("/?", "/socket?"), width]
        page.evaluate(IN_A_CELL, cell)
        rest(page)
        choose(page, SITE)
        slide(page, 0.25)
        agrees(page, model, PROMPT, tlt.Cut(SITE, keep=0.25))
        assert page.evaluate("document.querySelector('.tlx').scrollWidth") <= width
        assert page.evaluate(OVERLAPS) == []
        before = shown(page)
        page.evaluate(IN_A_CELL, cell)  # the cell is run again
        rest(page)
        assert page.locator(".tlx").count() == 1
        assert page.locator("[aria-selected=true]").get_attribute("data-site") == SITE
        assert shown(page) == before


def test_a_lost_connection_is_said_and_found_again(chromium, model, task):
    what = exploration(model, task)
    page = chromium.new_page()
    with serving(what) as door:
        page.goto(door.address)
        rest(page)
        choose(page, SITE)
        slide(page, 0.25)
        before = shown(page)
    page.get_by_text("connection lost, trying again").wait_for()
    with serving(what, door):
        page.get_by_text("ready", exact=True).wait_for(timeout=20_000)
        rest(page)
        assert shown(page) == before
    page.close()


def test_a_wait_is_said(chromium, model, task):
    """Another tab evaluates: this one says that it waits, and is answered."""
    what = exploration(model, task)
    begun, may_end = threading.Event(), threading.Event()

    class Held:
        """Whose evaluations end when they may."""

        def answer(self, visitor, asked):
            if isinstance(asked, EvaluateAsked):
                begun.set()
                assert may_end.wait(120)
            yield from what.answer(visitor, asked)

    with serving(Held()) as door:
        one, other = chromium.new_page(), chromium.new_page()
        for page in (one, other):
            page.goto(door.address)
            rest(page)
        one.get_by_label("n", exact=True).fill("4")
        one.get_by_role("button", name="Evaluate").click()
        assert begun.wait(120)
        other.get_by_role("button", name="Evaluate").click()
        other.locator(".tlx-status", has_text="working").wait_for()
        may_end.set()
        for page in (one, other):
            page.locator(".tlx table tbody tr").first.wait_for()
        assert other.locator(".tlx-status").inner_text() == "ready"
        for page in (one, other):
            page.close()
