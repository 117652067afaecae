"""The script of the guide for many GPUs, as it stands there but for the model and the device."""

import importlib.util
import os
import signal
import subprocess
import sys
import time

import documents
import pandas as pd
import pytest
import torch
from children import in_a_child
from transformers import AutoModelForCausalLM, AutoTokenizer

import tl_truncate as tlt
from tl_truncate.checkpoints import folder_of

PAGE = documents.ROOT / "docs" / "guides" / "clusters.md"


def script(name, out, path):
    """The guide's script for a model that lies on this machine."""
    text = next(block for block in documents.blocks(PAGE, "py") if "def everything" in block)
    assert 18 <= len([line for line in text.splitlines() if line.strip()]) <= 25
    for before, after in {
        '"EleutherAI/pythia-160m", "runs/pythia-160m"': f"{str(name)!r}, {str(out)!r}",
        ', cache_dir="runs/hub", delete_after=True, device="cuda"': "",
        "ioi(n=100": "ioi(n=6",
    }.items():
        assert before in text
        text = text.replace(before, after)
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(f"guide_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def one_process(guide):
    """What the script asks for, in this process and without shards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run = tlt.Checkpoints(guide.NAME)
    found = tlt.dynamics(run, run.steps, guide.TASKS, guide.CUTS, progress=False)
    torch.set_num_threads(threads)
    return found


def test_eight_processes_on_the_nano_pythia(tmp_path):
    guide = script("nano-pythia", tmp_path / "run", tmp_path / "guide.py")
    done = subprocess.run(
        [sys.executable, tmp_path / "guide.py"],
        env=dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(documents.ROOT)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "run" / "shards").iterdir()) == [
        f"{index}-of-8" for index in range(1, 9)
    ]
    found, whole = tlt.Dynamics.load(tmp_path / "run"), one_process(guide)
    pd.testing.assert_frame_equal(found.frame, whole.frame, check_exact=True)
    assert found.first_step("p_global", 0.3) == 64
    assert (tmp_path / "run.csv").is_file()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten checkpoints of a very small GPT-NeoX with random weights."""
    root = tmp_path_factory.mktemp("random")
    nano = folder_of("nano-pythia") / "step64"
    tokenizer, model = AutoTokenizer.from_pretrained(nano), AutoModelForCausalLM.from_pretrained(nano)
    generator = torch.Generator().manual_seed(0)
    for step in range(10):
        with torch.no_grad():
            for weight in model.parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator) / 20)
        model.save_pretrained(root / f"step{step}")
        tokenizer.save_pretrained(root / f"step{step}")
    return root


def test_eight_processes_on_a_folder_three_of_them_killed(folder, tmp_path):
    guide = script(folder, tmp_path / "run", tmp_path / "guide.py")
    started = {index: in_a_child(lambda index=index: guide.part(index)) for index in range(8)}
    time.sleep(0.5)
    for index in (1, 4, 6):
        os.kill(started[index], signal.SIGKILL)
    for index, child in started.items():
        _, status = os.waitpid(child, 0)
        assert status == 0 or index in (1, 4, 6)
    for index in (1, 4, 6):
        _, status = os.waitpid(in_a_child(lambda index=index: guide.part(index)), 0)
        assert status == 0
    found = tlt.merge(tmp_path / "run")
    assert found.checkpoints == tuple(range(10))
    pd.testing.assert_frame_equal(found.frame, one_process(guide).frame, check_exact=True)
