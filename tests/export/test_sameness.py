"""A model that is not its base's is refused, whatever about it is another; others load the base."""

import copy
import json

import architectures
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM

import tl_truncate as tlt

CUT = tlt.Cut("blocks.1.mlp.W_out", 0.5)
EXPORTS = (tlt.export_adapter, tlt.export_checkpoint)
pytestmark = pytest.mark.filterwarnings("ignore::tl_truncate.LargeAdapterWarning")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")
    names = ("gpt2", "llama-grouped", "neox-parallel")
    return {name: architectures.save_folder(name, root / name) for name in names}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def opened(folder, **overrides):
    return AutoModelForCausalLM.from_pretrained(folder, **overrides).eval()


def bridged(folder, hf):
    return TransformerBridge.boot_transformers(
        str(folder), hf_model=hf, tokenizer=architectures.word_tokenizer()
    )


def refused(model, wording, out, exports=EXPORTS, **options):
    for export in exports:
        with pytest.raises(ValueError, match=wording):
            export(model, CUT, out, **options)
        assert list(out.parent.glob("out*")) == []


OVERRIDES = {
    "fewer layers": (dict(num_hidden_layers=2), r"num_hidden_layers is 2, and 3 in "),
    "epsilon": (dict(rms_norm_eps=0.5), r"rms_norm_eps is 0\.5, and 1e-06 in "),
    "activation": (dict(hidden_act="relu"), r"hidden_act is 'relu', and 'silu' in "),
    "positions": (
        dict(rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}),
        r"rope_parameters\.factor is 4\.0, and None; rope_parameters\.rope_type is 'linear', and 'default' in ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("which", OVERRIDES)
def test_another_configuration(which, folders, out):
    overrides, wording = OVERRIDES[which]
    model = bridged(folders["llama-grouped"], opened(folders["llama-grouped"], **overrides))
    refused(model, "must have the configuration of its base, but " + wording + r".*Others would load the "
            r"base, and not this model\. Load it without overrides, or save it", out)  # fmt: skip


def test_a_base_with_the_same_weights_and_another_configuration(folders, tmp_path, out):
    model = tlt.load_model(str(folders["llama-grouped"]))
    other = architectures.save_folder("llama-grouped", tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.5}))
    refused(model, r"rms_norm_eps is 1e-06, and 0\.5 in .*other", out, base=other)
    # What changes no number may be another.
    silent = dict(use_cache=False, pad_token_id=5, attention_dropout=0.1, dtype="float64")
    (other / "config.json").write_text(json.dumps(config | silent))
    tlt.export_checkpoint(model, CUT, out, base=other)


class Half(nn.Module):
    def forward(self, weight):
        return weight * 0.5


def adapted(hf):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, target_modules=["lm_head"], init_lora_weights=False)
    return get_peft_model(hf, config).base_model.model


def with_norm(hf):
    hf.model.layers[0].input_layernorm = nn.Identity()
    return hf


def halved(hf):
    parametrize.register_parametrization(hf.model.norm, "weight", Half())
    return hf


def pruned(hf):
    prune.l1_unstructured(hf.lm_head, "weight", amount=0.5)
    return hf


def fewer(hf):
    hf.model.layers = hf.model.layers[:2]
    return hf


HIDDEN = {
    "LoRA on the unembedding": (adapted, r"lm_head\.weight"),
    "pruned unembedding": (pruned, r"lm_head\.weight"),
    "parametrised norm": (halved, r"model\.norm\.weight"),
    "norm replaced": (with_norm, r"model\.layers\.0\.input_layernorm\.weight"),
    "layers dropped": (fewer, r"model\.layers\.2\.\S+"),
}


@pytest.mark.parametrize("which", HIDDEN)
def test_a_tensor_that_the_model_does_not_hold(which, folders, out):
    """With files, and without: what would be written then is not the model."""
    change, name = HIDDEN[which]
    model = bridged(folders["llama-grouped"], change(opened(folders["llama-grouped"])))
    if which == "layers dropped":
        model.cfg.n_layers = 2
    wording = rf"must hold each tensor of its base, but {name} of .* is not in it\. Has it an adapter, a pruning"
    refused(model, wording, out)
    refused(model, wording, out, base="made/up")


def test_a_module_with_other_settings(folders, out):
    hf = opened(folders["llama-grouped"])
    hf.model.layers[0].mlp.act_fn = nn.ReLU()
    hf.model.layers[1].input_layernorm.variance_epsilon = 0.5
    model = bridged(folders["llama-grouped"], hf)
    for base in (None, "made/up"):
        refused(model, r"must have the modules of its base, but model\.layers\.0\.mlp\.act_fn is ReLU\(\), and "
                r"SiLU\w*\(\) in .*Others would load the base", out, base=base)  # fmt: skip
    hf.model.layers[0].mlp.act_fn = opened(folders["llama-grouped"]).model.layers[0].mlp.act_fn
    refused(bridged(folders["llama-grouped"], hf),
            r"input_layernorm is LlamaRMSNorm\(\(32,\), eps=0\.5\), and LlamaRMSNorm\(\(32,\), eps=1e-06\)",
            out)  # fmt: skip


def with_head_bias(model):
    model.unembed.original_component.bias = nn.Parameter(torch.ones(97))


def with_out_bias(model):
    model.blocks[0].mlp.out.original_component.bias = nn.Parameter(torch.ones(32))


@pytest.mark.parametrize(
    ("change", "name"),
    [(with_head_bias, r"(lm_head|unembed)\.bias"), (with_out_bias, r"model\.layers\.0\.mlp\.\S+\.bias")],
)
def test_a_bias_that_was_added(change, name, folders, out):
    model = tlt.load_model(str(folders["llama-grouped"]))
    change(model)
    for base in (None, "made/up"):
        refused(model, rf"must have no tensors beside those of its base, but has {name}, which .* knows "
                r"nothing of\. Has a bias or an adapter been added", out, base=base)  # fmt: skip


def test_a_bias_that_was_taken_away(folders, out):
    model = tlt.load_model(str(folders["gpt2"]))
    model.blocks[0].attn.q.original_component.bias = None
    for base in (None, "made/up"):
        refused(model, r"bias of blocks\.0\.attn\.W_Q must be that of transformer\.h\.0\.attn\.c_attn\.bias in "
                r".*but is another", out, base=base)  # fmt: skip


def test_an_unembedding_that_is_no_longer_the_embedding(folders, out):
    """Of which the files hold one."""
    model = tlt.load_model(str(folders["gpt2"]))
    with torch.no_grad():
        head = model.unembed.original_component
        head.weight = nn.Parameter(head.weight * 1.5)
    refused(model, r"must have the weights of its base, but lm_head\.weight is another than in .*gpt2, where it "
            r"is transformer\.wte\.weight", out)  # fmt: skip


def test_several_precisions(folders, out):
    """A checkpoint is loaded in one; of files, in which each tensor has its own, digits must not be lost."""
    hf = opened(folders["llama-grouped"])
    hf.model.embed_tokens.to(torch.bfloat16)
    refused(bridged("made/up", copy.deepcopy(hf)), r"without files must be in one precision to be written, since a "
            r"checkpoint is loaded in one, got model\.embed_tokens\.weight in torch\.bfloat16, \S+ in "
            r"torch\.float32\. Convert it first", out, exports=[tlt.export_checkpoint])  # fmt: skip
    refused(bridged(folders["llama-grouped"], hf), r"must have the numbers of its files, but is in torch\.bfloat16, "
            r"and model\.embed_tokens\.weight is stored in torch\.float32.*dtype='float32'", out)  # fmt: skip


@pytest.mark.skipif(architectures.HookedTransformer is None, reason="removed in TransformerLens 4")
class TestHooked:
    EDITED = ("embed.W_E", "unembed.W_U", "unembed.b_U", "ln_final.w", "ln_final.b", "blocks.0.ln1.w",
              "blocks.0.ln2.b", "blocks.2.attn.b_V", "blocks.2.mlp.b_out")  # fmt: skip

    @pytest.mark.parametrize("name", EDITED)
    def test_any_tensor_that_was_edited(self, name, folders, out):
        model = tlt.load_model(str(folders["neox-parallel"]), backend="hooked")
        with torch.no_grad():
            model.get_parameter(name)[..., 3] += 1e-3
        refused(model, rf"(the numbers of {name} are nowhere in .*neox-parallel\. Has|bias of {name[:8]}.* must be)",
                out)  # fmt: skip

    def test_norms_that_lack(self, folders, out):
        """A parameter that is zero would be where the base has none, so the base's are looked for too."""
        model = tlt.load_model(str(folders["neox-parallel"]), backend="hooked")
        with torch.no_grad():
            model.ln_final.b.zero_()
        refused(model, r"the numbers of gpt_neox\.final_layer_norm\.bias in .* are nowhere in it", out)

    @pytest.mark.parametrize(
        ("key", "value"),
        [("eps", 0.5), ("act_fn", "relu"), ("parallel_attn_mlp", False), ("n_layers", 2)],
    )
    def test_another_configuration(self, key, value, folders, out):
        model = tlt.load_model(str(folders["neox-parallel"]), backend="hooked")
        setattr(model.cfg, key, value)
        refused(model, rf"must have the configuration of its base, but {key} is {value!r}, and ", out)

    @pytest.mark.parametrize("name", ["gpt2", "opt-learnt"])
    def test_learnt_positions(self, name, tmp_path, out):
        """Which the files may have with others before them."""
        import transformer_lens
        from transformer_lens.pretrained import weight_conversions

        folder = architectures.save_folder(name, tmp_path / name)
        convert = getattr(weight_conversions, f"convert_{name.partition('-')[0]}_weights")
        config = transformer_lens.HookedTransformerConfig(
            n_layers=3, d_model=32, d_head=8, n_heads=4, d_mlp=48, n_ctx=64, d_vocab=97, device="cpu",
            normalization_type="LN", act_fn="gelu_new" if name == "gpt2" else "relu",
        )  # fmt: skip
        hf = opened(folder)
        config.d_vocab = config.d_vocab_out = hf.config.vocab_size
        model = transformer_lens.HookedTransformer(config)
        model.load_state_dict(convert(hf, config), strict=False)
        tlt.export_checkpoint(model, CUT, tmp_path / "same", base=folder)
        with torch.no_grad():
            model.pos_embed.W_pos[5, 3] += 1e-3
        refused(model, r"the numbers of pos_embed\.W_pos are nowhere in ", out, base=folder)
