"""The view in a notebook: its messages, its state, and that a cell can be run again."""

import asyncio
import sys

import pytest

import tl_truncate as tlt
from tl_truncate import checks
from tl_truncate.explore import show
from tl_truncate.explore.doors import server, widget

PROMPT = "When Mary and John went to the store , John gave a drink to"
CUT = {"site": "blocks.1.mlp.W_out", "rule": "largest", "amount": 0.25}


@pytest.fixture
def model(shared):
    model = shared("bridge", "gpt2")
    show._views.pop(model, None)
    yield model
    show._views.pop(model, None)


@pytest.fixture
def view(model, drinks):
    view = tlt.explore(model, drinks)
    view.sent = []
    view._visitor("").send = view.sent.append
    return view


def say(view, /, **message):
    view._handle_custom_msg(message, [])


def test_it_answers(view):
    say(view, kind="hello", id=1)
    say(view, kind="prompt", id=2, text=PROMPT, in_context=" Mary")
    say(view, kind="cut", id=3, cut=CUT, control=True)
    assert [each["kind"] for each in view.sent] == ["hello", "prompt", "cut"]
    assert view.sent[-1]["in_context"]["control"]


def test_the_map_is_drawn_between_cells(view, monkeypatch):
    monkeypatch.setattr(widget, "QUIET", 0.0)
    from tl_truncate.explore import desk

    monkeypatch.setattr(desk, "QUIET", 0.0)

    async def notebook():
        say(view, kind="prompt", id=1, text=PROMPT, in_context=" Mary")
        assert [each["kind"] for each in view.sent] == [
            "prompt"
        ]  # the cell is over before the map begins
        for _ in range(500):
            if view._desk.is_empty:
                break
            await asyncio.sleep(0.01)

    asyncio.run(notebook())
    assert {each["kind"] for each in view.sent} == {"prompt", "map"}
    assert len(view.sent[-1]["sites"]) == 18


def test_each_display_has_a_prompt_of_its_own(model, drinks):
    """A widget shown in two cells: neither answers of the other's prompt, nor ends its questions."""
    view, sent = tlt.explore(model, drinks), []
    view.send = sent.append
    say(view, kind="prompt", id=1, text=PROMPT, in_context=" Mary", view="one")
    say(view, kind="prompt", id=2, text="Mary gave a drink to", in_context=" John", view="two")
    for display, number in (("one", 3), ("two", 4), ("one", 5)):
        say(view, kind="cut", id=number, cut=CUT, view=display)
    told = {each["id"]: each for each in sent if each["kind"] == "cut"}
    assert {number: each["view"] for number, each in told.items()} == {3: "one", 4: "two", 5: "one"}
    assert told[3]["top"] == told[5]["top"] != told[4]["top"]
    say(view, kind="leave", view="two")
    say(view, kind="cut", id=6, cut=CUT, view="two")
    assert sent[-1]["kind"] == "error"
    assert "A prompt must be read" in sent[-1]["message"]


def test_displays_are_forgotten_in_the_order_of_their_last_question(model, drinks):
    view, sent = tlt.explore(model, drinks), []
    view.send = sent.append
    names = [str(number) for number in range(widget._DISPLAYS)]
    for name in [*names, "0", "new"]:
        say(view, kind="hello", id=1, view=name)
    assert set(view._visitors) == {*names, "new"} - {"1"}


@pytest.mark.parametrize("message", [None, "text", {}, {"kind": "eval", "id": 1}])
def test_garbage(view, message):
    view._handle_custom_msg(message, [])
    assert view.sent[0]["kind"] == "error"


def test_the_state_survives_a_cell_that_is_run_again(model):
    first = tlt.explore(model)
    first.state = {
        "prompt": {"text": "Mary gave", "in_context": None, "global": None},
        "site": CUT["site"],
    }
    second = tlt.explore(model)
    assert second is not first
    assert second.state == first.state
    assert tlt.explore(model, fresh=True).state == {}


def test_a_prompt_that_is_asked_for_is_shown(model):
    first = tlt.explore(model)
    first.state = {
        "prompt": {"text": "Mary gave", "in_context": None, "global": None},
        "site": CUT["site"],
    }
    assert tlt.explore(model, "John gave").state == {"site": CUT["site"]}
    assert tlt.explore(model, "Mary gave").state["site"] == CUT["site"]


def test_the_state_goes_to_the_page(view):
    assert view.traits()["state"].metadata["sync"]
    assert "render" in view._esm
    assert view._css


def test_the_function_stays_the_function():
    import tl_truncate.explore.doors.server

    assert callable(tl_truncate.explore)
    assert tlt.explore is show.explore
    assert server.Server.__module__ == "tl_truncate.explore.doors.server"
    from tl_truncate.explore.doors import widget as again

    assert again is widget is sys.modules["tl_truncate.explore.doors.widget"]


def test_without_the_extra(model, monkeypatch):
    monkeypatch.setitem(checks.EXTRAS, "widget", ("anywidget", "no_such_package"))
    with pytest.raises(ModuleNotFoundError, match=r"pip install '\.\[widget\]'"):
        tlt.explore(model)


@pytest.mark.parametrize(
    ("prompts", "kind", "said"),
    [
        (3, TypeError, "must be a text"),
        ([], ValueError, "at least one"),
        ([3], TypeError, "must be a text"),
        (["x" * 5000], ValueError, "4,000 characters"),
        ([("a", 3)], TypeError, "in-context answer must be text"),
    ],
)
def test_prompts_that_are_none(model, prompts, kind, said):
    with pytest.raises(kind, match=said):
        tlt.explore(model, prompts)


def test_what_is_no_model():
    with pytest.raises(TypeError):
        tlt.explore("demo")


def test_training(shared):
    model = shared("bridge", "gpt2")
    model.train()
    try:
        with pytest.raises(ValueError, match="dropout"):
            tlt.explore(model)
    finally:
        model.eval()
