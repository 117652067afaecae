"""Tasks of the harness, uncut and cut: its own numbers, kept task by task, and what a page says of them."""

import json
import random

import harness
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import tl_truncate as tlt
from tl_truncate.cli import app
from tl_truncate.evals import asking
from tl_truncate.statistics import estimate_share_change

lm_eval = pytest.importorskip("lm_eval")
HFLM = pytest.importorskip("lm_eval.models.huggingface").HFLM
CUTS = {"blocks.1.mlp.W_in": 0.5, "blocks.2.mlp.W_out": 0.25}
CHOSEN = [tlt.Cut(site, keep) for site, keep in CUTS.items()]
CLOSE = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return harness.save("neox-parallel", tmp_path_factory.mktemp("models") / "neox", chat=True)


@pytest.fixture(scope="module")
def model(folder):
    return tlt.load_model(str(folder))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    return harness.write_tasks(tmp_path_factory.mktemp("tasks"))


def by_the_harness(lm, tasks, names, **options):
    """What `lm_eval` itself finds: values of samples by task, filter, metric and sample; and numbers."""
    from lm_eval import evaluator
    from lm_eval.tasks import TaskManager

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluator, "add_env_info", lambda results: None)  # asks pip, git and the compiler
        patch.setattr(evaluator, "get_git_commit_hash", lambda: "")
        manager = TaskManager(include_path=str(tasks), include_defaults=False)
        found = lm_eval.simple_evaluate(
            model=lm, tasks=names, task_manager=manager, bootstrap_iters=0, **options
        )
    samples = {
        (task, row["filter"], metric, row["doc_id"]): row[metric]
        for task, rows in found["samples"].items()
        for row in rows
        for metric in row["metrics"]
    }
    return samples, {**found["results"], **found.get("groups", {})}


def same(found, reference, side):
    """The largest difference to the harness' own samples and numbers."""
    samples, numbers = reference
    own = found.samples
    assert len(own) == len(samples)
    worst = 0.0
    for row in own.itertuples():
        value = samples[row.task, row.filter, row.metric, row.doc_id]
        first = value[0] if isinstance(value, (tuple, list)) else value
        worst = max(worst, abs(getattr(row, side) - first) / max(1.0, abs(first)))
    for row in found.frame.itertuples():
        value = numbers[row.task][f"{row.metric},{row.filter}"]
        worst = max(worst, abs(getattr(row, side) - value) / max(1.0, abs(value)))
    return worst


@pytest.fixture(scope="module")
def found(model, tasks):
    return tlt.evals.benchmark(model, CHOSEN, tasks=harness.NAMES, include_path=tasks, progress=False)


def test_its_numbers_are_the_harness_own(found, folder, tasks):
    lm = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=4)
    reference = by_the_harness(lm, tasks, harness.NAMES)
    assert same(found, reference, "uncut") < CLOSE
    edited = HFLM(pretrained=harness.edited("neox-parallel", folder, CUTS), tokenizer=lm.tokenizer)
    reference = by_the_harness(edited, tasks, harness.NAMES)
    assert same(found, reference, "cut") < CLOSE
    assert set(found.frame["metric"]) >= {
        "acc",
        "acc_norm",
        "exact_match",
        "perplexity",
        "bits_per_byte",
    }


@pytest.mark.parametrize(
    "options",
    [
        dict(num_fewshot=1),
        dict(apply_chat_template=True, num_fewshot=1),
        dict(apply_chat_template=True, system_instruction="Mary is in Rome"),
        dict(limit=5, gen_kwargs={"max_gen_toks": 2}),
        dict(limit=0.5),
    ],
)
def test_as_it_is_asked(model, folder, tasks, options):
    names = ["words_choice", "words_said", "words_greedy"]
    lm = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=4)
    reference = by_the_harness(lm, tasks, names, **options)
    own = tlt.evals.benchmark(model, tasks=names, include_path=tasks, progress=False, **options)
    assert same(own, reference, "uncut") < CLOSE
    assert list(own.frame["shots"].unique()) == [options.get("num_fewshot", 0)]
    assert own.frame["change"].isna().all()


def test_a_group_has_the_harness_number_and_an_interval(model, folder, tasks):
    lm = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=4)
    _, numbers = by_the_harness(lm, tasks, ["words_group"])
    found = tlt.evals.benchmark(model, CHOSEN, tasks=["words_group"], include_path=tasks, progress=False)
    frame = found.frame
    assert list(frame["task"]) == [
        "words_choice",
        "words_choice",
        "words_greedy",
        "words_greedy",
        "words_group",
    ]
    row = frame[frame["group"]].iloc[0]
    assert row["uncut"] == pytest.approx(numbers["words_group"]["acc,none"], abs=CLOSE)
    assert row["n"] == 24
    assert row["change_low"] <= row["change"] <= row["change_high"]


def test_a_group_of_which_one_task_lacks_the_metric(model, folder, tmp_path):
    tasks = harness.write_tasks(tmp_path)
    (tasks / "mixed.yaml").write_text(
        "group: mixed\ntask: [words_choice, words_greedy, words_said]\n"
        "aggregate_metric_list: [{metric: acc, aggregation: mean, weight_by_size: true}]\n"
    )
    lm = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=4)
    _, numbers = by_the_harness(lm, tasks, ["mixed"])
    found = tlt.evals.benchmark(model, CHOSEN, tasks=["mixed"], include_path=tasks, progress=False)
    row = found.frame[found.frame["group"]].iloc[0]
    assert row["uncut"] == pytest.approx(numbers["mixed"]["acc,none"], abs=CLOSE)
    assert row["n"] == 24
    assert row["change_low"] <= row["change"] <= row["change_high"]


def test_changes_are_paired(found):
    frame = found.frame.set_index(["task", "metric"])
    own = (
        found.samples[found.samples["metric"] == "acc"]
        .query("task == 'words_choice'")
        .drop_duplicates("doc_id")
    )
    wanted = estimate_share_change(own["cut"] - own["uncut"])
    row = frame.loc[("words_choice", "acc")]
    assert (row["change"], row["change_low"], row["change_high"]) == (
        float(wanted),
        wanted.low,
        wanted.high,
    )
    assert frame.loc[("words_rolling", "word_perplexity"), "change_low"] < 0
    assert frame["q"].notna().sum() == frame["change_low"].notna().sum() == len(frame)


def test_it_prints_nothing_and_leaves_the_random_state(model, tasks, capfd):
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    tlt.evals.benchmark(model, tasks=["words_said"], include_path=tasks, limit=2, progress=False)
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert "".join(capfd.readouterr()) == ""


class TestTheRunFolder:
    NAMES = ("words_choice", "words_said")

    def run(self, model, where, place, cuts=CHOSEN, **options):
        options = dict(tasks=self.NAMES, limit=6, progress=False) | options
        return tlt.evals.benchmark(model, cuts, include_path=where, run_dir=place, **options)

    def test_it_goes_on_task_by_task(self, model, tasks, tmp_path, monkeypatch):
        whole = self.run(model, tasks, tmp_path / "whole")
        asked, real = [], asking.ask

        def stopping(lm, name, variant, *rest, **options):
            if len(asked) == 3:
                raise KeyboardInterrupt
            asked.append((name, variant))
            return real(lm, name, variant, *rest, **options)

        monkeypatch.setattr("tl_truncate.evals.paired.ask", stopping)
        with pytest.raises(KeyboardInterrupt, match="the same call with the same folder goes on"):
            self.run(model, tasks, tmp_path / "run")
        part = tlt.evals.Benchmarks.load(tmp_path / "run")
        assert part.tasks == ("words_choice",)
        assert not part.finished
        asked.clear()
        again = self.run(model, tasks, tmp_path / "run")
        assert asked == [("words_said", "cut")]
        assert again.finished
        assert again.frame.equals(whole.frame)
        assert tlt.evals.Benchmarks.load(tmp_path / "run").frame.equals(whole.frame)
        asked.clear()
        self.run(model, tasks, tmp_path / "run")
        assert asked == []

    def test_within_a_task_answers_are_kept(self, model, tasks, tmp_path, monkeypatch):
        place = tmp_path / "run"
        self.run(model, tasks, place)
        (place / "settings.jsonl").unlink()
        kind = tlt.evals.TruncatedLM
        monkeypatch.setattr(kind, "_model_call", None)
        monkeypatch.setattr(kind, "_model_generate", None)
        assert self.run(model, tasks, place).finished

    def test_further_tasks_join(self, model, tasks, tmp_path):
        self.run(model, tasks, tmp_path, tasks=["words_choice"])
        assert self.run(model, tasks, tmp_path, tasks=["words_said"]).tasks == ("words_said",)
        assert tlt.evals.Benchmarks.load(tmp_path).tasks == self.NAMES

    @pytest.mark.parametrize(
        ("change", "differs"),
        [
            (dict(cuts=[tlt.Cut("blocks.1.mlp.W_in", 0.25)]), "cuts"),
            (dict(num_fewshot=1), "num_fewshot"),
            (dict(limit=5), "limit"),
            (dict(apply_chat_template=True), "apply_chat_template"),
            (dict(gen_kwargs={"max_gen_toks": 3}), "gen_kwargs"),
            (dict(add_bos_token=True), "tokenizer"),
            (dict(max_length=32), "max_length"),
        ],
    )
    def test_what_differs_is_another_run(self, model, tasks, tmp_path, change, differs):
        self.run(model, tasks, tmp_path, tasks=["words_choice"])
        with pytest.raises(ValueError, match=rf"must be of the same model, .* differs in: .*{differs}"):
            self.run(model, tasks, tmp_path, **dict(tasks=["words_choice"]) | change)

    def test_other_settings_of_generation_are_another_run(self, model, tasks, tmp_path, monkeypatch):
        self.run(model, tasks, tmp_path, tasks=["words_said"])
        monkeypatch.setattr(model.original_model.generation_config, "repetition_penalty", 1.8)
        with pytest.raises(ValueError, match=r"differs in: .*generation"):
            self.run(model, tasks, tmp_path, tasks=["words_said"])

    def test_other_weights_are_another_run(self, model, folder, tasks, tmp_path):
        self.run(model, tasks, tmp_path, tasks=["words_choice"])
        other = tlt.load_model(str(folder), dtype="bfloat16")
        with pytest.raises(ValueError, match=r"differs in: .*weights_hash"):
            self.run(other, tasks, tmp_path, tasks=["words_choice"])

    def test_changed_data_are_another_run(self, model, tmp_path, monkeypatch):
        tasks = harness.write_tasks(tmp_path / "tasks")
        real = asking.ask

        def only_uncut(lm, name, variant, *rest, **options):
            if variant == "cut":
                raise KeyboardInterrupt
            return real(lm, name, variant, *rest, **options)

        with monkeypatch.context() as patch:
            patch.setattr("tl_truncate.evals.paired.ask", only_uncut)
            with pytest.raises(KeyboardInterrupt):
                self.run(model, tasks, tmp_path / "run", tasks=["words_choice"])
        data = tasks / "words.jsonl"
        data.write_text(data.read_text().replace("store", "drink"))
        with pytest.raises(ValueError, match=r"differs in: .*tasks"):
            self.run(model, tasks, tmp_path / "run", tasks=["words_choice"])

    @pytest.mark.parametrize("change", ["a question", "an example", "a helper", "what is not asked"])
    def test_a_finished_task_of_which_something_changed(self, model, tmp_path, change):
        tasks = harness.write_tasks(tmp_path / "tasks")
        front = tasks / "front.jsonl"
        front.write_text((tasks / "words.jsonl").read_text())
        (tasks / "helper.py").write_text("WORD = ' the'\n")
        (tasks / "utils.py").write_text(
            "from pathlib import Path\n\n\ndef target(doc):\n"
            "    space = {}\n"
            "    exec((Path(__file__).parent / 'helper.py').read_text(), space)\n"
            "    return space['WORD']\n"
        )
        head = harness.HEAD.format(name="made", data=tasks / "words.jsonl")
        head = head.replace('"}', f'", train: "{front}"}}').replace(
            "test_split", "training_split: train\ntest_split"
        )
        (tasks / "made.yaml").write_text(
            head + "output_type: loglikelihood\ndoc_to_text: q\ndoc_to_target: !function utils.target\n"
        )
        options = dict(tasks=["made"], num_fewshot=1, limit=6)
        first = self.run(model, tasks, tmp_path / "run", **options)
        file = tasks / {"a helper": "helper.py", "an example": "front.jsonl"}.get(change, "words.jsonl")
        lines = file.read_text().splitlines()
        lines[-1 if change == "what is not asked" else 0] = lines[0].replace("the", "Rome", 1)
        file.write_text("\n".join(lines) + "\n")
        if change == "what is not asked":
            again = self.run(model, tasks, tmp_path / "run", **options)
            assert again.frame.equals(first.frame)
            return
        with pytest.raises(ValueError, match=r"differs in: .*tasks"):
            self.run(model, tasks, tmp_path / "run", **options)


def test_tasks_that_draw_draw_what_the_harness_draws(model, folder, tmp_path):
    """When they are loaded, when questions are made, and when they are asked; each as if it were alone."""
    tasks = harness.write_tasks(tmp_path)
    (tasks / "utils.py").write_text(
        "import random\n\n\ndef text(doc):\n    return doc['q'] + random.choice([' Mary', ' John', ' Rome'])\n"
        "\n\ndef chosen(dataset):\n    return dataset.select(random.sample(range(len(dataset)), 6))\n"
    )
    rest = "output_type: loglikelihood\ndoc_to_target: a\n"
    for name, own in (
        ("drawn_documents", "process_docs: !function utils.chosen\ndoc_to_text: q\n"),
        ("drawn_texts", "doc_to_text: !function utils.text\n"),
    ):
        head = harness.HEAD.format(name=name, data=tasks / "words.jsonl")
        (tasks / f"{name}.yaml").write_text(head + own + rest)
    lm = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=4)
    names = ["drawn_documents", "drawn_texts"]
    found = tlt.evals.benchmark(
        model, CHOSEN, tasks=names, include_path=tasks, run_dir=tmp_path / "run", progress=False
    )
    frame = found.samples
    for name in names:
        samples, _ = by_the_harness(lm, tasks, [name])
        own = frame[frame["task"] == name]
        assert len(own) == len(samples)
        for row in own.itertuples():
            value = samples[row.task, row.filter, row.metric, row.doc_id]
            assert abs(row.uncut - value) < CLOSE * max(1.0, abs(value))


@pytest.fixture(scope="module")
def controlled(model, tasks, tmp_path_factory):
    place = tmp_path_factory.mktemp("controlled") / "run"
    found = tlt.evals.benchmark(
        model, CHOSEN, tasks=["words_choice", "words_rolling"], include_path=tasks, controls=True, draws=3,
        seed=7, run_dir=place, progress=False,
    )  # fmt: skip
    return found, place


def test_controls_are_drawn_several_times(controlled, model, tasks):
    found, _ = controlled
    table = found.controls.set_index(["task", "metric", "control"])
    assert set(table["draws"]) == {3}
    assert {kind for *_, kind in table.index} == {"RandomSubspace", "NormMatched"}
    own = [tlt.RandomSubspace(cut.site, cut.keep, 8) for cut in CHOSEN]
    alone = tlt.evals.benchmark(model, own, tasks=["words_choice"], include_path=tasks, progress=False)
    drawn = next(
        each
        for each in found.answered
        if each.variant == "RandomSubspace 1" and each.name == "words_choice"
    )
    assert [each.value for each in drawn.numbers] == list(alone.frame["cut"])
    row = table.loc[("words_choice", "acc", "RandomSubspace")]
    assert row["low"] <= row["difference"] <= row["high"]
    assert set(found.controls["verdict"]) <= {"more", "less", "alike", "none"}


def test_the_page_says_it_all(controlled, tmp_path):
    pytest.importorskip("plotly")
    found, place = controlled
    text = tlt.write_report(place, tmp_path / "report.html").read_text()
    assert text == tlt.write_report(found, tmp_path / "again.html").read_text()
    for part in (
        "words_choice",
        "word_perplexity",
        "random subspace",
        "of lm-evaluation-harness",
        "samples changed",
    ):
        assert part in text, part


def test_the_miniature_of_sums(model):
    """With the paper's numbers of examples in front; what does not fit is said."""
    for shots in (1, 2, 4, 8):
        found = tlt.evals.benchmark(
            model, CHOSEN[:1], tasks=["tl_truncate_sums"], num_fewshot=shots, limit=3,
            gen_kwargs={"max_gen_toks": 4}, progress=False,
        )  # fmt: skip
        assert list(found.frame["filter"]) == ["strict-match", "flexible-extract"]
        assert list(found.frame["shots"]) == [shots, shots]
        assert list(found.frame["n"]) == [3, 3]
        assert any("Left truncation applied" in note for note in found.notes)
    rows = [json.loads(line) for line in (tlt.evals.SUMS / "sums.jsonl").read_text().splitlines()]
    assert len({row["question"] for row in rows}) == len(rows) == 72
    for row in rows:
        *_, last = row["answer"].replace("\n#### ", " = ").rstrip(".").split(" = ")
        assert f" {last}" in row["answer"].split("\n")[0].replace(".", " ")


def test_the_command_writes_a_folder_and_goes_on(folder, tasks, tmp_path):
    out = tmp_path / "out"
    arguments = ["lm-eval", "-m", str(folder), "--tasks", "words_choice,words_said", "--include-path", str(tasks),
                 "--cut", "blocks.1.mlp.W_in=0.5", "--limit", "6", "--num-fewshot", "1", "--out", str(out)]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "words_choice" in done.stdout
    assert sorted(path.name for path in out.iterdir()) == [
        "record.json",
        "run",
        "samples.csv",
        "table.csv",
    ]
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2
    assert "without --resume" in again.stderr
    more = CliRunner().invoke(app, [*arguments, "--resume", "--json"])
    assert more.exit_code == 0, more.output
    data = json.loads(more.stdout)
    own = tlt.evals.benchmark(
        tlt.load_model(str(folder)), tlt.Cut("blocks.1.mlp.W_in", 0.5), tasks=["words_choice", "words_said"],
        include_path=tasks, limit=6, num_fewshot=1, progress=False,
    )  # fmt: skip
    assert [row["cut"] for row in data["scores"]] == list(own.frame["cut"])
    page = CliRunner().invoke(app, ["report", str(out)])
    assert page.exit_code == 0, page.output
