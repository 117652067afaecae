"""Shared models, each built once, and the check that no test changed a weight or left a hook."""

import hashlib

import architectures
import luck  # noqa: F401 -- before a property is defined
import pytest
import torch

import tl_truncate as tlt

torch.set_num_threads(1)  # the models are tiny; two workers share two cores

_shared: dict[tuple[str, str, torch.dtype], tuple[torch.nn.Module, str, list[str]]] = {}


def weights_hash(model: torch.nn.Module) -> str:
    """A hash of every parameter and buffer, bit for bit, whatever the modules are called."""
    digests = {
        hashlib.blake2b(
            value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy(), digest_size=16
        ).hexdigest()
        for value in (*model.parameters(), *model.buffers())
    }
    return hashlib.blake2b("".join(sorted(digests)).encode(), digest_size=16).hexdigest()


def hooks_left(model: torch.nn.Module) -> list[str]:
    """Names of hook points that still carry a torch hook or one of the library's."""
    return [
        name
        for name, module in model.named_modules()
        if type(module).__name__ == "HookPoint"
        and (module._forward_pre_hooks or module._forward_hooks or module.fwd_hooks or module.bwd_hooks)
    ]


@pytest.fixture(scope="session")
def shared():
    """Builds a model once for the session; the models are looked at again when it ends."""

    def get(kind: str, name: str, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
        key = (kind, name, dtype)
        if key not in _shared:
            model = architectures.build(*key)
            # TransformerLens' own OPT block comes with hooks.
            _shared[key] = (model, weights_hash(model), hooks_left(model))
        return _shared[key][0]

    yield get
    for key, (model, before, hooks) in _shared.items():
        assert weights_hash(model) == before, f"a test changed the weights of {key}"
        assert hooks_left(model) == hooks, f"a test left hooks in {key}"


@pytest.fixture
def precise(monkeypatch):
    """Norms and attention that are computed in float32, whatever the weights are, are so no more: where
    they round, rows differ by that rounding in any other batch, too."""
    for name in ("float32", "float"):
        monkeypatch.setattr(torch, name, torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


@pytest.fixture
def toy(shared):
    """A small GPT-2 as a Bridge, with a word tokenizer."""
    return shared("bridge", "gpt2")


@pytest.fixture
def tokens() -> torch.Tensor:
    """Two rows of seven tokens, none of them special."""
    drawn = torch.randint(3, architectures.VOCAB, (2, 7), generator=torch.Generator().manual_seed(0))
    return drawn.to(architectures.DEVICE)


@pytest.fixture
def drinks(drinks_task) -> tlt.Task:
    """Four prompts of different lengths in the words of the small tokenizer."""
    return drinks_task


@pytest.fixture(scope="session")
def drinks_task() -> tlt.Task:
    """The same, for fixtures of modules."""
    return tlt.Task(
        name="drinks",
        prompts=[
            "When Mary and John went to the store , John gave a drink to",
            "Mary gave a drink to",
            "The capital of France is",
            "John and Mary went to the store , and Mary gave the drink to",
        ],
        in_context=[" Mary", " John", " Paris", " John"],
        global_=" the",
    )


@pytest.fixture(scope="session")
def smollm():
    """The real demo model, loaded once a worker; its tests share one worker."""
    model = tlt.load_model("demo")
    before = weights_hash(model)
    yield model
    assert weights_hash(model) == before
    assert hooks_left(model) == []
