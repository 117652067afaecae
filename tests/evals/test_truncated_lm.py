"""A cut model as the harness asks it: the harness' own numbers on the same weights, and on edited ones."""

import copy
import json
import shutil

import architectures
import harness
import inplace
import pytest
import torch

import tl_truncate as tlt

HFLM = pytest.importorskip("lm_eval.models.huggingface").HFLM
CUTS = {"blocks.1.mlp.W_in": 0.5, "blocks.2.mlp.W_out": 0.25}
CHOSEN = [tlt.Cut(site, keep) for site, keep in CUTS.items()]
CLOSE = 1e-5
#: HookedTransformer reads folders of GPT-NeoX alone.
LOADED = [("bridge", name) for name in harness.WEIGHTS]
LOADED += [("hooked", "neox-parallel")] if architectures.HOOKED else []


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    return {name: harness.save(name, place / name, chat=True) for name in harness.WEIGHTS}


@pytest.fixture(scope="module")
def plain(folders):
    """What the harness says of the plain model, read from its folder as `--model hf` does."""
    found = {}

    def get(name):
        if name not in found:
            own = HFLM(pretrained=str(folders[name]), device="cpu", dtype="float32", batch_size=3)
            found[name] = harness.everything(own)
        return found[name]

    return get


@pytest.fixture(scope="module")
def loaded(folders):
    models = {}

    def get(backend, name):
        if (backend, name) not in models:
            models[backend, name] = tlt.load_model(str(folders[name]), backend=backend)
        return models[backend, name]

    return get


@pytest.mark.parametrize(("backend", "name"), LOADED)
def test_uncut_it_says_what_model_hf_says(loaded, plain, backend, name):
    model = loaded(backend, name)
    # TransformerLens' tokenizer has a BOS in front, the files' has none.
    assert model.tokenizer("the")["input_ids"][0] == model.tokenizer.bos_token_id
    found = harness.everything(tlt.evals.TruncatedLM(model, batch_size=2))
    assert harness.apart(plain(name), found) < CLOSE


@pytest.mark.parametrize(("backend", "name"), LOADED)
def test_cut_it_says_what_model_hf_says_of_edited_weights(loaded, folders, plain, backend, name):
    reference = HFLM(
        pretrained=harness.edited(name, folders[name], CUTS),
        tokenizer=HFLM(pretrained=str(folders[name]), device="cpu").tokenizer,
        batch_size=4,
    )
    wanted = harness.everything(reference)
    found = harness.everything(tlt.evals.TruncatedLM(loaded(backend, name), CHOSEN, batch_size=5))
    assert harness.apart(wanted, found) < CLOSE
    effect = [
        abs(a - b) for (a, _), (b, _) in zip(wanted["loglikelihood"], plain(name)["loglikelihood"])
    ]
    assert max(effect) > 0.1


@pytest.mark.parametrize(("kind", "name"), architectures.CASES)
def test_in_every_architecture_a_cut_is_the_edited_weight(shared, kind, name):
    if name == "no-norm" and kind == "bridge":
        pytest.skip("a native Bridge wraps no model of transformers: see test_refused.py")
    model = architectures.with_tokenizer(shared(kind, name))
    lm = tlt.evals.TruncatedLM(model, tlt.Cut("blocks.1.mlp.W_out", 0.25), batch_size=3)
    found = harness.everything(lm)
    uncut = tlt.evals.TruncatedLM(model, batch_size=3)
    with inplace.edited(model, ("blocks.1.mlp.W_out", inplace.top(0.25))):
        wanted = harness.everything(uncut)
    assert harness.apart(wanted, found) < CLOSE


@pytest.mark.parametrize(
    ("kind", "name"), [case for case in architectures.CASES if case[1] != "no-norm"]
)
def test_generation_is_that_of_passes_over_all_the_text(shared, kind, name):
    """With a cache of keys and values, in batches that are filled up on the left, under a cut."""
    model = architectures.with_tokenizer(shared(kind, name))
    cut = tlt.Cut("blocks.1.mlp.W_out", 0.25)
    lm = tlt.evals.TruncatedLM(model, cut, batch_size=6)
    found = lm.generate_until(harness.requests("generate_until", harness.generating()))
    end = lm.tokenizer.eos_token_id
    with tlt.truncated(model, cut), torch.no_grad():
        for context, text in zip(harness.CONTEXTS, found, strict=True):
            tokens = lm.tok_encode(context)[-(64 - 7) :]
            said = []
            while len(said) < 7 and end not in said:
                logits = model(torch.tensor([[*tokens, *said]]), return_type="logits")
                said.append(int(logits[0, -1].argmax()))
            assert text == lm.tok_decode(said)


def test_nothing_of_the_users_is_changed(loaded):
    model = loaded("bridge", "gpt2")
    before = (tlt.weights.identity.content.weights_hash(model), copy.deepcopy(model.tokenizer.__dict__))
    state = torch.get_rng_state()
    lm = tlt.evals.TruncatedLM(model, CHOSEN)
    harness.everything(lm)
    assert tlt.weights.identity.content.weights_hash(model) == before[0]
    for name in ("_pad_token", "padding_side", "chat_template"):
        assert model.tokenizer.__dict__.get(name) == before[1].get(name)
    assert torch.equal(state, torch.get_rng_state())
    # Not even inside: the cut is at work while the harness asks.
    assert tlt.surgery.hooks.active_cuts(model) == ()


@pytest.mark.parametrize(("backend", "name"), LOADED)
@pytest.mark.parametrize("side", ["left", "right"])
def test_batches_and_padding_change_nothing(loaded, plain, backend, name, side):
    model = loaded(backend, name)
    before = model.tokenizer.padding_side
    model.tokenizer.padding_side = side
    try:
        for size in (1, 7):
            found = harness.everything(tlt.evals.TruncatedLM(model, batch_size=size))
            assert harness.apart(plain(name), found) < CLOSE
    finally:
        model.tokenizer.padding_side = before


@pytest.mark.parametrize(("backend", "name"), LOADED[:1] + LOADED[3:])
def test_a_text_that_begins_with_a_bos_keeps_it(loaded, folders, backend, name):
    """Also if the tokenizer pads on the left with that very token."""
    model = loaded(backend, name)
    reference = HFLM(pretrained=str(folders[name]), device="cpu", dtype="float32")
    asked = harness.requests("loglikelihood", [("<bos>Mary gave a drink to", " John")])
    tokenizer = copy.deepcopy(reference.tokenizer)
    tokenizer.pad_token, tokenizer.padding_side = tokenizer.bos_token, "left"
    own = tlt.evals.TruncatedLM(model, tokenizer=tokenizer)
    before = model.tokenizer.padding_side, model.tokenizer.pad_token
    model.tokenizer.padding_side, model.tokenizer.pad_token = "left", model.tokenizer.bos_token
    try:
        assert abs(own.loglikelihood(asked)[0][0] - reference.loglikelihood(asked)[0][0]) < CLOSE
    finally:
        model.tokenizer.padding_side, model.tokenizer.pad_token = before


@pytest.mark.parametrize("bos", [True, False])
def test_a_bos_that_is_asked_for(loaded, folders, bos):
    reference = HFLM(pretrained=str(folders["gpt2"]), device="cpu", dtype="float32", add_bos_token=bos)
    own = tlt.evals.TruncatedLM(loaded("bridge", "gpt2"), add_bos_token=bos)
    assert harness.apart(harness.everything(reference), harness.everything(own)) < CLOSE
    assert own.tok_encode("Mary") == reference.tok_encode("Mary")


@pytest.mark.parametrize(("backend", "name"), LOADED[:1] + LOADED[3:])
def test_stops_and_lengths(loaded, folders, backend, name):
    reference = HFLM(
        pretrained=str(folders[name]), device="cpu", dtype="float32", batch_size=2, max_length=40
    )
    own = tlt.evals.TruncatedLM(loaded(backend, name), batch_size=3, max_length=40)
    for options in (dict(until=[" is"]), dict(until=[" is is", "Italy"]), dict(max_gen_toks=20)):
        asked = harness.requests("generate_until", harness.generating(**options))
        assert own.generate_until(asked) == reference.generate_until(asked)
    pairs = harness.requests("loglikelihood", harness.PAIRS)
    for (one, _), (other, _) in zip(
        own.loglikelihood(pairs), reference.loglikelihood(pairs), strict=True
    ):
        assert abs(one - other) < CLOSE * max(1, abs(one))


def test_the_inner_methods_meet_the_cut_too(loaded):
    model = loaded("bridge", "gpt2")
    tokens = torch.tensor([[5, 6, 7]])
    lm, uncut = tlt.evals.TruncatedLM(model, CHOSEN), tlt.evals.TruncatedLM(model)
    with tlt.truncated(model, CHOSEN), torch.no_grad():
        wanted = model(tokens)
        assert torch.equal(uncut._model_call(tokens), wanted)  # a context around is at work too
    assert torch.equal(lm._model_call(tokens), wanted)
    assert not torch.equal(uncut._model_call(tokens), wanted)


def test_after_an_error_the_cut_is_gone(loaded):
    model = loaded("bridge", "gpt2")
    lm = tlt.evals.TruncatedLM(model, CHOSEN)
    with pytest.raises(AssertionError):
        lm.loglikelihood(harness.requests("loglikelihood", [("Mary", "")]))
    assert tlt.surgery.hooks.active_cuts(model) == ()
    assert harness.everything(lm) == harness.everything(lm)


class TestAnswers:
    def test_they_are_given_without_a_pass(self, loaded, tmp_path, monkeypatch):
        lm = tlt.evals.TruncatedLM(loaded("bridge", "gpt2"), CHOSEN, answers=tmp_path / "answers.jsonl")
        first = harness.everything(lm)
        again = tlt.evals.TruncatedLM(
            loaded("bridge", "gpt2"), CHOSEN, answers=tmp_path / "answers.jsonl"
        )
        monkeypatch.setattr(type(again), "_model_call", None)
        monkeypatch.setattr(type(again), "_model_generate", None)
        assert harness.everything(again) == first
        assert all(isinstance(each, tuple) for each in first["loglikelihood"])

    def test_who_differs_in_anything_shares_none(self, folders, tmp_path):
        """Cuts, weights, dtypes, tokenizers, lengths, contexts around, classes."""
        file = tmp_path / "answers.jsonl"
        model = tlt.load_model(str(folders["gpt2"]))
        edited = tlt.load_model(str(folders["gpt2"]))
        with torch.no_grad():
            next(iter(edited.parameters())).view(-1)[0] += 1e-3
        half = tlt.load_model(str(folders["gpt2"]), dtype="bfloat16")
        one, other = tlt.Cut("blocks.1.mlp.W_out", 4), tlt.Cut("blocks.1.mlp.W_out", 5)
        makers = [
            lambda: tlt.evals.TruncatedLM(model, answers=file),
            lambda: tlt.evals.TruncatedLM(model, one, answers=file),
            lambda: tlt.evals.TruncatedLM(model, other, answers=file),
            lambda: tlt.evals.TruncatedLM(model, tlt.Cut(one.site, 4, strength=0.5), answers=file),
            lambda: tlt.evals.TruncatedLM(model, tlt.RandomSubspace(one.site, 4, 0), answers=file),
            lambda: tlt.evals.TruncatedLM(model, tlt.RandomSubspace(one.site, 4, 1), answers=file),
            lambda: tlt.evals.TruncatedLM(model, add_bos_token=True, answers=file),
            lambda: tlt.evals.TruncatedLM(model, max_length=32, answers=file),
            lambda: tlt.evals.TruncatedLM(edited, answers=file),
            lambda: tlt.evals.TruncatedLM(half, answers=file),
        ]
        asked = harness.requests("loglikelihood", [("Mary", " the")])
        for count, make in enumerate(makers, 1):
            make().loglikelihood(asked)
            assert len(file.read_text().splitlines()) == count
        with tlt.truncated(model, tlt.Cut("blocks.0.mlp.W_in", 3)):
            makers[0]().loglikelihood(asked)
        assert len(file.read_text().splitlines()) == len(makers) + 1
        # And each finds its own.
        for make in makers:
            make().loglikelihood(asked)
        assert len(file.read_text().splitlines()) == len(makers) + 1

    def test_shots_and_stops_are_part_of_what_is_asked(self, loaded, tmp_path):
        file = tmp_path / "answers.jsonl"
        lm = tlt.evals.TruncatedLM(loaded("bridge", "gpt2"), answers=file)
        asked = [("Mary is in", {"until": ["."], "max_gen_toks": count}) for count in (3, 4)]
        asked.append(("Rome is in Italy . Mary is in", {"until": ["."], "max_gen_toks": 3}))
        texts = lm.generate_until(harness.requests("generate_until", asked))
        assert len(file.read_text().splitlines()) == 3
        assert texts == tlt.evals.TruncatedLM(loaded("bridge", "gpt2")).generate_until(
            harness.requests("generate_until", asked)
        )

    def test_settings_of_generation_are_part_of_who_is_asked(self, folders, tmp_path):
        """Such as a penalty, which the harness does not name in a request."""
        model = tlt.load_model(str(folders["gpt2"]))
        asked = harness.requests("generate_until", harness.generating())
        said = []
        for penalty in (1.0, 1.8):
            model.original_model.generation_config.repetition_penalty = penalty
            lm = tlt.evals.TruncatedLM(model, answers=tmp_path / "answers.jsonl", batch_size=3)
            said.append(lm.generate_until(asked))
            assert said[-1] == tlt.evals.TruncatedLM(model, batch_size=3).generate_until(asked)
        assert said[0] != said[1]

    def test_what_is_drawn_is_not_kept(self, loaded, tmp_path):
        file = tmp_path / "answers.jsonl"
        lm = tlt.evals.TruncatedLM(loaded("bridge", "gpt2"), answers=file)
        for options in (dict(do_sample=True, temperature=1.0), dict(temperature=0.7)):
            lm.generate_until(harness.requests("generate_until", harness.generating(**options)))
            assert not file.exists()

    def test_a_torn_line_is_dropped(self, loaded, tmp_path):
        file = tmp_path / "answers.jsonl"
        asked = harness.requests("loglikelihood", harness.PAIRS[:3])
        first = tlt.evals.TruncatedLM(loaded("bridge", "gpt2"), answers=file).loglikelihood(asked)
        whole = file.read_bytes()
        file.write_bytes(whole[:-7])
        again = tlt.evals.TruncatedLM(loaded("bridge", "gpt2"), answers=file).loglikelihood(asked)
        assert [a for a, _ in again] == pytest.approx([a for a, _ in first], abs=CLOSE)
        assert len(file.read_bytes().splitlines()) == 3

    def test_the_harness_own_cache_is_refused(self, loaded, tmp_path):
        from lm_eval.api.model import CachingLM

        lm = tlt.evals.TruncatedLM(loaded("bridge", "gpt2"))
        with pytest.raises(
            ValueError, match=r"lm-eval's own cache \(use_cache\) must not be used with cuts"
        ):
            CachingLM(lm, str(tmp_path / "cache.db"))


@pytest.mark.skipif(not architectures.HOOKED, reason="no HookedTransformer in this version")
def test_a_hooked_transformer_ends_where_its_files_say(folders, tmp_path):
    place = tmp_path / "model"
    shutil.copytree(folders["neox-parallel"], place)
    asked = harness.requests("generate_until", harness.generating(max_gen_toks=12))

    def by_the_harness():
        own = HFLM(pretrained=str(place), device="cpu", dtype="float32", batch_size=3)
        return own.tokenizer, own.generate_until(asked)

    tokenizer, before = by_the_harness()
    ends = [tokenizer.eos_token_id, *tokenizer(before[0])["input_ids"][-1:]]
    (place / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    _, wanted = by_the_harness()
    assert wanted != before
    model = tlt.load_model(str(place), backend="hooked")
    assert tlt.evals.TruncatedLM(model, batch_size=2).generate_until(asked) == wanted
    (place / "generation_config.json").write_text(json.dumps({"repetition_penalty": 1.5}))
    lm = tlt.evals.TruncatedLM(model)
    with pytest.raises(
        ValueError, match=r"generation_config.json that asks for repetition_penalty=1.5\. Load"
    ):
        lm.generate_until(asked)
    with pytest.raises(
        ValueError, match=r"generation_config.json that asks for repetition_penalty=1.5\. Load"
    ):
        tlt.evals.benchmark(
            model,
            tasks=["words_said"],
            include_path=harness.write_tasks(tmp_path / "tasks"),
            progress=False,
        )


@pytest.mark.parametrize("options", [{}, dict(add_bos_token=False)])
@pytest.mark.parametrize("name", ["neox-parallel", "llama-grouped"])
def test_a_chat_of_a_tokenizer_without_bos(folders, tmp_path, name, options):
    """TransformerLens takes EOS for it, which is not in the harness' chat."""
    place = tmp_path / "model"
    shutil.copytree(folders[name], place)
    for file in (place / "tokenizer_config.json", place / "special_tokens_map.json"):
        if file.exists():
            facts = json.loads(file.read_text())
            facts.pop("bos_token", None)
            if "chat_template" in facts:
                facts["chat_template"] = "{{ bos_token }}" + harness.TEMPLATE
            file.write_text(json.dumps(facts))
    reference = HFLM(pretrained=str(place), device="cpu", dtype="float32", **options)
    own = tlt.evals.TruncatedLM(tlt.load_model(str(place)), **options)
    chat = [{"role": "user", "content": "Mary"}]
    assert own.apply_chat_template(chat) == reference.apply_chat_template(chat)
    assert own.prefix_token_id == reference.prefix_token_id


def test_what_is_done_to_generated_texts_tells_tokenizers_apart(loaded):
    model = loaded("bridge", "gpt2")
    tokenizer = tlt.evals.TruncatedLM(model).tokenizer
    hashes = set()
    for cleans in (False, True):
        tokenizer.clean_up_tokenization_spaces = cleans
        hashes.add(tlt.evals.TruncatedLM(model, tokenizer=tokenizer).tokens_hash)
    assert len(hashes) == 2


def test_what_a_tokenizer_did_last_is_not_what_it_is(folders):
    model = tlt.load_model(str(folders["gpt2"]))
    for options in (dict(add_bos_token=False), dict()):
        before = tlt.evals.TruncatedLM(model, **options).tokens_hash
        model.tokenizer(["Mary", "the store in"], padding=True, truncation=True, max_length=2)
        assert tlt.evals.TruncatedLM(model, **options).tokens_hash == before
    assert tlt.evals.TruncatedLM(model, add_bos_token=True).tokens_hash != before
    own = tlt.evals.TruncatedLM(model)
    assert tlt.evals.TruncatedLM(model, tokenizer=own.tokenizer).tokens_hash == own.tokens_hash


@pytest.mark.parametrize("name", harness.WEIGHTS)
def test_processed_weights_say_what_raw_ones_say(folders, plain, name):
    """Norms are folded and weights centred, which changes no probability; a cut warns that it is another."""
    model = tlt.load_model(str(folders[name]), raw=False)
    assert (
        harness.apart(plain(name), harness.everything(tlt.evals.TruncatedLM(model, batch_size=3))) < 1e-4
    )


def test_in_half_precision_it_says_what_model_hf_says(folders):
    """To the rounding of bfloat16, in which attention is computed in another order."""
    reference = HFLM(
        pretrained=str(folders["llama-grouped"]), device="cpu", dtype="bfloat16", batch_size=3
    )
    model = tlt.load_model(str(folders["llama-grouped"]), dtype="bfloat16")
    asked = harness.requests("loglikelihood", harness.PAIRS)
    pairs = zip(
        reference.loglikelihood(asked),
        tlt.evals.TruncatedLM(model, batch_size=3).loglikelihood(asked),
        strict=True,
    )
    eps = torch.finfo(torch.bfloat16).eps
    assert max(abs(one - other) / max(1, abs(one)) for (one, _), (other, _) in pairs) < 2 * eps


def test_by_name_as_the_harness_command_makes_it(folders, tmp_path):
    from importlib import metadata

    from lm_eval.api.registry import get_model

    tlt.Cuts(CHOSEN).save(tmp_path / "cuts.json")
    kind = tlt.evals.TruncatedLM
    assert get_model("tl-truncate") is kind
    points = metadata.entry_points(group="lm_eval.models")
    for point in points.select(name="tl-truncate"):  # an installation of before has none yet
        assert point.load() is kind
    arguments = f"pretrained={folders['gpt2']},cuts={tmp_path / 'cuts.json'},dtype=float64"
    lm = kind.create_from_arg_string(
        arguments, {"batch_size": "3", "max_batch_size": None, "device": "cpu"}
    )
    assert lm.cuts == tlt.Cuts(CHOSEN)
    assert lm.batch_size == 3
    assert next(lm.lens_model.parameters()).dtype == torch.float64
