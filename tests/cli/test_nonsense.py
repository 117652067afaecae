"""Every option of every command with a value that means nothing: one line on stderr, and exit 2."""

import inspect
import typing
from pathlib import Path

import architectures
import pytest
import typer
from typer.testing import CliRunner

import tl_truncate as tlt
from tl_truncate.cli import app
from tl_truncate.cli.machines.cache import cache_app
from tl_truncate.cli.toy import toy

#: What each command needs beside the option, on a model that is at hand.
NEEDED = {
    "evaluate": ["-m", "MODEL", "--task", "TASK"],
    "sweep": ["-m", "MODEL", "--task", "TASK", "--keep", "4", "--matrices", "W_in", "--out", "OUT", "--no-figures"],
    "search": ["-m", "MODEL", "--task", "TASK", "--keep", "4", "--matrices", "W_in", "--splits", "1"],
    "learn": ["-m", "MODEL", "--task", "TASK", "--steps", "1", "--components", "1"],
    "attribute": ["-m", "MODEL", "--task", "TASK"],
    "decompose": ["-m", "MODEL", "--method", "own_path", "--prompt", "Mary gave", "--answers", " John", " the"],
    "dynamics": ["-m", "STEPS", "--task", "TASK", "--out", "OUT", "--no-figures"],
    "side-effects": ["-m", "MODEL", "--cut", "blocks.1.mlp.W_in=4", "--text", "TEXT"],
    "spectrum": ["-m", "MODEL", "--site", "blocks.1.mlp.W_in"],
    "sites": ["-m", "MODEL"],
    "export": ["-m", "MODEL", "--cut", "blocks.1.mlp.W_in=4", "--as", "adapter", "--out", "OUT"],
    "lm-eval": ["-m", "MODEL", "--cut", "blocks.1.mlp.W_in=4", "--tasks", "tl_truncate_sums", "--limit", "1"],
    "plan": ["-m", "MODEL", "--task", "TASK", "--device", "h100"],
    "merge": ["OUT"],
    "report": ["OUT"],
    "plot": ["OUT", "--out", "x.png"],
    "demo": ["-m", "MODEL", "--out", "OUT", "--n", "4", "--no-figures"],
    "toy recall": ["--out", "OUT", "--steps", "1", "--no-figures"],
    "toy memory": ["--out", "OUT", "--no-figures"],
    "toy gradients": ["--out", "OUT", "--n", "4", "--no-figures"],
    "toy nano-pythia": ["--out", "OUT"],
    "cache info": [],
    "cache clear": [],
}  # fmt: skip
#: Any text is one there.
FREE = {"prompt", "system_instruction", "answers"}
#: Of another room, which tests its own.
ELSEWHERE = {"explore"}


def commands():
    """Name and command of each, those of groups too."""
    for name, command in typer.main.get_command(app).commands.items():
        inner = getattr(command, "commands", None)
        if inner is None:
            yield name, command
        else:
            yield from ((f"{name} {each}", one) for each, one in inner.items())


def kinds_of():
    """By command and name of an option, of which kind its value is."""
    found = {}
    for prefix, group in (("", app), ("toy ", toy), ("cache ", cache_app)):
        for each in group.registered_commands:
            name = each.name or each.callback.__name__
            for option in inspect.signature(each.callback).parameters.values():
                annotation, *_ = typing.get_args(option.annotation)
                kinds = {annotation, *typing.get_args(annotation)}
                kinds |= {inner for each in kinds for inner in typing.get_args(each)}
                known = [kind for kind in (bool, int, float, Path, str) if kind in kinds]
                found[prefix + name, option.name] = known[0]
    return found


def nonsense(option, kind):
    """Values that mean nothing, by what the option is of."""
    words = {bool: [], int: ["x", "-7"], float: ["x", "-7", "nan"], str: ["no[sense] /x"],
             Path: ["FILE/in [a] file"]}  # fmt: skip
    if option.name in FREE:
        return []
    return (
        [[f"{option.opts[0]}=x"]] if kind is bool else [[option.opts[0], each] for each in words[kind]]
    )


def cases():
    kinds = kinds_of()
    for name, command in commands():
        if name not in ELSEWHERE:
            for option in command.params:
                if option.opts[0].startswith("-") and option.name not in ("help", "verbose"):
                    for place, words in enumerate(nonsense(option, kinds[name, option.name])):
                        yield pytest.param(name, words, id=f"{name}-{option.name}-{place}")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nonsense")
    saved = architectures.save_folder("gpt2", folder / "gpt2")
    architectures.save_folder("gpt2", folder / "steps" / "step0")
    (folder / "file").write_text("the store in Paris\n\nMary gave a drink to John\n")
    prompts = ["Mary gave a drink to", "John gave a drink to", "When Mary went", "When John went"]
    tlt.Task("drinks", prompts, [" John", " Mary"] * 2, " the").save(folder / "task.json")
    return {"MODEL": saved, "STEPS": folder / "steps", "TASK": folder / "task.json", "TEXT": folder / "file",
            "FILE": folder / "file"}  # fmt: skip


@pytest.fixture(scope="module")
def model(places):
    return tlt.load_model(str(places["MODEL"]))


def filled(words, places, out):
    names = {**places, "OUT": out}
    parts = [each.partition("/") for each in words]
    return [f"{names.get(first, first)}{rest}{last}" for first, rest, last in parts]


def test_every_command_is_here():
    assert {name for name, _ in commands()} - ELSEWHERE == set(NEEDED)


@pytest.mark.parametrize(("name", "words"), list(cases()))
def test_it_is_one_line_and_exit_2(name, words, places, model, tmp_path, monkeypatch):
    if not {"--dtype", "--backend", "--checkpoint", "--model", "--device"} & set(words):
        monkeypatch.setattr("tl_truncate.cli.shared.model.load_model", lambda *_, **__: model)
    arguments = [*name.split(), *filled([*NEEDED[name], *words], places, tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    told = result.stderr.strip().splitlines()
    assert result.exit_code == 2, (arguments, result.stdout, result.stderr, result.exception)
    assert [line for line in told if not line.startswith("warning: ")] == told[-1:], told
    assert told[-1].startswith("error: ")
    assert "Traceback" not in result.output
    assert result.stdout == ""
