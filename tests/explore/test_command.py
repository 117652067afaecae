"""`tl-truncate explore`: it serves, says where, and ends with Ctrl-C."""

import os
import re
import signal
import subprocess
import sys
import urllib.request

import architectures
import pytest
from typer.testing import CliRunner

from tl_truncate import checks
from tl_truncate.cli import app


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(architectures.save_folder("gpt2", tmp_path_factory.mktemp("models") / "gpt2"))


def _hears_ctrl_c() -> None:
    """Also where the tests run behind a shell that keeps it from what it started."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_it_serves_until_ctrl_c(folder):
    command = [sys.executable, "-u", "-m", "tl_truncate", "explore", "--model", folder, "--no-browser"]
    process = subprocess.Popen(
        [*command, "--prompt", "Mary gave"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "40"},  # an address is not broken into lines
        preexec_fn=_hears_ctrl_c,
    )
    try:
        said = process.stdout.readline()
        address = re.fullmatch(r"Open (http://127\.0\.0\.1:\d+/\?token=\S+)\n", said)[1]
        with urllib.request.urlopen(address, timeout=30) as page:
            assert 'id="explore"' in page.read().decode()
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert "Ended." in out
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "demo", "--prompt", "Mary", "--task", "ioi"], "got both"),
        (["--model", "demo", "--task", "nothing"], "--task must be one of"),
        (["--model", "no/such-folder-here", "--no-browser"], "no/such-folder-here"),
    ],
)
def test_what_cannot_be(arguments, said):
    result = CliRunner().invoke(app, ["explore", *arguments])
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_port_that_is_none():
    assert CliRunner().invoke(app, ["explore", "--model", "demo", "--port", "70000"]).exit_code == 2


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(checks.EXTRAS, "explore", ("no_such_package",))
    result = CliRunner().invoke(app, ["explore", "--model", "demo"])
    assert result.exit_code == 2
    assert "pip install '.[explore]'" in result.stderr
