"""The tasks that ship: what the prompts are, and that a seed decides them."""

import random
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from luck import examples

import tl_truncate as tlt
from tl_truncate.tasks.facts import fact_table
from tl_truncate.tasks.ioi import NAMES, OBJECTS, PLACES, TEMPLATES


def names_in(prompt: str) -> list[str]:
    words = prompt.replace(",", " ").replace(".", " ").split()
    return [word for word in words if word in NAMES]


@settings(max_examples=examples(30), deadline=None)
@given(st.integers(1, 60), st.integers(0, 1000))
def test_ioi_prompts(n, seed):
    task = tlt.tasks.ioi(n=n, seed=seed)
    assert len(task) == n
    for prompt, answer in zip(task.prompts, task.in_context, strict=True):
        counts = Counter(names_in(prompt))
        assert sorted(counts.values()) == [1, 2], prompt
        assert counts[answer[1:]] == 1, "the answer is the name that occurs once"
        assert answer[0] == " "
        assert prompt == prompt.strip()
    assert set(task.global_) == {" the"}
    assert task == tlt.tasks.ioi(n=n, seed=seed)


def test_ioi_halves_and_pools():
    assert min(len(set(NAMES)), 40) == 40
    assert len(set(PLACES)) == len(set(OBJECTS)) == 20
    assert len(set(TEMPLATES)) >= 10
    task = tlt.tasks.ioi(n=200, seed=3)
    first = [names_in(prompt)[0] == answer[1:] for prompt, answer in zip(task.prompts, task.in_context)]
    assert sum(first) == 100, "half name the indirect object first"
    assert len(set(task.prompts)) > 195
    assert tlt.tasks.ioi(n=20, seed=0) != tlt.tasks.ioi(n=20, seed=1)


def test_facts():
    task = tlt.tasks.factual_recall()
    assert len(task) == len(fact_table()) >= 100
    assert len(set(task.prompts)) == len(task), "no prompt has two answers"
    pairs = zip(task.prompts, task.in_context, strict=True)
    assert all(answer.strip() not in prompt.split() for prompt, answer in pairs)
    few = tlt.tasks.factual_recall(n=10, seed=2)
    assert set(few.prompts) <= set(task.prompts)
    assert few == tlt.tasks.factual_recall(n=10, seed=2)
    assert few != tlt.tasks.factual_recall(n=10, seed=3)


def test_the_global_random_states_are_not_touched():
    state, numpy_state = random.getstate(), np.random.get_state()[1].copy()
    tlt.tasks.ioi(n=5)
    tlt.tasks.factual_recall(n=5)
    assert random.getstate() == state
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_too_small_a_vocabulary_is_refused(toy):
    with pytest.raises(ValueError, match=r"At least 40 of the 59 names must be single tokens.*got"):
        tlt.tasks.ioi(n=5, tokenizer=_Spelling())
    assert len(tlt.tasks.factual_recall(tokenizer=_Spelling(short=5))) < 116


class _Spelling:
    """A tokenizer that spells words of more than some letters."""

    def __init__(self, short: int = 3) -> None:
        self.short = short

    def __call__(self, text, add_special_tokens):
        return {"input_ids": [0] if len(text.strip()) <= self.short else list(range(len(text)))}


texts = st.text("abc XYZ,", min_size=1, max_size=8).map(str.strip).filter(bool)


@given(
    st.lists(st.tuples(texts, texts, texts), min_size=1, max_size=5),
    st.sampled_from(("token", "sequence")),
)
def test_json_and_frames_round_trip(tmp_path_factory, rows, scoring):
    rows = [(prompt, f" {a}", f" {b}x") for prompt, a, b in rows if a != f"{b}x"]
    if not rows:
        return
    prompts, in_context, global_ = zip(*rows, strict=True)
    task = tlt.Task("any", prompts, in_context, global_, scoring=scoring, description="d")
    path = tmp_path_factory.mktemp("task") / "task.json"
    task.save(path)
    assert tlt.Task.load(path) == task
    assert [each.name for each in path.parent.iterdir()] == ["task.json"]
    framed = tlt.Task.from_frame(task.to_frame(), name="any", scoring=scoring, description="d")
    assert framed == task
    assert framed.hash == task.hash
    assert task.subset(range(len(task))) == task


def test_the_hash_is_of_what_is_scored():
    base = dict(name="a", prompts=["x to"], in_context=[" y"], global_=" z")
    task = tlt.Task(**base)
    assert tlt.Task(**{**base, "name": "b"}, description="other").hash == task.hash
    assert tlt.Task(**{**base, "global_": " q"}).hash != task.hash
    assert tlt.Task(**base, scoring="sequence").hash != task.hash


def test_from_frame_names_what_is_missing():
    with pytest.raises(ValueError, match="in_context missing among prompt, answer"):
        tlt.Task.from_frame(pd.DataFrame({"prompt": ["a"], "answer": [" b"]}), name="x")
