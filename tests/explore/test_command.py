"""`tl-truncate explore`: it serves, says where, and ends with Ctrl-C."""

import architectures
import pytest
import shell
from typer.testing import CliRunner

from tl_truncate import checks
from tl_truncate.cli import app


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(architectures.save_folder("gpt2", tmp_path_factory.mktemp("models") / "gpt2"))


def test_it_serves_until_ctrl_c(folder):
    page, out = shell.visit(["explore", "--model", folder, "--no-browser", "--prompt", "Mary gave"])
    assert 'id="explore"' in page
    assert "Ended." in out


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
