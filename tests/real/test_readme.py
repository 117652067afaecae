"""The README's Python, as a reader would run it from top to bottom."""

import re
from pathlib import Path

import pytest

import tl_truncate as tlt

pytestmark = [pytest.mark.real_model, pytest.mark.xdist_group("real_model")]
README = Path(__file__).parents[2] / "README.md"


def test_python_blocks_run(smollm, monkeypatch):
    monkeypatch.setattr(tlt, "load_model", lambda name: {"demo": smollm}[name])
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 2
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    assert names["scores"].change("p_in_context").low > 0
    assert names["logits"].shape[-1] == smollm.cfg.d_vocab
