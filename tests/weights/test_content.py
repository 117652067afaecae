"""One content hash of a model's weights: equal for equal weights, another after any edit, whoever makes it."""

import copy
import json

import architectures
import pytest
import torch
from torch import nn

import tl_truncate as tlt
from tl_truncate.weights.identity.content import content_key, hashed_once, weights_hash
from tl_truncate.weights.locate import locate
from tl_truncate.weights.site import Site


@pytest.fixture(scope="module", params=["bridge", "hooked"])
def model(request):
    if request.param == "hooked" and architectures.HookedTransformer is None:
        pytest.skip("TransformerLens 4 has only the Bridge")
    return architectures.build(request.param, "gpt2")


def edits(model):
    """Ways to change one number, of a weight, a bias, a norm, an embedding, a buffer."""
    yield locate(model, Site(1, "W_out")).weight()
    yield locate(model, Site(2, "W_in")).bias()
    yield from (next(iter(each.parameters())) for each in (model.embed, model.ln_final))


def test_any_edit_is_seen_also_of_data_and_it_comes_back(model):
    before = weights_hash(model)
    assert weights_hash(model) == before
    for weight in edits(model):
        kept = weight.data.flatten()[0].item()
        weight.data.view(-1)[0] += 1.0  # which no version counter sees
        assert weights_hash(model) != before
        weight.data.view(-1)[0] = kept
    assert weights_hash(model) == before


def test_a_buffer_is_part_of_it(shared):
    model = architectures.build("bridge", "llama-grouped")
    before = weights_hash(model)
    buffers = [
        each for each in torch.nn.Module.buffers(model.original_model) if each.is_floating_point()
    ]
    assert buffers
    buffers[0].data.mul_(2)
    assert weights_hash(model) != before


def test_it_is_of_the_weights_alone(model):
    """Neither passes nor hooks change it, nor a copy, nor a parametrization that is taken off or on."""
    before = weights_hash(model)
    tokens = torch.randint(3, architectures.VOCAB, (2, 7))
    with torch.no_grad():
        model.run_with_cache(tokens)
    assert weights_hash(model) == before
    assert weights_hash(copy.deepcopy(model)) == before
    assert weights_hash(architectures.build(*_kind(model))) == before


def _kind(model):
    return ("bridge" if type(model).__name__ == "TransformerBridge" else "hooked", "gpt2")


def test_a_parametrization_does_not_change_the_name(shared):
    linear = torch.nn.Linear(3, 3)
    model = torch.nn.Module()
    model.cfg, model.inner = None, torch.nn.ModuleDict({"out": linear})
    before = weights_hash(model)

    class Same(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("own", torch.ones(3))

        def forward(self, weight):
            return weight

    torch.nn.utils.parametrize.register_parametrization(linear, "weight", Same())
    assert weights_hash(model) == before


def test_the_same_weights_used_otherwise_are_another_model(shared):
    """Sequential and parallel blocks have the same matrices."""
    found = {
        weights_hash(architectures.build("bridge", f"neox-{kind}"))
        for kind in ("parallel", "sequential")
    }
    assert len(found) == 2


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mistral-window", dict(sliding_window=8)),
        ("gemma2-post-norm", dict(query_pre_attn_scalar=64)),
        ("gpt2", dict(scale_attn_by_inverse_layer_idx=True)),
        ("bloom-alibi", dict(apply_residual_connection_post_layernorm=True)),
        ("mixtral-sparse", dict(num_experts_per_tok=1)),
        ("llama-grouped", dict(rope_parameters=dict(rope_type="linear", factor=2.0, rope_theta=1e4))),
    ],
)
def test_the_same_weights_in_another_configuration_are_another_model(tmp_path, name, changes):
    """Of which transformers has more than TransformerLens knows: as files, since a model is built from them."""
    folder = architectures.save_folder(name, tmp_path / "one")
    before = weights_hash(tlt.load_model(str(folder)))
    moved = folder.rename(tmp_path / "another name")
    file = moved / "config.json"
    config = json.loads(file.read_text())
    told = config | dict(transformers_version="5.0.0", use_cache=False, architectures=["Other"])
    file.write_text(json.dumps(told))
    assert weights_hash(tlt.load_model(str(moved))) == before
    file.write_text(json.dumps(config | changes))
    assert weights_hash(tlt.load_model(str(moved))) != before


def test_swapped_layers_and_another_precision_are_other_weights(shared):
    model = architectures.build("bridge", "gpt2")
    before = weights_hash(model)
    assert weights_hash(architectures.build("bridge", "gpt2", torch.float64)) != before
    one, other = (locate(model, Site(layer, "W_out")).weight() for layer in (0, 1))
    kept = one.clone()
    with torch.no_grad():
        one.copy_(other)
        other.copy_(kept)
    assert weights_hash(model) != before


def test_it_is_taken_once_only_where_that_is_asked_for(shared):
    model = architectures.build("bridge", "gpt2")
    weight = locate(model, Site(1, "W_out")).weight()
    with hashed_once(model):
        before = weights_hash(model)
        with hashed_once(model):
            weight.data[0, 0] += 1
        assert weights_hash(model) == before
    assert weights_hash(model) != before


def test_keys_of_odd_tensors():
    odd = [torch.zeros(()), torch.zeros(0), torch.zeros(2, dtype=torch.bool), torch.ones(2, dtype=torch.bool),
           torch.zeros(2, 3).T, torch.zeros(2, 3), torch.zeros(2, dtype=torch.bfloat16)]  # fmt: skip
    assert len({content_key(each) for each in odd}) == len(odd)
    base = torch.arange(12.0).view(3, 4)
    assert content_key(base[:, 1:3]) == content_key(base[:, 1:3].contiguous())


def test_what_holds_no_data_has_no_key():
    model = architectures.build("bridge", "gpt2").to("meta")
    for of in (lambda: content_key(torch.zeros(3, device="meta")), lambda: weights_hash(model)):
        with pytest.raises(ValueError, match=r"must hold data to have a key, got one of shape"):
            of()


def test_how_much_of_an_adapter_is_added_and_whether():
    peft = pytest.importorskip("peft")

    def adapted(alpha: float, *, off: bool = False) -> nn.Module:
        hf = architectures.hf_model("llama-grouped")
        torch.manual_seed(0)
        hf.add_adapter(
            peft.LoraConfig(r=4, lora_alpha=alpha, init_lora_weights=False, target_modules=["down_proj"])
        )
        if off:
            hf.disable_adapters()
        from transformer_lens.model_bridge import TransformerBridge

        return TransformerBridge.boot_transformers(
            "llama-grouped", hf_model=hf, tokenizer=architectures.word_tokenizer()
        )

    models = [adapted(8), adapted(16), adapted(8, off=True)]
    assert len({weights_hash(model) for model in models}) == 3
    assert weights_hash(adapted(8)) == weights_hash(models[0])


def test_classes_that_do_something_else_with_the_same_weight():
    from transformers.integrations.bitnet import AutoBitLinear

    def rounding(online: bool) -> nn.Module:
        model = architectures.bridge("llama-grouped")
        component = model.blocks[1].mlp.out
        own = component.original_component
        linear = AutoBitLinear(48, 32, bias=own.bias is not None, online_quant=online)
        linear.load_state_dict(own.state_dict(), strict=False)
        component.set_original_component(linear)
        return model

    found = [rounding(True), architectures.bridge("llama-grouped")]
    assert len({weights_hash(model) for model in found}) == 2
    assert weights_hash(rounding(True)) == weights_hash(found[0])
