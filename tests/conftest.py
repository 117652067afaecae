"""Shared models, each built once, and the check that no test changed a weight or left a hook."""

import atexit
import hashlib
import os
import shutil
import tempfile

# Before anything reads them: spectra go to a folder of the tests' own, and no hub is asked. It is fresh for
# each run, and its workers share it; the Makefile lets both legs of a run share one.
if "TL_TRUNCATE_TESTS_CACHE" not in os.environ:
    os.environ["TL_TRUNCATE_TESTS_CACHE"] = tempfile.mkdtemp(prefix="tl-truncate-cache-")
    atexit.register(shutil.rmtree, os.environ["TL_TRUNCATE_TESTS_CACHE"], ignore_errors=True)
os.environ["TL_TRUNCATE_CACHE"] = os.environ["TL_TRUNCATE_TESTS_CACHE"]
os.environ["HF_HUB_OFFLINE"] = "1"
# Tables that are read for lm-evaluation-harness are kept there.
os.environ.setdefault(
    "HF_DATASETS_CACHE", os.path.join(os.environ["TL_TRUNCATE_TESTS_CACHE"], "datasets")
)
os.environ.setdefault("TQDM_DISABLE", "1")
# Two workers share two cores, and what they start does too: one thread each. A second one of NumPy's waits
# in a loop while the cores are busy, which made the decomposition of a real matrix take fifty times as long.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import architectures
import luck  # noqa: F401 -- before a property is defined
import plan
import pytest
import torch

import tl_truncate as tlt

torch.set_num_threads(1)  # the models are tiny; two workers share two cores

_shared: dict[tuple[str, str, torch.dtype], tuple[torch.nn.Module, str, list[str]]] = {}


def weights_hash(model: torch.nn.Module) -> str:
    """A hash of every parameter and buffer, bit for bit, whatever the modules are called."""
    digests = {
        hashlib.blake2b(
            value.detach().contiguous().reshape(-1).view(torch.uint8).numpy(), digest_size=16
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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Each test gets its place in the plan, before any is chosen by a marker."""
    plan.arrange(items, whole=config.args == config.getini("testpaths"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """With `--dist loadscope`, what goes to one worker is decided by the plan."""
    if config.getoption("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Planned(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return plan.group(plan.name(nodeid))

    return Planned(config, log)


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
def toy(shared):
    """A small GPT-2 as a Bridge, with a word tokenizer."""
    return shared("bridge", "gpt2")


@pytest.fixture
def tokens() -> torch.Tensor:
    """Two rows of seven tokens, none of them special."""
    return torch.randint(3, architectures.VOCAB, (2, 7), generator=torch.Generator().manual_seed(0))


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
