"""The command line: what it prints, what it writes, and how it ends."""

import json
import subprocess
import sys

import architectures
import pandas as pd
import pytest
from typer.testing import CliRunner

import tl_truncate as tlt
from tl_truncate.cli import app
from tl_truncate.runs.files import rows_of

PROMPT = "When Mary and John went to the store, John gave a ring to"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(architectures.save_folder("gpt2", tmp_path_factory.mktemp("models") / "gpt2"))


@pytest.fixture
def task_file(tmp_path, drinks):
    drinks.save(tmp_path / "drinks.json")
    return str(tmp_path / "drinks.json")


def run(*arguments, code: int = 0):
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code == code, result.output + result.stderr
    return result


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["demo"],
        ["evaluate"],
        ["export"],
        ["spectrum"],
        ["sites"],
        ["sweep"],
        ["plan"],
        ["search"],
        ["merge"],
        ["learn"],
        ["attribute"],
        ["decompose"],
        ["dynamics"],
        ["toy"],
        ["toy", "recall"],
        ["toy", "memory"],
        ["toy", "gradients"],
        ["toy", "nano-pythia"],
        ["side-effects"],
        ["lm-eval"],
        ["plot"],
        ["cache"],
        ["cache", "clear"],
    ],
)
def test_every_command_has_help(command):
    text = run(*command, "--help").stdout
    assert "Usage" in text
    if command and command[0] != "cache" and command != ["toy"]:
        assert "Example" in text


def test_evaluate_as_json_is_the_library(folder, task_file, drinks, toy):
    result = run("evaluate", "-m", folder, "--task", task_file, "--cut", "blocks.1.mlp.W_in=0.3",
                 "--cut", "blocks.2.attn.W_V=5", "--controls", "--seed", 4, "--json")  # fmt: skip
    data = json.loads(result.stdout)
    assert list(data) == ["cut", "random subspace", "norm matched"]
    cuts = [tlt.Cut("blocks.1.mlp.W_in", 0.3), tlt.Cut("blocks.2.attn.W_V", 5)]
    model = tlt.load_model(folder)
    expected = tlt.evaluate(model, drinks, cuts, seed=4)
    assert data["cut"]["summary"] == expected.to_json()["summary"]
    assert [tlt.Cut.from_json(cut) for cut in data["cut"]["record"]["cuts"]] == cuts
    kinds = {cut["kind"] for cut in data["norm matched"]["record"]["cuts"]}
    assert kinds == {"NormMatched"}


def test_evaluate_behind_demonstrations(folder, tmp_path):
    task = pairs_in(tmp_path)
    arguments = ["evaluate", "-m", folder, "--task", tmp_path / "pairs.json", "--seed", 4, "--json"]
    data = json.loads(run(*arguments, "--shots", 2).stdout)
    shown = task.with_demonstrations(2, seed=4)
    expected = tlt.evaluate(tlt.load_model(folder), shown, seed=4)
    assert data["uncut"]["summary"] == expected.to_json()["summary"]
    assert data["uncut"]["record"]["task_hash"] == shown.hash
    assert "k must be an integer from 0 up" in run(*arguments, "--shots", -1, code=2).stderr


def test_sweep_against_demonstrations(folder, tmp_path):
    task, out = pairs_in(tmp_path), tmp_path / "out"
    arguments = ["sweep", "-m", folder, "--task", tmp_path / "pairs.json", "--site", "blocks.1.mlp.W_out",
                 "--keep", "0.5", "--seed", 4, "--out", out]  # fmt: skip
    for wrong in ("some", "1,,2", "-1"):
        assert "--shots must be numbers with commas" in run(*arguments, "--shots", wrong, code=2).stderr
    rows = json.loads(run(*arguments, "--shots", "0,2", "--json").stdout)
    cut = tlt.Cut("blocks.1.mlp.W_out", 0.5)
    for row, k in zip(rows, (0, 2), strict=True):
        shown = task.with_demonstrations(k, 4, reserve=2)
        scores = tlt.evaluate(tlt.load_model(folder), shown, cut, progress=False)
        assert (row["task"], row["shots"]) == (f"pairs-{k}-shot", k)
        assert row["p_in_context"] == pytest.approx(float(scores.p_in_context), abs=1e-6)
    assert (out / "shots.png").read_bytes()[:4] == b"\x89PNG"
    run("plot", out, "--figure", "shots", "--metric", "p_global", "--out", tmp_path / "shots.svg")
    assert (tmp_path / "shots.svg").read_text().startswith("<?xml")
    plot = ["plot", out, "--figure", "shots", "--task", "pairs-0-shot", "--out", "x.png"]
    assert "without --task and --site" in run(*plot, code=2).stderr


def test_as_a_process_only_the_result_is_on_stdout(folder, task_file):
    command = [
        sys.executable,
        "-m",
        "tl_truncate",
        "evaluate",
        "-m",
        folder,
        "--task",
        task_file,
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert list(json.loads(done.stdout)) == ["uncut"]
    wrong = subprocess.run([*command, "--cut", "nonsense"], capture_output=True, text=True)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "error: A cut must read SITE=KEEP" in wrong.stderr


def test_evaluate_shows_a_table(folder, task_file, tmp_path):
    tlt.Cuts([tlt.Ablated("blocks.1.mlp.W_out")]).save(tmp_path / "cuts.json")
    text = run("evaluate", "-m", folder, "--task", task_file, "--cuts", tmp_path / "cuts.json").stdout
    for word in ("p_in_context", "uncut", "change", "4 prompts", "raw weights"):
        assert word in " ".join(text.split())


def test_spectrum(folder):
    result = run("spectrum", "-m", folder, "--site", "blocks.1.mlp.W_out", "--keep", "Energy(0.5)",
                 "--tokens", 2, "--json")  # fmt: skip
    data = json.loads(result.stdout)
    spec = tlt.spectrum(tlt.load_model(folder), "blocks.1.mlp.W_out")
    assert data["singular_values"] == spec.S.tolist()
    assert data["keeps"][0]["rank"] == len(spec.kept(tlt.Energy(0.5)))
    assert len(data["tokens"]) == 10 * 2 * 2
    text = run("spectrum", "-m", folder, "--site", "blocks.1.mlp.W_out", "--tokens", 2).stdout
    assert "32 components" in text.replace("\n", " ")
    assert "what is above noise" in text
    assert "what is outside the bulk" in text


def test_spectrum_of_a_circuit(folder, tmp_path):
    result = run("spectrum", "-m", folder, "--site", "blocks.1.attn.OV.2", "--tokens", 2, "--json")
    data = json.loads(result.stdout)
    spec = tlt.spectrum(tlt.load_model(folder), "blocks.1.attn.OV.2")
    assert data["singular_values"] == spec.S.tolist()
    assert [row["keep"] for row in data["keeps"]] == ["Fraction(rho=0.01)", "Fraction(rho=0.1)",
                                                      "Fraction(rho=0.5)"]  # fmt: skip
    run("spectrum", "-m", folder, "--site", "blocks.1.attn.QK.2", "--out", tmp_path / "out")
    assert (tmp_path / "out" / "spectrum.png").read_bytes()[:4] == b"\x89PNG"
    refused = run("spectrum", "-m", folder, "--site", "blocks.1.attn.OV", code=2).stderr
    assert "must be that of one head" in " ".join(refused.split())


def test_sites(folder):
    data = json.loads(run("sites", "-m", folder, "--json").stdout)
    assert data["blocks.2.mlp.W_in"] == [32, 48]
    assert len(data) == 3 * 6
    assert "0 to 2" in run("sites", "-m", folder).stdout


def test_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TL_TRUNCATE_CACHE", str(tmp_path))
    assert "0 spectra" in run("cache", "info").stdout
    assert "deleted" in run("cache", "clear").stdout


@pytest.mark.parametrize(
    ("arguments", "wording"),
    [
        (["evaluate", "-m", "FOLDER", "--cut", "blocks.1.mlp.W_in"], "must read SITE=KEEP"),
        (
            ["evaluate", "-m", "FOLDER", "--cut", "blocks.9.mlp.W_in=3", "--task", "TASK"],
            "must be in 0..2",
        ),
        (
            ["evaluate", "-m", "FOLDER", "--task", "nothing"],
            "--task must be one of ioi, facts",
        ),
        (["evaluate", "-m", "./nowhere"], "folder must exist"),
        (["spectrum", "-m", "FOLDER", "--site", "W_in"], "must read like"),
        (["spectrum", "-m", "FOLDER", "--site", "blocks.0.mlp.W_in", "--keep", "7.5"], "from 0 to 1"),
        (["evaluate"], "Missing option"),
        (["saw"], "No such command"),
    ],
)
def test_wrong_use_ends_with_2(folder, task_file, arguments, wording):
    places = {"FOLDER": folder, "TASK": task_file}
    result = run(*[places.get(each, each) for each in arguments], code=2)
    assert wording in " ".join(result.stderr.replace("│", " ").split())
    assert "Traceback" not in result.stderr


def test_the_demo_writes_a_table_a_record_and_a_picture(tmp_path, monkeypatch, drinks):
    """On a small model with few prompts; the real one is run by the README's first command."""
    from tl_truncate.cli import layer_effects as demo

    folder = architectures.save_folder("gpt2", tmp_path / "gpt2")
    monkeypatch.setattr(demo, "ioi", lambda **kwargs: drinks)
    facts = tlt.Task(
        "facts", ["The capital of France is", "The capital of Italy is"], [" Paris", " Rome"], " the"
    )
    monkeypatch.setattr(demo, "factual_recall", lambda **kwargs: facts)
    text = run("demo", "-m", folder, "--out", tmp_path / "out").stdout
    assert "uncut" in text
    assert "Largest rise of p(in-context): layer 2" in text.replace("\n", " ")
    import pandas as pd

    table = pd.read_csv(tmp_path / "out" / "effects.csv")
    assert len(table) == 2 * (3 + 2)
    assert set(table["kind"]) == {"Cut", "RandomSubspace"}
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["drinks"]["record"]["n_prompts"] == 4
    picture = (tmp_path / "out" / "effects.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000
    page = (tmp_path / "out" / "report.html").read_text()
    assert "layer 2, W_out" in page
    assert "random subspace" in page


def test_the_demo_asks_for_its_packages_before_it_works(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = run("demo", "-m", "no-such-model", "--out", tmp_path / "out", code=2)
    assert "pip install '.[plots]'" in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()


def test_report(folder, task_file, tmp_path):
    out = tmp_path / "sweep"
    run("sweep", "-m", folder, "--task", task_file, "--matrices", "W_out", "--keep", "0.5", "--out", out)
    written = run("report", out).stdout
    assert "report.html" in written
    assert "layer 1, W_out" in (out / "report.html").read_text()
    run("report", out, "--out", tmp_path / "elsewhere.html")
    assert (tmp_path / "elsewhere.html").read_text() == (out / "report.html").read_text()
    refused = run("report", tmp_path / "nothing", code=2).stderr
    assert "The folder must hold a run" in " ".join(refused.split())


def test_a_sweep_of_single_heads_has_no_picture(folder, task_file, tmp_path):
    out = tmp_path / "heads"
    arguments = ["--site", "blocks.0.attn.W_V.1", "--keep", "0.5", "--out", str(out)]
    result = run("sweep", "-m", folder, "--task", task_file, *arguments)
    assert "table.csv" in result.stdout
    assert "heatmap" not in result.stdout
    assert {path.name for path in out.iterdir()} == {"run", "table.csv"}


def test_sweep_plot_and_resume(folder, task_file, drinks, tmp_path):
    """Stopped with SIGKILL, resumed, read again and drawn: the table is the library's."""
    import os
    import signal
    import time

    out = tmp_path / "runs" / "drinks"
    arguments = ["sweep", "-m", folder, "--task", task_file, "--matrices", "W_in,W_out", "--keep", "0.1",
                 "--keep", "8", "--keep", "Energy(0.5)", "--out", str(out)]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "tl_truncate", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    lines = out / "run" / "settings.jsonl"
    while not lines.exists() and process.poll() is None:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    refused = run(*arguments, code=2)
    assert "must be new without resume" in refused.stderr
    result = run(*arguments, "--resume", "--json")
    model = tlt.load_model(folder)
    expected = tlt.sweep(
        model,
        drinks,
        sites=tlt.find_sites(model, ("W_in", "W_out")),
        keeps=[0.1, 8, tlt.Energy(0.5)],
        progress=False,
    )
    rows = json.loads(result.stdout)
    assert [(row["site"], row["rank"]) for row in rows] == list(
        zip(expected.frame["site"], expected.frame["rank"], strict=True)
    )
    values = [row["logit_diff_change"] for row in rows]
    assert values == pytest.approx(expected.frame["logit_diff_change"].tolist(), abs=1e-5)
    assert {each.name for each in out.iterdir()} == {"run", "table.csv", "heatmap.png"}
    shown = run(*arguments, "--resume").stdout
    assert "largest rises" in " ".join(shown.split())
    assert "test a pick on prompts of its own" in shown
    for figure in ("heatmap", "ranks"):
        run("plot", out, "--figure", figure, "--out", tmp_path / f"{figure}.svg")
        assert (tmp_path / f"{figure}.svg").read_text().startswith("<?xml")
    assert (
        "must be heatmap, ranks or shots"
        in run("plot", out, "--figure", "pie", "--out", "x.png", code=2).stderr
    )


def pairs_in(tmp_path):
    names = ["Mary", "John", "Paris", "London"]
    pairs = [(a, b) for a in names for b in names if a != b]
    task = tlt.Task("pairs", [f"When {a} and {b} went , {a} gave a drink to" for a, b in pairs],
                    [f" {b}" for _, b in pairs], " the")  # fmt: skip
    task.save(tmp_path / "pairs.json")
    return task


def test_learn_is_the_library_and_goes_on(folder, tmp_path):
    task, out = pairs_in(tmp_path), tmp_path / "mask"
    arguments = ["learn", "-m", folder, "--task", tmp_path / "pairs.json", "--layers", "1-2",
                 "--components", 8, "--steps", 12, "--out", out]  # fmt: skip
    data = json.loads(run(*arguments, "--json").stdout)
    model = tlt.load_model(folder)
    sites = tlt.find_sites(model, ("W_in", "W_out"), [1, 2])
    found = tlt.learn_mask(model, task, sites=sites, budget=8, steps=12, progress=False)
    assert data["cuts"] == [cut.to_json() for cut in found.cuts]
    assert data["summary"][0]["change"] == pytest.approx(float(found.change()), abs=1e-5)
    assert tlt.Cuts.load(out / "cuts.json") == found.cuts
    assert (
        pd.read_csv(out / "history.csv")["components"].tolist() == found.history["components"].tolist()
    )
    assert "must be new or empty without --resume" in run(*arguments, code=2).stderr
    assert "learned in 12 steps" in run(*arguments, "--resume").stdout
    assert run("report", out).stdout


def test_search_writes_cuts_that_side_effects_reads(folder, tmp_path):
    task = pairs_in(tmp_path)
    out = tmp_path / "search"
    arguments = ["search", "-m", folder, "--task", tmp_path / "pairs.json", "--layers", "1-2",
                 "--keep", "0.0", "--keep", "0.5", "--greedy", 2, "--out", out,
                 "--objective", "logit_diff", "--max-perplexity-ratio", "none"]  # fmt: skip
    data = json.loads(run(*arguments, "--json").stdout)
    model = tlt.load_model(folder)
    found = tlt.search(
        model,
        task,
        sites=tlt.find_sites(model, ("W_in", "W_gate", "W_out"), [1, 2]),
        keeps=[0.0, 0.5],
        greedy=2,
        objective="logit_diff",
        max_perplexity_ratio=None,
        progress=False,
    )
    assert data["cuts"] == [cut.to_json() for cut in found.cuts]
    assert data["summary"][0]["change"] == pytest.approx(float(found.change()), abs=1e-5)
    assert tlt.Cuts.load(out / "cuts.json") == found.cuts
    assert "must be new or empty without --resume" in run(*arguments, code=2).stderr
    assert "chosen for logit_diff" in run(*arguments, "--resume").stdout
    text = tmp_path / "text.txt"
    text.write_text("the store in Paris\n\nWhen Mary went to London\n")
    effects = run("side-effects", "-m", folder, "--cuts", out / "cuts.json", "--text", text, "--json")
    expected = tlt.side_effects(
        model, found.cuts, ["the store in Paris", "When Mary went to London"], progress=False
    )
    assert json.loads(effects.stdout)["summary"] == expected.to_json()["summary"]
    assert "at least one cut" in run("side-effects", "-m", folder, code=2).stderr


def test_attribute_writes_its_tables(folder, task_file, drinks, tmp_path):
    arguments = [
        "attribute",
        "-m",
        folder,
        "--task",
        task_file,
        "--keep",
        "0.9",
        "--out",
        tmp_path / "s",
    ]
    data = json.loads(run(*arguments, "--json").stdout)
    screen = tlt.attribute(tlt.load_model(folder), drinks, progress=False)
    predicted = screen.predict([0.9])
    assert [row["site"] for row in data["predicted"]] == predicted["site"].tolist()
    assert {each.name for each in (tmp_path / "s").iterdir()} == {
        "components.csv",
        "predicted.csv",
        "record.json",
        "result.safetensors",
        "attribution.png",
    }
    assert "first-order estimate" in " ".join(run(*arguments).stdout.split())


def test_dynamics_of_what_ships(tmp_path):
    out = tmp_path / "nano"
    arguments = ["dynamics", "-m", "nano-pythia", "--steps", "64,...,2000", "--n", "12", "--out", out,
                 "--cut", "blocks.3.mlp.W_in=0.1", "--controls"]  # fmt: skip
    rows = json.loads(run(*arguments, "--json").stdout)
    task = tlt.tasks.ioi(12, tokenizer=tlt.load_model("nano-pythia").tokenizer)
    cut = tlt.Cut("blocks.3.mlp.W_in", 0.1)
    history = tlt.dynamics(
        lambda step: tlt.load_model("nano-pythia", checkpoint=step),
        tlt.checkpoint_steps("nano-pythia"),
        task,
        {
            "cut": cut,
            "random subspace": tlt.RandomSubspace(cut.site, 0.1, 0),
            **{f"random subspace #{k + 1}": tlt.RandomSubspace(cut.site, 0.1, k) for k in (1, 2, 3)},
        },
        progress=False,
    )
    assert rows == rows_of(history.frame)
    assert {row["cut"]: row["draws"] for row in rows} == {"uncut": 1, "cut": 1, "random subspace": 4}
    assert {path.name for path in out.iterdir()} == {"run", "table.csv", "dynamics.png"}
    assert (out / "dynamics.png").read_bytes().startswith(b"\x89PNG")
    assert "must be new without resume" in run(*arguments, code=2).stderr
    assert "random subspace" in run(*arguments, "--resume").stdout
    assert tlt.Dynamics.load(out / "run").manifest["model"] == "nano-pythia"


def test_the_same_command_on_a_folder_of_steps(tmp_path, task_file, drinks):
    for step in (0, 1, 512):
        architectures.save_folder("neox-parallel", tmp_path / "pythia" / f"step{step}")
    folder, out = tmp_path / "pythia", tmp_path / "out"
    rows = json.loads(
        run(
            "dynamics", "-m", folder, "--steps", "0,...,512", "--task", task_file, "--out", out, "--json"
        ).stdout
    )
    assert [row["step"] for row in rows] == [0, 1, 512]
    model = tlt.load_model(str(folder), checkpoint=512)
    expected = tlt.evaluate(model, drinks, progress=False)
    assert rows[-1]["p_global"] == pytest.approx(float(expected.p_global), abs=1e-9)
    message = run("dynamics", "-m", folder, "--steps", "0,7", "--out", tmp_path / "x", code=2).stderr
    assert "must be among 0, 1, 512; got 7" in " ".join(message.split())


def test_dynamics_of_two_tasks_in_shards(tmp_path, task_file, drinks):
    """Also with one of the steps damaged."""
    for step in (0, 1, 512):
        architectures.save_folder("neox-parallel", tmp_path / "pythia" / f"step{step}")
    (tmp_path / "pythia" / "step0" / "model.safetensors").write_bytes(b"no tensors")
    tlt.Task("more", drinks.prompts[:2], drinks.in_context[:2], " the").save(tmp_path / "more.json")
    out = tmp_path / "out"
    arguments = [
        "dynamics",
        "-m",
        tmp_path / "pythia",
        "--task",
        task_file,
        "--task",
        tmp_path / "more.json",
    ]
    for index in (1, 2):
        said = run(*arguments, "--out", out, "--shard", f"{index}/2").stdout
        assert f"shard {index}/2: {drinks.name}: 4 prompts at 1 checkpoints" in said
        assert {path.name for path in out.iterdir()} == {"run"}
    said = " ".join(run("merge", out).stdout.split())
    assert "Missing: step 0." in said
    assert {path.name for path in out.iterdir()} == {"run", "table.csv", "dynamics.png"}
    table = pd.read_csv(out / "table.csv")
    assert list(table.columns[:3]) == ["task", "step", "cut"]
    assert table["p_global"].isna().tolist() == [True, False, False] * 2
    refused = run(*arguments, "--out", tmp_path / "x", "--delete-after", code=2).stderr
    assert "delete_after must go with a model of the hub" in " ".join(refused.split())


def test_toys_write_what_they_say(tmp_path):
    arguments = ["toy", "recall", "--steps", "2", "--alpha", "0.3", "--out", tmp_path / "recall"]
    assert "last MLP dropped" in run(*arguments).stdout
    assert {path.name for path in (tmp_path / "recall").iterdir()} == {
        "run",
        "history.csv",
        "recall.png",
    }
    assert tlt.toys.RecallRun.load(tmp_path / "recall" / "run").config.data.alpha == 0.3
    assert "must be new without resume" in run(*arguments, code=2).stderr
    run(*arguments, "--resume")
    run("toy", "gradients", "--length", "16", "--n", "1024", "--out", tmp_path / "gradients")
    run("toy", "memory", "--out", tmp_path / "memory")
    for name in ("gradients/gradients", "memory/phases"):
        for ending in ("csv", "png"):
            assert (tmp_path / f"{name}.{ending}").stat().st_size > 300


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep", "-m", "x", "--out", "o", "--task", "nothing"], "must be one of ioi, facts"),
        (["sweep", "-m", "x", "--out", "o", "--matrices", "W_x"], "Matrices must be among"),
        (["sweep", "-m", "x", "--out", "o", "--layers", "a-b"], "--layers must read like 20-29"),
        (["sweep", "-m", "x", "--out", "o", "--keep", "much"], "A keep must be a rank"),
        (["search", "-m", "x", "--task", "nothing"], "must be one of ioi, facts"),
        (["attribute", "-m", "x", "--task", "nothing"], "must be one of ioi, facts"),
        (["learn", "-m", "x", "--task", "nothing"], "must be one of ioi, facts"),
        (["dynamics", "-m", "gpt2", "--out", "o"], "Checkpoints must be a Pythia model's"),
        (["dynamics", "-m", "pythia-70m", "--steps", "...,3", "--out", "o"], "--steps must read like"),
        (["dynamics", "-m", "pythia-70m", "--steps", "0,3", "--out", "o"], "143000; got 3"),
        (["toy", "recall", "--preset", "large", "--out", "o"], "--preset must be small or official"),
    ],
)
def test_bad_options_fail_before_a_model_is_loaded(arguments, message):
    assert message in " ".join(run(*arguments, code=2).stderr.split())


class TestDecompose:
    """One prompt in two parts."""

    ARGUMENTS = ("decompose", "--model", "nano-pythia", "--prompt", PROMPT, "--answers", " Mary", " the")

    def test_as_json_and_files(self, tmp_path):
        corpus = tmp_path / "corpus.txt"
        corpus.write_text("The king walked to the store.\n\nMary gave a ring to John.\n\n" * 4)
        means = tmp_path / "means.safetensors"
        more = ["--corpus", str(corpus), "--means", str(means), "--out", str(tmp_path / "out"), "--json"]
        rows = json.loads(run(*self.ARGUMENTS, *more).stdout)
        assert {row["answer"] for row in rows} == {" Mary", " the"}
        assert {row["part"] for row in rows} == {"global", "in_context"}
        model = tlt.load_model("nano-pythia")
        view = tlt.view_prompt(model, PROMPT, [" Mary", " the"], means=tlt.TokenMeans.load(means))
        assert [row["logits"] for row in rows] == pytest.approx(view.frame["logits"].tolist(), abs=1e-5)
        page = (tmp_path / "out" / "tokens.html").read_text()
        assert "rgba(" in page
        assert (tmp_path / "out" / "parts.png").stat().st_size > 1000
        again = json.loads(run(*self.ARGUMENTS, "--means", str(means), "--json").stdout)
        assert again == rows

    def test_as_a_table(self):
        shown = run(*self.ARGUMENTS, "--method", "own_path").stdout
        lines = shown.splitlines()
        assert sum("in-context" in line for line in lines) >= 1
        assert any(line.split()[:1] == ["3"] and len(line.split()) >= 5 for line in lines)
        assert "with patterns, norm scales and activation" in " ".join(shown.split())

    @pytest.mark.parametrize(
        ("more", "wording"),
        [
            (["--method", "guess"], "--method must be token_mean, context_ablation"),
            (["--layers", "9", "--method", "own_path"], "0..3"),
            (["--answers", " Mary Mary", " the", "--method", "own_path"], "must be one token"),
        ],
    )
    def test_bad_input(self, more, wording):
        found = run(*self.ARGUMENTS, *more, code=2)
        assert wording in " ".join(found.stderr.split())

    def test_parts_over_training(self, tmp_path):
        arguments = ["dynamics", "--model", "nano-pythia", "--n", "10", "--out", str(tmp_path / "run")]
        run(*arguments, "--steps", "64,2000", "--parts", "own_path")
        table = pd.read_csv(tmp_path / "run" / "parts.csv")
        assert sorted(table["step"].unique()) == [64, 2000]
        assert (tmp_path / "run" / "parts.png").exists()


PROMPTED = ("--prompt", "Mary gave a drink to", "--answers", " John", " the")
#: Where the library is called: module of the command, name in it, further arguments.
LIBRARY = {
    "demo": ("demo", "late_layer_effects", []),
    "evaluate": ("evaluate", "evaluate", ["--task", "TASK"]),
    "sweep": ("sweep", "sweep", ["--task", "TASK", "--out", "OUT"]),
    "search": ("search", "search", ["--task", "TASK"]),
    "learn": ("learn", "learn_mask", ["--task", "TASK"]),
    "attribute": ("inside.attribute", "attribute", ["--task", "TASK"]),
    "decompose": ("inside.decompose", "corpus_rows_that_fit", PROMPTED),
    "dynamics": ("dynamics", "dynamics", ["--task", "TASK", "--out", "OUT"]),
    "side-effects": ("side_effects", "side_effects", ["--cut", "blocks.1.mlp.W_in=3"]),
}


class TestOptions:
    """Every command that runs a model takes the same options, and what it takes it does."""

    @staticmethod
    def with_a_model():
        import typer

        for name, command in typer.main.get_command(app).commands.items():
            options = (
                {option for each in command.params for option in each.opts} if command.params else set()
            )
            if "--model" in options:
                yield name, options

    def test_the_set_is_there(self):
        found = dict(self.with_a_model())
        # A plan runs nothing: it has options of its own, and `device` is the one it is for.
        assert set(found) == {*LIBRARY, "spectrum", "sites", "lm-eval", "export", "plan", "explore"}
        # The live view writes nothing, and has tests of its own.
        del found["plan"], found["explore"]
        for name, options in found.items():
            wanted = {"--backend", "--dtype", "--device", "--out"}
            # A training run has its steps, the demo its files, and an export is no table.
            wanted |= {"--steps"} if name == "dynamics" else {"--checkpoint"}
            wanted |= set() if name in ("demo", "export") else {"--json"}
            # No prompt is run where only weights are looked at.
            wanted |= {"--batch-size", "--max-memory"} if name in LIBRARY else set()
            # Passes are lm-evaluation-harness', which knows no other measure.
            wanted |= {"--batch-size"} if name == "lm-eval" else set()
            assert wanted <= options, name

    def test_an_option_says_the_same_everywhere(self):
        import typer

        said = {}
        for command, each in typer.main.get_command(app).commands.items():
            for option in each.params:
                if (command, option.name) != ("plan", "device"):  # by its published figures
                    said.setdefault(option.name, set()).add(option.help)
        for name in ("backend", "checkpoint", "dtype", "device", "batch_size", "max_memory", "n", "seed",
                     "prepend_bos", "cut", "cuts", "matrices", "layers", "resume", "corpus",
                     "controls", "figures", "as_json"):  # fmt: skip
            assert len(said[name]) == 1, name

    @pytest.mark.parametrize("name", LIBRARY)
    def test_they_reach_the_library(self, name, folder, task_file, tmp_path, monkeypatch):
        import importlib

        import torch

        module, function, more = LIBRARY[name]
        seen = {}

        def record(model, *arguments, **options):
            seen.update(options, model=model(0) if name == "dynamics" else model)
            raise ValueError("this far")

        monkeypatch.setattr(importlib.import_module(f"tl_truncate.cli.{module}"), function, record)
        if name == "dynamics":
            architectures.save_folder("gpt2", tmp_path / "steps" / "step0")
            folder = str(tmp_path / "steps")
        places = {"TASK": task_file, "OUT": tmp_path / "out"}
        result = run(name, "-m", folder, *[places.get(each, each) for each in more], "--dtype", "float64",
                     "--device", "cpu", "--batch-size", 3, "--max-memory", 0.5, code=2)  # fmt: skip
        assert "this far" in result.stderr
        assert (seen["batch_size"], seen["max_memory"]) == (3, 2**29)
        weight = next(seen["model"].parameters())
        assert (weight.dtype, weight.device.type) == (torch.float64, "cpu")

    @pytest.mark.parametrize("name", ["spectrum", "sites"])
    def test_weights_are_loaded_as_asked(self, name, folder):
        more = ["--site", "blocks.1.mlp.W_out"] if name == "spectrum" else []
        refused = run(name, "-m", folder, *more, "--dtype", "int8", code=2).stderr
        assert "dtype must be a floating torch dtype" in " ".join(refused.split())
        run(name, "-m", folder, *more, "--dtype", "float64", "--device", "cpu")

    def test_the_record_says_so(self, folder, task_file):
        data = json.loads(run("evaluate", "-m", folder, "--task", task_file, "--dtype", "float64",
                              "--batch-size", 3, "--max-memory", 1, "--json").stdout)  # fmt: skip
        assert data["uncut"]["record"]["dtype"] == "float64"
        refused = run("evaluate", "-m", folder, "--task", task_file, "--max-memory", 0.001, code=2)
        assert "max_memory must be at least" in " ".join(refused.stderr.split())


class TestOut:
    """--out writes the table and what --json prints, and says so."""

    def written(self, tmp_path, *arguments):
        out = tmp_path / "new" / "out"
        printed = json.loads(run(*arguments, "--out", out, "--json").stdout)
        assert json.loads((out / "record.json").read_text()) == printed
        said = run(*arguments, "--out", out).stdout
        assert all(path.name in said for path in out.iterdir())
        return printed, {path.stem: pd.read_csv(path) for path in out.glob("*.csv")}

    def test_evaluate(self, folder, task_file, tmp_path):
        printed, tables = self.written(tmp_path, "evaluate", "-m", folder, "--task", task_file, "--cut",
                                       "blocks.1.mlp.W_in=0.3", "--controls")  # fmt: skip
        names = ["cut", "random subspace", "norm matched"]
        table = tables["table"].set_index(["scores", "metric"])
        assert list(dict.fromkeys(tables["table"]["scores"])) == names
        for name in names:
            for row in printed[name]["summary"]:
                assert table.loc[(name, row["metric"]), "change"] == pytest.approx(row["change"])
        counts = tables["prompts"]["scores"].value_counts()
        assert counts.to_dict() == dict.fromkeys(["uncut", *names], 4)

    def test_what_is_left_has_a_report(self, folder, task_file, tmp_path):
        cut = ("--cut", "blocks.1.mlp.W_in=0.3")
        for name, more in (("evaluate", ("--task", task_file)), ("side-effects", ())):
            run(name, "-m", folder, *more, *cut, "--out", tmp_path / name)
            run("report", tmp_path / name)
            page = (tmp_path / name / "report.html").read_text()
            assert "<h2" in page

    def test_evaluate_without_cuts(self, folder, task_file, tmp_path):
        _, tables = self.written(tmp_path, "evaluate", "-m", folder, "--task", task_file)
        assert set(tables["table"]["scores"]) == set(tables["prompts"]["scores"]) == {"uncut"}

    def test_side_effects(self, folder, tmp_path):
        (tmp_path / "text.txt").write_text("the store in\nParis\n\nWhen Mary went to London\n")
        printed, tables = self.written(tmp_path, "side-effects", "-m", folder, "--cut",
                                       "blocks.1.mlp.W_in=3", "--text", tmp_path / "text.txt")  # fmt: skip
        assert tables["table"]["text"].tolist() == ["the store in Paris", "When Mary went to London"]
        assert tables["table"]["tokens"].sum() == printed["summary"]["tokens"]

    def test_spectrum(self, folder, tmp_path):
        printed, tables = self.written(tmp_path, "spectrum", "-m", folder, "--site", "blocks.1.mlp.W_out",
                                       "--tokens", 2)  # fmt: skip
        assert tables["table"]["rank"].tolist() == [row["rank"] for row in printed["keeps"]]
        assert len(tables["tokens"]) == len(printed["tokens"])

    def test_sites(self, folder, tmp_path):
        printed, tables = self.written(tmp_path, "sites", "-m", folder)
        rows = {row.site: [row.n_in, row.n_out] for row in tables["table"].itertuples()}
        assert rows == printed


def test_a_bad_file_of_passages_is_found_before_a_model_is_loaded(tmp_path):
    cut = ["--cut", "blocks.1.mlp.W_in=3"]
    missing = ["--text", tmp_path / "none.txt"]
    assert "text file that exists" in run("side-effects", "-m", "./no", *cut, *missing, code=2).stderr
    (tmp_path / "empty.txt").write_text("\n\n")
    answers = ["--prompt", "x", "--answers", " a", " b"]
    refused = run("decompose", "-m", "./no", *answers, "--corpus", tmp_path / "empty.txt", code=2).stderr
    assert "at least one passage" in " ".join(refused.split())
    more = ["--parts", "token_mean", "--corpus", tmp_path / "empty.txt", "--out", tmp_path / "out"]
    refused = run("dynamics", "-m", "nano-pythia", *more, code=2).stderr
    assert "at least one passage" in " ".join(refused.split())


@pytest.mark.parametrize(
    "text", ["[bold]", "a [/] b", "\\[x]", "\\[0.1, 0.2]", "C:\\", ":key:", "[0.1, 0.2]"]
)
def test_texts_are_shown_as_they_are(text):
    refused = run("evaluate", "-m", "./no", "--task", text, code=2).stderr
    assert f"got {text!r}." in refused
    refused = run("spectrum", "-m", "x", "--site", text, code=2).stderr
    assert f"got {text!r}" in " ".join(refused.split())


def test_ctrl_c_says_what_to_type_and_it_goes_on(folder, task_file, tmp_path):
    """Interrupted as a terminal does it; the command that is shown ends with the same table."""
    import os
    import shlex
    import signal
    import time

    out = tmp_path / "my runs"
    arguments = ["sweep", "-m", folder, "--task", task_file, "--matrices", "W_in,W_out", "--keep", "0.1",
                 "--no-figures", "--keep", "8", "--keep", "Energy(0.5)", "--out", str(out)]  # fmt: skip
    slow = (
        "import time\n"
        "from tl_truncate.replay.layer import SiteReplay as S\n"
        "original = S.logits\n"
        "S.logits = lambda *args: time.sleep(0.5) or original(*args)\n"
        "from tl_truncate.cli import app\n"
        "app()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", slow, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = out / "run" / "settings.jsonl"
    while not lines.exists() and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    _, told = process.communicate()
    assert process.returncode == 130, told
    assert f"What is finished is in {out}/run. Go on with:" in told
    command = shlex.split(told.strip().splitlines()[-1])
    assert command == ["tl-truncate", *arguments, "--resume"]
    before = lines.read_text()
    run(*command[1:])
    assert lines.read_text().startswith(before)
    run(*arguments[:-1], tmp_path / "whole")
    assert (out / "table.csv").read_text() == (tmp_path / "whole" / "table.csv").read_text()


def test_home_is_expanded_in_options(folder, task_file, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    cut = ["--cut", "blocks.1.mlp.W_in=3"]
    run("evaluate", "-m", folder, "--task", "~/drinks.json", *cut, "--out=~/scores")
    run("report", "~/scores", "--out", "~/page.html")
    sites = ["--site", "blocks.1.mlp.W_in", "--keep", "3", "--out", "~/sweep"]
    run("sweep", "-m", folder, "--task", "~/drinks.json", *sites)
    run("plot", "~/sweep", "--out", "~/figure.svg")
    assert {"scores", "page.html", "sweep", "figure.svg"} <= {each.name for each in tmp_path.iterdir()}
