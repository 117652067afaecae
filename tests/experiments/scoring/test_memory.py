"""What is allowed is kept to by making passes smaller: the numbers stay, and too little is refused at once."""

import json
import os
import re
import subprocess
import sys

import documents
import pytest
import torch
from growth import can_be_measured

import tl_truncate as tlt
from tl_truncate.experiments.scoring import evaluate as scoring
from tl_truncate.experiments.scoring.memory import OVERHEAD, corpus_rows_that_fit, rows_that_fit

CUT = tlt.Cut("blocks.1.mlp.W_out", 0.3)
TEXTS = [
    "the store in Paris",
    "When Mary went to London",
    "John gave a drink to Mary and John",
    "Mary",
] * 2


@pytest.fixture
def model(shared):
    return shared("bridge", "neox-parallel", torch.float64)


@pytest.fixture
def widths(model):
    """How many rows each pass of the model has."""
    seen = []
    hook = model.blocks[0].register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(args[0] if args else kwargs["hidden_states"])),
        with_kwargs=True,
    )
    yield seen
    hook.remove()


def ask(name, model, task, **options):
    options |= dict(prepend_bos=False, progress=False)
    if name == "evaluate":
        return tlt.evaluate(model, task, CUT, **options).frame["logit_diff"].tolist()
    if name == "attribute":
        return tlt.attribute(model, task, **options).frame["effect"].tolist()
    if name == "part_attribution":
        return tlt.part_attribution(model, task, method="own_path", **options).logits.ravel().tolist()
    if name == "side_effects":
        return tlt.side_effects(model, CUT, TEXTS, **options).frame["kl"].tolist()
    # Made together, which takes passes of its own; cuts that are made alone have those of a sweep.
    cuts = [CUT, tlt.Cut("blocks.0.attn.W_O.1", 0.9)]
    history = tlt.dynamics(lambda step: model, [0], task, cuts, **options)
    return history.frame[["p_global", "p_in_context"]].to_numpy().ravel().tolist()


@pytest.mark.parametrize(
    "name", ["evaluate", "attribute", "part_attribution", "side_effects", "dynamics"]
)
def test_the_least_memory_runs_one_row_at_a_time(name, model, drinks, widths):
    task = drinks.subset([0, 0, 3, 3]) if hasattr(drinks, "subset") else drinks
    free = ask(name, model, task, batch_size=8)
    assert max(widths) > 1
    widths.clear()
    with pytest.raises(
        ValueError, match=r"max_memory must be at least \d+ bytes.*Allow more"
    ) as refused:
        ask(name, model, task, batch_size=8, max_memory=1000)
    assert widths == []
    least = int(re.search(r"at least (\d+)", str(refused.value))[1])
    tight = ask(name, model, task, batch_size=8, max_memory=least)
    assert set(widths) == {1}
    assert tight == pytest.approx(free, abs=1e-9)


def test_more_memory_lets_more_rows_share_a_pass_up_to_what_was_asked(model):
    least = OVERHEAD + 2 * 2**20
    found = [
        rows_that_fit(model, 10, batch_size=12, max_memory=least + more * 2**20, row=2**20)
        for more in range(0, 20, 2)
    ]
    assert found == sorted(found)
    assert found[0] < 2 < 12 == found[-1]
    assert rows_that_fit(model, 10, batch_size=12, max_memory=None) == 12


def test_the_sums_of_a_corpus_are_counted(model):
    options = dict(batch_size=16, max_tokens=8)
    words = [
        ["Mary gave a drink to John"],
        ["Mary gave a drink to John", "the capital of France is Paris"],
    ]
    least = []
    for texts in words:
        with pytest.raises(ValueError, match="at least") as refused:
            corpus_rows_that_fit(model, texts, max_memory=1, **options)
        least.append(int(re.search(r"at least (\d+)", str(refused.value))[1]))
    assert least[0] < least[1]
    assert corpus_rows_that_fit(model, words[1], max_memory=least[1], **options) == 1


def test_passages_in_batches_have_the_numbers_of_passages_alone(model):
    alone, together = (
        tlt.side_effects(model, CUT, TEXTS, batch_size=size, prepend_bos=True, progress=False).frame
        for size in (1, 5)
    )
    assert alone["text"].tolist() == together["text"].tolist() == TEXTS
    for column in ("tokens", "loss", "uncut_loss", "kl", "agreement"):
        assert together[column].tolist() == pytest.approx(alone[column].tolist(), abs=1e-9)


def test_a_search_asks_for_its_report_before_it_starts(model, drinks, monkeypatch, widths):
    """Its own passes would fit; the logits of the running text at its end would not."""
    options = dict(sites=[CUT.site], keeps=[0.5], prepend_bos=False, progress=False)
    with pytest.raises(ValueError, match="at least") as refused:
        tlt.sweep(model, drinks, max_memory=1, **options)
    enough = int(re.search(r"at least (\d+)", str(refused.value))[1]) + 2**12
    tlt.sweep(model, drinks, max_memory=enough, **options)
    widths.clear()
    long = [" ".join(["the store in Paris"] * 60)]
    with pytest.raises(ValueError, match=r"for one row of \d+ tokens"):
        tlt.search(model, drinks, texts=long, max_memory=enough, **options)
    assert widths == []
    assert scoring.evaluate is tlt.evaluate


@pytest.mark.skipif(not can_be_measured(), reason="the kernel does not forget how large a process was")
@pytest.mark.parametrize(("name", "times"), [("evaluate", 2), ("sweep", 1)])
def test_a_process_grows_by_no_more_than_it_may(tmp_path, name, times):
    """Measured, with the spectra to be computed, where memory is what bounds the passes."""
    root = documents.ROOT
    places = dict(PYTHONPATH=f"{root}{os.pathsep}{root / 'tests'}", TL_TRUNCATE_CACHE=str(tmp_path))
    done = subprocess.run(
        [sys.executable, root / "tests" / "grown.py", name, str(times)],
        env=os.environ | places,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["used"] <= 1.15 * found["allowed"]
    assert found["free"] > 1.15 * found["allowed"], "or nothing would have been bounded"
