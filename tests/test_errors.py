"""Bad input: each case with the wording that the user reads, and before any pass runs."""

from types import SimpleNamespace

import architectures
import pandas as pd
import pytest
import torch

import tl_truncate as tlt
from tl_truncate.cli.shared.parse import parse_cut, parse_keep
from tl_truncate.tasks.encode import encode

GOOD = dict(name="t", prompts=["Mary gave a drink to"], in_context=[" John"], global_=" the")


def task(**changes):
    return tlt.Task(**{**GOOD, **changes})


def cut(model, *cuts):
    with tlt.truncated(model, *cuts):
        raise AssertionError("the context must not be entered")


def score(model, made, *args, **kwargs):
    return tlt.evaluate(model, made, *args, **kwargs)


# (what is wrong, the call, the error, the wording)
CASES = [
    # sites
    ("a misspelt site", lambda m: tlt.Site.parse("block.3.W_in"), ValueError,
     r"A site must read like 'blocks\.3\.mlp\.W_in'.*got 'block\.3\.W_in'"),
    ("an unknown matrix", lambda m: tlt.Cut("blocks.0.mlp.W_up", 0.1), ValueError,
     r"matrix must be one of W_Q, W_K, .*got 'W_up'"),
    ("the wrong part", lambda m: tlt.Cut("blocks.0.attn.W_in", 0.1), ValueError,
     r"W_in belongs to mlp.*Write 'blocks\.0\.mlp\.W_in'"),
    ("a head of an MLP", lambda m: tlt.Site(0, "W_in", 2), ValueError,
     r"Only attention matrices have heads, got head 2 of W_in"),
    ("a negative layer", lambda m: tlt.Site(-1, "W_in"), ValueError,
     r"layer must be an integer from 0 up, got -1"),
    ("a site of another type", lambda m: tlt.Cut(3, 0.1), TypeError,
     r"A site must be text such as .* got 3"),
    ("a layer out of range", lambda m: cut(m, tlt.Cut("blocks.7.mlp.W_in", 0.1)), ValueError,
     r"layer of blocks\.7\.mlp\.W_in must be in 0\.\.2: the model has 3 blocks"),
    ("a head out of range", lambda m: cut(m, tlt.Cut("blocks.0.attn.W_Q.4", 0.1)), ValueError,
     r"head of blocks\.0\.attn\.W_Q\.4 must be in 0\.\.3.*4 heads"),
    ("a matrix of another architecture", lambda m: cut(m, tlt.Cut("blocks.0.mlp.W_gate", 0.1)), ValueError,
     r"must have blocks\.0\.mlp\.W_gate.*block 0 are: W_Q, .*W_out\. Only gated MLPs have W_gate"),
    ("find_sites of an unknown matrix", lambda m: tlt.find_sites(m, ("W_in", "W_down")), ValueError,
     r"Matrices must be among W_Q.*got 'W_down'"),
    ("find_sites out of range", lambda m: tlt.find_sites(m, layers=[0, 3]), ValueError,
     r"A layer must be in 0\.\.2 for this model, got 3"),
    ("find_sites finds nothing", lambda m: tlt.find_sites(m, "W_gate"), ValueError,
     r"at least one of W_gate.*it has W_Q, W_K"),
    ("not a TransformerLens model", lambda m: cut(torch.nn.Linear(2, 2), tlt.Ablated("blocks.0.mlp.W_in")),
     TypeError, r"must be a TransformerLens model.*got Linear\. Wrap a Hugging Face model"),
    # keeps
    ("a rank beyond the maximum", lambda m: cut(m, tlt.Cut("blocks.0.mlp.W_in", 33)), ValueError,
     r"blocks\.0\.mlp\.W_in: Rank's k must be at most 32, the rank of this matrix, got 33"),
    ("a negative rank", lambda m: tlt.Cut("blocks.0.mlp.W_in", -1), ValueError,
     r"Rank's k must be an integer from 0 up, got -1"),
    ("a fraction above 1", lambda m: tlt.Cut("blocks.0.mlp.W_in", 1.5), ValueError,
     r"fraction and must be from 0 to 1, got 1\.5\. Give a rank as an int"),
    ("a NaN fraction", lambda m: tlt.Cut("blocks.0.mlp.W_in", float("nan")), ValueError,
     r"must be from 0 to 1, got nan"),
    ("keep as text", lambda m: tlt.Cut("blocks.0.mlp.W_in", "half"), TypeError,
     r"keep must be an int \(a rank\), a float .*got 'half'"),
    ("keep as bool", lambda m: tlt.Cut("blocks.0.mlp.W_in", True), TypeError, r"keep must be .*got True"),
    ("an energy above 1", lambda m: tlt.Energy(2), ValueError, r"kept energy must be .*from 0 to 1, got 2"),
    ("a band that ends before it begins", lambda m: tlt.Band(5, 3), ValueError,
     r"i must be at most its j, got Band\(5, 3\)"),
    ("a band beyond the rank", lambda m: cut(m, tlt.Cut("blocks.0.mlp.W_in", tlt.Band(3, 99))), ValueError,
     r"Band's j must be at most 32.*got 99"),
    ("dropping more than there is", lambda m: cut(m, tlt.Cut("blocks.0.mlp.W_in", tlt.DropTop(40))),
     ValueError, r"DropTop's k must be at most 32.*got 40"),
    ("a component beyond the rank", lambda m: cut(m, tlt.Cut("blocks.0.mlp.W_in", tlt.Components([32]))),
     ValueError, r"component's index must be at most 31.*got 32"),
    ("an unknown rule in JSON", lambda m: tlt.Keep.from_json({"rule": "Half"}), ValueError,
     r"keep rule must be one of Band, .*got 'Half'"),
    ("a strength that is no number", lambda m: tlt.Cut("blocks.0.mlp.W_in", 1, strength=float("inf")),
     ValueError, r"strength must be a finite number \(1 removes, 0 changes nothing\), got inf"),
    ("a control's seed", lambda m: tlt.RandomSubspace("blocks.0.mlp.W_in", 1, seed=-3), ValueError,
     r"seed must be an integer from 0 up, got -3"),
    # cuts
    ("text for a cut", lambda m: cut(m, "blocks.0.mlp.W_in"), TypeError,
     r"A cut must be a Cut, a control.*got 'blocks\.0\.mlp\.W_in'"),
    ("an unknown cut in JSON", lambda m: type(tlt.Ablated("blocks.0.mlp.W_in")).from_json({"kind": "Saw"}),
     ValueError, r"kind must be one of Ablated, Clustered, Curvature, Cut, .*got 'Saw'"),
    ("a whole matrix and its head", lambda m: cut(
        m, tlt.Cut("blocks.0.attn.W_Q", 3), tlt.Cut("blocks.0.attn.W_Q.1", 3)), ValueError,
     r"must not overlap, got blocks\.0\.attn\.W_Q\.1 and all heads of blocks\.0\.attn\.W_Q"),
    ("a command-line cut without a keep", lambda m: parse_cut("blocks.0.mlp.W_in"), ValueError,
     r"must read SITE=KEEP.*got 'blocks\.0\.mlp\.W_in'"),
    ("a command-line keep", lambda m: parse_keep("__import__('os')"), ValueError,
     r"keep must be a rank \(8\), a fraction"),
    # spectra
    ("tokens of a matrix that writes elsewhere",
     lambda m: tlt.spectrum(m, "blocks.0.mlp.W_in").tokens(m), ValueError,
     r"must write to the residual stream \(W_O or W_out\).*got blocks\.0\.mlp\.W_in"),
    # tasks
    ("an empty task", lambda m: task(prompts=[], in_context=[], global_=[]), ValueError,
     r"at least one prompt, got none in 't'"),
    ("unequal lengths", lambda m: task(in_context=[" John", " Mary"]), ValueError,
     r"got 1 prompts, 2 right answers, 1 global answers"),
    ("one text for the prompts", lambda m: task(prompts="Mary"), TypeError, r"must be lists of texts, got one"),
    ("a prompt that is no text", lambda m: task(prompts=[3]), TypeError, r"prompt 0 must be text, got 3"),
    ("an empty answer", lambda m: task(in_context=[" "]), ValueError,
     r"in-context answer of prompt 0 must not be empty"),
    ("a trailing space", lambda m: task(prompts=["Mary gave a drink to "]), ValueError,
     r"must not end in a space.*Move it to the answer"),
    ("an answer without its space", lambda m: task(in_context=["John"]), ValueError,
     r"must begin with a space.*got 'John'.*Write ' John'"),
    ("equal answers", lambda m: task(in_context=[" the"]), ValueError, r"must differ, got ' the' twice at 0"),
    ("an unknown scoring", lambda m: task(scoring="loose"), ValueError,
     r"scoring must be 'token' or 'sequence', got 'loose'"),
    ("a frame without columns", lambda m: tlt.Task.from_frame(pd.DataFrame(), name="t"), ValueError,
     r"must have the columns prompt, in_context; prompt, in_context missing"),
    ("JSON without a field", lambda m: tlt.Task.from_json({"name": "t"}), ValueError,
     r"missing \['in_context', 'prompts'\]"),
    ("no prompts of ioi", lambda m: tlt.tasks.ioi(n=0), ValueError, r"n must be an integer from 1 up, got 0"),
    ("more facts than there are", lambda m: tlt.tasks.factual_recall(n=9999), ValueError,
     r"n must be at most \d+, the facts there are, got 9999"),
    # scoring
    ("an answer of several tokens", lambda m: score(m, task(in_context=[" John and Mary"])), ValueError,
     r"must be one token, got ' John and Mary' with 3 tokens at 0\. Pass tokenizer=.*scoring='sequence'"),
    ("an answer that the tokenizer does not know", lambda m: score(m, task(in_context=[" Zoe"])), ValueError,
     r"must be known to the tokenizer, got ' Zoe' at 0, which it reads as <unk>"),
    ("a prompt beyond the context", lambda m: score(m, task(prompts=["the store" + " the" * 70])),
     ValueError, r"must fit into the model's context of 64 tokens, got 7\d at 0"),
    ("not a task", lambda m: score(m, ["Mary"]), TypeError, r"task must be a Task, such as tlt\.tasks\.ioi"),
    ("a batch of none", lambda m: score(m, task(), batch_size=0), ValueError, r"batch_size must be .*got 0"),
    ("an unknown metric", lambda m: score(m, task()).estimate("loss"), ValueError,
     r"metric must be one of accuracy, p_in_context.*got 'loss'"),
    ("a change without a baseline", lambda m: score(m, task()).change("rank"), ValueError,
     r"must have a baseline.*Call evaluate with cuts"),
    ("a baseline of other prompts", lambda m: score(
        m, task(), tlt.Ablated("blocks.0.mlp.W_in"), baseline=score(m, task(in_context=[" Paris"]))),
     ValueError, r"baseline must be of the same prompts and BOS"),
    ("a baseline with cuts", lambda m: score(
        m, task(), tlt.Ablated("blocks.0.mlp.W_in"),
        baseline=score(m, task(), tlt.Ablated("blocks.0.mlp.W_in"))),
     ValueError, r"baseline must be of the uncut model, got scores with 1 cuts"),
    # loading
    ("an empty model name", lambda m: tlt.load_model(""), ValueError, r"model's name must be 'demo', a hub"),
    ("an unknown backend", lambda m: tlt.load_model("demo", backend="jax"), ValueError,
     r"backend must be 'bridge' or 'hooked', got 'jax'"),
    ("the demo as hooked", lambda m: tlt.load_model("demo", backend="hooked"), ValueError,
     r"demo model must be loaded with backend='bridge'"),
    ("a revision and a checkpoint", lambda m: tlt.load_model("pythia-70m", revision="a", checkpoint=0),
     ValueError, r"Give either revision or checkpoint, got 'a' and 0"),
    ("a step that was not published", lambda m: tlt.load_model("pythia-70m", checkpoint=3100), ValueError,
     r"154 published steps.*got 3100; the nearest is 3000"),
    ("a checkpoint of another family", lambda m: tlt.load_model("gpt2", checkpoint=3000), ValueError,
     r"checkpoint must go with a Pythia model or a local folder, got 'gpt2'\. Use revision"),
    ("a folder that is not there", lambda m: tlt.load_model("./nowhere"), ValueError,
     r"model's folder must exist, got '\./nowhere'"),
    ("a dtype of integers", lambda m: tlt.load_model("demo", dtype="int8"), ValueError,
     r"dtype must be a floating torch dtype such as 'float32', got 'int8'"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "wording"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_bad_input(toy, call, error, wording):
    with pytest.raises(error, match=wording) as caught:
        call(toy)
    assert type(caught.value) is error
    assert len(str(caught.value)) < 500


def test_there_are_at_least_thirty():
    assert len({case[0] for case in CASES}) == len(CASES) >= 30


@pytest.fixture
def passes(toy):
    """Counts the blocks that run."""
    seen = []
    handle = toy.blocks[0].register_forward_pre_hook(lambda *args: seen.append(1))
    yield seen
    handle.remove()


def test_nothing_runs_before_the_error(toy, drinks, passes):
    wrong = tlt.Cut("blocks.2.mlp.W_out", 999)
    for call in (
        lambda: tlt.evaluate(toy, drinks, [tlt.Cut("blocks.0.mlp.W_in", 3), wrong]),
        lambda: tlt.evaluate(toy, tlt.Task(**{**GOOD, "in_context": [" John John"]})),
        lambda: tlt.truncation_hooks(toy, wrong),
        lambda: cut(toy, tlt.Cut("blocks.0.mlp.W_in", 3), wrong),
    ):
        with pytest.raises(ValueError, match="must"):
            call()
    assert passes == []


def test_a_model_without_a_tokenizer(shared, monkeypatch):
    model = shared("bridge", "no-norm")
    monkeypatch.setattr(model, "tokenizer", None)
    with pytest.raises(ValueError, match=r"must have a tokenizer to read a task's prompts, got none"):
        tlt.evaluate(model, task())


def test_a_tokenizer_without_bos(toy):
    class Bare:
        bos_token_id = None
        unk_token_id = None

        def __call__(self, text, add_special_tokens):
            return toy.tokenizer(text, add_special_tokens=False)

    model = SimpleNamespace(cfg=toy.cfg, tokenizer=Bare())
    with pytest.raises(ValueError, match=r"must have a BOS token for prepend_bos=True, got none"):
        encode(model, task(), prepend_bos=True)
    assert encode(model, task()).prepend_bos is False


def test_a_tokenizer_of_another_model(toy, monkeypatch):
    monkeypatch.setattr(toy.cfg, "d_vocab", 5)
    with pytest.raises(ValueError, match=r"tokenizer must fit the model's vocabulary of 5, got token"):
        tlt.evaluate(toy, task())


def test_sparse_experts_are_refused_and_the_rest_can_be_cut(shared, tokens):
    model = architectures.bridge("mixtral-sparse")
    with pytest.raises(
        ValueError, match=r"sparse mixture of experts.*Block 1 has: W_Q, W_K, W_V, W_O\."
    ):
        cut(model, tlt.Cut("blocks.1.mlp.W_in", 0.1))
    uncut = model(tokens)
    with tlt.truncated(model, tlt.Cut("blocks.1.attn.W_V", 0.1)):
        assert not torch.allclose(model(tokens), uncut)


def test_a_model_on_the_meta_device_is_refused():
    model = architectures.bridge("gpt2").to("meta")
    with pytest.raises(ValueError, match=r"must hold data, got a tensor on the meta device\. Load"):
        cut(model, tlt.Cut("blocks.1.mlp.W_in", 0.1))


def test_quantised_weights_are_refused():
    model = architectures.bridge("gpt2")
    linear = getattr(model.blocks[1].mlp, "in").original_component
    linear.weight = torch.nn.Parameter(linear.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match=r"floating point of 16 bits or more, got torch\.int8"):
        cut(model, tlt.Cut("blocks.1.mlp.W_in", 0.1))


def test_weights_with_nan_are_refused():
    model = architectures.bridge("gpt2")
    with torch.no_grad():
        getattr(model.blocks[1].mlp, "in").original_component.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"must be finite to be factored, got NaN"):
        cut(model, tlt.Cut("blocks.1.mlp.W_in", 0.1))


@pytest.mark.skipif(
    architectures.HookedTransformer is None, reason="TransformerLens 4 has only the Bridge"
)
@pytest.mark.parametrize("site", ["blocks.1.mlp.W_out", "blocks.1.attn.W_O"])
def test_a_hook_point_behind_a_post_norm_is_refused(site):
    model = architectures.hooked("gemma2-post-norm")
    with pytest.raises(ValueError, match=r"visible before normalisation.*Load the model as a Transf"):
        cut(model, tlt.Cut(site, 0.1))
    with tlt.truncated(model, tlt.Cut("blocks.1.mlp.W_in", 0.1)):
        pass


@pytest.mark.skipif(
    architectures.HookedTransformer is None, reason="TransformerLens 4 has only the Bridge"
)
def test_laser_compat_without_the_input_is_refused():
    model = architectures.hooked("llama-grouped")
    with pytest.raises(
        ValueError, match=r"needs the linear's input.*TransformerBridge, or use Fraction"
    ):
        cut(model, tlt.Cut("blocks.1.attn.W_K", tlt.LaserCompat(0.1)))


def test_overlap_across_nested_contexts(toy):
    with tlt.truncated(toy, tlt.Cut("blocks.0.attn.W_V.2", 3)):
        with pytest.raises(ValueError, match="must not overlap"):
            cut(toy, tlt.Cut("blocks.0.attn.W_V", 3))
        with tlt.truncated(toy, tlt.Cut("blocks.0.attn.W_V.1", 3)):
            pass
    with tlt.truncated(toy, tlt.Cut("blocks.0.attn.W_V", 3)):
        pass


def test_files_of_another_kind(tmp_path):
    path = tmp_path / "cuts.json"
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"must be a file written by Cuts\.save"):
        tlt.Cuts.load(path)
