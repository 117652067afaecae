"""The nano-Pythia: its grammar, its folders, its training, and the checkpoints that ship."""

import json
from collections import Counter
from pathlib import Path

import architectures
import pytest
import torch
from children import killed_often
from safetensors.torch import load_file
from scipy import stats

import tl_truncate as tlt
from tl_truncate.checkpoints import checkpoint_steps, require_checkpoints
from tl_truncate.experiments.search.judge import split_task
from tl_truncate.surgery.controls import controls_of
from tl_truncate.tasks.facts import fact_table
from tl_truncate.tasks.ioi import NAMES
from tl_truncate.toys import NanoConfig, nano_pythia
from tl_truncate.toys.nano.grammar import DETERMINER, PEOPLE, SHARES, Grammar
from tl_truncate.toys.nano.nano import ship, training_tokens
from tl_truncate.toys.nano.tokenizer import make_tokenizer, vocabulary

BACKENDS = ["bridge"] if architectures.HookedTransformer is None else ["bridge", "hooked"]
TINY = NanoConfig(n_layers=2, d_model=16, n_heads=2, batch_size=2, steps=40, warmup=5)


def test_the_grammar_has_the_statistics_it_says():
    grammar = Grammar(seed=3)
    sentences = [grammar.draw() for _ in range(20_000)]
    kinds = Counter(each.kind for each in sentences)
    assert (
        stats.chisquare(
            [kinds[kind] for kind in SHARES], [20_000 * share for share in SHARES.values()]
        ).pvalue
        > 1e-3
    )
    for kind in ("ioi", "fact"):
        here = [each for each in sentences if each.kind == kind]
        determined = sum(each.answer.startswith(" the ") for each in here)
        assert stats.binomtest(determined, len(here), DETERMINER).pvalue > 1e-3
    facts = {prompt: answer for _, prompt, answer in fact_table()}
    for each in sentences:
        assert each.text.endswith(".")
        if each.kind == "ioi" and not each.answer.startswith(" the "):
            words = each.prompt.replace(",", "").replace(".", "").split()
            named = Counter(word for word in words if word in NAMES)
            assert sorted(named.values()) == [1, 2]
            assert named[each.answer.strip()] == 1
        elif each.kind == "ioi":
            assert each.answer.split()[-1] in PEOPLE
        elif each.kind == "fact" and not each.answer.startswith(" the "):
            assert facts[each.prompt] == each.answer
    assert Grammar(seed=3).draw() == sentences[0]


def test_the_vocabulary_covers_the_grammar_and_the_tasks():
    tokenizer = make_tokenizer()
    grammar = Grammar(seed=1)
    texts = [grammar.draw().text for _ in range(5000)]
    task = tlt.tasks.ioi(500, seed=0)
    texts += [prompt + answer for prompt, answer in zip(task.prompts, task.in_context, strict=True)]
    texts += [prompt + answer for kind, prompt, answer in fact_table() if kind != "inventor"]
    for text in texts:
        numbers = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in numbers
        assert tokenizer.decode(numbers) == text
    assert len(vocabulary()) == len(set(vocabulary())) == len(tokenizer)
    # Every token is learnt from: none is there that the grammar does not say.
    seen = set(training_tokens(NanoConfig(batch_size=20_000), 0).unique().tolist())
    assert len(vocabulary()) - len(seen) <= 1  # the unknown word


def test_training_tokens_are_the_sentences_of_their_step():
    config = NanoConfig(seed=2, batch_size=3, length=10)
    tokens = training_tokens(config, 7)
    assert tokens.shape == (3, 11)
    assert torch.equal(tokens, training_tokens(config, 7))
    assert not torch.equal(tokens, training_tokens(config, 8))
    grammar, text = Grammar("2 7"), ""
    while len(make_tokenizer()(text)["input_ids"]) < 33:
        text += "<|endoftext|>" + grammar.draw().text
    assert tokens.flatten().tolist() == make_tokenizer()(text)["input_ids"][:33]


def test_a_loss_of_the_first_step_and_the_schedule(tmp_path):
    run = nano_pythia(tmp_path / "run", TINY, checkpoints=[0, 1, 40], progress=False)
    assert run.checkpoints == (0, 1, 40)
    from transformers import GPTNeoXForCausalLM

    model = GPTNeoXForCausalLM.from_pretrained(run.folder / "step0").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3 / 5, weight_decay=0.1, betas=(0.9, 0.95))
    tokens = training_tokens(TINY, 0)
    loss = model(tokens, labels=tokens).loss  # the library shifts by itself
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    stored = load_file(run.folder / "step1" / "model.safetensors")
    for name, value in model.state_dict().items():
        assert torch.allclose(stored[name], value, atol=1e-6), name
    assert TINY.rate(0) == pytest.approx(2e-3 / 5)
    assert TINY.rate(4) == pytest.approx(2e-3 * 0.9)
    assert TINY.rate(39) == pytest.approx(2e-3 * 0.05)


@pytest.mark.parametrize("backend", BACKENDS)
def test_folders_load_as_pythias_do(tmp_path, backend):
    from transformers import AutoModelForCausalLM

    run = nano_pythia(tmp_path / "run", TINY, checkpoints=[0, 40], progress=False)
    assert checkpoint_steps(str(run.folder)) == (0, 40)
    tokens = training_tokens(TINY, 99)[:, :-1]
    for step in (0, 40):
        plain = AutoModelForCausalLM.from_pretrained(run.folder / f"step{step}").eval()
        with torch.no_grad():
            model = run.load(step, backend=backend)
            assert torch.allclose(model(tokens), plain(tokens).logits, atol=1e-4)
        assert type(model.tokenizer.convert_tokens_to_ids("Ġthe")) is int


def test_killed_and_resumed_it_is_the_same_to_the_bit(tmp_path):
    whole = nano_pythia(tmp_path / "whole", TINY, progress=False)
    kills = killed_often(
        lambda: nano_pythia(tmp_path / "killed", TINY, resume=True, progress=False),
        times=3,
        first=0.05,
        later=0.05,
    )
    assert kills >= 1
    resumed = nano_pythia(tmp_path / "killed", TINY, resume=True, progress=False)
    assert resumed.checkpoints == whole.checkpoints
    for step in whole.checkpoints:
        one, other = (
            load_file(each.folder / f"step{step}" / "model.safetensors") for each in (whole, resumed)
        )
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_shipping_halves_the_precision_and_nothing_else(tmp_path):
    run = nano_pythia(tmp_path / "run", TINY, checkpoints=[0, 40], progress=False)
    ship(run, tmp_path / "shipped", steps=[40])
    stored = load_file(run.folder / "step40" / "model.safetensors")
    shipped = load_file(tmp_path / "shipped" / "step40" / "model.safetensors")
    assert all(torch.equal(shipped[name], value.half()) for name, value in stored.items())
    made = json.loads((tmp_path / "shipped" / "manifest.json").read_text())
    assert made == json.loads((run.folder / "manifest.json").read_text())


class TestWhatShips:
    """The final model and a few checkpoints."""

    @pytest.fixture(scope="class")
    def task(self):
        return tlt.tasks.ioi(n=80, seed=11, tokenizer=make_tokenizer())

    def test_it_loads_by_name(self):
        assert checkpoint_steps("nano-pythia") == (64, 512, 1024, 2000)
        model = tlt.load_model("nano-pythia")
        assert (model.cfg.n_layers, model.cfg.d_model) == (4, 128)
        assert model.cfg.parallel_attn_mlp
        folder = Path(tlt.toys.__file__).parent / "nano" / "nano-pythia"
        assert sum(path.stat().st_size for path in folder.rglob("*.*")) < 8e6
        manifest = json.loads((folder / "manifest.json").read_text())
        assert NanoConfig(**manifest["config"]) == NanoConfig()
        with pytest.raises(ValueError, match="step3 for checkpoint=3, got step1024, step2000, step512"):
            tlt.load_model("nano-pythia", checkpoint=3)

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_the_global_answer_is_learnt_first(self, task, backend):
        history = tlt.dynamics(
            lambda step: tlt.load_model("nano-pythia", checkpoint=step, backend=backend),
            checkpoint_steps("nano-pythia"),
            task,
            progress=False,
        )
        assert history.first_step("p_global", 0.3) == 64
        assert history.first_step("p_in_context", 0.3) == 1024
        last = history.scores(2000)
        assert float(last.p_in_context) == pytest.approx(0.5, abs=0.06)
        assert float(last.p_global) == pytest.approx(0.5, abs=0.06)

    def test_it_knows_facts(self):
        rows = [row for row in fact_table() if row[0] == "capital"]
        facts = tlt.Task("capitals", [row[1] for row in rows], [row[2] for row in rows], " the")
        early, late = (
            tlt.evaluate(tlt.load_model("nano-pythia", checkpoint=step), facts, progress=False)
            for step in (64, 2000)
        )
        assert early.p_in_context < 0.1
        assert late.p_in_context > 0.35
        assert late.p_global > 0.35

    def test_a_cut_chosen_on_some_prompts_helps_on_others(self, task):
        model = tlt.load_model("nano-pythia")
        sites = tlt.find_sites(model, ("W_in", "W_out"))
        found = tlt.search(model, task, sites=sites, objective="p_in_context", texts=(), progress=False)
        assert found.survives
        assert found.change().low > 0.1
        test = split_task(task, test_fraction=0.5, seed=0).test
        (placebo,) = controls_of(model, found.cuts, seed=0)["RandomSubspace"]
        random = tlt.evaluate(model, test, placebo, progress=False).change("p_in_context")
        assert random.high < found.change().low
        assert found.over_control("RandomSubspace").low > 0


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="d_model must be a multiple of n_heads, got 10 and 4"):
        NanoConfig(d_model=10)
    with pytest.raises(ValueError, match="checkpoints must be steps from 0 to 40, got"):
        nano_pythia(tmp_path / "x", TINY, checkpoints=[41])
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "other.txt").write_text("x")
    with pytest.raises(ValueError, match="must be new, empty, or hold a run"):
        nano_pythia(tmp_path / "y", TINY)
    with pytest.raises(ValueError, match="must hold step0, step1"):
        checkpoint_steps(str(tmp_path / "y"))
    with pytest.raises(
        ValueError, match="a Pythia model's, nano-pythia's or a local folder's, got 'gpt2'"
    ):
        checkpoint_steps("gpt2")
    assert len(checkpoint_steps("EleutherAI/pythia-1b")) == 154
    with pytest.raises(ValueError, match=r"must be among 0, 1, 2, .*143000; got 3, 5\."):
        require_checkpoints("pythia-1b", [0, 3, 5])


def test_a_folder_says_what_it_is(tmp_path):
    run = nano_pythia(tmp_path / "run", TINY, checkpoints=[0], progress=False)
    manifest = json.loads((run.folder / "manifest.json").read_text())
    assert manifest["kind"] == "nano-pythia"
    assert manifest["config"]["steps"] == 40
    assert not [
        path for path in run.folder.rglob("*") if path.name.endswith((".part", ".bin", ".pt", ".pkl"))
    ]
