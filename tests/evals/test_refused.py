"""What cannot be asked is refused before any work, in words that say what to do."""

import contextlib
import importlib.util
import json
import shutil

import architectures
import harness
import pytest
import torch

import tl_truncate as tlt
from tl_truncate.evals.answers import Answers

pytest.importorskip("lm_eval")
CUT = tlt.Cut("blocks.1.mlp.W_out", 0.25)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refused")
    harness.save("gpt2", folder / "gpt2")
    tasks = harness.write_tasks(folder / "tasks")
    head = harness.HEAD.format(name="NAME", data=tasks / "words.jsonl")
    further = {
        "drawn": "output_type: generate_until\ndoc_to_text: q\ndoc_to_target: a\n"
        "generation_kwargs: {until: ['.'], do_sample: true, temperature: 0.8, max_gen_toks: 4}\n",
        "code": "output_type: generate_until\nunsafe_code: true\ndoc_to_text: q\ndoc_to_target: a\n"
        "generation_kwargs: {max_gen_toks: 4}\n",
    }
    for name, text in further.items():
        (tasks / f"{name}.yaml").write_text(head.replace("NAME", name) + text)
    gone = head.replace("NAME", "gone").replace("words.jsonl", "nowhere.jsonl")
    (tasks / "gone.yaml").write_text(
        gone + "output_type: loglikelihood\ndoc_to_text: q\ndoc_to_target: a\n"
    )
    return folder


@pytest.fixture(scope="module")
def model(place):
    return tlt.load_model(str(place / "gpt2"))


@pytest.fixture(autouse=True)
def few_tasks(monkeypatch):
    """The harness' own thousands take half a minute to list."""
    import lm_eval.tasks

    real = lm_eval.tasks.TaskManager

    def listing(*, include_path, include_defaults=True):
        return real(include_path=include_path, include_defaults=False)

    monkeypatch.setattr(lm_eval.tasks, "TaskManager", listing)


@pytest.fixture
def no_pass(model, monkeypatch):
    """Fails if the model is asked anything."""
    monkeypatch.setattr(model.original_model, "forward", lambda *_, **__: pytest.fail("a pass was run"))


def run(model, place, cuts=CUT, **options):
    options = dict(tasks=["words_choice"], include_path=place / "tasks", progress=False) | options
    return tlt.evals.benchmark(model, cuts, **options)


BAD = {
    "no task of the name": (
        dict(tasks=["words_chioce"]),
        r"A task must be one of lm-eval's \d+ .* or in include_path, got 'words_chioce'. Near it: words_choice",
    ),
    "no task at all": (dict(tasks=[]), r"tasks must be a list of at least one name, got \[\]"),
    "one text for a list": (dict(tasks="words_choice"), "tasks must be a list of at least one name, got 'words"),
    "a task twice": (dict(tasks=["words_said"] * 2), "Each task must be named once, got 'words_said' twice"),
    "a task and its group": (
        dict(tasks=["words_group", "words_greedy"]),
        "Each task must be asked once, but 'words_greedy' is in 'words_group' and in 'words_greedy'"),
    "a folder that is not there": (
        dict(include_path="nowhere"), "include_path must be a folder of tasks, got 'nowhere'"),
    "data that are not there": (
        dict(tasks=["gone"]), "The data of task 'gone' must be there or within reach, but: FileNotFoundError"),
    "a task that runs code": (dict(tasks=["code"]), "must not run what a model writes, but 'code' does"),
    "no limit": (dict(limit=0), "limit must be a number of samples from 1 up, or a share between 0 and 1, got 0"),
    "more than all": (dict(limit=1.5), "limit must be a number of samples from 1 up, .* got 1.5"),
    "fewer than no examples": (dict(num_fewshot=-1), "num_fewshot must be an integer from 0 up, got -1"),
    "half an example": (dict(num_fewshot=1.5), "num_fewshot must be an integer from 0 up, got 1.5"),
    "gen_kwargs in text": (
        dict(gen_kwargs="temperature=1"), "gen_kwargs must be a mapping such as .* got 'temperature=1'"),
    "an answer longer than the context": (
        dict(tasks=["words_said"], gen_kwargs={"max_gen_toks": 64}),
        "must leave room for its question, but 'words_said' asks for 64 tokens and the model has 64. Use gen_kw"),
    "an empty chat": (
        dict(apply_chat_template=True), "must have a chat template for apply_chat_template, got none. Leave"),
    "controls of nothing": (dict(cuts=(), controls=True), "There must be cuts for controls, got none"),
    "no draw": (dict(controls=True, draws=0), "draws must be"),
    "no batch": (dict(batch_size=0), "batch_size must be an integer from 1 up, got 0"),
    "any batch": (dict(batch_size="auto"), "batch_size must be an integer from 1 up, got 'auto'"),
    "no length": (dict(max_length=0), "max_length must be an integer from 1 up, got 0"),
    "a negative seed": (dict(seed=-1), "seed must be an integer from 0 up, got -1"),
    "a cut of a block that is not there": (
        dict(cuts=tlt.Cut("blocks.9.mlp.W_out", 0.5)), "blocks.9.mlp.W_out"),
    "something that is no cut": (dict(cuts="blocks.1.mlp.W_out"), "A cut must be a Cut, a control"),
    "two cuts that overlap": (
        dict(cuts=[tlt.Cut("blocks.1.attn.QK.0", 2), tlt.Cut("blocks.1.attn.W_Q", 2)]), "blocks.1.attn"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
@pytest.mark.usefixtures("no_pass")
def test_bad_input(model, place, tmp_path, case):
    options, wording = BAD[case]
    with pytest.raises((ValueError, TypeError), match=wording):
        run(model, place, run_dir=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_pass")
def test_a_folder_with_other_content(model, place, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"The run folder must be new, empty, or hold a run"):
        run(model, place, run_dir=tmp_path)
    (tmp_path / "notes.txt").unlink()
    tlt.Cuts(CUT).save(tmp_path / "cuts.json")
    with pytest.raises(
        ValueError, match=r"must be a file of kept answers, but line 1 is none. Use another file"
    ):
        run(model, place, answers=tmp_path / "cuts.json")
    (tmp_path / "text").write_text("no line's end")
    with pytest.raises(ValueError, match="must be a file of kept answers, got other content"):
        Answers(tmp_path / "text")
    assert (tmp_path / "text").read_text() == "no line's end"


def test_a_folder_of_another_kind(model, place, tmp_path):
    with pytest.raises(ValueError, match=r"must hold manifest.json"):
        tlt.evals.Benchmarks.load(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps(dict(format=1, kind="sweep")))
    with pytest.raises(ValueError, match="The folder must hold a run of benchmark, got kind 'sweep'"):
        tlt.evals.Benchmarks.load(tmp_path)


def test_nothing_finished(model, place, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "tl_truncate.evals.paired.ask", lambda *_, **__: (_ for _ in ()).throw(OSError("full"))
    )
    with pytest.raises(OSError, match="full"):
        run(model, place, run_dir=tmp_path / "run")
    with pytest.raises(
        ValueError, match="must have a task that was asked uncut and cut, but none is finished"
    ):
        tlt.evals.Benchmarks.load(tmp_path / "run")


class TestModels:
    def test_not_installed(self, model, place, monkeypatch):
        real = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *a: None if name == "lm_eval" else real(name, *a)
        )
        wording = r"lm_eval must be installed for this, but lm_eval is not. Run in a clone of tl_truncate: pip install '\.\[evals\]'"
        for call in (lambda: run(model, place), lambda: tlt.evals.TruncatedLM):
            with pytest.raises(ModuleNotFoundError, match=wording):
                call()

    def test_no_such_name(self):
        with pytest.raises(AttributeError, match="has no attribute 'Truncated'"):
            print(tlt.evals.Truncated)

    def test_training_mode(self, place):
        model = tlt.load_model(str(place / "gpt2"))
        model.train()
        with pytest.raises(ValueError, match="The model must be in evaluation mode"):
            tlt.evals.TruncatedLM(model)

    def test_no_model(self):
        with pytest.raises(TypeError):
            tlt.evals.TruncatedLM(torch.nn.Linear(2, 2))

    def test_no_tokenizer(self, shared):
        native = architectures.bridge("no-norm")
        with pytest.raises(
            ValueError, match="The model must have a tokenizer to be asked by lm-eval, got none"
        ):
            tlt.evals.TruncatedLM(native)
        architectures.with_tokenizer(native)
        with pytest.raises(ValueError, match="must wrap a Hugging Face model to be asked by lm-eval"):
            tlt.evals.TruncatedLM(native)

    def test_tokenizer_files_that_are_gone(self, place, tmp_path):
        copy = tmp_path / "gpt2"
        shutil.copytree(place / "gpt2", copy)
        model = tlt.load_model(str(copy))
        shutil.rmtree(copy)
        with pytest.raises(
            ValueError, match=r"The tokenizer's files must be there, .* Say add_bos_token=False"
        ):
            tlt.evals.TruncatedLM(model)
        assert tlt.evals.TruncatedLM(model, add_bos_token=False).tok_encode("the") == [9]
        harness.save("gpt2", copy)
        file = copy / "tokenizer.json"
        file.write_text(file.read_text().replace('"Paris"', '"Parys"'))
        with pytest.raises(
            ValueError, match=r"The tokenizer must be the one in .* but its tokens are others"
        ):
            tlt.evals.TruncatedLM(model)

    def test_a_bos_that_the_tokenizer_does_not_put(self, model, place):
        from transformers import AutoTokenizer

        plain = AutoTokenizer.from_pretrained(place / "gpt2")
        with pytest.raises(ValueError, match="must put a BOS in front of texts for add_bos_token=True"):
            tlt.evals.TruncatedLM(model, tokenizer=plain, add_bos_token=True)

    def test_logits_that_are_no_numbers(self, place):
        model = tlt.load_model(str(place / "gpt2"))
        with torch.no_grad():
            next(each for name, each in model.named_parameters() if "ln_f" in name).fill_(float("nan"))
        lm = tlt.evals.TruncatedLM(model)
        for kind, asked in (
            ("loglikelihood", [("Mary", " the")]),
            ("generate_until", [("Mary", {"until": ["."], "max_gen_toks": 3})]),
        ):
            with pytest.raises(
                ValueError, match="The logits must be finite, but with no cut they are not"
            ):
                getattr(lm, kind)(harness.requests(kind, asked))

    @pytest.mark.parametrize(
        ("where", "value"), [(5, "inf"), (5, "nan"), (slice(None), "-inf"), (5, "-inf")]
    )
    @pytest.mark.parametrize("case", [each for each in architectures.CASES if each[1] == "gpt2"])
    def test_logits_of_which_no_probability_can_be_made(self, shared, case, where, value):
        """One that is infinite makes every log-probability NaN, which the harness calls the most probable."""

        def changed(module, given, logits):
            logits = logits.clone()
            logits[..., where] = float(value)
            return logits

        model = architectures.with_tokenizer(shared(*case))
        lm = tlt.evals.TruncatedLM(model)
        masked = where == 5 and value == "-inf"
        for kind, asked in (
            ("loglikelihood", [("Mary", " the")]),
            ("loglikelihood_rolling", [("Mary gave",)]),
            ("generate_until", [("Mary", {"until": ["."], "max_gen_toks": 3})]),
        ):
            refused = pytest.raises(ValueError, match="The logits must be finite, but with no cut")
            handle = model.unembed.register_forward_hook(changed)
            try:
                with contextlib.nullcontext() if masked else refused:
                    getattr(lm, kind)(harness.requests(kind, asked))
            finally:
                handle.remove()

    def test_hooks_where_answers_are_kept(self, place, tmp_path):
        model = tlt.load_model(str(place / "gpt2"))
        lm = tlt.evals.TruncatedLM(model, answers=tmp_path / "answers.jsonl")
        with (
            model.hooks(fwd_hooks=[("blocks.0.hook_mlp_out", lambda value, hook: value * 0)]),
            pytest.raises(
                ValueError, match=r"must have no hooks where answers are kept, got one at blocks.0"
            ),
        ):
            lm.loglikelihood(harness.requests("loglikelihood", [("Mary", " the")]))

    @pytest.mark.parametrize(
        ("kind", "name"),
        [
            ("a hook", "gpt2"),
            ("a hook", "opt-learnt"),
            ("a permanent hook", "gpt2"),
            ("of torch", "gpt2"),
            ("of torch, before", "opt-learnt"),
        ],
    )
    def test_hooks_where_a_run_is_finished(self, shared, place, tmp_path, kind, name):
        """The numbers that the folder has would be given for those of the hooked model."""
        model = architectures.with_tokenizer(shared("bridge", name))
        once = dict(run_dir=tmp_path / "run", limit=2)
        run(model, place, **once)  # the Bridge's own hooks of OPT say nothing
        inner = model.blocks[1].mlp.original_component
        handle = None
        if "torch" not in kind:
            changed = lambda value, hook: value * 0  # noqa: E731
            model.add_hook("blocks.1.hook_mlp_out", changed, is_permanent="permanent" in kind)
        elif "before" in kind:
            handle = inner.register_forward_pre_hook(lambda module, given: None)
        else:
            handle = inner.register_forward_hook(lambda module, given, value: value * 0)
        try:
            for options in (once, dict(answers=tmp_path / "answers.jsonl", limit=2)):
                wording = r"must have no hooks where answers are kept, got one at .*blocks\.1"
                with pytest.raises(ValueError, match=wording):
                    run(model, place, **options)
            run(model, place, (), limit=2)
        finally:
            if handle is not None:
                handle.remove()
            model.reset_hooks(including_permanent="permanent" in kind)
        run(model, place, **once)

    def test_what_a_bridge_does_otherwise_than_the_model(self, place, monkeypatch):
        model = tlt.load_model(str(place / "gpt2"))
        monkeypatch.setattr(model.original_model.config, "model_type", "openai-gpt")
        asked = harness.requests("generate_until", harness.generating())
        assert tlt.evals.TruncatedLM(model, batch_size=1).generate_until(asked)
        with pytest.raises(
            ValueError, match=r"Prompts of openai-gpt must be asked one by one .* batch_size=1"
        ):
            tlt.evals.TruncatedLM(model, batch_size=3).generate_until(asked)
        monkeypatch.undo()
        monkeypatch.setattr(model.original_model.config, "scale_attn_weights", False)
        with pytest.raises(
            ValueError, match=r"A GPT-2 must scale its attention .* got scale_attn_weights=False"
        ):
            tlt.evals.TruncatedLM(model)

    @pytest.mark.parametrize("text", ["cuts=x.json", "pretrained=demo,cut=x.json"])
    def test_arguments_of_the_harness_command(self, text):
        with pytest.raises(
            ValueError, match="The model's arguments must be pretrained and any of cuts, backend"
        ):
            tlt.evals.TruncatedLM.create_from_arg_string(text)


@pytest.mark.skipif(not architectures.HOOKED, reason="no HookedTransformer in this version")
class TestHooked:
    def test_what_it_does_not_generate(self, place, shared):
        model = architectures.with_tokenizer(shared("hooked", "gpt2"))
        with pytest.raises(
            ValueError,
            match=r"must generate the most probable tokens here, got .* do_sample=True\. .* or use gen_kwargs=",
        ):
            run(model, place, (), tasks=["drawn"])
        lm = tlt.evals.TruncatedLM(model)
        asked = harness.requests("generate_until", harness.generating(num_beams=2))
        with pytest.raises(
            ValueError, match=r"that asks for num_beams=2\. Load the model as a TransformerBridge\.$"
        ):
            lm.generate_until(asked)

    def test_more_than_its_context(self, shared):
        model = architectures.with_tokenizer(shared("hooked", "gpt2"))
        with pytest.raises(
            ValueError, match="max_length must be at most 64, the model's context, got 65"
        ):
            tlt.evals.TruncatedLM(model, max_length=65)
