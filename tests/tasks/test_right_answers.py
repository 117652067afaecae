"""Tasks with right answers alone: made, read, written; and all that is wrong with a task at once."""

import json

import pandas as pd
import pytest

import tl_truncate as tlt
from tl_truncate.tasks.encode import encode

FACTS = dict(prompts=["Madrid is in", "Paris is in"], in_context=[" Spain", " France"])


def test_a_task_without_global_answers_is_another_task_and_reads_back(tmp_path):
    alone = tlt.Task("facts", **FACTS)
    both = tlt.Task("facts", **FACTS, global_=" the")
    assert not alone.has_global
    assert both.has_global
    assert both.without_global() == alone
    assert alone.hash != both.hash
    assert "global_" not in alone.to_json()
    assert tlt.Task.from_json(alone.to_json()) == alone
    alone.save(tmp_path / "facts.json")
    assert tlt.Task.load(tmp_path / "facts.json").hash == alone.hash
    assert list(alone.to_frame()) == ["prompt", "in_context"]
    assert alone.subset([1]).in_context == (" France",)
    shown = alone.with_demonstrations(1, separator=". ")
    assert not shown.has_global
    assert shown.demonstrations.front in ("Madrid is in Spain. ", "Paris is in France. ")


def test_frames_without_the_column_have_right_answers_alone():
    frame = pd.DataFrame(FACTS).rename(columns={"prompts": "prompt"})
    assert not tlt.Task.from_frame(frame).has_global
    assert tlt.Task.from_frame(frame.assign(global_=" the")).global_ == (" the", " the")
    assert not tlt.Task.from_frame(frame.assign(global_=" the"), global_=None).has_global
    with pytest.raises(ValueError, match="other missing among prompt, in_context"):
        tlt.Task.from_frame(frame, global_="other")


def test_facts_without_alternatives(tmp_path):
    def fact(subject, answer, **more):
        rewrite = dict(prompt="{} is in", subject=subject, target_true=dict(str=answer), **more)
        return dict(requested_rewrite=rewrite)

    path = tmp_path / "facts.json"
    path.write_text(json.dumps([fact("Madrid", "Spain"), fact("Paris", "France")]))
    task = tlt.Task.from_counterfact(path)
    assert (task.in_context, task.global_) == ((" Spain", " France"), None)
    assert tlt.Task.from_counterfact(path, global_=" the").global_ == (" the", " the")
    path.write_text(
        json.dumps([fact("Madrid", "Spain", target_new=dict(str="Italy")), fact("Paris", "x")])
    )
    with pytest.raises(ValueError, match="must have target_new, or none, got 1 without, the first at 1"):
        tlt.Task.from_counterfact(path)


def test_the_harness_gets_no_choice_where_there_is_none(tmp_path):
    paths = tlt.Task("facts", **FACTS).to_lm_eval(tmp_path)
    assert [path.name for path in paths] == ["facts.jsonl", "facts_greedy.yaml"]
    rows = [json.loads(line) for line in paths[0].read_text().splitlines()]
    assert rows == [
        dict(prompt=prompt, in_context=answer)
        for prompt, answer in zip(FACTS["prompts"], FACTS["in_context"], strict=True)
    ]


def test_all_faults_are_named_at_once():
    with pytest.raises(ValueError, match="got 3 faults") as told:
        tlt.Task("bad", ["one ", "two", " "], [" x", "y", " z"])
    for fault in ("must not end in a space", "Write ' y'", "prompt of prompt 2 must not be empty"):
        assert fault in str(told.value)
    with pytest.raises(ValueError, match="got 30 faults") as told:
        tlt.Task("bad", ["word"] * 30, ["none"] * 30)
    assert len(str(told.value).splitlines()) == 12
    assert str(told.value).endswith("and 20 more.")
    with pytest.raises(ValueError, match="got 2 prompts, 1 right answers in 'short'"):
        tlt.Task("short", ["a", "b"], [" x"])


def test_a_tokenizer_names_all_answers_that_do_not_fit(toy):
    bad = dict(prompts=["Mary gave a drink to"] * 3, in_context=[" John", " Mary and", " John and Mary"])
    for given in (toy, toy.tokenizer):
        with pytest.raises(ValueError, match="got 2 faults") as told:
            tlt.Task("gift", **bad, tokenizer=given)
        assert "' Mary and' with 2 tokens at 1" in str(told.value)
        assert "' John and Mary' with 3 tokens at 2" in str(told.value)
    task = tlt.Task("gift", **bad)  # without one they are named when it is scored
    with pytest.raises(ValueError, match="got 2 faults"):
        encode(toy, task)
    assert tlt.Task("gift", **bad, scoring="sequence", tokenizer=toy).scoring == "sequence"
    with pytest.raises(ValueError, match="must differ, got ' John' twice at 0"):
        tlt.Task("gift", ["Mary gave a drink to"], [" John"], " John", tokenizer=toy)
    with pytest.raises(TypeError, match="tokenizer must be a Hugging Face tokenizer"):
        tlt.Task("gift", ["Mary gave a drink to"], [" John"], tokenizer="gpt2")
