"""What exports leave on the disk, what they read for it, and that others open it."""

import copy
import json
import os
import shutil
import subprocess
import sys

import architectures
import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM
from typer.testing import CliRunner

import tl_truncate as tlt
from tl_truncate.cli import app
from tl_truncate.export import rewriting

CUT = tlt.Cut("blocks.1.mlp.W_out", tlt.DropTop(3))
pytestmark = pytest.mark.filterwarnings("ignore::tl_truncate.LargeAdapterWarning")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return architectures.save_folder("neox-parallel", tmp_path_factory.mktemp("bases") / "neox")


@pytest.fixture(scope="module")
def model(base):
    return tlt.load_model(str(base))


def sharded(folder, layers=3, width=32, size="20KB"):
    """A GPT-NeoX in several files."""
    config = GPTNeoXConfig(vocab_size=97, hidden_size=width, num_hidden_layers=layers,
                           num_attention_heads=4, intermediate_size=2 * width,
                           max_position_embeddings=64)  # fmt: skip
    GPTNeoXForCausalLM(config).save_pretrained(folder, max_shard_size=size)
    return folder


def logits(model, tokens):
    with torch.no_grad():
        return model(tokens).logits


def test_an_adapter_is_safetensors_json_and_a_card(model, base, tmp_path):
    made = tlt.export_adapter(model, CUT, tmp_path / "a")
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "README.md", "tl_truncate.json"}
    config = LoraConfig.from_pretrained(tmp_path / "a")
    assert config.base_model_name_or_path == str(base.resolve())
    assert (config.r, config.lora_alpha, config.bias, config.lora_dropout) == (3, 3, "none", 0.0)
    assert set(config.target_modules) == {"gpt_neox.layers.1.mlp.dense_4h_to_h"}
    with safe_open(tmp_path / "a" / "adapter_model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["tl_truncate"])["cuts"] == [CUT.to_json()]
        assert sum(file.get_tensor(name).nbytes for name in file.keys()) == made.nbytes  # noqa: SIM118
    assert tlt.Cuts.load(tmp_path / "a" / "tl_truncate.json") == tlt.Cuts(CUT)


def test_the_card_says_what_was_done(model, drinks, tmp_path):
    scores = tlt.evaluate(model, drinks, [CUT])
    tlt.export_adapter(model, CUT, tmp_path / "a", scores=scores)
    tlt.export_checkpoint(model, CUT, tmp_path / "c", scores=scores)
    for folder in ("a", "c"):
        text = (tmp_path / folder / "README.md").read_text()
        for part in ("dense_4h_to_h", repr(CUT), "were compared with the base's files", "transformers",
                     f"| p_in_context | {scores.baseline.p_in_context} | {scores.p_in_context} |"):  # fmt: skip
            assert part in text, part
        record = json.loads((tmp_path / folder / "tl_truncate.json").read_text())
        assert record["model"]["weights_hash"] == scores.record.weights_hash
        assert record["scores"]["n_prompts"] == 4
    assert "in float32, which rounds it by" in text


def test_without_files_the_card_says_that_nothing_was_compared(shared, tmp_path):
    made = tlt.export_adapter(shared("bridge", "neox-parallel"), CUT, tmp_path / "a")
    assert "were **not** compared" in (tmp_path / "a" / "README.md").read_text()
    assert "not at hand to be compared with" in str(made)


def test_an_adapter_that_is_larger_than_the_weight_warns_before_it_is_written(
    model, tmp_path, monkeypatch
):
    monkeypatch.setattr(tlt.Adapter, "save", lambda *a: pytest.fail("has been written"))
    with pytest.warns(tlt.LargeAdapterWarning) as warned, pytest.raises(pytest.fail.Exception):
        tlt.export_adapter(model, tlt.Cut("blocks.1.mlp.W_out", 2), tmp_path / "a")
    (told,) = [str(each.message) for each in warned if each.category is tlt.LargeAdapterWarning]
    assert "it has rank 30, 2400 numbers for a weight of 1536. tlt.export_checkpoint is smaller" in told


def test_a_checkpoint_is_the_base_but_for_the_cut(base, tokens, tmp_path):
    """Configuration and tokenizer too; and nothing in which the uncut weights would still stand."""
    folder = tmp_path / "base"
    shutil.copytree(base, folder)
    for name in ("pytorch_model.bin", "model.gguf", "tf_model.h5", "LICENSE", "README.md"):
        (folder / name).write_text("of the base")
    (folder / "onnx").mkdir()
    tlt.export_checkpoint(folder, CUT, tmp_path / "c")
    names = {path.name for path in (tmp_path / "c").iterdir()}
    left_out = {"pytorch_model.bin", "model.gguf", "tf_model.h5", "onnx"}
    assert names == ({path.name for path in folder.iterdir()} - left_out) | {"tl_truncate.json"}
    assert "of the base" not in (tmp_path / "c" / "README.md").read_text()
    for name in ("config.json", "tokenizer.json", "LICENSE"):
        assert (tmp_path / "c" / name).read_bytes() == (folder / name).read_bytes()
    assert AutoTokenizer.from_pretrained(tmp_path / "c")("Mary")["input_ids"]


def test_only_files_with_cuts_are_rewritten(tmp_path, monkeypatch):
    folder = sharded(tmp_path / "base")
    files = {path.name for path in folder.glob("*.safetensors")}
    rewritten = []
    original = rewriting.load_tensors
    monkeypatch.setattr(
        rewriting, "load_tensors", lambda path: rewritten.append(path.name) or original(path)
    )
    tlt.export_checkpoint(folder, CUT, tmp_path / "c")
    assert len(files) > 3
    assert len(rewritten) == 1
    for name in files - set(rewritten):
        assert (tmp_path / "c" / name).read_bytes() == (folder / name).read_bytes()
    with safe_open(tmp_path / "c" / rewritten[0], "pt") as file:
        assert file.metadata()["format"] == "pt"
        assert json.loads(file.metadata()["tl_truncate"])["kind"] == "checkpoint"
    linked = tlt.export_checkpoint(folder, CUT, tmp_path / "l", link=True).folder
    for name in files:
        assert os.path.samefile(linked / name, folder / name) == (name not in rewritten)


def test_without_cuts_it_is_the_model_as_it_was(model, base, tokens, tmp_path):
    made = tlt.export_checkpoint(model, [], tmp_path / "c")
    assert made.changed == ()
    found, own = (AutoModelForCausalLM.from_pretrained(each) for each in (tmp_path / "c", base))
    assert torch.equal(logits(found, tokens), logits(own, tokens))


def test_a_name_of_the_hub_is_looked_up_in_the_cache(tmp_path, monkeypatch, tokens):
    """Under its revision, through the cache's symbolic links; other weights of that name are refused."""
    from transformer_lens.model_bridge import TransformerBridge

    repo = tmp_path / "hub" / "models--EleutherAI--pythia-70m"
    (repo / "refs").mkdir(parents=True)
    for revision, seed in (("main", 1), ("step3000", 0)):
        (repo / "refs" / revision).write_text(revision)
        hf = architectures.randomise(architectures.HF["neox-parallel"](), seed=seed)
        hf.save_pretrained(repo / "blobs" / revision)
        (repo / "snapshots" / revision).mkdir(parents=True)
        for path in (repo / "blobs" / revision).iterdir():
            (repo / "snapshots" / revision / path.name).symlink_to(path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    model = TransformerBridge.boot_transformers(
        "EleutherAI/pythia-70m", hf_model=copy.deepcopy(hf), tokenizer=architectures.word_tokenizer()
    )
    with pytest.raises(ValueError, match=r"is another than in .*Name the right base, or its revision"):
        tlt.export_adapter(model, CUT, tmp_path / "a")
    made = tlt.export_adapter(model, CUT, tmp_path / "a", revision="step3000")
    assert made.compared
    assert (made.base.name, made.base.revision) == ("EleutherAI/pythia-70m", "step3000")
    config = LoraConfig.from_pretrained(tmp_path / "a")
    assert (config.base_model_name_or_path, config.revision) == ("EleutherAI/pythia-70m", "step3000")
    card = (tmp_path / "a" / "README.md").read_text()
    assert "base_model: EleutherAI/pythia-70m" in card
    assert "'EleutherAI/pythia-70m', revision='step3000'" in card
    tlt.export_checkpoint(model, CUT, tmp_path / "c", revision="step3000", link=True)
    assert not any(path.is_symlink() for path in (tmp_path / "c").iterdir())
    with tlt.truncated(model, CUT), torch.no_grad():
        found = AutoModelForCausalLM.from_pretrained(tmp_path / "c")
        assert torch.allclose(logits(found, tokens), model(tokens), atol=1e-5)


@pytest.mark.skipif(architectures.HookedTransformer is None, reason="removed in TransformerLens 4")
def test_a_hooked_transformer_with_the_raw_weights_of_files(base, tokens, tmp_path):
    """Its matrices have other names and another order; in memory alone nobody knows which."""
    model = tlt.load_model(str(base), backend="hooked")
    cuts = [CUT, tlt.Cut("blocks.1.attn.W_K.2", 3), tlt.Cut("blocks.0.attn.W_O.1", tlt.DropTop(2))]
    tlt.export_adapter(model, cuts, tmp_path / "a")
    tlt.export_checkpoint(model, cuts, tmp_path / "c")
    with tlt.truncated(model, cuts), torch.no_grad():
        expected = model(tokens)
    for found in (AutoPeftModelForCausalLM.from_pretrained(tmp_path / "a"),
                  AutoModelForCausalLM.from_pretrained(tmp_path / "c")):  # fmt: skip
        assert float((logits(found, tokens) - expected).abs().max()) < 1e-5
    with torch.no_grad():
        model.blocks[2].mlp.b_in[4] += 1e-3
    with pytest.raises(
        ValueError, match=r"bias of blocks\.2\.mlp\.W_in must be that of .*but is another"
    ):
        tlt.export_adapter(model, cuts, tmp_path / "b")
    alone = architectures.hooked("neox-parallel")
    with pytest.raises(
        ValueError, match=r"files of .* must be on this machine, since a HookedTransformer"
    ):
        tlt.export_adapter(alone, CUT, tmp_path / "b")


def test_a_write_that_fails_leaves_nothing(model, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    for place in ("adapter", "rewriting"):
        monkeypatch.setattr(f"tl_truncate.export.{place}.save_tensors", full)
    for export in (tlt.export_adapter, tlt.export_checkpoint):
        with pytest.raises(OSError, match="No space left"):
            export(model, CUT, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_the_global_random_state_stays(model, tmp_path):
    before = torch.get_rng_state()
    tlt.export_adapter(model, CUT, tmp_path / "a")
    tlt.export_checkpoint(model, CUT, tmp_path / "c")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", ["adapter", "checkpoint"])
def test_the_command(kind, base, drinks, tokens, tmp_path):
    drinks.save(tmp_path / "drinks.json")
    model = ["-m", str(base), "--cut", "blocks.1.mlp.W_out=DropTop(3)"]
    scored = [
        "evaluate",
        *model,
        "--task",
        str(tmp_path / "drinks.json"),
        "--out",
        str(tmp_path / "scores"),
    ]
    export = ["export", *model, "--as", kind, "--out", str(tmp_path / "out")]
    if kind == "adapter":  # a checkpoint of a folder is written unloaded
        assert CliRunner().invoke(app, scored).exit_code == 0
        export += ["--scores", str(tmp_path / "scores" / "result.json")]
    result = CliRunner().invoke(app, export)
    assert result.exit_code == 0, result.output + result.stderr
    assert f"Written: {tmp_path / 'out'}" in result.stdout
    assert "gpt_neox.layers.1.mlp.dense_4h_to_h" in result.stdout
    if kind == "adapter":
        found = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out")
        assert "rank 3" in result.stdout
        assert "| p_in_context |" in (tmp_path / "out" / "README.md").read_text()
    else:
        found = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    live = tlt.load_model(str(base))
    with tlt.truncated(live, CUT), torch.no_grad():
        assert float((logits(found, tokens) - live(tokens)).abs().max()) < 1e-5


MEASURE = """
import re, sys
import transformer_lens.model_bridge, transformers
import tl_truncate as tlt

def megabytes(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

small, large, how = sys.argv[1:4]
cut = tlt.Cut("blocks.1.mlp.W_out", tlt.DropTop(3))
tlt.export_checkpoint(small, cut, small + "-cut-" + how)  # whatever is imported on the way
before = megabytes("VmRSS")
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak begins anew, below that of what was imported, which getrusage keeps
if how == "exported":
    tlt.export_checkpoint(large, cut, large + "-cut")
else:
    model = transformers.AutoModelForCausalLM.from_pretrained(large)
    sum(float(parameter.sum()) for parameter in model.parameters())
print(megabytes("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_memory_is_that_of_one_file(tmp_path):
    """Of 109 megabytes in files of 6 at most; beside it a layer of 5 and its spectra in float64, 35 seen."""
    small = sharded(tmp_path / "small", width=64, size="200KB")
    large = sharded(tmp_path / "large", layers=24, width=384, size="6MB")
    total = sum(path.stat().st_size for path in large.glob("*.safetensors")) / 2**20
    grown = {}
    for how in ("exported", "loaded"):
        command = [sys.executable, "-c", MEASURE, str(small), str(large), how]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        grown[how] = float(done.stdout.splitlines()[-1])
    assert grown["loaded"] > 0.9 * total > 90  # or the measure would see nothing
    assert grown["exported"] < 50


def test_one_file_beside_shards_is_what_transformers_reads(tmp_path):
    """A folder that was saved whole, and then in shards of another model."""
    folder = architectures.save_folder("gpt2", tmp_path / "base")
    wanted = tlt.load_model(str(folder))
    other = architectures.randomise(architectures.HF["gpt2"](), seed=5)
    other.save_pretrained(tmp_path / "other", max_shard_size="20KB")
    for path in (tmp_path / "other").glob("model*"):
        shutil.copy(path, folder)
    tlt.export_checkpoint(folder, CUT, tmp_path / "edited")
    again = tlt.load_model(str(tmp_path / "edited"))
    tokens = torch.tensor([[5, 9, 14]])
    with torch.no_grad(), tlt.truncated(wanted, CUT):
        assert float((again(tokens) - wanted(tokens)).abs().max()) < 1e-5


def test_a_folder_is_known_from_another_working_folder(tmp_path, monkeypatch):
    architectures.save_folder("gpt2", tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    model = tlt.load_model("base")
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    made = tlt.export_adapter(model, CUT, "adapter")
    assert made.compared
    assert made.base.name == str(tmp_path / "base")


def test_the_command_takes_the_model_that_loading_takes(tmp_path, monkeypatch):
    """Not a folder that happens to be called as a model that ships is."""
    architectures.save_folder("gpt2", tmp_path / "nano-pythia")
    monkeypatch.chdir(tmp_path)
    words = ["export", "-m", "nano-pythia", "--cut", "blocks.1.mlp.W_out=3", "--as", "checkpoint"]
    done = CliRunner().invoke(app, [*words, "--out", "edited"])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "edited" / "config.json").read_text())["model_type"] == "gpt_neox"
    wrong = CliRunner().invoke(app, [*words, "--dtype", "nonsense", "--out", "other"])
    assert wrong.exit_code == 2
