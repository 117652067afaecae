"""Progress: a bar counts what was asked for, and ends where it says."""

import dataclasses
import io
import sys

import pytest
import samples
import tqdm.auto

import tl_truncate as tlt


@pytest.fixture
def bars(monkeypatch):
    """Every bar that was shown, in order."""
    seen, usual = [], tqdm.auto.tqdm

    class Shown(usual):
        def __init__(self, *given, **options):
            options |= dict(disable=False, file=io.StringIO(), delay=0)
            super().__init__(*given, **options)
            seen.append(self)

    for name, module in list(sys.modules.items()):
        if name.startswith("tl_truncate.") and getattr(module, "tqdm", None) is usual:
            monkeypatch.setattr(module, "tqdm", Shown)
    return seen


def ends(bars):
    return [(bar.n, bar.total) for bar in bars]


@pytest.mark.parametrize("twice", [False, True])
def test_evaluate_counts_prompts(toy, bars, twice):
    """Not rows: of long answers there are more of these, and of equal prompts fewer."""
    task = samples.PAIRS
    if twice:
        names = ("prompts", "in_context", "global_")
        task = dataclasses.replace(task, **{name: getattr(task, name) * 2 for name in names})
    for asked in (task, samples.SEQUENCES):
        bars.clear()
        tlt.evaluate(toy, asked, prepend_bos=False)
        assert ends(bars) == [(len(asked), len(asked))]


def test_no_bar_ends_elsewhere(toy, bars, tmp_path):
    options = dict(keeps=[0.1, 0.5], prepend_bos=False)
    asked = dict(sites=["blocks.1.mlp.W_in", "blocks.1.mlp.W_out"], **options)
    tlt.sweep(toy, samples.PAIRS, controls=["random_subspace"], draws=2, run_dir=tmp_path / "a", **asked)
    more = {**asked, "keeps": [0.1, 0.5, 0.7]}
    tlt.sweep(toy, samples.PAIRS, controls=["random_subspace"], draws=2, run_dir=tmp_path / "a", **more)
    tlt.search(toy, samples.PAIRS, splits=2, texts=["the store in Paris"], **asked)
    tlt.part_attribution(toy, samples.PAIRS, method="own_path", prepend_bos=False)
    assert len(bars) > 5
    assert [each for each in ends(bars) if each[0] != each[1]] == []
