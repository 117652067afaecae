"""Demonstrations: which prompts are shown, which are tested, and that their tokens stay what they are."""

import json
import random

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import PAIRS, SEQUENCES
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import tl_truncate as tlt
from tl_truncate.tasks.demonstrations.shots import with_shots
from tl_truncate.tasks.encode import encode

BY_TOKENS = tlt.Task(
    "by_tokens", [[5, 6], [7], [8, 9, 4], [3]], [[1], [2], [1], [2]], [[3], [3], [3], [4]]
)
CHAT = tlt.Task(
    "chat",
    [f"<|user|>\nWho is {name}?<|end|>\n<|assistant|>\n" for name in ("Mary", "John", "Tom")],
    ["A doctor", "A baker", "A king"],
    "I",
    scoring="sequence",
)


def counterfact(folder) -> tlt.Task:
    rows = [
        {
            "requested_rewrite": {
                "prompt": "{} speaks",
                "subject": f"Person {number}",
                "target_true": {"str": "French"},
                "target_new": {"str": "Thai"},
            }
        }
        for number in range(9)
    ]
    (folder / "counterfact.json").write_text(json.dumps(rows))
    return tlt.Task.from_counterfact(folder / "counterfact.json")


def framed(_) -> tlt.Task:
    frame = pd.DataFrame({"q": [f"{n} and one is" for n in "abcdef"], "a": [f" {n}1" for n in "abcdef"]})
    return tlt.Task.from_frame(frame, prompt="q", in_context="a", global_=" the")


MADE = {name: getattr(tlt.tasks, name) for name in tlt.tasks.__all__ if name != "Task"}
TASKS = {name: lambda _, make=make: make(n=20, seed=3) for name, make in MADE.items()}
TASKS |= {
    "counterfact": counterfact,
    "frame": framed,
    "pairs": lambda _: PAIRS,
    "by_tokens": lambda _: BY_TOKENS,
    "chat": lambda _: CHAT,
}


@pytest.fixture(params=TASKS)
def task(request, tmp_path) -> tlt.Task:
    return TASKS[request.param](tmp_path)


def test_other_prompts_with_their_answers_in_front(task):
    """Each prompt is taken apart again, by what a prompt and an answer are."""
    shown = task.with_demonstrations(2, seed=5)
    answers = dict(zip(task.prompts, task.in_context, strict=True))
    front = [] if task.in_tokens else ""
    for prompt in shown.demonstrations.prompts:
        front += list(prompt) + list(answers[prompt]) if task.in_tokens else prompt + answers[prompt]
        front += [] if task.in_tokens else "\n\n"
    tested = [prompt[len(front) :] for prompt in shown.prompts]
    for own, whole in zip(tested, shown.prompts, strict=True):
        assert whole == (tuple(front) + own if task.in_tokens else front + own)
    assert not set(shown.demonstrations.prompts) & set(tested)
    assert {*shown.demonstrations.prompts, *tested} == set(task.prompts)
    assert tested == [each for each in task.prompts if each in set(tested)], "in their order"
    rows = zip(task.prompts, task.in_context, task.global_, strict=True)
    kept = [row for row in rows if row[0] in set(tested)]
    assert (shown.in_context, shown.global_) == (tuple(r[1] for r in kept), tuple(r[2] for r in kept))
    assert (shown.shots, shown.name, shown.scoring) == (2, f"{task.name}-2-shot", task.scoring)


def test_all_numbers_test_the_same_prompts(task):
    several = with_shots([task], (0, 1, 2), seed=1)
    assert [each.shots for each in several] == [0, 1, 2]
    plain = [each.without_demonstrations() for each in several]
    assert plain[0] == plain[1] == plain[2]
    assert plain[0].prompts == several[0].prompts
    assert plain[0].name == task.name
    two = several[2].demonstrations
    assert two.prompts[:1] == several[1].demonstrations.prompts, "fewer are the first of more"
    assert several[2] == task.with_demonstrations(2, seed=1), "whatever is reserved"
    assert not set(two.prompts) & set(several[0].prompts)
    assert len({each.hash for each in several}) == 3
    assert several[0].hash == plain[0].hash, "nothing in front: what is scored is the same"


def test_written_and_read(task, tmp_path):
    shown = task.with_demonstrations(1)
    shown.save(tmp_path / "shown.json")
    again = tlt.Task.load(tmp_path / "shown.json")
    assert again == shown
    assert again.hash == shown.hash
    assert again.demonstrations.front == shown.demonstrations.front
    part = shown.subset([0])
    assert part.demonstrations == shown.demonstrations
    assert part.prompts == shown.prompts[:1]
    assert "demonstrations" not in task.to_json()
    assert shown.to_frame()["prompt"][0] == task.with_demonstrations(1).to_frame()["prompt"][0]


def test_a_seed_decides_and_nothing_else(task):
    state, other = random.getstate(), torch.get_rng_state()
    assert task.with_demonstrations(1, seed=0) == task.with_demonstrations(1)
    assert random.getstate() == state
    assert torch.equal(torch.get_rng_state(), other)
    drawn = {task.with_demonstrations(1, seed=seed).demonstrations.prompts for seed in range(20)}
    assert len(drawn) > 1


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=12), st.integers(0, 4), st.integers(0, 9))
def test_a_prompt_that_is_shown_is_not_tested_under_another_number_either(letters, k, seed):
    task = tlt.Task("t", [f"{each} to" for each in letters], [f" {each}x" for each in letters], " the")
    if k >= len(set(letters)):
        with pytest.raises(
            ValueError, match=f"different prompts than the {k} .* got {len(set(letters))}"
        ):
            task.with_demonstrations(k, seed)
        return
    shown = task.with_demonstrations(k, seed)
    tested = shown.without_demonstrations().prompts
    assert len(set(shown.demonstrations.prompts)) == k, "no prompt is shown twice"
    assert set(tested).isdisjoint(shown.demonstrations.prompts)
    assert len(tested) == sum(f"{each} to" not in shown.demonstrations.prompts for each in letters)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"more different prompts than the 6 .* got 6 in 'pairs'"):
        PAIRS.with_demonstrations(6)
    with pytest.raises(ValueError, match=r"reserve must be at least the 3 demonstrations .* got 2"):
        PAIRS.with_demonstrations(3, reserve=2)
    for k in (-1, True, 1.5, None):
        with pytest.raises(ValueError, match="k must be an integer from 0 up"):
            PAIRS.with_demonstrations(k)
    with pytest.raises(ValueError, match="no demonstrations yet, got 'pairs-1-shot' with 1"):
        PAIRS.with_demonstrations(1).with_demonstrations(1)
    with pytest.raises(ValueError, match="separator between texts must not be empty"):
        PAIRS.with_demonstrations(1, separator="")
    for task, separator in ((PAIRS, [4]), (BY_TOKENS, "\n\n")):
        for k in (0, 1):
            with pytest.raises(TypeError, match="A separator must be a text between prompts in text"):
                task.with_demonstrations(k, separator=separator)
    with pytest.raises(TypeError, match="token numbers from 0 up"):
        BY_TOKENS.with_demonstrations(1, separator=[1.5])


def test_prompts_that_do_not_begin_with_the_demonstrations_are_refused():
    data = PAIRS.with_demonstrations(1).to_json()
    for prompts in (list(PAIRS.prompts[:5]), [PAIRS.with_demonstrations(1).demonstrations.front] * 5):
        with pytest.raises(ValueError, match=r"must (begin with the task's 1 dem|not end in a space)"):
            tlt.Task.from_json({**data, "prompts": prompts})
    with pytest.raises(ValueError, match="Demonstrations must have task, prompts, answers, separator"):
        tlt.Task.from_json({**data, "demonstrations": {"prompts": []}})


@pytest.mark.parametrize(
    ("shots", "problem", "told"),
    [
        ((), ValueError, "one or more different numbers, got"),
        ((1, 1), ValueError, "one or more different numbers, got"),
        ((1, -1), ValueError, "shots must be an integer from 0 up, got -1"),
        ((True,), ValueError, "shots must be an integer from 0 up, got True"),
        (4, TypeError, "a list of numbers, such as"),
        ("0,4", TypeError, "a list of numbers, such as"),
    ],
)
def test_numbers_that_are_none(shots, problem, told):
    with pytest.raises(problem, match=told):
        with_shots([PAIRS], shots, seed=0)


def test_token_numbers_with_a_separator():
    shown = BY_TOKENS.with_demonstrations(2, separator=torch.tensor([0]))
    one, two = shown.demonstrations.prompts
    answers = dict(zip(BY_TOKENS.prompts, BY_TOKENS.in_context, strict=True))
    assert shown.demonstrations.front == (*one, *answers[one], 0, *two, *answers[two], 0)


def test_lm_eval_asks_with_them(tmp_path):
    shown = PAIRS.with_demonstrations(2)
    data, *_ = shown.to_lm_eval(tmp_path)
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    assert data.name == "pairs-2-shot.jsonl"
    assert [row["prompt"] for row in rows] == list(shown.prompts)


class Configured:
    """What `encode` asks of a model."""

    def __init__(self, tokenizer, n_ctx=4096):
        self.tokenizer = tokenizer
        self.cfg = type("cfg", (), dict(default_prepend_bos=True, n_ctx=n_ctx, d_vocab=0))


def texts() -> list[str]:
    made = [make(n=20) for name, make in MADE.items() if name != "induction"]
    found = [text for task in made for text in (*task.prompts, *task.in_context)]
    return [*found, *(f" {text}" for text in found)]  # words within a text, too


@pytest.fixture(scope="module")
def of_bytes():
    """As GPT-2's, Pythia's and Llama 3's: a space belongs to the word behind it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts(), trainers.BpeTrainer(vocab_size=600, special_tokens=["<s>"], initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")


@pytest.fixture(scope="module")
def of_pieces():
    """As Llama 2's: the first word of a text has the mark of a space too."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    tokenizer.train_from_iterator(
        [*texts(), "\n\n"], trainers.BpeTrainer(vocab_size=600, special_tokens=["<s>", "<unk>"])
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>")


@pytest.mark.parametrize("name", [name for name in MADE if name != "induction"])
def test_prompts_keep_their_tokens(name, of_bytes):
    task = MADE[name](n=20)
    task = tlt.Task(task.name, task.prompts, task.in_context, task.global_, scoring="sequence")
    shown = task.with_demonstrations(3)

    def ids(text):
        return of_bytes(text, add_special_tokens=False)["input_ids"]

    plain = encode(Configured(of_bytes), shown.without_demonstrations()).prompts
    for one, other in zip(encode(Configured(of_bytes), shown).prompts, plain, strict=True):
        front = [of_bytes.bos_token_id, *ids(shown.demonstrations.front)]
        assert one.prompt == (*front, *other.prompt[1:])
        assert (one.in_context, one.global_) == (other.in_context, other.global_)
        assert one.prompt.count(of_bytes.bos_token_id) == 1


@pytest.mark.parametrize(
    ("separator", "fits"), [(None, True), (" ", False), (". ", False), (".\n", True)]
)
def test_a_separator_that_merges_is_refused(separator, fits, of_bytes):
    task = tlt.Task(PAIRS.name, PAIRS.prompts, PAIRS.in_context, PAIRS.global_, scoring="sequence")
    shown = task.with_demonstrations(2, separator=separator)
    if fits:
        encode(Configured(of_bytes), shown)
        return
    with pytest.raises(
        ValueError, match=r"the same tokens behind demonstrations.*'When .*separator '.* '"
    ):
        encode(Configured(of_bytes), shown)


def test_where_the_first_word_is_marked(of_pieces):
    task = tlt.Task(PAIRS.name, PAIRS.prompts, PAIRS.in_context, PAIRS.global_, scoring="sequence")
    with pytest.raises(ValueError, match=r"or, for tokenizers that mark .* '\\n\\n '"):
        encode(Configured(of_pieces), task.with_demonstrations(2))
    shown = task.with_demonstrations(2, separator="\n\n ")
    plain = encode(Configured(of_pieces), shown.without_demonstrations()).prompts
    rows = encode(Configured(of_pieces), shown).prompts
    for one, other in zip(rows, plain, strict=True):
        assert one.prompt[len(one.prompt) - len(other.prompt) + 1 :] == other.prompt[1:]
    assert (
        len({one.prompt[: len(one.prompt) - len(other.prompt)] for one, other in zip(rows, plain)}) == 1
    )


def test_a_bos_never_stands_in_the_middle(of_bytes):
    with_bos = tlt.Task(
        "b", [f"<s>{each}" for each in PAIRS.prompts], PAIRS.in_context, " the", scoring="sequence"
    )
    encode(Configured(of_bytes), with_bos)
    with pytest.raises(ValueError, match="must not begin with a BOS, which would stand in the middle"):
        encode(Configured(of_bytes), with_bos.with_demonstrations(2))
    bos = of_bytes.bos_token_id
    rows = [[bos, number, 7] for number in (3, 4, 5)]
    in_tokens = tlt.Task("t", rows, [[8]] * 3, [[9]] * 3)
    encode(Configured(of_bytes), in_tokens)
    with pytest.raises(ValueError, match=r"begin with a BOS.*prepend_bos=True"):
        encode(Configured(of_bytes), in_tokens.with_demonstrations(1))


def test_the_mark_of_a_turn_is_no_bos(of_bytes):
    chat = tlt.Task(
        "chat",
        [f"<s>user\nWho is {name}?\n<s>assistant\n" for name in ("Mary", "John", "Tom")],
        ["A doctor", "A baker", "A king"],
        "I",
        scoring="sequence",
    )
    shown = chat.with_demonstrations(1, separator="\n")
    for each in encode(Configured(of_bytes), shown, prepend_bos=True).prompts:
        assert each.prompt.count(of_bytes.bos_token_id) == 4


def test_an_unknown_separator_is_told_of(toy):
    with pytest.warns(UserWarning, match=r"separator '\\n\\n' .* reads it as <unk>"):
        encode(toy, PAIRS.with_demonstrations(1))
    encode(toy, PAIRS.with_demonstrations(1, separator=" ."))


def test_the_window_names_the_number(toy):
    with pytest.raises(ValueError, match=r"context of 64 tokens, got .* with 5 demonstrations"):
        encode(toy, PAIRS.with_demonstrations(5, separator=" ."))


def test_sequences_show_the_whole_answer(toy):
    shown = SEQUENCES.with_demonstrations(1, separator=" .")
    (prompt,) = shown.demonstrations.prompts
    answer = SEQUENCES.in_context[SEQUENCES.prompts.index(prompt)]
    assert shown.prompts[0].startswith(f"{prompt}{answer} .")
    assert encode(toy, shown).prompts[0].in_context == (
        encode(toy, shown.without_demonstrations()).prompts[0].in_context
    )
