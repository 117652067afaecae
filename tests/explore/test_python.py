"""The Python that the view gives: run, and compared with what the view shows."""

import pytest
import torch
from asking import PROMPT, Page, of

import tl_truncate as tlt

# Python's own names for what is typed: nothing of it is run.
NASTY = """' + print("owned") + ' "Mary" \\n gave {a} drink to"""


def run(text, model):
    """What the code leaves in `p`, and how many statements it takes."""
    names = {"model": model}
    exec(compile(text, "copied", "exec"), names)
    return names["p"]


@pytest.mark.parametrize(
    "cuts",
    [
        [of("blocks.0.mlp.W_in", 0.25)],
        [of("blocks.0.mlp.W_in", 5, "rank"), of("blocks.1.attn.W_O.2", 0.5)],
        [of("blocks.2.mlp.W_out", 0.25, "smallest")],
        [of("blocks.2.mlp.W_out", 0.9, "energy"), of("blocks.1.mlp.W_out", 3, "drop_top")],
        [of("blocks.2.mlp.W_out", rule="marchenko_pastur")],
        [of("blocks.2.mlp.W_out", rule="optimal_threshold", strength=0.5)],
        [],
    ],
)
@pytest.mark.parametrize("text", [PROMPT, NASTY])
def test_it_shows_the_same(shared, cuts, text, capsys):
    model = shared("bridge", "gpt2", torch.float64)
    page = Page(model)
    page.prompt(text, None, None)
    (answer,) = page.ask("python", cuts=cuts)
    p = run(answer["text"], model)
    assert "owned" not in capsys.readouterr().out.splitlines()
    wanted = page.cut(*cuts) if cuts else page.cut(of("blocks.0.mlp.W_in", 1.0))
    for row in wanted["top"]:
        assert float(p[row["id"]]) == pytest.approx(row["after"], abs=1e-9)


def test_a_text_that_the_model_reads_otherwise_is_given_in_tokens(shared, monkeypatch):
    model = shared("bridge", "gpt2", torch.float64)
    page = Page(model)
    page.prompt(PROMPT, None, None)
    right = model.to_tokens
    monkeypatch.setattr(type(model), "to_tokens", lambda self, text: right(text)[:, :-1])
    (answer,) = page.ask("python", cuts=[of("blocks.0.mlp.W_in", 0.25)])
    p = run(answer["text"], model)
    for row in page.cut(of("blocks.0.mlp.W_in", 0.25))["top"]:
        assert float(p[row["id"]]) == pytest.approx(row["after"], abs=1e-9)


def test_the_name_by_which_it_was_loaded(shared):
    from tl_truncate.explore.asked import read
    from tl_truncate.explore.desk import Visitor
    from tl_truncate.explore.show import exploration

    found = exploration(shared("bridge", "gpt2"), loaded="'demo', checkpoint=64")
    visitor = Visitor(lambda message: None)
    next(found.answer(visitor, read({"kind": "prompt", "id": 1, "text": "Mary gave"})))
    (answer,) = found.answer(visitor, read({"kind": "python", "id": 2, "cuts": []}))
    assert "model = tlt.load_model('demo', checkpoint=64)" in answer["text"]
    assert tlt.__name__ in answer["text"]


@pytest.mark.parametrize("step", [64, None])
def test_the_command_says_which_checkpoint(step):
    from tl_truncate.cli.shared.model import ModelOptions

    options = ModelOptions(model="nano-pythia", checkpoint=step)
    model = eval(f"tlt.load_model({options.as_code()})", {"tlt": tlt})
    wanted = options.load()
    for one, other in zip(model.parameters(), wanted.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("cuts", "said"),
    [
        ([of("blocks.1.attn.W_K", 500, rule="rank")], "at most"),
        ([of("blocks.1.attn.W_Q", 0.5), of("blocks.1.attn.W_Q.1", 0.5)], "overlap"),
    ],
)
def test_cuts_that_cannot_be_made_are_not_written(shared, cuts, said):
    page = Page(shared("bridge", "gpt2"))
    page.prompt()
    with pytest.raises(ValueError, match=said):
        page.ask("python", cuts=cuts)
