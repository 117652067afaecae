"""Tables in a terminal of some width and in a pipe: nothing is cut off, and no line is too wide."""

import csv
import io
import json
import re

import architectures
import pytest
from typer.testing import CliRunner

import tl_truncate as tlt
from tl_truncate.cli import app
from tl_truncate.cli.shared.app import console
from tl_truncate.cli.shared.tables import Column, say_table

CUT = ["--cut", "blocks.1.mlp.W_in=0.3", "--cut", "blocks.2.attn.W_V=5"]
GRID = ["--site", "blocks.1.attn.W_O.2", "--site", "blocks.2.mlp.W_out", "--keep", "DropTop(4)"]
ASKED = ["-m", "MODEL", "--task", "TASK"]
#: Every command that prints a table, on a small model.
TABLES = {
    "evaluate": ["evaluate", *ASKED, *CUT, "--controls"],
    "evaluate-uncut": ["evaluate", *ASKED],
    "sweep": ["sweep", *ASKED, *GRID, "--out", "OUT", "--no-figures"],
    "search": ["search", *ASKED, *GRID, "--splits", "1", "--max-perplexity-ratio", "none"],
    "learn": ["learn", *ASKED, "--site", "blocks.1.mlp.W_in", "--steps", "1", "--components", "2"],
    "attribute": ["attribute", *ASKED, *GRID],
    "decompose": ["decompose", "-m", "MODEL", "--method", "own_path", "--prompt",
                  "When Mary and John went to the store , John gave a drink to", "--answers", " Mary", " the"],
    "dynamics": ["dynamics", "-m", "STEPS", "--task", "TASK", *CUT, "--controls", "--out", "OUT",
                 "--no-figures"],
    "side-effects": ["side-effects", "-m", "MODEL", *CUT, "--text", "TEXT"],
    "spectrum": ["spectrum", "-m", "MODEL", "--site", "blocks.1.mlp.W_out", "--tokens", "3"],
    "sites": ["sites", "-m", "MODEL"],
    "cache info": ["cache", "info"],
    "plan": ["plan", *ASKED, "--device", "h100"],
}  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    architectures.save_folder("gpt2", folder / "gpt2")
    architectures.save_folder("gpt2", folder / "steps" / "step0")
    (folder / "file").write_text("the store in Paris\n\nMary gave a drink to John\n")
    prompts = [f"{first} gave a drink to" for first in ("Mary", "John", "When Mary", "When John", "the",
               "Paris", "London", "Rome")]  # fmt: skip
    prompts += [f"{each} the store and" for each in prompts]  # a mask is watched on some of one half
    task = tlt.Task("a_task_with_a_long_name", prompts, [" John", " Mary"] * 8, " the")
    task.save(folder / "task.json")
    return {"MODEL": folder / "gpt2", "STEPS": folder / "steps", "TASK": folder / "task.json",
            "TEXT": folder / "file"}  # fmt: skip


@pytest.fixture(scope="module")
def model(places):
    return tlt.load_model(str(places["MODEL"]))


@pytest.fixture
def ask(places, model, tmp_path, monkeypatch):
    monkeypatch.setattr("tl_truncate.cli.shared.model.load_model", lambda *_, **__: model)

    def run(name, *more):
        names = {**places, "OUT": tmp_path / "out"}
        result = CliRunner().invoke(app, [str(names.get(each, each)) for each in (*TABLES[name], *more)])
        assert result.exit_code == 0, result.output + result.stderr
        return result

    return run


@pytest.fixture
def terminal(monkeypatch):
    """A terminal of some width, in place of the pipe that tests are."""

    def of(width):
        monkeypatch.setattr(console, "_force_terminal", True)
        monkeypatch.setattr(console, "_width", width)
        monkeypatch.setattr(console, "_height", 50)

    return of


class TestInATerminal:
    @pytest.mark.parametrize("width", [80, 60])
    @pytest.mark.parametrize("name", TABLES)
    def test_nothing_is_cut_off(self, name, width, ask, terminal):
        terminal(width)
        text = ask(name).stdout
        assert "…" not in text
        # A path and a command are one line each, so that they can be copied.
        lines = [each for each in text.splitlines() if not re.match("Written:|tl-truncate ", each)]
        assert [each for each in lines if len(each) > width] == []

    def test_numbers_and_names_are_whole(self, ask, terminal):
        whole = ask("sweep").stdout
        assert "1 W_O.2" in whole
        assert "2 W_out" in whole
        assert "-4 largest" in whole


class TestLong:
    """Thirty layers of heads with numbers of twelve digits."""

    ROWS = tuple(f"{layer} W_gate.31" for layer in range(30))
    NUMBERS = tuple(
        f"{123456789012 + place}.5 [-123456789012.5, +123456789012.5]" for place in range(30)
    )

    def columns(self):
        return [
            Column("site", self.ROWS, left=True),
            Column("rank", [str(123456789012 + place) for place in range(30)], drop=1),
            Column("change", self.NUMBERS),
        ]

    @pytest.mark.parametrize("width", [200, 80, 60, 30])
    def test_in_a_terminal(self, width, terminal, capsys):
        terminal(width)
        say_table(self.columns(), title="[bold]changes[/bold] of 30 layers, of which each has 32 heads")
        text = capsys.readouterr().out
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= width
        joined = "".join(text.split())
        for each in (*self.ROWS, *self.NUMBERS):
            assert "".join(each.split()) in joined
        assert "[bold]changes[/bold]" in text

    def test_what_has_no_room_is_named(self, terminal, capsys):
        terminal(70)
        say_table(self.columns())
        assert "No room for: rank. --csv has all." in capsys.readouterr().out

    def test_in_a_pipe_it_is_whole(self, capsys):
        say_table(self.columns())
        lines = capsys.readouterr().out.splitlines()
        assert all(any(each in line for line in lines) for each in self.NUMBERS)
        assert any("rank" in line for line in lines)


class TestForPrograms:
    @pytest.mark.parametrize("name", TABLES)
    def test_json(self, name, ask):
        def constant(text):
            raise AssertionError(f"{text} is no JSON")

        assert json.loads(ask(name, "--json").stdout, parse_constant=constant)

    @pytest.mark.parametrize("name", TABLES)
    def test_csv(self, name, ask):
        rows = list(csv.reader(io.StringIO(ask(name, "--csv").stdout)))
        assert len(rows) >= 2
        assert {len(row) for row in rows} == {len(rows[0])}

    def test_names_and_numbers_are_whole(self, ask):
        rows = list(csv.DictReader(io.StringIO(ask("sweep", "--csv").stdout)))
        assert [row["site"] for row in rows] == ["blocks.1.attn.W_O.2", "blocks.2.mlp.W_out"]
        data = json.loads(ask("sweep", "--resume", "--json").stdout)
        for row, told in zip(rows, data, strict=True):
            assert float(row["p_in_context"]) == told["p_in_context"]

    def test_not_both(self, places):
        result = CliRunner().invoke(app, ["sites", "-m", str(places["MODEL"]), "--json", "--csv"])
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.strip() == "error: Give either --json or --csv, got both."

    def test_a_library_that_prints_is_not_on_stdout(self, ask, monkeypatch):
        from tl_truncate.cli.inside import spectrum

        original = spectrum.find_sites
        monkeypatch.setattr(spectrum, "find_sites", lambda *args: print("Loaded!") or original(*args))
        result = ask("sites", "--json")
        assert json.loads(result.stdout)
        assert "Loaded!" in result.stderr
