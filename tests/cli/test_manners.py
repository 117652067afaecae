"""How the command line speaks: versions, interrupts, suggestions, brackets, and what libraries say."""

import logging
import warnings
from importlib.metadata import version

import architectures
import pytest
from typer.testing import CliRunner

import tl_truncate as tlt
from tl_truncate.cli import app
from tl_truncate.cli.shared.quiet import quiet


def run(*arguments, code=0):
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == code, result.output + result.stderr
    return result


def test_version():
    assert run("--version").stdout == f"tl-truncate {version('tl-truncate')}\n"


def test_completion_is_there():
    assert "--install-completion" in run("--help").stdout


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["serch"], "search"),
        (["toy", "recal"], "recall"),
        (["evaluate", "-m", "demo", "--taks", "ioi"], "--task"),
        (["evaluate", "-m", "demo", "--task", "iio"], "ioi"),
        (["evaluate", "-m", "deno"], "demo"),
        (["evaluate", "-m", "demo", "--cut", "blocks.1.mlp.W_outt=1"], "'W_out'"),
        (["sites", "-m", "demo", "--device", "cdua"], "cuda"),
        (["sites", "-m", "demo", "--dtype", "flaot32"], "float32"),
        (["sweep", "-m", "demo", "--out", "x", "--matrices", "W_aut"], "W_out"),
        (["attribute", "-m", "demo", "--metric", "logit_dif"], "logit_diff"),
        (["search", "-m", "demo", "--objective", "p_incontext"], "p_in_context"),
        (["plot", "x", "--out", "y.png", "--figure", "heetmap"], "heatmap"),
        (["decompose", "-m", "demo", "--prompt", "a", "--answers", "b", "c", "--method", "spectal"],
         "spectral"),
    ],
)  # fmt: skip
def test_the_nearest_name_is_asked_for(arguments, near):
    told = run(*arguments, code=2).stderr
    question = told.replace("(Possible options", "Did you mean").rpartition("Did you mean")[2]
    assert near in question, told
    assert len(told.strip().splitlines()) == 1


class TestCtrlC:
    def stopped(self, monkeypatch, *arguments):
        def stop(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr("tl_truncate.cli.shared.model.load_model", stop)
        monkeypatch.setattr("sys.argv", ["tl-truncate", *arguments])
        return run(*arguments, code=130).stderr

    def test_before_anything_was_kept(self, monkeypatch, tmp_path):
        told = self.stopped(monkeypatch, "sweep", "-m", "demo", "--out", f"{tmp_path}/my run")
        assert told.startswith("Stopped. Nothing was kept yet, and --resume has nothing to go on with.")
        assert told.splitlines()[-1] == f"tl-truncate sweep -m demo --out '{tmp_path}/my run'"

    def test_of_what_keeps_nothing(self, monkeypatch):
        assert self.stopped(monkeypatch, "sites", "-m", "demo") == "Stopped. Nothing was kept.\n"

    def test_without_a_folder(self, monkeypatch):
        assert "give --out to keep what is finished" in self.stopped(monkeypatch, "search", "-m", "demo")


class TestBrackets:
    NAME = "[bold]x[/bold] [1]"

    def test_of_a_folder(self, tmp_path):
        model = architectures.save_folder("gpt2", tmp_path / self.NAME.replace("/", "-"))
        out = tmp_path / "[bold]x[" / "bold] [1]"
        run("sites", "-m", model, "--out", out)
        told = run("sites", "-m", model, "--out", out).stdout
        assert f"Written: {out}/table.csv, record.json" in told
        again = run("search", "-m", model, "--out", out, code=2).stderr
        assert str(out) in again

    def test_of_what_is_not_there(self):
        for arguments in (["report", self.NAME], ["evaluate", "-m", "x", "--task", self.NAME]):
            assert self.NAME in run(*arguments, code=2).stderr


class TestQuiet:
    def of_a_library(self):
        warnings.warn_explicit("odd", UserWarning, "/x/site-packages/transformers/a.py", 1)
        logging.getLogger("transformers").warning("advice")

    def test_libraries_are(self):
        lines, before = [], logging.getLogger("transformers").level
        with quiet(lines.append):
            self.of_a_library()
        assert lines == []
        assert logging.getLogger("transformers").level == before

    def test_verbose_leaves_all(self):
        lines = []
        with pytest.warns(UserWarning, match="odd"), quiet(lines.append, verbose=True):
            self.of_a_library()
        assert lines == []

    def test_own_warnings_are_one_line_and_said_once(self):
        lines = []
        with quiet(lines.append):
            for _ in range(3):
                warnings.warn("The weights\nare odd.", tlt.FullPassesWarning, stacklevel=1)
        assert lines == ["warning: The weights are odd."]

    def test_nothing_of_loading_is_shown(self, tmp_path):
        folder = architectures.save_folder("gpt2", tmp_path / "gpt2")
        assert run("sites", "-m", folder).stderr == ""
