"""Tokens of prompts and answers: as the library makes them, and never with two BOS."""

import pytest

import tl_truncate as tlt
from tl_truncate.tasks.encode import encode


@pytest.mark.parametrize("prepend", [None, True, False])
@pytest.mark.parametrize("default", [True, False])
def test_as_to_tokens_would(toy, drinks, prepend, default, monkeypatch):
    monkeypatch.setattr(toy.cfg, "default_prepend_bos", default)
    encoded = encode(toy, drinks, prepend_bos=prepend)
    for each, prompt in zip(encoded.prompts, drinks.prompts, strict=True):
        expected = toy.to_tokens(prompt, prepend_bos=prepend)[0].tolist()
        assert list(each.prompt) == expected
    assert encoded.prepend_bos == (default if prepend is None else prepend)


@pytest.mark.parametrize("prepend", [True, False])
def test_a_bos_in_the_text_is_not_doubled(toy, prepend):
    bos = toy.tokenizer.bos_token
    plain = tlt.Task("x", ["Mary gave a drink to"], [" John"], " the")
    marked = tlt.Task("x", [f"{bos}Mary gave a drink to"], [" John"], " the")
    first, second = (encode(toy, task, prepend_bos=prepend).prompts[0] for task in (plain, marked))
    assert first == second
    assert list(first.prompt).count(toy.tokenizer.bos_token_id) == int(prepend)


def test_a_bos_in_the_text_is_not_taken_away_without_a_word(toy, monkeypatch):
    """A chat's first mark may be the model's BOS; a model that reads without one would lose it."""
    bos = toy.tokenizer.bos_token
    prompts = ["Mary gave a drink to", f"{bos}Mary gave a drink to"]
    marked = tlt.Task("x", prompts, [" John"] * 2, " the")
    monkeypatch.setattr(toy.cfg, "default_prepend_bos", False)
    with pytest.raises(
        ValueError, match=r"prompt 1 begins with '.*'\. Say which it is to be: prepend_bos"
    ):
        encode(toy, marked)
    rows = {each: encode(toy, marked, prepend_bos=each).prompts for each in (True, False)}
    for prepend, (first, second) in rows.items():
        assert first == second
        assert (first.prompt[0] == toy.tokenizer.bos_token_id) == prepend
    monkeypatch.setattr(toy.cfg, "default_prepend_bos", True)
    assert encode(toy, marked).prompts == rows[True]


def test_sequences_keep_all_their_tokens(toy):
    task = tlt.Task("x", ["Mary gave a drink to"], [" John and Mary"], " the", scoring="sequence")
    (each,) = encode(toy, task).prompts
    assert [toy.tokenizer.decode([token]) for token in each.in_context] == [" John", " and", " Mary"]
    assert len(each.global_) == 1
