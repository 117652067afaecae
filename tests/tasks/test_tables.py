"""Tasks from tables and datasets, and as lm-evaluation-harness reads them."""

import dataclasses
import json

import architectures
import datasets
import numpy as np
import pandas as pd
import pytest

import tl_truncate as tlt

ROWS = [
    {"q": "The capital of France is", "a": " Paris", "g": " the", "extra": 1},
    {"q": "The country of Rome is", "a": " Italy", "g": " a", "extra": 2},
    {"q": "Mary gave a drink to", "a": " John", "g": " the", "extra": 3},
]
COLUMNS = dict(prompt="q", in_context="a", global_="g")


def same(task, rows=ROWS, global_=None):
    assert list(task.prompts) == [row["q"] for row in rows]
    assert list(task.in_context) == [row["a"] for row in rows]
    assert list(task.global_) == [global_ or row["g"] for row in rows]


def test_from_a_frame_with_columns_of_any_name():
    frame = pd.DataFrame(ROWS, index=[7, 7, 7])
    same(tlt.Task.from_frame(frame, **COLUMNS))
    same(tlt.Task.from_frame(frame, prompt="q", in_context="a", global_=" the"), global_=" the")
    assert tlt.Task.from_frame(frame, **COLUMNS).name == "frame"
    assert tlt.Task.from_frame(frame, **COLUMNS, name="facts", scoring="sequence").scoring == "sequence"


def test_a_column_goes_before_a_text():
    frame = pd.DataFrame(ROWS).rename(columns={"g": " the"})
    same(tlt.Task.from_frame(frame, prompt="q", in_context="a", global_=" the"))


@pytest.mark.parametrize("ending", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_from_a_file(tmp_path, ending):
    frame = pd.DataFrame([{**row, "q": row["q"]} for row in ROWS])
    path = tmp_path / f"facts.{ending}"
    write = {
        "csv": lambda: frame.to_csv(path, index=False),
        "tsv": lambda: frame.to_csv(path, sep="\t", index=False),
        "json": lambda: frame.to_json(path, orient="records"),
        "jsonl": lambda: frame.to_json(path, orient="records", lines=True),
        "parquet": lambda: frame.to_parquet(path),
    }
    write[ending]()
    task = tlt.Task.from_dataset(path, **COLUMNS)
    same(task)
    assert task.name == "facts"
    same(tlt.Task.from_dataset(str(path), **COLUMNS, name="x"))


def test_rows_with_a_field_too_many_are_no_rows(tmp_path):
    """pandas would take the first field of each for an index, and the answers would be the prompt's rest."""
    path = tmp_path / "facts.csv"
    path.write_text("q,a,g\nWhen Mary went, John gave a drink to, Mary, the\n")
    with pytest.raises(ValueError, match=r"facts\.csv must hold a table .*more fields than the header"):
        tlt.Task.from_dataset(path, **COLUMNS)


def test_a_quotation_mark_in_a_tsv_is_a_letter(tmp_path):
    path = tmp_path / "facts.tsv"
    path.write_text('q\ta\tg\n"Yes\t John\t the\nParis is\t Rome\t the\nTo "go\t Mary\t the\n')
    task = tlt.Task.from_dataset(path, **COLUMNS)
    assert list(task.prompts) == ['"Yes', "Paris is", 'To "go']
    path.write_text('q\ta\tg\n"Yes"\t John\t the\n')
    with pytest.raises(ValueError, match=r"a field in quotation marks.*write the file as \.csv"):
        tlt.Task.from_dataset(path, **COLUMNS)


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_texts_stay_what_they_are(tmp_path, ending):
    """No number, date or gap is read into a text."""
    rows = [{"q": "1", "a": " 007", "g": " NA"}, {"q": "2024-05-01", "a": " None", "g": " 1.50"}]
    path = tmp_path / f"odd.{ending}"
    frame = pd.DataFrame(rows)
    frame.to_csv(path, index=False) if ending == "csv" else frame.to_json(
        path, orient="records", lines=True
    )
    same(tlt.Task.from_dataset(path, **COLUMNS), rows)


def test_from_a_dataset():
    dataset = datasets.Dataset.from_list(ROWS)
    same(tlt.Task.from_dataset(dataset, **COLUMNS))
    several = datasets.DatasetDict(train=dataset.select([0]), test=dataset)
    task = tlt.Task.from_dataset(several, split="test", **COLUMNS)
    same(task)
    assert task.name == "test"
    drawn = tlt.Task.from_dataset(dataset, n=2, seed=1, **COLUMNS)
    assert len(drawn) == 2
    assert drawn.hash == tlt.Task.from_dataset(dataset, n=2, seed=1, **COLUMNS).hash
    places = [dataset["q"].index(prompt) for prompt in drawn.prompts]
    assert places == sorted(places)


def test_a_name_on_the_hub_is_read_by_datasets(monkeypatch):
    asked = []

    def load_dataset(name, *, split):
        asked.append((name, split))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task = tlt.Task.from_dataset("someone/facts", split="validation", **COLUMNS)
    assert asked == [("someone/facts", "validation")]
    assert task.name == "facts"


FRAME = pd.DataFrame(ROWS)
BAD = {
    "a column that is not there": (
        lambda: tlt.Task.from_frame(FRAME, prompt="question", in_context="a", global_="g"), ValueError,
        "The frame must have the columns question, a, g; question missing among q, a, g, extra. Name them"),
    "a text without its space": (
        lambda: tlt.Task.from_frame(FRAME, prompt="q", in_context="a", global_="the"), ValueError,
        r"the missing among .* A text for all prompts begins with a space: global_=' the'"),
    "a column that is there twice": (
        lambda: tlt.Task.from_frame(pd.concat([FRAME, FRAME[["a"]]], axis=1), **COLUMNS), ValueError,
        "Each column of the frame must be there once, got 'a' twice"),
    "a gap": (
        lambda: tlt.Task.from_frame(FRAME.assign(a=[" x", None, " y"]), **COLUMNS), TypeError,
        "The in-context answer of prompt 1 must be text, got"),
    "an answer without its space": (
        lambda: tlt.Task.from_frame(FRAME.assign(a=["Paris", " b", " c"]), **COLUMNS), ValueError,
        "An answer must begin with a space where the prompt ends in a word, got 'Paris'"),
    "no rows": (lambda: tlt.Task.from_frame(FRAME.head(0), **COLUMNS), ValueError, "at least one prompt"),
    "a split of one dataset": (
        lambda: tlt.Task.from_dataset(datasets.Dataset.from_list(ROWS), split="test", **COLUMNS), ValueError,
        "A dataset that is one split must be given without split, got 'test'"),
    "a split that is not there": (
        lambda: tlt.Task.from_dataset({"train": 1, "test": 2}, split="dev", **COLUMNS), ValueError,
        "split must be one of train, test, got 'dev'"),
    "several splits and no choice": (
        lambda: tlt.Task.from_dataset({"train": 1, "test": 2}, **COLUMNS), ValueError,
        "split must be one of train, test, got None"),
    "a hub's name without a split": (
        lambda: tlt.Task.from_dataset("openai/gsm8k", **COLUMNS), ValueError,
        "A dataset on the hub must be given with its split, got 'openai/gsm8k' alone"),
    "a stream": (
        lambda: tlt.Task.from_dataset(datasets.Dataset.from_list(ROWS).to_iterable_dataset(), **COLUMNS),
        TypeError, "must be a datasets.Dataset, a file or a name on the hub, got IterableDataset. Of one that"),
    "more rows than there are": (
        lambda: tlt.Task.from_dataset(datasets.Dataset.from_list(ROWS), n=4, **COLUMNS), ValueError,
        "n must be at most 3, the rows of dataset, got 4"),
    "no row": (
        lambda: tlt.Task.from_dataset(datasets.Dataset.from_list(ROWS), n=0, **COLUMNS), ValueError,
        "n must be an integer from 1 up, got 0"),
    "a file that is not there": (
        lambda: tlt.Task.from_dataset("./nowhere.csv", **COLUMNS), FileNotFoundError,
        "The dataset's file must exist, got nowhere.csv"),
    "a file of another kind": (
        lambda: tlt.Task.from_dataset("./nowhere.xlsx", **COLUMNS), FileNotFoundError,
        "must be a file that ends in .csv, .tsv, .json, .jsonl, .parquet, or a name on the hub, got"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    call, kind, wording = BAD[case]
    with pytest.raises(kind, match=wording):
        call()


def test_a_split_of_a_file(tmp_path):
    FRAME.to_csv(tmp_path / "facts.csv")
    with pytest.raises(ValueError, match="A file must be given without split, got 'test'"):
        tlt.Task.from_dataset(tmp_path / "facts.csv", split="test", **COLUMNS)


def test_a_file_that_is_no_table(tmp_path):
    (tmp_path / "facts.jsonl").write_text("nothing")
    with pytest.raises(ValueError, match=r"facts\.jsonl must hold a table of rows, but"):
        tlt.Task.from_dataset(tmp_path / "facts.jsonl", **COLUMNS)


class TestToLmEval:
    @pytest.fixture(scope="class")
    def task(self):
        rows = [
            ("When Mary and John went to the store , Mary gave a drink to", " John", " the"),
            ("Paris is in", " France", " the"),
            ("The capital of Italy is", " Rome", " a"),
            ("London is {{of}} the", " country", " store"),
            ('Rome "is" \\ in', " Italy", " the"),
            ("The store is in", " London", " a"),
        ]
        prompts, one, other = zip(*rows, strict=True)
        return tlt.Task("facts", prompts, one, other, description="of the tests\nin two lines")

    @pytest.mark.parametrize("scoring", ["token", "sequence"])
    def test_the_harness_finds_what_we_find(self, shared, task, tmp_path, scoring):
        """Without a tokenizer's BOS: acc is the sign of the logit difference, and whether it comes first."""
        pytest.importorskip("lm_eval")
        model = architectures.with_tokenizer(shared("bridge", "neox-parallel"))
        task = dataclasses.replace(task, scoring=scoring)
        if scoring == "sequence":
            task = dataclasses.replace(
                task, in_context=[f"{answer} is in" for answer in task.in_context]
            )
        task.to_lm_eval(tmp_path / "facts")
        cut = tlt.Cut("blocks.1.mlp.W_out", 0.25)
        found = tlt.evals.benchmark(
            model, cut, tasks=["facts", "facts_greedy"], include_path=tmp_path / "facts", progress=False
        )
        scores = tlt.evaluate(model, task, cut, prepend_bos=False, progress=False)
        for side, own in (("uncut", scores.baseline.frame), ("cut", scores.frame)):
            samples = found.samples.set_index(["task", "metric"])[side]
            assert list(samples["facts", "acc"] == 1) == list(own["logit_diff"] > 0)
            log_p = samples["facts_greedy", "perplexity"].to_numpy()
            assert np.exp(log_p) == pytest.approx(own["p_in_context"].to_numpy(), abs=1e-5)
            assert list(samples["facts_greedy", "acc"]) == list(own["accuracy"])
        told = found.frame.set_index(["task", "metric"])["uncut"]
        assert told["facts_greedy", "acc"] == float(scores.baseline.accuracy)

    def test_the_files(self, task, tmp_path):
        data, choice, greedy = task.to_lm_eval(tmp_path / "new" / "folder")
        rows = [json.loads(line) for line in data.read_text().splitlines()]
        assert [row["prompt"] for row in rows] == list(task.prompts)
        assert rows[0]["choices"] == [" the", " John"]  # of answers as probable the first is taken
        assert rows[0]["target"] == 1
        assert choice.read_text().startswith("# of the tests\n# in two lines\n")
        assert greedy.name == "facts_greedy.yaml"
        assert sorted(path.name for path in data.parent.iterdir()) == [
            "facts.jsonl", "facts.yaml", "facts_greedy.yaml"
        ]  # fmt: skip

    def test_refused(self, task, tmp_path):
        task.to_lm_eval(tmp_path)
        with pytest.raises(
            FileExistsError, match=r"must not hold the task yet, got .*facts\.jsonl, which exists"
        ):
            task.to_lm_eval(tmp_path)
        with pytest.raises(ValueError, match=r"name must be of letters, digits, .* got 'a task'"):
            dataclasses.replace(task, name="a task").to_lm_eval(tmp_path / "other")
        numbers = tlt.Task("numbers", [[1, 2]], [[3]], [[4]])
        with pytest.raises(
            ValueError, match="A task must be in text to be an lm-eval task, got 'numbers'"
        ):
            numbers.to_lm_eval(tmp_path / "other")
        ends = tlt.Task("ends", ["Mary is in\n"], ["Rome"], ["the"])
        with pytest.raises(
            ValueError, match="A prompt must not end in white space to be an lm-eval task"
        ):
            ends.to_lm_eval(tmp_path / "other")
        assert not (tmp_path / "other").exists()
