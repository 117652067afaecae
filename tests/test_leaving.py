"""How the demo ends: its page and the live view where somebody is there, and words where nobody is."""

import sys

import pandas as pd
import pytest

from tl_truncate.cli.demo import extreme
from tl_truncate.cli.shared import leaving


@pytest.fixture
def ended(monkeypatch, tmp_path, capsys):
    """What was opened, what was started and what was said, by who is there and what is typed."""

    def end(*, there=True, screen=True, typed="", opens=True, figures=True):
        opened, started = [], []
        monkeypatch.setattr(leaving, "somebody_is_there", lambda: there)
        monkeypatch.setattr(leaving, "has_screen", lambda environment, platform: screen)
        monkeypatch.setattr(leaving.webbrowser, "open", lambda url: opened.append(url) or opens)
        monkeypatch.setattr(leaving.subprocess, "run", lambda command, **rest: started.append(command))

        def answer():
            if typed is None:
                raise EOFError
            return typed

        monkeypatch.setattr("builtins.input", answer)
        monkeypatch.setattr(sys, "argv", [".venv/bin/tl-truncate", "demo"])
        leaving.leave(tmp_path / "report.html" if figures else None, "demo")
        return opened, started, capsys.readouterr().out

    return end


def test_enter_explores(ended, tmp_path):
    opened, started, said = ended()
    assert opened == [(tmp_path / "report.html").as_uri()]
    assert started == [[sys.executable, "-m", "tl_truncate", "explore", "--model", "demo"]]
    assert ".venv/bin/tl-truncate explore --model demo" in said


@pytest.mark.parametrize("typed", ["q", " ", None])
def test_anything_else_leaves(ended, typed):
    assert ended(typed=typed)[1] == []


def test_where_nobody_is_the_command_is_the_last_line(ended, tmp_path):
    opened, started, said = ended(there=False)
    assert (opened, started) == ([], [])
    lines = said.split("\n")[:-1]
    assert lines[0] == f"Open in a browser: {tmp_path / 'report.html'}"
    assert lines[-1].endswith(": .venv/bin/tl-truncate explore --model demo")


@pytest.mark.parametrize("how", [dict(screen=False), dict(opens=False)])
def test_without_a_screen_the_page_is_named(ended, how):
    assert "Open in a browser" in ended(**how)[2]
    assert ended(screen=False)[0] == []


def test_without_figures_there_is_no_page(ended):
    opened, started, said = ended(figures=False)
    assert opened == []
    assert "browser" not in said
    assert started


@pytest.mark.parametrize("ends", [(True, False), (False, True)])
def test_a_pipe_is_nobody(monkeypatch, ends):
    for stream, terminal in zip((sys.stdin, sys.stdout), ends, strict=True):
        monkeypatch.setattr(stream, "isatty", lambda terminal=terminal: terminal, raising=False)
    monkeypatch.delenv("CI", raising=False)
    assert not leaving.somebody_is_there()


def test_a_machine_that_builds_is_nobody(monkeypatch):
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("CI", raising=False)
    assert leaving.somebody_is_there()
    monkeypatch.setenv("CI", "1")
    assert not leaving.somebody_is_there()


@pytest.mark.parametrize(
    ("way", "found", "said"),
    [
        ("rise", {1: 0.3, 2: 0.4}, "Largest rise of p: layer 2, 0.200 to 0.400."),
        ("rise", {1: 0.1, 2: 0.2}, "No layer makes p rise."),
        ("fall", {1: 0.1, 2: 0.3}, "Largest fall of p: layer 1, 0.200 to 0.100 (2 times less)."),
        ("fall", {1: 0.19, 2: 0.3}, "Largest fall of p: layer 1, 0.200 to 0.190."),
        ("fall", {1: 0.3, 2: 0.2}, "No layer makes p fall."),
        ("fall", {1: 0.0, 2: 0.2}, "Largest fall of p: layer 1, 0.200 to 0.000."),
    ],
)
def test_the_largest_change_has_the_sign_that_it_is_said_to_have(way, found, said):
    assert extreme(way, "p", pd.Series(found), 0.2) == said
