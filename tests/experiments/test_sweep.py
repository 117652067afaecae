"""A sweep against in-place editing, setting by setting, and against plain hooked passes."""

import inplace
import numpy as np
import pytest
import torch
from architectures import CASES, word_tokenizer

import tl_truncate as tlt
from tl_truncate.tasks.encode import encode
from tl_truncate.weights.site import MATRICES

KEEPS = [0.0, 0.1, 0.5, 0.9]


def with_tokenizer(model):
    """HookedTransformers and native models are built without one here."""
    if model.tokenizer is None:
        model.tokenizer = word_tokenizer()
        model.cfg.d_vocab_out = model.cfg.d_vocab
        model.cfg.default_prepend_bos = False
    return model


def all_sites(model) -> list[tlt.Site]:
    sites = tlt.find_sites(model, MATRICES)
    return [*sites, tlt.Site(1, "W_O", 2), tlt.Site(2, "W_O", 0), tlt.Site(0, "W_K", 1)]


def edited_log_probabilities(model, task, site, keep) -> np.ndarray:
    """One plain pass a prompt, of the model edited in place by NumPy: `[prompt, 2]`."""
    rows = []
    with inplace.edited(model, (str(site), inplace.top(keep))):
        for each in encode(model, task, prepend_bos=False).prompts:
            with torch.no_grad():
                last = model(torch.tensor([each.prompt]))[0, -1].double().log_softmax(0)
            rows.append([float(last[each.in_context[0]]), float(last[each.global_[0]])])
    return np.array(rows)


def swept_log_probabilities(result, site, keep) -> np.ndarray:
    frame = result.scores(site, keep).frame
    return np.log(frame[["p_in_context", "p_global"]].to_numpy())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_equals_in_place_editing(shared, drinks, kind, name, dtype):
    model = with_tokenizer(shared(kind, name, dtype))
    sites = all_sites(model)
    result = tlt.sweep(model, drinks, sites=sites, keeps=KEEPS, prepend_bos=False, progress=False)
    assert result.finished
    assert len(result.frame) == len(sites) * len(KEEPS)
    allowed = 1e-5 if dtype == torch.float32 else 1e-9
    for site in sites:
        for keep in KEEPS:
            gap = swept_log_probabilities(result, site, keep) - edited_log_probabilities(
                model, drinks, site, keep
            )
            assert np.abs(gap).max() <= allowed, (site, keep)
