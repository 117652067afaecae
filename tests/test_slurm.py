"""The guide to many processes: its script is run as it stands, with a loop in the scheduler's place."""

import os
import re
import shlex
import subprocess
import sys

import architectures
import documents
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

import tl_truncate as tlt
from tl_truncate.cli import app

PAGE = documents.ROOT / "docs" / "guides" / "clusters.md"
SLURM = dict(SLURM_ARRAY_TASK_ID="3", SLURM_ARRAY_TASK_COUNT="8", SLURM_CPUS_PER_TASK="1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(architectures.save_folder("gpt2", tmp_path_factory.mktemp("models") / "gpt2"))


@pytest.fixture
def task_file(tmp_path, drinks):
    drinks.save(tmp_path / "drinks.json")
    return str(tmp_path / "drinks.json")


def script():
    (found,) = [each for each in documents.blocks(PAGE, "sh") if "SLURM_ARRAY_TASK_ID" in each]
    return found


def test_the_script_is_of_ten_lines_and_its_command_parses():
    assert len(script().splitlines()) == 10
    line = script().replace("\\\n", " ").splitlines()[-1]
    words = shlex.split(re.sub(r"\$(\w+)", lambda match: SLURM[match[1]], line))
    assert words[0] == "tl-truncate"
    command = typer.main.get_command(app).commands[words[1]]
    assert command.make_context(words[1], words[2:]).params["shard"] == "3/8"


def test_it_runs_with_a_loop(folder, task_file, tmp_path):
    """An array of 0 and 1; the table is that of one process."""
    program = tmp_path / "bin" / "tl-truncate"
    program.parent.mkdir()
    program.write_text(f'#!/bin/bash\nexec {sys.executable} -m tl_truncate "$@"\n')
    program.chmod(0o755)
    text = script().replace("EleutherAI/pythia-1b", folder).replace("cuda", "cpu")
    (tmp_path / "array.sh").write_text(text.replace("--task ioi", f"--task {task_file}"))
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, **SLURM, "PATH": path, "SLURM_ARRAY_TASK_COUNT": "2"}
    env["PYTHONPATH"] = str(documents.ROOT)
    loop = "for i in 0 1; do SLURM_ARRAY_TASK_ID=$i bash array.sh || exit 1; done"
    loop += "; tl-truncate merge runs/ioi --no-figures"
    done = subprocess.run(
        ["bash", "-c", loop], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Once all shards are finished: tl-truncate merge runs/ioi" in done.stdout
    model, task = tlt.load_model(folder), tlt.Task.load(task_file)
    whole = tlt.sweep(model, task, keeps=[0.1, 0.5], progress=False)
    found = tlt.SweepResult.load(tmp_path / "runs" / "ioi" / "run")
    pd.testing.assert_frame_equal(found.frame, whole.frame, check_exact=True)
    assert found.settings == whole.settings
    whole.frame.to_csv(tmp_path / "whole.csv", index=False)
    table = (tmp_path / "runs" / "ioi" / "table.csv").read_text()
    assert table == (tmp_path / "whole.csv").read_text()


def run(*arguments, code: int = 0):
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code == code, result.output + result.stderr
    return " ".join((result.stdout + result.stderr).split())


class TestCommands:
    @pytest.fixture
    def asked(self, folder, task_file):
        return ["-m", folder, "--task", task_file, "--site", "blocks.1.mlp.W_in", "--keep", 0.5]

    def test_missing(self, asked, tmp_path):
        asked = ["sweep", *asked, "--out", tmp_path / "out", "--no-figures"]
        assert "shard 1/3:" in run(*asked, "--shard", "1/3")
        told = run("merge", tmp_path / "out", "--no-figures", code=2)
        assert "2/3 has not begun" in told
        assert "such as --shard" in told
        run(*asked, "--shard", "2/3")
        run(*asked, "--shard", "2/3")  # the same command goes on
        assert not (tmp_path / "out" / "table.csv").exists()

    @pytest.mark.parametrize("shard", ["4/3", "three", "1"])
    def test_no_shard(self, asked, tmp_path, shard):
        told = run("sweep", *asked, "--out", tmp_path / "out", "--shard", shard, code=2)
        assert "shard must be which one and of how many" in told

    def test_search(self, asked, tmp_path):
        asked = ["search", *asked, "--splits", 1, "--out", tmp_path / "out"]
        run(*asked, "--shard", "1/1")
        assert not (tmp_path / "out" / "cuts.json").exists()
        run("merge", tmp_path / "out")
        assert isinstance(tlt.Cuts.load(tmp_path / "out" / "cuts.json"), tlt.Cuts)
        assert run("search", *asked[1:], "--resume")

    def test_attribute_and_side_effects(self, asked, tmp_path):
        cut = ["--cut", "blocks.1.mlp.W_in=0.3"]
        for name, words in (("attribute", asked), ("side-effects", [*asked[:2], *cut])):
            out = tmp_path / name
            for shard in ("1/2", "2/2"):
                run(name, *words, "--out", out, "--shard", shard)
            run("merge", out)
            page = tlt.write_report(out, out / "page.html")
            assert page.exists()
            assert "must have a run folder" in run(name, *words, "--shard", "1/2", code=2)
