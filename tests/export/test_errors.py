"""Bad input to exports: each with the wording that the user reads, and nothing left on the disk."""

import copy
import importlib.util
import json
import shutil

import architectures
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

import tl_truncate as tlt
from tl_truncate.cli import app
from tl_truncate.weights.files import making, remove_parts

SITE = "blocks.1.mlp.W_out"
CUT = tlt.Cut(SITE, 0.5)
pytestmark = pytest.mark.filterwarnings("ignore::tl_truncate.LargeAdapterWarning")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return architectures.save_folder("gpt2", tmp_path_factory.mktemp("bases") / "gpt2")


@pytest.fixture(scope="module")
def model(base):
    return tlt.load_model(str(base))


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def refused(call, error, wording, out):
    with pytest.raises(error, match=wording):
        call()
    assert not out.exists()
    assert list(out.parent.glob("*.part")) == []


def edited_folder(base, tmp_path, **files):
    """A copy of a folder with files written, or deleted where their text is None."""
    folder = tmp_path / "edited"
    shutil.copytree(base, folder)
    for name, text in files.items():
        path = folder / name.replace("__", ".")
        if text is None:
            path.unlink()
        else:
            path.write_text(text)
    return folder


# (what is wrong, the call of (model, folder to write), the error, the wording)
CASES = [
    ("no cut", lambda m, out: tlt.export_adapter(m, [], out), ValueError,
     r"At least one cut must be given to make an adapter of, got none"),
    ("not a cut", lambda m, out: tlt.export_adapter(m, "half", out), TypeError, r"A cut must be a Cut, a control"),
    ("nothing removed", lambda m, out: tlt.export_adapter(m, tlt.Cut(SITE, 1.0), out), ValueError,
     r"The cuts must change something to make an adapter of, but Cuts\(\[Cut.*leaves the weights as they are"),
    ("no strength", lambda m, out: tlt.export_adapter(m, tlt.Cut(SITE, 0.5, strength=0.0), out), ValueError,
     r"must change something to make an adapter of"),
    ("a layer out of range", lambda m, out: tlt.export_adapter(m, tlt.Cut("blocks.7.mlp.W_in", 2), out),
     ValueError, r"layer of blocks\.7\.mlp\.W_in must be in 0\.\.2"),
    ("an overlap", lambda m, out: tlt.export_checkpoint(
        m, [tlt.Cut("blocks.1.attn.W_Q", 2), tlt.Cut("blocks.1.attn.W_Q.1", 2)], out), ValueError,
     r"active together must not overlap, got blocks\.1\.attn\.W_Q\.1"),
    ("reads tokens, as an adapter", lambda m, out: tlt.export_adapter(m, tlt.GlobalRemoval(1, method="own_path"), out),
     ValueError, r"must be a change of the weights alone to be taken elsewhere, but this one depends on the tokens"),
    ("reads tokens, as a checkpoint", lambda m, out: tlt.export_checkpoint(
        m, tlt.GlobalRemoval(1, method="own_path"), out), ValueError, r"depends on the tokens: GlobalRemoval"),
    ("no model", lambda m, out: tlt.export_adapter(torch.nn.Linear(2, 2), CUT, out), TypeError,
     r"must be a TransformerLens model.*got Linear"),
    ("a native model", lambda m, out: tlt.export_adapter(architectures.bridge("no-norm"), CUT, out), ValueError,
     r"must be one of transformers to be taken elsewhere, got a model that was made from a \w+"),
    ("a folder that is not there", lambda m, out: tlt.export_checkpoint("./nowhere", CUT, out), ValueError,
     r"The folder must exist, got '\./nowhere'\. Load a name of the hub first"),
    ("a name of the hub for a folder", lambda m, out: tlt.export_checkpoint("EleutherAI/pythia-70m", CUT, out),
     ValueError, r"The folder must exist, got 'EleutherAI/pythia-70m'"),
    ("a base of a folder", lambda m, out: tlt.export_checkpoint(".", CUT, out, base="gpt2"), ValueError,
     r"base and revision must go with a model, but a folder was given"),
    ("a base that is not there", lambda m, out: tlt.export_adapter(m, CUT, out, base="./nowhere"), ValueError,
     r"base must be a folder that exists, or a name of the hub, got '\./nowhere'"),
    ("a revision of a folder", lambda m, out: tlt.export_adapter(m, CUT, out, revision="main"), ValueError,
     r"A revision must go with a name of the hub, got 'main'"),
    ("scores of another type", lambda m, out: tlt.export_adapter(m, CUT, out, scores=0.9), TypeError,
     r"scores must be what tlt\.evaluate returns, got float"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("call", "error", "wording"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_it_is_refused(call, error, wording, model, out):
    refused(lambda: call(model, out), error, wording, out)


def test_what_exists_is_never_written_to(model, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept.txt").write_text("kept")
    (tmp_path / "file").write_text("kept")
    for export in (tlt.export_adapter, tlt.export_checkpoint):
        for name in ("full", "file"):
            with pytest.raises(
                ValueError, match=rf"folder to export to must be new, got .*{name}, which exists"
            ):
                export(model, CUT, tmp_path / name)
    assert (tmp_path / "full" / "kept.txt").read_text() == (tmp_path / "file").read_text() == "kept"
    (tmp_path / "empty").mkdir()
    tlt.export_adapter(model, CUT, tmp_path / "empty")
    assert (tmp_path / "empty" / "adapter_config.json").exists()


def test_processed_weights(base, out):
    folded = tlt.load_model(str(base), raw=False)
    for export in (tlt.export_adapter, tlt.export_checkpoint):
        refused(lambda: export(folded, CUT, out), ValueError,
                r"must be as they were trained to be taken elsewhere, but are processed \(folded layer norm.*"
                r"is no change of the one that others load\. Load the raw weights", out)  # fmt: skip


def test_a_cut_at_work(model, out):
    with tlt.truncated(model, tlt.Ablated("blocks.0.mlp.W_in")):
        refused(lambda: tlt.export_adapter(model, CUT, out), ValueError,
                r"No cut must be at work in a model that is taken elsewhere, got Ablated", out)  # fmt: skip


BASES = {
    "another": (dict(), r"must have the weights of its base, but transformer\.\S+ is another than in .*Name the right base"),
    "no configuration": (dict(config__json=None), r"must hold a Hugging Face config\.json, got none"),
    "an adapter": (dict(adapter_config__json="{}"), r"must be a plain model, but .* holds an adapter\. Merge it"),
    "quantised": ("quantised", r"must be in floating point, but those in .* are quantised"),
    "no safetensors": (dict(model__safetensors=None), r"must be in safetensors, got neither model\.safetensors nor"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", BASES)
def test_a_wrong_base(wrong, model, base, tmp_path, out):
    files, wording = BASES[wrong]
    if wrong == "another":
        folder = tmp_path / "other"
        architectures.randomise(architectures.HF["gpt2"](), seed=5).save_pretrained(folder)
    elif wrong == "quantised":
        config = json.loads((base / "config.json").read_text()) | {"quantization_config": {"bits": 4}}
        folder = edited_folder(base, tmp_path, config__json=json.dumps(config))
    else:
        folder = edited_folder(base, tmp_path, **files)
    for export in (tlt.export_adapter, tlt.export_checkpoint):
        refused(lambda: export(model, CUT, out, base=folder), ValueError, wording, out)


def test_a_base_of_another_architecture(model, tmp_path, out):
    other = architectures.save_folder("llama-grouped", tmp_path / "llama")
    refused(lambda: tlt.export_adapter(model, CUT, out, base=other), ValueError,
            r"files of .*llama must have all weights of the model, but lack transformer", out)  # fmt: skip


@pytest.mark.parametrize(
    "change",
    ["blocks.1.mlp.out.weight", "blocks.0.attn.q.weight", "blocks.2.attn.v.bias", "ln_final.bias"],
)
def test_a_model_that_was_edited_since_it_was_loaded(change, base, out):
    """Anywhere: what is not cut is taken from the files."""
    model = tlt.load_model(str(base))
    path, _, name = change.rpartition(".")
    with torch.no_grad():
        getattr(model.get_submodule(path).original_component, name)[..., 3] += 1e-3
    wording = r"since it was loaded"
    refused(lambda: tlt.export_adapter(model, CUT, out), ValueError, wording, out)
    refused(lambda: tlt.export_checkpoint(model, CUT, out), ValueError, wording, out)


def test_a_fused_part_that_was_edited_in_a_model_without_files(out):
    """Which the tensors that a Bridge holds beside its copies do not show."""
    model = architectures.bridge("neox-parallel")
    with torch.no_grad():
        model.blocks[0].attn.k.original_component.weight[2, 3] += 1e-3
    refused(lambda: tlt.export_adapter(model, CUT, out), ValueError,
            r"weight of blocks\.0\.attn\.W_K must be one of its base's, but no tensor of that layer has its "
            r"numbers\. Has the model been trained", out)  # fmt: skip


def test_fewer_digits_than_the_files(base, out):
    model = tlt.load_model(str(base), dtype="bfloat16")
    refused(lambda: tlt.export_adapter(model, CUT, out), ValueError,
            r"must have the numbers of its files, but is in torch\.bfloat16, and blocks\.\S+ is stored in "
            r"torch\.float32.*dtype='float32'", out)  # fmt: skip


def test_a_weight_that_two_layers_share(out):
    hf = architectures.hf_model("llama-grouped")
    hf.model.layers[2].mlp.down_proj.weight = hf.model.layers[1].mlp.down_proj.weight
    model = TransformerBridge.boot_transformers(
        "shared", hf_model=hf, tokenizer=architectures.word_tokenizer()
    )
    for export in (tlt.export_adapter, tlt.export_checkpoint):
        refused(lambda: export(model, CUT, out), ValueError,
                r"must change one weight, but model\.layers\.1\.mlp\.down_proj\.weight, in which "
                r"blocks\.1\.mlp\.W_out is cut, is also model\.layers\.2\.mlp\.down_proj\.weight", out)  # fmt: skip
    tlt.export_checkpoint(model, tlt.Cut("blocks.1.mlp.W_in", 2), out)


def test_outputs_that_cannot_be_told_apart(out):
    """Two keys with the numbers of two queries: a cut of one must not land in the other."""
    hf = architectures.hf_model("neox-parallel")
    with torch.no_grad():
        fused = hf.gpt_neox.layers[1].attention.query_key_value.weight
        fused[8:10] = fused[0:2]
    model = TransformerBridge.boot_transformers(
        "twins", hf_model=copy.deepcopy(hf), tokenizer=architectures.word_tokenizer()
    )
    refused(lambda: tlt.export_adapter(model, tlt.Cut("blocks.1.attn.W_Q", 3), out), ValueError,
            r"outputs of blocks\.1\.attn\.W_Q must be told apart by their numbers, but 2 of them", out)  # fmt: skip
    tlt.export_adapter(model, CUT, out)


def test_scores_of_something_else(model, drinks, out, base):
    own = tlt.evaluate(model, drinks, [CUT])
    other = tlt.evaluate(model, drinks, [tlt.Cut(SITE, 3)])
    refused(lambda: tlt.export_adapter(model, CUT, out, scores=other), ValueError,
            r"scores must be of the cuts that are exported", out)  # fmt: skip
    double = tlt.load_model(str(base), dtype="float64")
    refused(lambda: tlt.export_adapter(double, CUT, out, scores=own), ValueError,
            r"scores must be of the weights that are exported, got scores of .* with other weights", out)  # fmt: skip


def test_several_precisions_unloaded(base, tmp_path, out):
    from safetensors.torch import load_file, save_file

    folder = edited_folder(base, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("h.1.mlp.c_fc.weight"))
    tensors[name] = tensors[name].double()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    refused(lambda: tlt.export_checkpoint(folder, CUT, out), ValueError,
            r"must be in one precision to be cut unloaded, got torch\.float32, torch\.float64", out)  # fmt: skip


def test_an_adapter_asks_for_peft_before_it_works(model, out, monkeypatch):
    original = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if name == "peft" else original(name, *rest)
    )
    refused(lambda: tlt.export_adapter(torch.nn.Linear(2, 2), CUT, out), ModuleNotFoundError,
            r"peft must be installed for this, but peft is not\. Run in a clone of tl_truncate: pip install '\.\[export\]'", out)  # fmt: skip
    tlt.export_checkpoint(model, CUT, out)


COMMANDS = {
    "another kind": (["--as", "gguf", "--cut", f"{SITE}=2"], r"--as must be adapter or checkpoint, got 'gguf'"),
    "no cut": (["--as", "adapter"], r"At least one cut must be given: --cut SITE=KEEP, or --cuts FILE"),
    "links of an adapter": (["--as", "adapter", "--link", "--cut", f"{SITE}=2"], r"--link must go with --as checkpoint"),
    "a cut that reads otherwise": (["--as", "adapter", "--cut", "nonsense"], r"A cut must read SITE=KEEP"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", COMMANDS)
def test_the_command(wrong, base, out, monkeypatch):
    arguments, wording = COMMANDS[wrong]
    monkeypatch.setattr(
        "tl_truncate.cli.shared.model.load_model", lambda *a, **k: pytest.fail("work has begun")
    )
    result = CliRunner().invoke(app, ["export", "-m", str(base), "--out", str(out), *arguments])
    assert result.exit_code == 2, result.output
    refused(
        lambda: (_ for _ in ()).throw(ValueError(" ".join(result.stderr.split()))),
        ValueError,
        wording,
        out,
    )


class TestFolders:
    """What lies in a folder is what transformers would open, or is refused."""

    def test_scores_of_a_folder_are_of_nobody_knows_what(self, model, drinks, base, out):
        scores = tlt.evaluate(model, drinks, [CUT])
        refused(lambda: tlt.export_checkpoint(base, CUT, out, scores=scores), ValueError,
                r"Scores must come with the model that they are of.*Give the model", out)  # fmt: skip

    def test_a_width_that_is_not_the_configurations(self, base, tmp_path, out):
        config = json.loads((base / "config.json").read_text())
        folder = edited_folder(base, tmp_path, config__json=json.dumps(config | {"n_inner": 64}))
        refused(lambda: tlt.export_checkpoint(folder, CUT, out), ValueError,
                r"must fit its config\.json, but transformer\.h\.\d\.mlp\.c_fc\.\w+ has shape", out)  # fmt: skip

    def test_a_shard_that_is_missing(self, base, tmp_path, out):
        folder = tmp_path / "sharded"
        AutoModelForCausalLM.from_pretrained(base).save_pretrained(folder, max_shard_size="20KB")
        shutil.copy(base / "config.json", folder)
        next(folder.glob("model-00002*")).unlink()
        refused(lambda: tlt.export_checkpoint(folder, CUT, out), ValueError,
                r"files must be whole, but .* names model-00002.*, which is not there", out)  # fmt: skip

    def test_a_file_that_was_cut_off(self, base, tmp_path, out):
        folder = tmp_path / "short"
        shutil.copytree(base, folder)
        whole = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
        refused(lambda: tlt.export_checkpoint(folder, CUT, out), ValueError,
                r"must be a whole safetensors file", out)  # fmt: skip

    def test_below_a_file(self, model, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(ValueError, match=r"must lie in a folder, but .*file is none"):
            tlt.export_adapter(model, CUT, tmp_path / "file" / "adapter")


def test_made_by_another_meanwhile(tmp_path):
    """What was made is kept under its temporary name, which the message has."""
    target = tmp_path / "edited"
    with (
        pytest.raises(FileExistsError, match=r"made it meanwhile.*\.part: rename it"),
        making(target) as place,
    ):
        (place / "mine").write_text("1")
        target.mkdir()
        (target / "theirs").write_text("2")
    assert (target / "theirs").read_text() == "2"
    (left,) = tmp_path.glob("edited.*.part")
    assert (left / "mine").read_text() == "1"
    remove_parts(tmp_path)  # as a run in that folder would, of what a killed writer left
    assert not left.exists()
