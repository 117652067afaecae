"""A model's outline beside the model itself: shapes, sites, tokens and sizes, without its weights."""

import json
from importlib.metadata import version

import architectures
import pytest
import torch
from safetensors import safe_open

import tl_truncate as tlt
from tl_truncate.models.outline import block_of, outline_of, read_outline
from tl_truncate.tasks.encode import encode
from tl_truncate.weights.locate import available, locate

SEVERAL = ["neox-parallel", "gpt2", "llama-grouped", "falcon-alibi", "mistral-window"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of small models, and beside each one without the weights."""
    place = tmp_path_factory.mktemp("outlines")

    def get(name):
        if not (place / name).is_dir():
            architectures.save_folder(name, place / name)
            (place / f"{name}-bare").mkdir()
            for path in (place / name).glob("*.json"):
                (place / f"{name}-bare" / path.name).write_bytes(path.read_bytes())
        return place / name, place / f"{name}-bare"

    return get


def stored_numbers(folder) -> int:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118


#: The Bridge of 3.9 makes a bias of the unembedding up, of zeros, that no model has.
MADE_UP = version("transformer-lens") < "4"


@pytest.mark.parametrize("name", SEVERAL)
def test_it_is_that_of_the_model(name, folders, drinks):
    whole, bare = folders(name)
    model, outline = tlt.load_model(str(whole)), read_outline(str(bare))
    found = outline.model
    assert len(found.blocks) == len(model.blocks)
    for layer in range(len(model.blocks)):
        assert available(found, layer) == available(model, layer)
        for matrix in available(model, layer):
            one, other = (locate(each, tlt.Site(layer, matrix)) for each in (found, model))
            assert (one.shape, one.n_heads, one.dtype) == (other.shape, other.n_heads, other.dtype)
            assert (one.live_bias() is None) == (other.live_bias() is None)
    for field in ("d_model", "d_mlp", "n_heads", "d_vocab", "n_ctx", "n_layers", "default_prepend_bos"):
        assert getattr(found.cfg, field) == getattr(model.cfg, field), field
    assert encode(found, drinks) == encode(model, drinks)
    assert outline.n_parameters == stored_numbers(whole)
    made_up = model.cfg.d_vocab if MADE_UP else 0
    assert outline.n_loaded == sum(each.numel() for each in model.parameters()) - made_up


def test_a_tied_weight_is_stored_once(folders):
    whole, bare = folders("gpt2")
    config = json.loads((bare / "config.json").read_text())
    assert config["tie_word_embeddings"]
    assert read_outline(str(bare)).n_parameters == stored_numbers(whole)


def test_it_holds_no_numbers(folders):
    outline = read_outline(str(folders("neox-parallel")[1]))
    found = [each for each in outline.model.parameters() if not MADE_UP or each.shape != (97,)]
    assert all(each.untyped_storage().nbytes() <= 8 for each in found)
    assert all(each.untyped_storage().nbytes() > 8 for each in block_of(outline).parameters())


def test_the_shape_is_that_of_a_published_model():
    from transformers import GPTNeoXConfig

    config = GPTNeoXConfig(
        num_hidden_layers=36,
        hidden_size=5120,
        num_attention_heads=40,
        intermediate_size=20_480,
        vocab_size=50_688,
        dtype="float16",
    )
    outline = outline_of(config, name="EleutherAI/pythia-12b")
    assert outline.n_parameters == 11_846_072_320  # as its model card has it
    assert outline.stored_bytes == 2 * 11_846_072_320
    assert len(tlt.find_sites(outline.model)) == 72


def test_blocks_of_several_shapes_are_refused(monkeypatch):
    """Which one block cannot stand for: a model whose second MLP is narrower."""
    from transformers import AutoModelForCausalLM

    original = AutoModelForCausalLM.from_config

    def with_a_narrow_block(config, **options):
        model = original(config, **options)
        if config.num_hidden_layers > 1:
            model.gpt_neox.layers[1].mlp = torch.nn.Linear(4, 4)
        return model

    monkeypatch.setattr(AutoModelForCausalLM, "from_config", with_a_narrow_block)
    config = architectures.HF["neox-parallel"]().config
    with pytest.raises(ValueError, match=r"must be of one shape .* got 2 shapes of 3"):
        outline_of(config)


def test_what_is_no_model_is_refused():
    from transformers import ViTConfig

    with pytest.raises(ValueError, match="must be that of a causal language model of transformers"):
        outline_of(ViTConfig())


def test_what_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must hold a Hugging Face config\.json"):
        read_outline(str(tmp_path))
    with pytest.raises(OSError, match="not in the local Hugging Face cache, and the hub could not be"):
        read_outline("EleutherAI/pythia-12b")
    with pytest.raises(ValueError, match="dtype must be a floating torch dtype"):
        read_outline("nano-pythia", dtype="int8")
    with pytest.raises(ValueError, match="The demo model has no revisions or checkpoints"):
        read_outline("demo", checkpoint=3)
