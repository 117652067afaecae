"""Ctrl-C in a run on Ray that it has started itself: no process is left, and the folder is gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray_jobs
from documents import ROOT
from ray_laws import SWEEP, require_same, surround

import tl_truncate as tlt

pytest.importorskip("ray")
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    surround(monkeypatch)


DRIVER = """
import json, sys
import ray_jobs
import tl_truncate as tlt
options = json.loads(sys.argv[1])
tlt.sweep(ray_jobs.slow_model, tlt.Task.load(sys.argv[2]), on=tlt.Ray(workers=2, address="local"), **options)
"""


def processes_with(mark: str) -> list[str]:
    """The programs of all processes whose environment holds a mark."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit() and place.name != str(os.getpid()):
            try:
                if mark.encode() in (place / "environ").read_bytes():
                    program = (place / "cmdline").read_bytes().split(b"\0")[0].decode()
                    found.append(Path(program).name)
            except OSError:  # it has ended, or is another's
                continue
    return [name for name in found if name]


def started(command: list[str], begun: Path, mark: str, again: int = 2) -> subprocess.Popen:
    """A driver that has begun; once more where a busy machine took longer than Ray waits."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        text=True,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=os.environ | dict(TL_TRUNCATE_MARK=mark),
    )
    # The file is there before its first line.
    while not begun.exists() or b"\n" not in begun.read_bytes():
        if process.poll() is not None:
            told = process.stderr.read()
            assert again, told
            assert "Ray must start on this machine, but it did not" in told, told
            return started(command, begun, mark, again - 1)
        time.sleep(0.1)
    return process


def test_ctrl_c_leaves_no_process_and_a_folder_to_go_on_with(drinks, tmp_path):
    mark = f"tl-truncate-ray-{os.getpid()}-{time.time_ns()}"
    run, task = tmp_path / "run", tmp_path / "task.json"
    drinks.save(task)
    whole = tlt.sweep(ray_jobs.tiny_model(), drinks, **SWEEP)
    command = [sys.executable, "-c", DRIVER, json.dumps(SWEEP | dict(run_dir=str(run))), str(task)]
    process = started(command, run / "settings.jsonl", mark)
    try:
        assert "raylet" in processes_with(mark)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to all that it has started
        assert process.wait(180) != 0
    finally:
        process.kill()
    until = time.monotonic() + 180
    while processes_with(mark) and time.monotonic() < until:
        time.sleep(0.2)
    assert processes_with(mark) == []
    assert f"What is finished is in {run}: the same call" in process.stderr.read()
    before = (run / "settings.jsonl").read_bytes()
    assert 0 < before.count(b"\n") < len(whole.grid)
    require_same(tlt.sweep(ray_jobs.tiny_model(), drinks, run_dir=run, **SWEEP), whole)
    assert (run / "settings.jsonl").read_bytes().startswith(before)
