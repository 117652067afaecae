"""The generated tasks: what a prompt says, checked by reading the prompt again."""

import json
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tl_truncate as tlt
from tl_truncate.tasks import facts, implied, phrases

GENERATORS = {
    name: getattr(tlt.tasks, name)
    for name in (
        "in_context_override",
        "reversal",
        "implied_fact",
        "table_lookup",
        "deduction",
        "phrase_composition",
        "induction",
    )
}


@pytest.mark.parametrize("name", GENERATORS)
def test_a_hundred_different_prompts_from_a_seed(name):
    make = GENERATORS[name]
    task = make()
    assert len(task) >= 100
    assert len(set(task.prompts)) == len(task)
    assert task == make(n=100, seed=0)
    assert make(seed=1).prompts != task.prompts
    assert task.name == name
    assert "seed 0" in task.description
    assert tlt.Task.from_json(json.loads(json.dumps(task.to_json()))) == task
    assert make.__doc__.count("Difficulty") == make.__doc__.count("Source") == 1


@pytest.mark.parametrize("name", GENERATORS)
def test_the_global_random_state_is_left_alone(name):
    import random

    state, other = random.getstate(), torch.get_rng_state()
    GENERATORS[name](n=5)
    assert random.getstate() == state
    assert torch.equal(torch.get_rng_state(), other)


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("n", [0, -1, True, 2.5])
def test_bad_numbers_are_refused(name, n):
    with pytest.raises(ValueError, match="n must be an integer from 1 up"):
        GENERATORS[name](n=n)


def test_too_many_are_refused():
    with pytest.raises(ValueError, match="n must be at most about"):
        tlt.tasks.phrase_composition(n=10_000)


def rows(task):
    return zip(
        task.prompts, (a[1:] for a in task.in_context), (g[1:] for g in task.global_), strict=True
    )


def test_override_states_another_capital():
    capitals = {prompt: answer for kind, prompt, answer in facts.fact_table() if kind == "capital"}
    for prompt, stated, true in rows(tlt.tasks.in_context_override()):
        country = re.search(r"capital of ([A-Z]\w+)", prompt) or re.search(
            r"government of ([A-Z]\w+)", prompt
        )
        assert capitals[f"The capital of {country[1]} is"] == f" {true}"
        assert stated in prompt
        assert true not in prompt


def test_reversal_asks_for_the_name_that_was_given_the_role():
    for prompt, name, _ in rows(tlt.tasks.reversal()):
        role = re.search(r"(?:So the|The|name of the) (\w+) is(?: called)?$", prompt)[1]
        assert re.search(rf"\b{name} is the {role}\b", prompt)


def test_implied_fact_needs_what_the_prompt_does_not_say():
    kind_of = {item: kind for kind, items in implied.KINDS.items() for item in items}
    asked = []
    for prompt, colour, _ in rows(tlt.tasks.implied_fact()):
        rules = dict(re.findall(r"an? (\w+) is (?:painted|colored) (\w+)", prompt))
        item = re.search(r"So the (\w+) is", prompt)[1]
        assert rules[kind_of[item]] == colour
        asked.append(list(rules).index(kind_of[item]))
    assert 30 <= sum(asked) <= 70  # neither place gives the answer away


def test_table_lookup_reads_the_row_of_the_name():
    places = []
    for prompt, city, _ in rows(tlt.tasks.table_lookup()):
        table, question = prompt.split("\n\n")
        cells = [line.split(" | ") for line in table.split("\n")[1:]]
        name = next(row[0] for row in cells if row[0] in question)
        places.append([row[0] for row in cells].index(name))
        assert cells[places[-1]][1] == city
    assert {places.count(place) > 15 for place in range(3)} == {True}


def test_deduction_follows():
    forms = set()
    for prompt, quality, _ in rows(tlt.tasks.deduction()):
        if " or " in prompt:
            one, other = re.search(r"either (\w+) or (\w+)", prompt).groups()
            denied = re.search(r"is not (\w+)", prompt)[1]
            assert {one, other} - {denied} == {quality}
            forms.add("or")
        elif prompt.startswith("If"):
            assert re.search(rf"is a (\w+), then \w+ is {quality}\. (\w+) is a \1\.", prompt)
            forms.add("if")
        else:
            assert re.search(rf"(?:are|is) {quality}\.", prompt)
            chain = re.findall(r"(?:All|Every) (\w+?)s? (?:are|is) (?:a )?(\w+?)s?\.", prompt)
            assert chain[0][1] == chain[1][0]
            forms.add(prompt.split()[0])
    assert forms == {"or", "if", "All", "Every"}


def test_phrases_are_told_apart_by_both_words():
    entries = [
        each.strip().rsplit(" ", 1) for each in phrases.PHRASES.strip().replace("\n", "|").split("|")
    ]
    words = dict(entries)
    assert len(words) == len(entries)
    for prompt, word, noun in rows(tlt.tasks.phrase_composition()):
        phrase = next(each for each in words if f"a {each}" in prompt.lower())
        assert (words[phrase], phrase.split()[-1]) == (word, noun)


@given(
    seed=st.integers(0, 50),
    length=st.integers(2, 20),
    d_vocab=st.integers(40, 200),
    token=st.one_of(st.none(), st.integers(0, 39)),
)
def test_induction_repeats(seed, length, d_vocab, token):
    task = tlt.tasks.induction(
        n=5, seed=seed, length=length, d_vocab=d_vocab, global_token=token, first_token=3
    )
    assert task.in_tokens
    for prompt, (answer,), (other,) in zip(task.prompts, task.in_context, task.global_, strict=True):
        first = prompt[:length]
        assert len(set(first)) == length
        assert prompt[length:] == first[: len(prompt) - length]
        assert first[len(prompt) - length] == answer
        assert other not in prompt
        assert all(3 <= each < d_vocab for each in prompt)
        assert token is None or other == token


def test_induction_needs_no_tokenizer(shared):
    model = shared("bridge", "no-norm")
    task = tlt.tasks.induction(n=6, d_vocab=model.cfg.d_vocab, length=5)
    tokenizer, model.tokenizer = model.tokenizer, None
    try:
        scores = tlt.evaluate(model, task, tlt.Cut("blocks.1.mlp.W_in", 0.5), progress=False)
        result = tlt.sweep(model, task, sites=["blocks.1.mlp.W_in"], keeps=[0.5], progress=False)
    finally:
        model.tokenizer = tokenizer
    with torch.no_grad():
        last = model(torch.tensor([task.prompts[0]]))[0, -1].double().softmax(0)
    assert scores.baseline.frame["p_in_context"][0] == pytest.approx(
        float(last[task.in_context[0][0]]), abs=1e-6
    )
    assert scores.frame["prompt"][0] == " ".join(map(str, task.prompts[0]))
    found = result.scores("blocks.1.mlp.W_in", 0.5).frame
    assert found["logit_diff"].tolist() == pytest.approx(scores.frame["logit_diff"].tolist(), abs=1e-5)


def test_induction_bad_input():
    with pytest.raises(ValueError, match="must have more than length=12 tokens"):
        tlt.tasks.induction(d_vocab=20)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (dict(prompts=[(1, -2)], in_context=[(1,)], global_=[(2,)]), TypeError, "token numbers from 0"),
        (
            dict(prompts=[(1, 2)], in_context=[(1,)], global_=[(1,)]),
            ValueError,
            "answers .* must differ",
        ),
        (dict(prompts=[(1, 2)], in_context=[(1, 3)], global_=[(2,)]), ValueError, "must be one token"),
        (dict(prompts=[(1, 2)], in_context=[" a"], global_=[(2,)]), TypeError, "must be text"),
        (dict(prompts=[()], in_context=[(1,)], global_=[(2,)]), TypeError, "token numbers"),
    ],
)
def test_token_tasks_are_checked(values, error, message):
    with pytest.raises(error, match=message):
        tlt.Task("tokens", **values)


def test_a_token_beyond_the_vocabulary_is_refused(toy):
    task = tlt.Task("tokens", [(1, 5000)], [(1,)], [(2,)])
    with pytest.raises(ValueError, match="must fit the model's vocabulary of 97, got token 5000"):
        tlt.evaluate(toy, task)


class TestCounterFact:
    """A file in CounterFact's form, made here."""

    @pytest.fixture
    def path(self, tmp_path):
        records = [
            dict(
                case_id=place,
                requested_rewrite=dict(
                    prompt="The mother tongue of {} is",
                    subject=f"Person {place}",
                    target_true=dict(str="French"),
                    target_new=dict(str="English"),
                ),
                paraphrase_prompts=[f"Person {place} was born there. Person {place} speaks "],
            )
            for place in range(12)
        ]
        file = tmp_path / "counterfact.json"
        file.write_text(json.dumps(records))
        return file

    def test_it_is_read(self, path):
        task = tlt.Task.from_counterfact(path)
        assert len(task) == 12
        assert task.prompts[3] == "The mother tongue of Person 3 is"
        assert (task.in_context[0], task.global_[0]) == (" French", " English")
        assert task.scoring == "sequence"
        assert "12 facts of counterfact.json" in task.description

    def test_choices(self, path):
        some = tlt.Task.from_counterfact(path, n=5, seed=1, global_=" the")
        assert len(some) == 5
        assert set(some.global_) == {" the"}
        assert some == tlt.Task.from_counterfact(path, n=5, seed=1, global_=" the")
        asked = tlt.Task.from_counterfact(path, paraphrases=True)
        assert asked.prompts[0] == "Person 0 was born there. Person 0 speaks"

    def test_bad_input(self, path, tmp_path):
        with pytest.raises(ValueError, match="n must be at most 12"):
            tlt.Task.from_counterfact(path, n=13)
        other = tmp_path / "other.json"
        other.write_text(json.dumps([dict(prompt="x")]))
        with pytest.raises(ValueError, match="must be a CounterFact file"):
            tlt.Task.from_counterfact(other)
        other.write_text("[]")
        with pytest.raises(ValueError, match="at least one fact"):
            tlt.Task.from_counterfact(other)

    def test_a_subject_cannot_reach_into_the_text(self, path, tmp_path):
        records = json.loads(path.read_text())
        records[0]["requested_rewrite"]["subject"] = "{0.__class__}"
        file = tmp_path / "strange.json"
        file.write_text(json.dumps(records))
        assert tlt.Task.from_counterfact(file).prompts[0] == "The mother tongue of {0.__class__} is"
