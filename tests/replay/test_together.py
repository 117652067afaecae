"""Rows that begin alike, computed once: each gets the logits of its own whole pass."""

from importlib.metadata import version

import pytest
import torch
from architectures import CASES, HOOKED, SPECIAL, VOCAB, WINDOW, WINDOWED, HookedTransformer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from luck import examples

import tl_truncate as tlt
from tl_truncate.replay import past, together
from tl_truncate.replay.calls import last_logits
from tl_truncate.replay.recording import enter, record
from tl_truncate.replay.together import Grown, Together
from tl_truncate.replay.tree import grow
from tl_truncate.replay.upwards import Replayer, log_probability_gap

MORE = [("bridge", name) for name in ("gemma2-post-norm", "phi-partial", *SPECIAL)]
EVERY = [*CASES, *MORE, *WINDOWED]
#: Whose blocks take no cache of keys.
ALONE = {("bridge", "no-norm"), ("bridge", "gpt1")}
if version("transformer-lens") < "4":
    ALONE |= {("bridge", "mpt-alibi"), ("bridge", "falcon-alibi")}


def drawn(size, seed):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(3, VOCAB, (size,), generator=generator).tolist())


def rows_of(front):
    """Behind a beginning: questions of several lengths, one that is another's beginning, a second fork;
    and rows that share nothing, one of them a single token."""
    question = drawn(6, 2)
    return [
        front + question,
        front + question[:3],
        front + question[:3] + drawn(4, 3),
        front + drawn(5, 4),
        front + drawn(6, 5),
        drawn(7, 6),
        drawn(1, 7),
    ]


def streams(model, rows, positions=1, call=1.0):
    """The rows' streams, if the model takes them together."""
    tree = grow(rows, positions, call=call)
    assert tree.shares
    longest = torch.tensor([max(rows, key=len)])
    replayer, seen = Replayer(model), record(model, longest, positions)
    if seen is None:
        return replayer, None
    grown = Grown(tree, tuple(positions for _ in tree.leaves))
    return replayer, Together(replayer, seen, 64).streams([grown])


def largest_gap(model, rows, positions, replayer, stream, copies):
    """Between the rows' logits and those of their own passes, in any copy."""
    start = tuple(each.repeat(copies, 1, 1) for each in stream.start)
    logits = replayer.upwards(0, start, stream.passed)
    gaps = []
    for leaf, own in zip(stream.passed.tree.leaves, logits, strict=True):
        assert own.shape[:2] == (copies * len(leaf.rows), positions)
        for at, row in enumerate(leaf.rows):
            wanted = last_logits(model, torch.tensor([rows[row]]), positions)[0]
            gaps += [log_probability_gap(each[at], wanted) for each in own.chunk(copies)]
    return max(gaps)


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_each_row_has_the_logits_of_its_own_pass(shared, precise, kind, name):
    model, rows = shared(kind, name, torch.float64), rows_of(drawn(11, 1))
    replayer, found = streams(model, rows)
    if (kind, name) in ALONE:
        assert found is None
        return
    for copies in (1, 3):
        assert largest_gap(model, rows, 1, replayer, found[0], copies) < 1e-9


@pytest.mark.parametrize(("kind", "name"), [case for case in WINDOWED if case[1] != "gptneo-local"])
def test_a_window_bites_inside_the_shared_part_and_behind_it(shared, kind, name):
    """The shared part is longer than the window; another token outside of it changes nothing."""
    model, front = shared(kind, name, torch.float64), drawn(11, 1)
    assert len(front) > WINDOW
    other = (front[0] + 1 if front[0] < VOCAB - 1 else 3, *front[1:])
    wanted = [
        last_logits(model, torch.tensor([own + drawn(WINDOW * 3, 2)]), 1) for own in (front, other)
    ]
    assert torch.equal(*wanted)


@settings(max_examples=examples(25), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.lists(st.integers(3, 5), min_size=3, max_size=12).map(tuple),
        min_size=2,
        max_size=8,
        unique=True,
    ),
    positions=st.integers(1, 3),
    copies=st.integers(1, 3),
    case=st.sampled_from(
        [("bridge", "llama-grouped"), ("bridge", "mistral-window"), ("bridge", "gpt2")]
    ),
)
def test_any_tree(shared, precise, rows, positions, copies, case):
    model = shared(*case, torch.float64)
    tree = grow(rows, positions, call=0.0)
    if tree.shares:
        replayer, found = streams(model, rows, positions, call=0.0)
        assert largest_gap(model, rows, positions, replayer, found[0], copies) < 1e-9


@pytest.mark.parametrize(("kind", "name"), [("bridge", "neox-parallel"), ("bridge", "bloom-alibi")])
@pytest.mark.parametrize("layer", [0, 2])
def test_cuts_at_work_are_in_what_is_shared(shared, precise, kind, name, layer):
    model, rows = shared(kind, name, torch.float64), rows_of(drawn(9, 1))
    for site in ("attn.W_K", "attn.W_V.1", "attn.W_Q", "attn.W_O.2", "mlp.W_in", "mlp.W_out"):
        with tlt.truncated(model, tlt.Cut(f"blocks.{layer}.{site}", 0.3)):
            replayer, found = streams(model, rows)
            assert largest_gap(model, rows, 1, replayer, found[0], 2) < 1e-9, site


class TestNothingIsBelieved:
    """What is not understood, or not so, is noticed: rows go by themselves then."""

    @pytest.fixture
    def model(self, shared):
        return shared("bridge", "llama-grouped", torch.float64)

    def test_keys_that_are_not_the_blocks(self, model, monkeypatch):
        original = past.Behind.joined
        monkeypatch.setattr(past.Behind, "joined", lambda self, *keys: 1.01 * original(self, *keys))
        assert streams(model, rows_of(drawn(9, 1)))[1] is None

    def test_positions_that_depend_on_the_length(self, model, monkeypatch):
        """As with rotary embeddings that are stretched for long texts."""
        rotary = next(each for each in model.modules() if type(each).__name__ == "LlamaRotaryEmbedding")
        original = type(rotary).forward

        def stretched(self, x, position_ids, *args, **kwargs):
            length = int(position_ids.max()) + 1
            return original(self, x, position_ids / (2 if length > 12 else 1), *args, **kwargs)

        monkeypatch.setattr(type(rotary), "forward", stretched)
        rows = [drawn(7, 1) + drawn(size, size) for size in (3, 4, 5, 6)]
        assert streams(model, rows)[1] is None
        short = rows[:-1]
        replayer, found = streams(model, short)
        assert largest_gap(model, short, 1, replayer, found[0], 2) < 1e-9

    def test_a_mask_that_depends_on_the_tokens(self, model, precise, monkeypatch):
        """Rows that hold a padding token would be masked in a way of their own."""
        original, hidden = together.enter, VOCAB - 1

        def masking(model, tokens, returns):
            found = original(model, tokens, returns)
            for call in found.calls:
                mask = call.arguments["attention_mask"].clone()
                mask.masked_fill_((tokens == hidden)[:, None, None, :], -1e9)
                call.arguments["attention_mask"] = mask
            return found

        rows = [drawn(9, 2) + drawn(size, size) for size in (5, 6, 7)]
        assert all(hidden not in row for row in rows)
        monkeypatch.setattr(together, "enter", masking)
        assert streams(model, rows)[1] is not None
        rows[0] = (*rows[0][:-1], hidden)
        assert streams(model, rows)[1] is None

    @pytest.mark.parametrize("place", [0, 1, 2])
    def test_a_row_that_begins_otherwise_than_its_tokens_say(self, model, precise, monkeypatch, place):
        """Such as under a hook at the embedding that looks at the end of a row."""
        original = together.enter
        rows = [drawn(9, 2) + drawn(size, size) for size in (5, 6, 7)]

        def moved(model, tokens, returns):
            found = original(model, tokens, returns)
            for index, row in enumerate(map(tuple, tokens.tolist())):
                if row == rows[place]:
                    found.start[index, 3] += 1e-3
            return found

        assert streams(model, rows)[1] is not None
        monkeypatch.setattr(together, "enter", moved)
        assert streams(model, rows)[1] is None

    def test_a_block_that_looks_ahead(self, model):
        """It is not causal, so that a beginning alone is not that of the row."""

        def ahead(module, args, output):
            bare = output[0] if isinstance(output, tuple) else output
            return bare + bare.mean(1, keepdim=True)

        handle = model.blocks[1].register_forward_hook(ahead)
        try:
            assert streams(model, rows_of(drawn(9, 1)))[1] is None
        finally:
            handle.remove()

    def test_an_argument_of_another_kind(self, model, monkeypatch):
        monkeypatch.setattr("tl_truncate.replay.calls._CUTTERS", {})
        assert streams(model, rows_of(drawn(9, 1)))[1] is None


@pytest.mark.parametrize(("kind", "name"), [*CASES, ("bridge", "gptneo-local")])
def test_a_pass_that_computes_no_block_shows_what_a_whole_pass_does(shared, kind, name, tokens):
    model = shared(kind, name, torch.float64)
    before = [dict(block.__dict__) for block in model.blocks]
    seen = record(model, tokens, 1)
    with tlt.truncated(model, tlt.Cut("blocks.1.mlp.W_in", 0.5)):  # which is not reached, and no matter
        entered = enter(model, tokens, seen.returns)
    assert torch.equal(entered.start, seen.start)
    assert all(one.same(other) for one, other in zip(entered.calls, seen.calls, strict=True))
    assert [dict(block.__dict__).keys() for block in model.blocks] == [each.keys() for each in before]
    assert torch.equal(record(model, tokens, 1).logits, seen.logits)


def test_a_model_that_fails_on_the_way_is_left_as_it_was(shared, tokens):
    model = shared("bridge", "gpt2")
    seen = record(model, tokens, 1)

    def fail(module, args):
        raise RuntimeError("not this way")

    handle = model.unembed.register_forward_pre_hook(fail)
    assert enter(model, tokens, seen.returns) is None
    handle.remove()
    assert all("forward" not in block.__dict__ for block in model.blocks)
    assert torch.equal(record(model, tokens, 1).logits, seen.logits)


@pytest.mark.skipif(HookedTransformer is None or not HOOKED, reason="removed in TransformerLens 4")
def test_a_padding_mask_of_hooked_transformers(shared):
    """With a tokenizer that pads on the left they pass a mask of one number a token."""
    from architectures import with_tokenizer

    model = with_tokenizer(shared("hooked", "gpt2", torch.float64))
    side, model.tokenizer.padding_side = model.tokenizer.padding_side, "left"
    rows = rows_of(drawn(9, 1))
    try:
        replayer, found = streams(model, rows)
        assert found is None or largest_gap(model, rows, 1, replayer, found[0], 2) < 1e-9
    finally:
        model.tokenizer.padding_side = side
