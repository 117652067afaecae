"""Blocks called again: every architecture, any number of copies, any number of answer positions."""

import pytest
import torch
from architectures import CASES, SPECIAL, VOCAB, WINDOWED
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from luck import examples

import tl_truncate as tlt
from tl_truncate.replay.calls import BlockCall, fits, last_logits, layout_of
from tl_truncate.replay.passed import passed_alone
from tl_truncate.replay.recording import record
from tl_truncate.replay.upwards import Replayer, log_probability_gap, same_logits


def upwards(replayer, seen, copies=1):
    """The logits of copies of a pass's rows, from block 0 up."""
    start = seen.start.repeat(copies, 1, 1)
    (logits,) = replayer.upwards(0, (start,), passed_alone(seen, seen.positions))
    return logits


def accepts(replayer, seen):
    """As who replays it asks: short rows in copies first, and then the pass as it was."""

    def repeats():
        return same_logits(upwards(replayer, seen), seen.logits)

    return replayer.accepts(seen) and (repeats() or (replayer.widens() and repeats()))


EVERY = [*CASES, ("bridge", "gemma2-post-norm")]


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_a_replay_is_the_whole_pass(shared, kind, name):
    model = shared(kind, name, torch.float64)
    tokens = torch.randint(3, VOCAB, (3, 9), generator=torch.Generator().manual_seed(1))
    whole = model(tokens).detach()
    for positions in (1, 2, 9):
        seen = record(model, tokens, positions)
        replayer = Replayer(model)
        assert accepts(replayer, seen)
        for copies in (1, 4):
            found = upwards(replayer, seen, copies)
            assert found.shape[:2] == (3 * copies, positions)
            wanted = whole[:, -positions:].repeat(copies, 1, 1)
            assert log_probability_gap(found, wanted) < 1e-12


@pytest.mark.parametrize(("kind", "name"), [*(("bridge", name) for name in SPECIAL), *WINDOWED])
def test_what_is_accepted_holds_for_any_batch(shared, kind, name):
    """As many rows as heads, and one; an architecture may be refused, but none may be wrong."""
    model = shared(kind, name, torch.float64)
    generator = torch.Generator().manual_seed(1)
    for rows in (1, 2, 4):
        tokens = torch.randint(3, VOCAB, (rows, 9), generator=generator)
        seen, replayer = record(model, tokens, 1), Replayer(model)
        if seen is not None and accepts(replayer, seen):
            found = upwards(replayer, seen, 3)
            wanted = model(tokens)[:, -1:].detach().repeat(3, 1, 1)
            assert log_probability_gap(found, wanted) < 1e-6, rows


@settings(max_examples=examples(20), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.integers(1, 4), length=st.integers(1, 12), copies=st.integers(1, 3), data=st.data())
def test_any_shape(shared, rows, length, copies, data):
    model = shared("bridge", "llama-grouped", torch.float64)
    positions = data.draw(st.integers(1, length))
    tokens = torch.randint(3, VOCAB, (rows, length), generator=torch.Generator().manual_seed(rows))
    seen = record(model, tokens, positions)
    replayer = Replayer(model)
    assert accepts(replayer, seen)
    found = upwards(replayer, seen, copies)
    wanted = model(tokens)[:, -positions:].detach().repeat(copies, 1, 1)
    assert log_probability_gap(found, wanted) < 1e-9


@pytest.mark.parametrize(("kind", "name"), [case for case in EVERY if case != ("bridge", "no-norm")])
def test_the_last_block_is_short_wherever_it_takes_a_cache(shared, kind, name):
    model = shared(kind, name)
    tokens = torch.randint(3, VOCAB, (2, 9), generator=torch.Generator().manual_seed(1))
    seen, replayer, positions = record(model, tokens, 1), Replayer(model), []
    assert accepts(replayer, seen)

    def note(module, args, kwargs):
        positions.append((args[0] if args else kwargs["hidden_states"]).shape[1])

    handle = model.blocks[2].register_forward_pre_hook(note, with_kwargs=True)
    upwards(replayer, seen)
    handle.remove()
    assert positions == [9, 1]


def test_a_block_that_cannot_be_short_is_run_whole(shared, monkeypatch):
    """Keys and values that are not those of the block give other logits, which is noticed."""
    from tl_truncate.replay import past

    model = shared("bridge", "neox-parallel", torch.float64)
    tokens = torch.randint(3, VOCAB, (2, 9), generator=torch.Generator().manual_seed(1))
    original = past.Full.update
    monkeypatch.setattr(
        past.Full, "update", lambda self, *args: tuple(2 * each for each in original(self, *args))
    )
    seen, replayer = record(model, tokens, 1), Replayer(model)
    assert accepts(replayer, seen)
    assert log_probability_gap(upwards(replayer, seen), seen.logits) < 1e-12


def test_a_replay_that_differs_is_refused(shared, monkeypatch):
    model = shared("bridge", "neox-parallel")
    tokens = torch.randint(3, VOCAB, (2, 9), generator=torch.Generator().manual_seed(1))
    seen = record(model, tokens, 1)
    monkeypatch.setattr(Replayer, "read", lambda self, resid: resid @ model.W_U)
    assert not accepts(Replayer(model), seen)


def test_blocks_that_are_called_twice_cannot_be_recorded(shared):
    model = shared("bridge", "gpt2")
    tokens = torch.randint(3, VOCAB, (2, 5))
    twice = []

    def again(module, args, kwargs, output):
        if not twice:
            twice.append(1)
            module(output if isinstance(output, torch.Tensor) else output[0])

    handle = model.blocks[1].register_forward_hook(again, with_kwargs=True)
    try:
        assert record(model, tokens, 1) is None
    finally:
        handle.remove()


def calls_of(rows):
    """A block's call for a batch of some rows."""
    return BlockCall(
        dict(
            attention_mask=torch.zeros(rows, 1, 5, 5),
            position_ids=torch.arange(5)[None],
            position_embeddings=(torch.zeros(1, 5, 4), torch.zeros(1, 5, 4)),
            past_key_values=None,
            use_cache=False,
        )
    )


def test_arguments_are_tiled_and_cut_by_what_they_are():
    call = calls_of(2)
    layout = layout_of(calls_of(1), call)
    tall = call.tiled(3, layout).arguments
    assert tall["attention_mask"].shape == (6, 1, 5, 5)
    assert tall["position_ids"].shape == (1, 5)
    short = call.suffix(2).arguments
    assert short["attention_mask"].shape == (2, 1, 2, 5)
    assert short["position_ids"].tolist() == [[3, 4]]
    assert short["position_embeddings"][0].shape == (1, 2, 4)
    assert BlockCall(dict(strange=torch.zeros(2, 5))).suffix(2) is None
    assert call.with_cache("cache").arguments["past_key_values"] == "cache"
    assert BlockCall({}).with_cache("cache") is None


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_what_belongs_to_a_batch_is_known_whatever_its_size(rows):
    """A bias of four heads is no batch of four rows, and one of each row and head is."""

    def call(rows):
        return BlockCall(
            dict(
                bias=torch.arange(4.0)[:, None, None].expand(4, 1, 5),
                alibi=torch.arange(4.0 * rows)[:, None, None].expand(4 * rows, 1, 5),
                both=(torch.zeros(rows, 5), None),
            )
        )

    layout = layout_of(call(1), call(2))
    assert layout == dict(bias=False, alibi=True, both=(True, None))
    assert fits(call(rows), layout, call(1), rows)
    assert not fits(call(rows + 1), layout, call(1), rows)
    tall = call(rows).tiled(3, layout).arguments
    assert tall["bias"].shape == (4, 1, 5)
    assert tall["alibi"][:, 0, 0].tolist() == 3 * list(range(4 * rows))
    assert tall["both"][0].shape == (3 * rows, 5)


@pytest.mark.parametrize(
    "two",
    [
        dict(mask=torch.zeros(3, 5)),
        dict(mask=torch.zeros(2, 6)),
        dict(mask=None),
        dict(mask=(torch.zeros(2, 5),)),
        dict(other=torch.zeros(2, 5)),
    ],
)
def test_what_is_neither_shared_nor_of_the_rows_is_not_understood(two):
    assert layout_of(BlockCall(dict(mask=torch.zeros(1, 5))), BlockCall(two)) is None


def test_a_pass_leaves_no_hook_behind(toy):
    hooks = [dict(block._forward_pre_hooks) for block in toy.blocks]
    record(toy, torch.randint(3, VOCAB, (2, 5)), 1)
    last_logits(toy, torch.randint(3, VOCAB, (2, 5)), 1)
    assert [dict(block._forward_pre_hooks) for block in toy.blocks] == hooks
    assert not toy.unembed._forward_pre_hooks


def test_an_edit_at_work_is_in_both_calls_of_the_last_block(shared):
    model = shared("bridge", "llama-grouped", torch.float64)
    tokens = torch.randint(3, VOCAB, (2, 7), generator=torch.Generator().manual_seed(1))
    seen, replayer = record(model, tokens, 1), Replayer(model)
    assert accepts(replayer, seen)
    for site in ("blocks.2.attn.W_K", "blocks.2.attn.W_V", "blocks.2.attn.W_Q", "blocks.2.attn.W_O.1"):
        with tlt.truncated(model, tlt.Cut(site, 0.2)):
            found = upwards(replayer, seen)
            wanted = model(tokens)[:, -1:].detach()
        assert log_probability_gap(found, wanted) < 1e-9, site
