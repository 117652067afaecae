"""The public face: short, complete, and quick to import."""

import subprocess
import sys

import tl_truncate as tlt

HEAVY = (
    "transformers",
    "transformer_lens",
    "matplotlib",
    "plotly",
    "scipy",
    "datasets",
    "gguf",
    "lm_eval",
)


def test_importing_loads_nothing_heavy():
    code = f"import sys, tl_truncate; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_prints_nothing_and_leaves_the_random_state():
    code = (
        "import torch, random; a = torch.get_rng_state(); b = random.getstate()\n"
        "import tl_truncate\n"
        "assert torch.equal(a, torch.get_rng_state()) and b == random.getstate()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


def test_every_public_name_is_there_and_documented():
    assert sorted(tlt.__all__) == list(tlt.__all__)
    for name in tlt.__all__:
        assert getattr(tlt, name).__doc__, name
