"""The command line: what it prints, what it writes, and how it ends."""

import json
import subprocess
import sys

import architectures
import pytest
from typer.testing import CliRunner

import tl_truncate as tlt
from tl_truncate.cli import app


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
    "command", [[], ["demo"], ["evaluate"], ["spectrum"], ["sites"], ["cache"], ["cache", "clear"]]
)
def test_every_command_has_help(command):
    text = run(*command, "--help").stdout
    assert "Usage" in text
    if command in (["demo"], ["evaluate"], ["spectrum"], ["sites"]):
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
    assert "MarchenkoPastur()" in text


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
            "--task must be ioi, facts or a task's JSON",
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
    from tl_truncate.experiments import demo

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
