"""The demo model: surgery on real weights, the effect that the project is about, and the README.

One file, so that one worker loads the model once.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import documents
import gguf
import inplace
import pytest
import torch

import tl_truncate as tlt
from tl_truncate.cli.shared.tasks import make_task
from tl_truncate.experiments.search.judge import split_task
from tl_truncate.tasks.encode import encode
from tl_truncate.weights.identity.content import weights_hash
from tl_truncate.weights.site import MATRICES

pytestmark = pytest.mark.real_model
README = Path(__file__).parents[2] / "README.md"
DOCS_TASKS = (README.parent / "docs" / "tasks.md").read_text()


@pytest.fixture(scope="module")
def prompts(smollm):
    texts = ["When Mary and John went to the store, John gave a drink to", "Madrid is located in"]
    return [smollm.to_tokens(text, prepend_bos=False) for text in texts]


def gap(first: torch.Tensor, second: torch.Tensor) -> float:
    """Largest difference of log-probability."""
    return float((first.log_softmax(-1) - second.log_softmax(-1)).abs().max())


def gaps(model, site: str, prompts: list[torch.Tensor]) -> list[float]:
    """Between the cut and the edited model, by prompt; the weight is edited once for all."""
    with torch.no_grad():
        with tlt.truncated(model, tlt.Cut(site, 0.1)):
            cut = [model(tokens) for tokens in prompts]
        with inplace.edited(model, (site, inplace.top(0.1))):
            edited = [model(tokens) for tokens in prompts]
    return list(map(gap, cut, edited))


def test_what_is_unpacked_is_what_the_package_holds(smollm, monkeypatch):
    monkeypatch.setenv("TL_TRUNCATE_CACHE", "off")
    parsed, parse = [], gguf.GGUFReader._build_fields
    monkeypatch.setattr(
        gguf.GGUFReader, "_build_fields", lambda *given: parsed.append(1) or parse(*given)
    )
    packed = tlt.load_model("demo")
    assert len(parsed) == 1, "the vocabulary takes seconds each time"
    assert weights_hash(packed) == weights_hash(smollm)
    assert packed.cfg.__dict__ == smollm.cfg.__dict__
    assert packed.tokenizer.get_vocab() == smollm.tokenizer.get_vocab()
    text = "<|im_start|>user\nMary, 12, é 日本\n\n  <|im_end|>"
    assert torch.equal(packed.to_tokens(text), smollm.to_tokens(text))
    assert packed.tokenizer(text)["input_ids"] == smollm.tokenizer(text)["input_ids"]
    assert packed.generation_config == smollm.generation_config


@pytest.mark.parametrize("matrix", MATRICES)
def test_cuts_equal_in_place_editing(smollm, prompts, matrix):
    for layer in (7, 14, 28):
        found = gaps(smollm, str(tlt.Site(layer, matrix)), prompts)
        assert all(each <= 1e-4 for each in found), layer


def test_cuts_equal_in_place_editing_in_float64(smollm, prompts):
    """Layer 0 too, where rounding grows: in float32 the edited model itself is 5e-4 from float64."""
    smollm.to(torch.float64, print_details=False)
    try:
        for matrix in MATRICES:
            for layer in (0, 28):
                found = gaps(smollm, str(tlt.Site(layer, matrix)), prompts[:1])
                assert all(each <= 1e-6 for each in found), matrix
    finally:
        smollm.to(torch.float32, print_details=False)


def test_one_head_of_the_output_matrix(smollm, prompts):
    site = "blocks.20.attn.W_O.4"
    with torch.no_grad():
        with tlt.truncated(smollm, tlt.Cut(site, 8)):
            cut = smollm(prompts[0])
        change = lambda matrix: inplace.truncate(matrix, slice(0, 8))  # noqa: E731
        with inplace.edited(smollm, (site, change), d_head=64):
            edited = smollm(prompts[0])
    assert gap(cut, edited) <= 1e-4


def test_generation_on_a_cut_model(smollm, prompts):
    site = "blocks.27.mlp.W_out"
    options = dict(max_new_tokens=6, do_sample=False, verbose=False, return_type="tokens")
    for cached in (True, False):
        with tlt.truncated(smollm, tlt.Cut(site, 0.1)):
            cut = smollm.generate(prompts[1], use_past_kv_cache=cached, **options)
        with inplace.edited(smollm, (site, inplace.top(0.1))):
            edited = smollm.generate(prompts[1], use_past_kv_cache=cached, **options)
        assert torch.equal(cut, edited)


def test_the_weights_are_raw_and_no_bos_is_put_in_front(smollm):
    assert tlt.processing(smollm).is_raw
    scores = tlt.evaluate(smollm, tlt.tasks.ioi(n=2, tokenizer=smollm.tokenizer))
    assert scores.record.prepend_bos is False
    assert "SmolLM2" in scores.record.model


def test_every_word_of_the_pools_is_one_token(smollm):
    assert tlt.tasks.ioi(n=50, seed=4, tokenizer=smollm.tokenizer) == tlt.tasks.ioi(n=50, seed=4)
    assert len(tlt.tasks.factual_recall(tokenizer=smollm.tokenizer)) >= 100


@pytest.fixture(scope="module")
def ioi(smollm):
    task = tlt.tasks.ioi(n=100, seed=0)
    return task, tlt.evaluate(smollm, task)


def test_without_layer_28s_mlp_the_determiner_is_gone(smollm, ioi):
    task, uncut = ioi
    scores = tlt.evaluate(smollm, task, tlt.Cut("blocks.28.mlp.W_out", 0.0), baseline=uncut)
    assert uncut.p_global >= 10 * scores.p_global
    assert scores.change("p_global").high < 0


def test_without_layer_27s_mlp_the_name_gains(smollm, ioi):
    task, uncut = ioi
    scores = tlt.evaluate(smollm, task, tlt.Cut("blocks.27.mlp.W_out", 0.0), baseline=uncut)
    assert scores.change("p_in_context") >= 0.08
    assert scores.change("p_in_context").low > 0
    assert scores.change("p_global").high < 0


def changes(model, ioi, site: str, keep: float) -> tuple[float, list[float]]:
    """Change of p(name) by the cut, and by random subspaces of the same rank."""
    cuts = [tlt.Cut(site, keep), *(tlt.RandomSubspace(site, keep, seed) for seed in range(3))]
    result = tlt.sweep(model, ioi[0], cuts=cuts, progress=False)
    cut, *controls = [float(result.scores_of(each).change("p_in_context")) for each in cuts]
    return cut, controls


def test_the_largest_half_is_not_a_random_half(smollm, ioi):
    """Layer 23 at half its rank: nothing is lost with the smallest components, much with random ones."""
    cut, controls = changes(smollm, ioi, "blocks.23.mlp.W_out", 0.5)
    assert abs(cut) < 0.02
    assert max(controls) < -0.02


def test_at_layer_27_a_random_subspace_does_nearly_what_the_cut_does(smollm, ioi):
    """What helps there is that most of the MLP's output is gone, not which tenth of it stays."""
    result = tlt.sweep(
        smollm,
        ioi[0],
        sites=["blocks.27.mlp.W_out"],
        keeps=[0.1],
        controls=["random_subspace"],
        progress=False,
    )
    row = result.beside_controls.set_index("metric").loc["p_in_context"]
    assert row["change"] > 0.05
    assert row["control_change"] > 0.7 * row["change"]
    assert row["draws"] == 16
    assert row["verdict"] == "alike"


def test_the_model_knows_facts_and_habits(smollm):
    scores = tlt.evaluate(smollm, tlt.tasks.factual_recall(tokenizer=smollm.tokenizer))
    assert scores.accuracy > 0.3
    assert scores.p_global > 0.1
    madrid = tlt.Task("madrid", ["Madrid is located in"], [" Spain"], " the")
    assert tlt.evaluate(smollm, madrid).p_global == pytest.approx(0.38, abs=0.02)


def test_the_readmes_python_runs_from_top_to_bottom(smollm, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    load = tlt.load_model
    monkeypatch.setattr(
        tlt, "load_model", lambda name, **more: smollm if name == "demo" else load(name, **more)
    )
    (block,) = documents.blocks(README, "python")
    assert sum(bool(line) for line in block.splitlines()) <= 12
    names = documents.run(README, {})
    # What its picture says: the cut raises the name, clearly, and a random half does not.
    assert names["scores"].change("p_in_context").low > 0.15
    assert names["placebo"].change("p_in_context").high < 0.05
    assert names["logits"].shape[-1] == smollm.cfg.d_vocab


def test_the_tour_in_code_runs_from_top_to_bottom(smollm, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    load = tlt.load_model
    monkeypatch.setattr(
        tlt, "load_model", lambda name, **more: smollm if name == "demo" else load(name, **more)
    )
    page = README.parent / "docs" / "guides" / "library.md"
    assert len(documents.blocks(page, "python")) == 6
    names = documents.run(page, {})
    assert names["scores"].change("p_in_context").low > 0.15
    assert names["logits"].shape[-1] == smollm.cfg.d_vocab
    assert (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size < 400_000
    steps = [names["history"].first_step(metric, 0.3) for metric in ("p_global", "p_in_context")]
    assert steps == [64, 1024]


def test_the_page_on_decomposition_runs(smollm):
    texts = ["Mary gave the book to the man.", "They went to the store, and gave a drink to John."]
    tokens = smollm.to_tokens("John gave a drink to")
    mary, the = (smollm.tokenizer.encode(word)[-1] for word in (" Mary", " the"))
    given = dict(tlt=tlt, model=smollm, texts=texts, tokens=tokens, mary=mary, the=the)
    names = documents.run(README.parent / "docs" / "decomposition.md", given)
    assert gap(names["parts"].global_ + names["parts"].in_context, names["parts"].mlp_out) < 1e-4
    assert names["logits"].shape[-1] == smollm.cfg.d_vocab


@pytest.mark.parametrize(
    "name",
    [
        "in_context_override",
        "reversal",
        "implied_fact",
        "table_lookup",
        "deduction",
        "phrase_composition",
    ],
)
def test_generated_tasks_have_answers_of_one_token(smollm, name):
    task = getattr(tlt.tasks, name)(tokenizer=smollm.tokenizer)
    assert len(task) == 100
    encoded = encode(smollm, task, prepend_bos=False)
    assert all(len(each.in_context) == len(each.global_) == 1 for each in encoded.prompts)


def test_the_documented_scores_of_the_uncut_model(smollm, ioi):
    """docs/tasks.md says what this model makes of each task; it is read, and measured again."""
    rows = re.findall(r"^\| `(\w+)` \|.*?\| (\.\d+) \[.*?\| (\.\d+) \[.*?\| (\.\d+)", DOCS_TASKS, re.M)
    assert len(rows) == 9
    for name, accuracy, p_in_context, p_global in rows:
        task = make_task("facts" if name == "factual_recall" else name, 100, 0, smollm)
        scores = ioi[1] if task == ioi[0] else tlt.evaluate(smollm, task, progress=False)
        assert float(scores.accuracy) == pytest.approx(float(accuracy), abs=0.015), name
        assert float(scores.p_in_context) == pytest.approx(float(p_in_context), abs=0.006), name
        assert float(scores.p_global) == pytest.approx(float(p_global), abs=0.002), name


def test_a_sweep_equals_in_place_editing(smollm):
    """Setting by setting on the real model, as close as float32 lets an edited model come."""
    task = tlt.tasks.ioi(n=6, seed=3, tokenizer=smollm.tokenizer)
    sites = [
        f"blocks.{layer}.{part}" for layer in (7, 29) for part in ("mlp.W_in", "mlp.W_out", "attn.W_V")
    ]
    result = tlt.sweep(smollm, task, sites=sites, keeps=[0.1, 0.5], progress=False)
    rows = [smollm.to_tokens(prompt, prepend_bos=False) for prompt in task.prompts]
    for site in sites:
        for keep in (0.1, 0.5):
            found = result.scores(site, keep).frame
            with torch.no_grad(), inplace.edited(smollm, (site, inplace.top(keep)), d_head=64):
                ends = [smollm(tokens)[0, -1].log_softmax(-1) for tokens in rows]
            for place, last in enumerate(ends):
                answers = [
                    smollm.to_single_token(each[place]) for each in (task.in_context, task.global_)
                ]
                wanted = float(last[answers[0]] - last[answers[1]])
                assert found["logit_diff"][place] == pytest.approx(wanted, abs=1e-4), (site, keep)


class TestGlobalParts:
    """Indirect objects without the global part of one layer's MLP, chosen on half of the prompts."""

    @pytest.fixture(scope="class")
    def means(self, smollm):
        texts = list(tlt.manual_texts(6_000))
        return tlt.TokenMeans.fit(smollm, texts, layers=range(19, 30), max_tokens=256, progress=False)

    @pytest.fixture(scope="class")
    def halves(self):
        split = split_task(tlt.tasks.ioi(n=80, seed=0), test_fraction=0.5, seed=0)
        return split.validation, split.test

    def test_the_parts_are_the_output(self, smollm, prompts):
        few = tlt.TokenMeans.fit(smollm, list(tlt.manual_texts(500)), layers=[22], progress=False)
        _, cache = smollm.run_with_cache(prompts[0])
        for method in ("token_mean", "own_path", "context_ablation", "spectral"):
            own = few if method == "token_mean" else None
            parts = tlt.decompose_mlp(smollm, prompts[0], 22, method, means=own)
            expected = cache["blocks.22.hook_mlp_out"]
            gap = (parts.global_ + parts.in_context - expected).norm() / expected.norm()
            assert float(gap) < 1e-5

    def test_held_out_tokens_explain_some(self, means):
        assert (means.summary()["r2"] > 0.15).all()

    def test_the_layer_that_pushes_the_determiner(self, smollm, means, halves):
        validation, test = halves
        layer = tlt.part_attribution(smollm, validation, means=means, progress=False).largest()[0]
        uncut = tlt.evaluate(smollm, test, progress=False)
        cuts = dict(
            minus=tlt.GlobalRemoval(layer, means=means),
            dropped=tlt.Ablated(f"blocks.{layer}.mlp.W_out"),
            laser=tlt.Cut(f"blocks.{layer}.mlp.W_out", 0.01),
        )
        found = {
            name: tlt.evaluate(smollm, test, cut, baseline=uncut, progress=False)
            for name, cut in cuts.items()
        }
        for name, scores in found.items():
            print(
                f"block {layer}, {name}: p(IO) {scores.change('p_in_context')}, p(the) {scores.change('p_global')}"
            )
        assert found["minus"].change("p_in_context").low > 0
        assert found["minus"].change("p_global").high < 0
        for other in ("dropped", "laser"):
            assert found["minus"].p_in_context > found[other].p_in_context

    def test_attribution_of_late_layers(self, smollm, means, halves):
        """Global parts push the determiner at layers 20 to 22, in-context parts the name above."""
        found = tlt.part_attribution(smollm, halves[0], means=means, progress=False)
        print(found)
        logits = dict(zip(found.layers, found.logits.mean(0), strict=True))
        assert min(logits[layer][0, 1] for layer in (20, 22)) > 0.1
        assert max(logits[layer][1, 0] for layer in (26, 27, 28, 29)) > 0.5


ELSEWHERE = """
import json, sys
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer

adapter, checkpoint, asked = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(checkpoint)
found = {}
for kind, load in (("adapter", AutoPeftModelForCausalLM), ("checkpoint", AutoModelForCausalLM)):
    model = load.from_pretrained({"adapter": adapter, "checkpoint": checkpoint}[kind], dtype=torch.float32)
    rows = found[kind] = []
    for prompt, answer in json.loads(open(asked).read()):
        tokens = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
        (wanted,) = tokenizer(answer, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            rows.append(float(model(tokens).logits[0, -1].softmax(-1)[wanted]))
assert not any(name.partition(".")[0] in ("tl_truncate", "transformer_lens") for name in sys.modules)
print(json.dumps(found))
"""


def test_what_a_search_found_is_the_same_elsewhere(smollm, tmp_path):
    """Probabilities of the names, by plain transformers and peft in a process of their own."""
    task = tlt.tasks.ioi(n=16, seed=3, tokenizer=smollm.tokenizer)
    keeps = [0.5, tlt.DropTop(8)]
    found = tlt.search(smollm, task, sites=["blocks.23.mlp.W_gate"], keeps=keeps, splits=1)
    assert len(found.cuts) == 1
    scores = tlt.evaluate(smollm, task, found.cuts)
    made = tlt.export_adapter(smollm, found.cuts, tmp_path / "adapter", scores=scores)
    tlt.export_checkpoint(smollm, found.cuts, tmp_path / "checkpoint", scores=scores)
    assert made.compared
    assert made.nbytes < 3_000_000
    asked = [(prompt, answers[0] if isinstance(answers, (list, tuple)) else answers)
             for prompt, answers in zip(task.prompts, task.in_context, strict=True)]  # fmt: skip
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    command = [
        sys.executable,
        "-c",
        ELSEWHERE,
        *(str(tmp_path / each) for each in ("adapter", "checkpoint", "asked.json")),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    elsewhere = json.loads(done.stdout.splitlines()[-1])
    here = scores.frame["p_in_context"].tolist()
    moved = max(abs(a - b) for a, b in zip(here, scores.baseline.frame["p_in_context"], strict=True))
    assert moved > 0.01
    for kind in ("adapter", "checkpoint"):
        assert elsewhere[kind] == pytest.approx(here, abs=1e-5), kind
