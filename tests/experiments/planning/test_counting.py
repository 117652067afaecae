"""What a plan counts, beside torch's own counter on models that run, and closed forms by hand."""

from importlib.metadata import version

import architectures
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import tl_truncate as tlt
from tl_truncate.experiments.planning.counting.flops import BlockShape, factorising
from tl_truncate.experiments.planning.counting.passes import Passes, block_shape
from tl_truncate.experiments.planning.counting.work import Work
from tl_truncate.experiments.sweep.grid import make_grid
from tl_truncate.experiments.sweep.work.engine import Engine
from tl_truncate.experiments.sweep.work.memory import make_plan
from tl_truncate.experiments.sweep.work.units import units_of
from tl_truncate.tasks.encode import encode
from tl_truncate.weights.locate import available
from tl_truncate.weights.spectra.factors import factorise

MODELS = [("bridge", name) for name in ("neox-parallel", "gpt2", "llama-grouped")]
MODELS += [("hooked", "gpt2")] if architectures.HOOKED else []


def passes_of(model, task, sites=None, at_a_site=1):
    encoded = [encode(model, task, prepend_bos=False)]
    chosen = tlt.find_sites(model) if sites is None else sites
    plan = make_plan(
        model,
        encoded,
        chosen,
        batch_size=64,
        tokens_in_flight=1024,
        max_memory=None,
        at_a_site=at_a_site,
    )
    return Passes(model, plan, block_shape(model), int(model.cfg.d_vocab))


def counted(work) -> int:
    """FLOPs of products of matrices, without those by which angles of rotary positions are made."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        work()
    return counter.get_total_flops()


def test_a_block_by_hand():
    square, up, down = (8, 8), (8, 32), (32, 8)
    shape = BlockShape(dict(W_Q=square, W_K=square, W_V=square, W_O=square, W_in=up, W_out=down))
    # Two rows of five: ten tokens through 4 * 64 + 2 * 256 weights, and two products of 5 x 5 x 8 a row.
    assert shape.whole(2, 5) == 2 * 10 * (4 * 64 + 2 * 256) + 2 * 2 * (2 * 5 * 5 * 8)
    # At one answer a row: queries, keys and values of all, and the whole block of two tokens.
    assert shape.ending(2, 5, 1) == 2 * 10 * 3 * 64 + 2 * 2 * 768 + 2 * 2 * (2 * 1 * 5 * 8)
    assert shape.written("W_out", 7) == 0
    assert shape.written("W_in", 7) == 2 * 7 * 256


@pytest.mark.parametrize(("kind", "name"), MODELS)
def test_an_uncut_pass(kind, name, shared, drinks):
    model = architectures.with_tokenizer(shared(kind, name))
    passes = passes_of(model, drinks)
    plan = passes.plan
    expected = sum(
        passes.depth * passes.shape.whole(len(batch.rows), len(batch.rows[0]))
        + 2 * batch.n_tokens * passes.shape.d_model * passes.vocabulary
        for batch in plan.batches
    )
    options = {"use_cache": False} if kind == "bridge" else {}
    tokens = [batch.tokens for batch in passes.plan.batches]
    found = counted(lambda: [model(rows, **options) for rows in tokens])
    assert found == pytest.approx(expected, abs=rotary(model, tokens))
    assert passes.whole.total_flops < expected  # which unembeds the answers alone


def rotary(model, tokens) -> float:
    """FLOPs of the products of positions and frequencies, which some models make anew in each pass."""
    is_rotary = getattr(model.cfg, "positional_embedding_type", "") == "rotary"
    return sum(2 * rows.shape[1] * model.cfg.d_head for rows in tokens) if is_rotary else 0


@pytest.mark.parametrize(("kind", "name"), MODELS)
@pytest.mark.parametrize("matrix", ["W_in", "W_out", "W_gate", "W_V"])
@pytest.mark.parametrize("layer", [0, 2])
def test_what_one_more_cut_takes(kind, name, matrix, layer, shared, drinks):
    """The same sweep with and without a second cut of a site, run and counted by torch."""
    model = architectures.with_tokenizer(shared(kind, name))
    if matrix not in available(model, layer):
        pytest.skip(f"{name} has no {matrix}")
    site = tlt.Site(layer, matrix)
    passes, both = passes_of(model, drinks, [site]), make_grid(model, [site], [4, 7], (), 0)
    one = both[:1]
    tlt.spectrum(model, site)

    def swept(cuts):
        engine = Engine(model, [drinks], passes.plan, lowest=layer)
        assert engine.replays
        return list(engine.run(cuts))

    difference = counted(lambda: swept(both)) - counted(lambda: swept(one))
    planned = []
    for cuts in (one, both):
        (unit,) = units_of(model, cuts, passes.plan)
        planned.append(passes.unit(unit, begins=True).total_flops)
    assert difference == planned[1] - planned[0]


def test_a_spectrum():
    """The products by torch's counter, which does not see those in place, and those by hand."""
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    triangle = sum(2 * 256 * 8 * (8 * block) for block in range(1, 9))
    products, eigen = factorising((64, 256))
    assert counted(lambda: factorise(weight)) + triangle == products
    assert eigen == 9 * 64**3
    assert factorising((256, 64)) == (products, eigen)


def test_work_adds_up():
    one = Work(blocks=1, flops=2, unembedding=3, logits=4, activations=5, moved=6)
    assert one + one == one * 2
    assert (one * 3).total_flops == 15


@pytest.mark.skipif(version("transformer-lens") < "4", reason="its OPT blocks can be called again")
def test_a_model_that_cannot_be_replayed_takes_whole_passes(shared, drinks):
    """TransformerLens' own OPT block comes with hooks."""
    model = architectures.with_tokenizer(shared("bridge", "opt-learnt"))
    site = tlt.Site(2, "W_out")
    passes = passes_of(model, drinks, [site])
    assert not passes.replays
    (unit,) = units_of(model, make_grid(model, [site], [4, 7], (), 0), passes.plan)
    assert passes.unit(unit, begins=True) == passes.whole * 2


@pytest.mark.parametrize("matrix", ["W_in", "W_out"])
@pytest.mark.parametrize("layer", [0, 2])
def test_what_prompts_share_is_counted_once(matrix, layer, shared):
    """Questions behind the same forty tokens, run and counted by torch."""
    model = shared("bridge", "neox-parallel")
    rows = [[*range(40), 41 + place, 60, 70] for place in range(12)]
    task = tlt.Task("behind", rows, [[3]] * 12, [[4]] * 12)
    site = tlt.Site(layer, matrix)
    passes, both = passes_of(model, task, [site], 2), make_grid(model, [site], [4, 7], (), 0)
    assert passes.plan.groves
    assert passes.tokens < sum(map(len, rows)) / 4
    tlt.spectrum(model, site)

    def swept(cuts):
        engine = Engine(model, [task], passes.plan, lowest=layer)
        assert engine.shares
        return list(engine.run(cuts))

    planned = [
        passes.unit(units_of(model, cuts, passes.plan)[0], begins=True).total_flops
        for cuts in (both[:1], both)
    ]
    difference = counted(lambda: swept(both)) - counted(lambda: swept(both[:1]))
    assert difference == planned[1] - planned[0]
