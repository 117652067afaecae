"""What the live view answers: every number is that of another way to it."""

import json

import architectures
import inplace
import numpy as np
import pytest
import torch
from architectures import CASES
from asking import PROMPT, Page, of

import tl_truncate as tlt
from tl_truncate.explore.answered import scored, state
from tl_truncate.explore.answered.answers import both_tops, probabilities, runs, sampled
from tl_truncate.explore.asked import Unreadable, read
from tl_truncate.tasks.encode import encode

OTHER = "The capital of France is"


@pytest.fixture
def fresh():
    """Models that a test may change."""
    return lambda kind="bridge", name="gpt2": architectures.with_tokenizer(
        architectures.build(kind, name, torch.float64)
    )


@pytest.fixture
def precise_model(shared):
    return lambda kind, name: architectures.with_tokenizer(shared(kind, name, torch.float64))


def tokens_of(model, text):
    """As a task's prompt is read."""
    task = tlt.Task(name="one", prompts=[text], in_context=[" Mary"], global_=" the")
    return torch.tensor([encode(model, task).prompts[0].prompt])


def direct(model, text=PROMPT):
    """The next token's probabilities by a whole pass of the model as it is."""
    with torch.no_grad():
        return model(tokens_of(model, text))[0, -1].double().softmax(-1)


def lens(model, token, text=PROMPT):
    """A token's probability after each layer, from the cache of a whole pass."""
    with torch.no_grad():
        _logits, cache = model.run_with_cache(tokens_of(model, text))
        found = []
        for layer in range(model.cfg.n_layers):
            resid = cache[f"blocks.{layer}.hook_resid_post"][:, -1:]
            normed = model.ln_final(resid) if getattr(model, "ln_final", None) is not None else resid
            found.append(float(model.unembed(normed)[0, -1].softmax(-1)[token]))
    return found


def same(answer, wanted, before):
    """Whether an answer's numbers are those of two vectors of probabilities."""
    for row in answer["top"]:
        assert row["after"] == pytest.approx(float(wanted[row["id"]]), abs=1e-9)
        assert row["before"] == pytest.approx(float(before[row["id"]]), abs=1e-9)
    ids = {row["id"] for row in answer["top"]}
    assert int(wanted.argmax()) in ids
    assert int(before.argmax()) in ids
    sums = [row["before"] + row["after"] for row in answer["top"]]
    assert sums == sorted(sums, reverse=True)
    assert len(sums) <= 9


@pytest.mark.parametrize(("kind", "name"), CASES)
@pytest.mark.parametrize(
    "cuts",
    [
        [("blocks.0.mlp.W_in", 0.25)],
        [("blocks.2.mlp.W_out", 0.5)],
        [("blocks.1.attn.W_Q", 0.1), ("blocks.2.mlp.W_in", 0.5)],
        [("blocks.2.attn.W_O", 0.25), ("blocks.0.attn.W_V", 0.5), ("blocks.1.mlp.W_out", 0.0)],
        [("blocks.1.attn.W_O.2", 0.25), ("blocks.1.attn.W_Q.1", 0.25)],
    ],
    ids=lambda cuts: "+".join(site.removeprefix("blocks.") for site, _ in cuts),
)
def test_numbers_are_those_of_edited_weights(precise_model, kind, name, cuts):
    model = precise_model(kind, name)
    page = Page(model)
    first, *_ = page.prompt()
    before = direct(model)
    answer = page.cut(*(of(site, amount) for site, amount in cuts), control=True)
    with inplace.edited(model, *((site, inplace.top(amount)) for site, amount in cuts)):
        after = direct(model)
        lenses = {each: lens(model, first[each]["id"]) for each in ("in_context", "global")}
    same(answer, after, before)
    for each in ("in_context", "global"):
        token = first[each]["id"]
        assert answer[each]["before"] == pytest.approx(float(before[token]), abs=1e-9)
        assert answer[each]["after"] == pytest.approx(float(after[token]), abs=1e-9)
        assert answer["lens"][each]["cut"] == pytest.approx(lenses[each], abs=1e-9)
        assert answer["lens"][each]["uncut"] == pytest.approx(lens(model, token), abs=1e-9)
        assert first["lens"][each] == answer["lens"][each]["uncut"]
    assert answer["replayed_from"] == min(int(site.split(".")[1]) for site, _ in cuts)


@pytest.mark.parametrize(
    ("rule", "amount", "kept"),
    [
        ("smallest", 0.25, slice(24, 32)),
        ("rank", 5, slice(0, 5)),
        ("drop_top", 3, slice(3, 32)),
        ("largest", 0, slice(0, 0)),
        ("largest", 1, slice(0, 32)),
    ],
)
def test_rules(precise_model, rule, amount, kept):
    model = precise_model("bridge", "gpt2")
    page = Page(model)
    page.prompt()
    answer = page.cut(of("blocks.1.mlp.W_out", amount, rule))
    weight = inplace.read(model, 1, "W_out")
    with inplace.edited(model, ("blocks.1.mlp.W_out", lambda matrix: inplace.truncate(matrix, kept))):
        after = direct(model)
    same(answer, after, direct(model))
    values = np.linalg.svd(weight, compute_uv=False)
    spectrum = answer["spectrum"]
    assert spectrum["rank"] == 32
    assert spectrum["count"] == kept.stop - kept.start
    assert spectrum["kept"] == ([(kept.start, kept.stop)] if kept.stop > kept.start else [])
    assert [value for _, value in spectrum["values"]] == pytest.approx(values.tolist(), rel=1e-9)


@pytest.mark.parametrize(
    ("rule", "amount", "keep"),
    [
        ("energy", 0.8, tlt.Energy(0.8)),
        ("marchenko_pastur", None, tlt.MarchenkoPastur()),
        ("optimal_threshold", None, tlt.OptimalThreshold()),
    ],
)
def test_rules_that_look_at_the_spectrum(precise_model, rule, amount, keep):
    model = precise_model("bridge", "gpt2")
    page = Page(model)
    page.prompt()
    site = "blocks.0.mlp.W_in"
    answer = page.cut(of(site, amount, rule))
    with tlt.truncated(model, tlt.Cut(site, keep)):
        after = direct(model)
    same(answer, after, direct(model))
    assert answer["spectrum"]["count"] == len(tlt.spectrum(model, site).kept(keep))


def test_strength(precise_model):
    model = precise_model("bridge", "gpt2")
    page = Page(model)
    page.prompt()
    answer = page.cut(of("blocks.1.mlp.W_out", 0.25, strength=-0.5))

    def stronger(matrix):
        return matrix + 0.5 * (matrix - inplace.top(0.25)(matrix))

    with inplace.edited(model, ("blocks.1.mlp.W_out", stronger)):
        after = direct(model)
    same(answer, after, direct(model))
    assert answer["said"] == "layer 1, W_out, 25% kept, strength -0.5"


def test_the_control_is_a_random_subspace(precise_model):
    model = precise_model("bridge", "gpt2")
    page = Page(model)
    first, *_ = page.prompt()
    cuts = [of("blocks.0.mlp.W_in", 0.25), of("blocks.1.attn.W_O", 0.5)]
    answer = page.cut(*cuts, control=True)
    drawn = [tlt.RandomSubspace(each["site"], each["amount"], seed=0) for each in cuts]
    with tlt.truncated(model, *drawn):
        control = direct(model)
    assert [row["p"] for row in answer["control"]["top"]] == pytest.approx(
        [float(control[row["id"]]) for row in answer["top"]], abs=1e-9
    )
    assert answer["in_context"]["control"] == [
        pytest.approx(float(control[first["in_context"]["id"]]), abs=1e-9)
    ]
    assert "control" not in page.cut(*cuts)
    assert "lens" not in page.cut(*cuts)


def test_a_control_of_another_cut_is_drawn_anew(precise_model):
    model = precise_model("bridge", "gpt2")
    page = Page(model)
    page.prompt()
    found = [page.cut(of("blocks.0.mlp.W_in", share), control=True) for share in (0.25, 0.5, 0.25)]
    first, second, third = (each["control"]["top"] for each in found)
    assert first == third
    assert first != second


def test_nothing_to_draw(precise_model):
    page = Page(precise_model("bridge", "gpt2"))
    page.prompt()
    answer = page.cut(of("blocks.0.mlp.W_in", 0), control=True)
    assert answer["control"]["what"] == "the cut itself: there is nothing to draw"
    assert [row["p"] for row in answer["control"]["top"]] == [row["after"] for row in answer["top"]]


def test_another_prompt(precise_model):
    model = precise_model("bridge", "llama-grouped")
    page = Page(model)
    page.prompt()
    page.cut(of("blocks.2.mlp.W_gate", 0.25))
    page.prompt(OTHER, " Paris", None)
    answer = page.cut(of("blocks.2.mlp.W_gate", 0.25))
    with inplace.edited(model, ("blocks.2.mlp.W_gate", inplace.top(0.25))):
        after = direct(model, OTHER)
    same(answer, after, direct(model, OTHER))
    assert answer["global"] is None


def _in_place(weight):
    with torch.no_grad():
        weight.mul_(1.5)


def _data_in_place(weight):
    weight.data.mul_(1.5)


def _data_replaced(weight):
    weight.data = 1.5 * weight.data


@pytest.mark.parametrize("change", [_in_place, _data_in_place, _data_replaced])
@pytest.mark.parametrize("layer", [0, 2])
def test_weights_that_change_are_followed(fresh, change, layer):
    model = fresh()
    page = Page(model)
    page.prompt()
    cut = of("blocks.1.mlp.W_out", 0.25)
    page.cut(cut)
    change(inplace.parameter(model, layer, "W_in")[0])
    # What no counter sees is found at the end of a drag, and after a pause.
    answer = page.cut(cut, control=change is _data_in_place)
    with inplace.edited(model, ("blocks.1.mlp.W_out", inplace.top(0.25))):
        after = direct(model)
    same(answer, after, direct(model))


def test_an_unseen_change_is_found_after_a_pause(fresh, monkeypatch):
    model = fresh()
    page = Page(model)
    page.prompt()
    cut = of("blocks.1.mlp.W_out", 0.25)
    page.cut(cut)
    _data_in_place(inplace.parameter(model, 0, "W_in")[0])
    monkeypatch.setattr(state, "_PAUSE", 0.0)
    answer = page.cut(cut)
    with inplace.edited(model, ("blocks.1.mlp.W_out", inplace.top(0.25))):
        after = direct(model)
    same(answer, after, direct(model))


def test_a_module_that_is_replaced_is_followed(fresh):
    model = fresh()
    page = Page(model)
    page.prompt()
    cut = of("blocks.2.mlp.W_out", 0.25)
    page.cut(cut)
    model.blocks[0].register_forward_hook(lambda module, args, output: _twice(output))
    answer = page.cut(cut)
    with inplace.edited(model, ("blocks.2.mlp.W_out", inplace.top(0.25))):
        after = direct(model)
    same(answer, after, direct(model))


@pytest.mark.parametrize("what", ["a closure", "a setting", "another hook"])
def test_what_no_counter_sees_is_followed_where_a_drag_rests(fresh, what):
    model = fresh()
    factor = [1.0]

    def hook(module, args, output):
        value = output[0] if isinstance(output, tuple) else output
        return (factor[0] * value, *output[1:]) if isinstance(output, tuple) else factor[0] * value

    handle = model.blocks[0].register_forward_hook(hook)
    page = Page(model)
    page.prompt()
    cut = of("blocks.2.mlp.W_out", 0.25)
    page.cut(cut)
    if what == "a closure":
        factor[0] = 3.0
    elif what == "a setting":
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.eps = 0.5
    else:
        handle.remove()
        model.blocks[0].register_forward_hook(lambda module, args, output: _twice(output))
    answer = page.cut(cut, control=True)
    with tlt.truncated(model, tlt.Cut("blocks.2.mlp.W_out", 0.25)):
        after = direct(model)
    same(answer, after, direct(model))


def _twice(output):
    return (2 * output[0], *output[1:]) if isinstance(output, tuple) else 2 * output


@pytest.mark.parametrize("place", [1, 3])
@pytest.mark.parametrize("block", [1, 2])
def test_a_hook_that_goes_by_the_position_sees_whole_rows(fresh, block, place):
    """The last block runs at the last token alone, where a position is another one."""
    model = fresh()

    def hook(module, args, output):
        value = (output[0] if isinstance(output, tuple) else output).clone()
        if value.shape[1] > place:
            value[:, place] *= 3
        return (value, *output[1:]) if isinstance(output, tuple) else value

    model.blocks[block].attn.register_forward_hook(hook)
    page = Page(model)
    (first,) = (each for each in page.prompt() if each["kind"] == "prompt")
    answer = page.cut(of("blocks.0.mlp.W_out", 0.25))
    assert any("hook" in note for note in first["notes"])
    before = direct(model)
    with tlt.truncated(model, tlt.Cut("blocks.0.mlp.W_out", 0.25)):
        same(answer, direct(model), before)


@pytest.mark.parametrize(
    ("kind", "name"), [case for case in CASES if case[1] in ("gpt2", "llama-grouped")]
)
def test_hooks_of_the_user_belong_to_both_sides(precise_model, kind, name):
    model = precise_model(kind, name)
    page = Page(model)
    page.prompt()
    page.cut(of("blocks.1.mlp.W_out", 0.25))
    with model.hooks(fwd_hooks=[("blocks.0.hook_mlp_out", lambda value, hook: 1.5 * value)]):
        before = direct(model)
        answer = page.cut(of("blocks.1.mlp.W_out", 0.25), control=True)
        with inplace.edited(model, ("blocks.1.mlp.W_out", inplace.top(0.25))):
            after = direct(model)
        same(answer, after, before)
        assert answer["lens"] is None
        assert answer["replayed_from"] == 0
        first, *_ = page.prompt()
        assert any("hooks" in note for note in first["notes"])
    answer = page.cut(of("blocks.1.mlp.W_out", 0.25))  # the hook is gone
    with inplace.edited(model, ("blocks.1.mlp.W_out", inplace.top(0.25))):
        after = direct(model)
    same(answer, after, direct(model))


def test_a_context_around_belongs_to_both_sides(precise_model):
    model = precise_model("bridge", "gpt2")
    page = Page(model)
    page.prompt()
    with tlt.truncated(model, tlt.Cut("blocks.0.mlp.W_in", 0.25)):
        answer = page.cut(of("blocks.1.mlp.W_out", 0.25))
    edits = [("blocks.0.mlp.W_in", inplace.top(0.25)), ("blocks.1.mlp.W_out", inplace.top(0.25))]
    with inplace.edited(model, edits[0]):
        before = direct(model)
    with inplace.edited(model, *edits):
        after = direct(model)
    same(answer, after, before)
    with (
        tlt.truncated(model, tlt.Cut("blocks.1.attn.W_O", 0.25)),
        pytest.raises(ValueError, match="must not overlap"),
    ):
        page.cut(of("blocks.1.attn.W_O.2", 0.25))  # a part of what is cut already


def test_a_model_that_cannot_be_replayed_says_so(fresh):
    model = fresh()
    model.blocks[1].hook_out.add_hook(lambda value, hook: value, is_permanent=True)
    page = Page(model)
    first, *_ = page.prompt()
    assert any("whole model" in note for note in first["notes"])
    answer = page.cut(of("blocks.2.mlp.W_out", 0.25))
    with inplace.edited(model, ("blocks.2.mlp.W_out", inplace.top(0.25))):
        after = direct(model)
    same(answer, after, direct(model))


def test_nothing_is_left_behind(precise_model):
    model = precise_model("bridge", "gpt2")
    page = Page(model)
    before = direct(model)
    page.prompt()
    page.cut(of("blocks.0.attn.W_O.1", 0.25), of("blocks.0.mlp.W_in"), control=True)
    with pytest.raises(ValueError, match="layer"):
        page.cut(of("blocks.9.mlp.W_in"))
    assert torch.equal(direct(model), before)


class TestPrompts:
    def test_answers_without_their_space(self, precise_model):
        first, *_ = Page(precise_model("bridge", "gpt2")).prompt(in_context="Mary", global_="the")
        assert (first["in_context"]["text"].strip(), first["global"]["text"].strip()) == ("Mary", "the")

    @pytest.mark.parametrize(
        ("text", "typed", "followed"),
        [
            ("The capital of France is", "Paris", " Paris"),
            ("John ,", "Mary", " Mary"),
            ('It is called "', "Paris", "Paris"),
            ("John (", "Mary", "Mary"),
            ("John=", "Mary", "Mary"),
            ("The capital of France is", " Paris", " Paris"),
        ],
    )
    def test_a_blank_is_put_where_running_text_has_one(self, precise_model, text, typed, followed):
        """And it is said, and one may do without; a task's answers stand as they are."""
        model = precise_model("bridge", "gpt2")
        ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
        wanted = model.tokenizer(text + followed, add_special_tokens=False)["input_ids"][len(ids)]
        page = Page(model)
        first, *_ = page.prompt(text, typed, None)
        assert first["in_context"]["id"] == wanted
        assert first["blank"] == (followed != typed)
        assert any("a blank was put before" in note for note in first["notes"]) == first["blank"]
        as_typed = model.tokenizer(text + typed, add_special_tokens=False)["input_ids"]
        if as_typed[: len(ids)] == ids and len(as_typed) > len(ids):
            exact, *_ = page.ask("prompt", text=text, in_context=typed, exact=True)
            assert (exact["in_context"]["id"], exact["blank"]) == (as_typed[len(ids)], False)
        else:
            with pytest.raises(Unreadable, match="merges with its end"):
                page.ask("prompt", text=text, in_context=typed, exact=True)

    def test_answers_of_a_task_are_those_that_are_scored(self, precise_model):
        model = precise_model("bridge", "gpt2")
        task = tlt.Task("glued", ["Mary gave John ("], ["Mary"], ["Paris"])
        (example,) = Page(model, task).ask("hello")[0]["prompts"]
        assert example["exact"]
        first, *_ = Page(model, task).ask("prompt", **example)
        scores = tlt.evaluate(model, task, progress=False)
        p = float(direct(model, "Mary gave John (")[first["in_context"]["id"]])
        assert p == pytest.approx(float(scores.p_in_context), abs=1e-6)

    def test_a_prompt_that_begins_with_a_bos_keeps_it(self, precise_model, monkeypatch):
        model = precise_model("bridge", "gpt2")
        text = f"{model.tokenizer.bos_token}Mary gave a drink to"
        for default in (False, True):
            monkeypatch.setattr(model.cfg, "default_prepend_bos", default)
            first, *_ = Page(model).prompt(text)
            assert first["tokens"][0] == model.tokenizer.bos_token
            assert first["tokens"].count(model.tokenizer.bos_token) == 1
            ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                wanted = model(torch.tensor([ids]))[0, -1].double().softmax(-1)
            assert first["top"][0]["p"] == pytest.approx(float(wanted.max()), abs=1e-9)

    def test_one_that_cannot_be_read_leaves_none_behind(self, precise_model):
        page = Page(precise_model("bridge", "gpt2"))
        page.prompt()
        with pytest.raises(Unreadable, match="differ"):
            page.prompt(OTHER, " the", " the")
        for asked in (lambda: page.cut(of("blocks.0.mlp.W_in")), lambda: page.ask("python", cuts=[])):
            with pytest.raises(Unreadable, match="prompt must be read"):
                asked()

    def test_no_answers(self, precise_model):
        model = precise_model("bridge", "gpt2")
        page = Page(model)
        first, *maps = page.prompt(in_context=None, global_=None)
        assert first["in_context"] is None
        assert first["global"] is None
        assert first["lens"] == {}
        best = int(direct(model).argmax())
        assert first["top"][0]["id"] == best
        assert len(first["top"]) == 10
        assert maps[-1]["metric"] == f"p({first['top'][0]['token'].strip()})"
        answer = page.cut(of("blocks.1.mlp.W_out"), control=True)
        assert answer["in_context"] is None
        assert answer["lens"] == {}

    @pytest.mark.parametrize(
        ("fields", "field", "said"),
        [
            (dict(text=PROMPT, in_context=" the"), "global", "differ"),
            (dict(text="Mary " * 200), "text", "context of 64 tokens"),
        ],
    )
    def test_what_cannot_be(self, precise_model, fields, field, said):
        page = Page(precise_model("bridge", "gpt2"))
        with pytest.raises(Unreadable, match=said) as caught:
            page.prompt(**fields)
        assert caught.value.field == field

    def test_nothing_typed(self, precise_model):
        model = precise_model("bridge", "gpt2")  # which has a BOS
        assert Page(model).prompt("", None, None)[0]["tokens"] == [model.tokenizer.bos_token]
        model = precise_model("bridge", "no-norm")  # which has none in front
        with pytest.raises(Unreadable, match="at least one token"):
            Page(model).prompt("", None, None)

    def test_a_cut_before_a_prompt(self, precise_model):
        with pytest.raises(Unreadable, match="prompt must be read"):
            Page(precise_model("bridge", "gpt2")).cut(of("blocks.0.mlp.W_in"))


class TestMap:
    @pytest.mark.parametrize(("kind", "name"), [*CASES, ("bridge", "opt-learnt")])
    def test_it_is_what_attribute_predicts(self, precise_model, kind, name):
        model = precise_model(kind, name)
        page = Page(model)
        _, *maps = page.prompt()
        last = maps[-1]
        task = tlt.Task(name="one", prompts=[PROMPT], in_context=[" Mary"], global_=" the")
        sites = list(page.exploration.sites)
        screen = tlt.attribute(model, task, sites=sites, progress=False)
        assert [each["site"] for each in last["sites"]] == list(map(str, sites))
        wanted = [float(screen.effect(site, 0.5)) for site in sites]
        assert [each["effect"] for each in last["sites"]] == pytest.approx(wanted, abs=1e-9)
        assert last["metric"] == "log p(in-context) − log p(global)"
        assert len(maps) == model.cfg.n_layers

    @pytest.mark.parametrize("answers", [(" Mary", None), (None, " the")])
    def test_one_answer(self, precise_model, answers):
        model = precise_model("bridge", "gpt2")
        page = Page(model)
        first, *maps = page.prompt(PROMPT, *answers)
        site = "blocks.2.mlp.W_out"
        predicted = {each["site"]: each["effect"] for each in maps[-1]["sites"]}[site]
        token = (first["in_context"] or first["global"])["id"]
        small = 1e-5  # by finite differences in the strength of the cut
        with tlt.truncated(model, tlt.Cut(site, 0.5, strength=small)):
            cut = float(direct(model)[token])
        assert predicted == pytest.approx((cut - float(direct(model)[token])) / small, rel=1e-3)

    def test_a_newer_prompt_ends_it(self, precise_model):
        page = Page(precise_model("bridge", "gpt2"))
        asked = read({"kind": "prompt", "id": 1, "text": PROMPT})
        steps = page.exploration.answer(page.visitor, asked)
        assert next(steps)["kind"] == "prompt"
        page.prompt(OTHER)
        assert [each for each in steps if each is not None] == []

    @pytest.mark.parametrize(("kind", "name"), [*CASES, ("bridge", "opt-learnt")])
    def test_the_first_pass_of_a_model_is_no_change_of_it(self, fresh, kind, name):
        """A Bridge leaves hooks of its own when it is first called: cuts asked meanwhile end no map."""
        model = fresh(kind, name)
        page = Page(model)
        asked = read(
            {"kind": "prompt", "id": 1, "text": PROMPT, "in_context": " Mary", "global": " the"}
        )
        steps = page.exploration.answer(page.visitor, asked)
        next(steps)
        prepared = page.visitor.memory["prepared"]
        maps = []
        for message in steps:
            page.cut(of("blocks.1.mlp.W_out"), control=True)
            maps += [] if message is None else [message]
        assert page.visitor.memory["prepared"] is prepared
        assert len(maps[-1]["sites"]) == len(page.exploration.sites)
        assert page.told == []

    @pytest.mark.parametrize("behind", [1, 9])
    def test_of_a_model_that_changes_meanwhile(self, fresh, behind):
        """The map is begun again, and is that of the model as it is then."""
        model = fresh()
        page = Page(model)
        asked = read(
            {"kind": "prompt", "id": 1, "text": PROMPT, "in_context": " Mary", "global": " the"}
        )
        steps = page.exploration.answer(page.visitor, asked)
        for _ in range(1 + behind):
            next(steps)
        _in_place(inplace.parameter(model, 0, "W_in")[0])
        page.cut(of("blocks.1.mlp.W_out"))
        assert [each["sites"] for each in page.told] == [[]]
        *_, last = [each for each in steps if each is not None]
        _, *wanted = Page(model).prompt()
        assert last == wanted[-1]

    @pytest.mark.parametrize("behind", [1, 9])
    @pytest.mark.parametrize("seen", [True, False])
    def test_of_a_model_that_changes_and_nobody_asks(self, fresh, behind, seen):
        """Gradients of one model are not put together with spectra of another."""
        model = fresh()
        page = Page(model)
        steps = page.exploration.answer(page.visitor, read({"kind": "prompt", "id": 1, "text": PROMPT}))
        for _ in range(1 + behind):
            next(steps)
        weight = inplace.parameter(model, 2, "W_out")[0]
        (_in_place if seen else _data_in_place)(weight)
        *_, last = [each for each in steps if each is not None]
        assert (last["sites"], last["why"][:21]) == ([], "the model has changed")

    def test_of_a_model_that_changes_later(self, fresh):
        """No colours of what it was: the map says that it is another model's."""
        model = fresh()
        page = Page(model)
        page.prompt()
        page.cut(of("blocks.1.mlp.W_out"))
        assert page.told == []
        _in_place(inplace.parameter(model, 0, "W_in")[0])
        page.cut(of("blocks.1.mlp.W_out"))
        (told,) = page.told
        assert (told["kind"], told["sites"]) == ("map", [])
        assert told["why"].startswith("the model has changed")


class TestEvaluate:
    def test_it_is_evaluate(self, precise_model, drinks):
        model = precise_model("bridge", "gpt2")
        page = Page(model, drinks)
        cuts = [of("blocks.0.mlp.W_in", 0.25), of("blocks.2.mlp.W_out", 0.25)]
        *progress, last = page.ask("evaluate", task="drinks", n=4, cuts=cuts)
        chosen = [tlt.Cut(each["site"], each["amount"]) for each in cuts]
        drawn = [tlt.RandomSubspace(cut.site, cut.keep, seed=0) for cut in chosen]
        wanted = tlt.evaluate(model, drinks, chosen, progress=False)
        control = tlt.evaluate(model, drinks, drawn, progress=False)
        rows = {row["metric"]: row for row in last["rows"]}
        json.dumps(last, allow_nan=False)
        for metric, name in (("p_in_context", "p(in-context)"), ("accuracy", "accuracy")):
            row, change = rows[name], wanted.change(metric)
            assert row["uncut"] == pytest.approx(float(wanted.baseline.estimate(metric)), abs=1e-9)
            assert row["cut"] == pytest.approx(float(wanted.estimate(metric)), abs=1e-9)
            assert row["change"] == pytest.approx(float(change), abs=1e-9)
            assert (
                row["low"] is None if np.isnan(change.low) else row["low"] == pytest.approx(change.low)
            )
            assert (
                row["high"] is None
                if np.isnan(change.high)
                else row["high"] == pytest.approx(change.high)
            )
            assert row["control"] == pytest.approx(float(control.change(metric)), abs=1e-9)
        assert [each["done"] for each in progress][-1] == 4

    def test_in_parts(self, precise_model, drinks, monkeypatch):
        model = precise_model("bridge", "gpt2")
        page = Page(model, drinks)
        asked = dict(task="drinks", n=4, cuts=[of("blocks.0.mlp.W_in", 0.25)])
        whole = page.ask("evaluate", **asked)[-1]
        monkeypatch.setattr(scored, "_AT_ONCE", 1)
        *progress, parts = page.ask("evaluate", **asked)
        assert len(progress) == 5
        for one, other in zip(whole["rows"], parts["rows"], strict=True):
            assert one.pop("metric") == other.pop("metric")
            assert one == pytest.approx(other, abs=1e-12)

    def test_unknown(self, precise_model, drinks):
        with pytest.raises(Unreadable, match="drinks"):
            Page(precise_model("bridge", "gpt2"), drinks).ask("evaluate", task="nothing", n=4)


def test_logits_that_are_not_finite():
    with pytest.raises(ValueError, match="finite"):
        probabilities(torch.tensor([1.0, float("nan")]))


def test_the_first_token_of_each_side_has_a_row():
    """Also where ten others have more on the other side."""
    before = torch.tensor([0.0, *[0.08 + 0.001 * place for place in range(12)]])
    after = torch.tensor([0.012, *[0.011] * 12])
    rows = both_tops(before, after)
    assert len(rows) == 9
    assert {row[0] for row in rows} >= {0, 12}
    sums = [row[1] + row[2] for row in rows]
    assert sums == sorted(sums, reverse=True)


def test_a_spectrum_is_sampled_with_both_ends():
    values = torch.linspace(3, 1, 1000)
    found = sampled(values)
    assert len(found) == 200
    assert found[0] == (0, 3.0)
    assert found[-1] == (999, 1.0)
    assert all(value == float(values[place]) for place, value in found)


def test_runs():
    assert runs([]) == []
    assert runs([4]) == [(4, 5)]
    assert runs(range(3)) == [(0, 3)]
