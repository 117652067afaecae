"""The documentation builds, names everything that is public, and its code runs."""

import os
import re
import subprocess
import sys

import architectures
import documents
import pytest
import quantised_models
import shell
import tomllib
import torch
import typer

import tl_truncate as tlt
from tl_truncate import plots, statistics
from tl_truncate.cli import app

PYTHON = [page for page in documents.PAGES if documents.blocks(page, "python")]
SHELL = [page for page in documents.PAGES if documents.blocks(page, "bash")]
ON_THE_TOY = [page for page in PYTHON if documents.name(page) not in documents.OTHERS]


@pytest.mark.parametrize("page", ON_THE_TOY, ids=documents.name)
def test_python_blocks_run(page, toy, tokens, drinks, tmp_path, monkeypatch):
    """And leave the model as it was, bit for bit."""
    monkeypatch.chdir(tmp_path)
    before = toy(tokens)
    documents.run(page, dict(tlt=tlt, model=toy, tokens=tokens, task=drinks))
    assert torch.equal(toy(tokens), before)


def test_the_block_on_training_says_when_the_two_are_learnt(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = documents.run(documents.ROOT / "docs" / "training.md", dict(tlt=tlt))
    history = names["history"]
    assert history.finished
    assert (tmp_path / "runs" / "nano").is_dir()
    assert [history.first_step(metric, 0.3) for metric in ("p_global", "p_in_context")] == [64, 1024]


def test_the_page_on_quantised_and_offloaded_models_runs(tokens, drinks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokenizer = architectures.word_tokenizer()
    names = dict(tlt=tlt, name=quantised_models.folder("llama"), tokenizer=tokenizer)
    page = documents.ROOT / "docs" / "guides" / "large-models.md"
    found = documents.run(page, names | dict(tokens=tokens, task=drinks))
    assert bool(found["logits"].isfinite().all())
    assert len(found["result"].frame) == 2
    assert any(parameter.is_meta for parameter in found["model"].parameters())


@pytest.mark.parametrize("page", SHELL, ids=documents.name)
def test_shell_blocks_name_what_exists(page):
    """Command lines parse as they stand, targets are in the Makefile, and extras in pyproject.toml."""
    makefile = (documents.ROOT / "Makefile").read_text()
    project = tomllib.loads((documents.ROOT / "pyproject.toml").read_text())["project"]
    looked_at = 0
    for words in shell.commands(page):
        if words and words[0].endswith("tl-truncate"):
            parse(words[1:])
        elif words[:1] == ["make"]:
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), words
        elif words[:2] == ["pip", "install"]:
            named = [found for word in words for found in re.findall(r"\[([\w,]+)\]", word)]
            assert set(",".join(named).split(",")) - {""} <= set(project["optional-dependencies"])
        elif words[:1] == ["python"]:
            assert words[1].startswith("benchmarks/"), words
            assert (documents.ROOT / words[1]).is_file(), words
        else:
            assert not words or words[0] in ("jupyter", ".venv-4.3.0/bin/pre-commit"), words
        looked_at += bool(words)
    assert looked_at


def parse(words):
    """Takes a command line apart as the program would, and runs nothing."""
    command = typer.main.get_command(app)
    if words[0].startswith("-"):  # of the program itself, which would do it at once
        assert any(words[0] in option.opts for option in command.params), words
        return
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    command.make_context(command.name, list(words))


def test_a_wrong_option_would_be_seen():
    usage_error = typer.BadParameter.__base__
    with pytest.raises(usage_error, match="No such option"):
        parse(["sweep", "--model", "demo", "--task", "ioi", "--rank", "3"])


def documented():
    found = set()
    for page in (documents.ROOT / "docs" / "api").glob("*.md"):
        found |= set(re.findall(r"^::: tl_truncate\.(\S+)$", page.read_text(), re.MULTILINE))
    return found


def test_every_public_name_has_its_place():
    public = {name for name in tlt.__all__ if name not in ("evals", "tasks", "toys")}
    public |= {f"evals.{name}" for name in tlt.evals.__all__}
    public |= {f"tasks.{name}" for name in tlt.tasks.__all__ if name != "Task"}
    public |= {f"toys.{name}" for name in tlt.toys.__all__}
    own = ("estimate_", "q_")
    public |= {f"statistics.{name}" for name in statistics.__all__ if name.startswith(own)}
    public |= {f"plots.{name}" for name in plots.__all__}
    assert documented() == public


def test_it_builds_strictly(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path / "site")],
        cwd=documents.ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "site" / "api" / "surgery" / "index.html").read_text()
    assert 'id="tl_truncate.truncated"' in text
    assert "sweep" in (tmp_path / "site" / "tutorials" / "01-the-effect" / "index.html").read_text()
