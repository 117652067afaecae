"""What a command leaves behind has a page, which says all that the command said and replaces no other."""

import json
import re

import architectures
import numpy as np
import pytest
import samples
from typer.testing import CliRunner

import tl_truncate as tlt
from tl_truncate.cli import app
from tl_truncate.cli.dynamics import read_steps
from tl_truncate.cli.shared.grid import read_layers
from tl_truncate.cli.sweep import order_told
from tl_truncate.experiments.scoring.drawn import drawn_beside
from tl_truncate.report.kinds.scores import scores_page

SITE = "blocks.1.mlp.W_in"
CUT = ["--cut", f"{SITE}=0.3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(architectures.save_folder("gpt2", tmp_path_factory.mktemp("models") / "gpt2"))


@pytest.fixture(scope="module")
def asked(folder, tmp_path_factory):
    """What each command is told of the model and the task."""
    file = tmp_path_factory.mktemp("tasks") / "pairs.json"
    samples.PAIRS.save(file)
    return ["-m", folder, "--task", str(file)]


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code == code, result.output + result.stderr
    return result


class TestControlsAreSavedWithTheCut:
    @pytest.fixture(scope="class")
    def left(self, asked, tmp_path_factory):
        out = tmp_path_factory.mktemp("evaluate") / "out"
        said = run("evaluate", *asked, *CUT, "--controls", "--out", out).stdout
        return out, said

    def test_the_page_has_their_numbers(self, folder, left):
        out, _ = left
        model = tlt.load_model(folder)
        options = dict(progress=False)
        cut = tlt.evaluate(model, samples.PAIRS, tlt.Cut(SITE, 0.3), **options)
        changes = {}
        for kind in (tlt.RandomSubspace, tlt.NormMatched):
            drawn = [
                tlt.evaluate(model, samples.PAIRS, kind(SITE, 0.3, seed), **options)
                for seed in range(16)
            ]
            values = np.stack([each.frame["p_in_context"] for each in drawn])
            changes[kind.__name__] = float(
                np.mean(values - cut.baseline.frame["p_in_context"].to_numpy())
            )
        own = float(cut.change("p_in_context"))
        nearest = max(changes, key=lambda kind: changes[kind] * np.sign(own))
        page = scores_page(tlt.Scores.load(out / "result.json"))
        number = next(each for each in page.answer.numbers if each.name == "its control")
        assert number.value == f"{changes[nearest]:+.3f}"
        assert "16 draws" in number.note
        assert "no control" not in page.answer.sentence
        assert "control" in page.answer.sentence
        table = str(next(each for each in page.sections if each.id == "controls").before)
        for kind, change in changes.items():
            assert f"{change:+.3f}" in table, kind

    def test_the_page_says_what_the_command_said(self, left):
        out, said = left
        run("report", out)
        page, said = (out / "report.html").read_text(), " ".join(said.split())
        told = {
            "the cut does less": "control does more|controls do more",
            "a random draw may do as much": "controls? may do as much",
            "the cut does more": r"and more than its controls \(random subspace, norm-matched\)",
        }
        worst = next(words for words in told if words in said)
        assert re.search(told[worst], page)

    def test_draws_come_back_as_they_were(self, left):
        out, _ = left
        record = json.loads((out / "record.json").read_text())
        found = drawn_beside(tlt.Scores.load(out / "result.json"))
        assert list(found) == ["RandomSubspace", "NormMatched"]
        for control, name in zip(found.values(), ("random subspace", "norm matched"), strict=True):
            assert json.loads(json.dumps(control.to_json())) == record[name]

    def test_without_controls_it_says_so(self, asked, tmp_path):
        run("evaluate", *asked, *CUT, "--out", tmp_path / "out")
        file = tmp_path / "out" / "result.json"
        assert "drawn" not in json.loads(file.read_text())["result"]
        assert "with no control scored" in scores_page(tlt.Scores.load(file)).answer.sentence


class TestAttribute:
    def test_it_has_a_page(self, asked, tmp_path):
        run("attribute", *asked, "--site", SITE, "--no-figures", "--out", tmp_path / "out")
        run("report", tmp_path / "out")
        assert "layer 1, W_in" in (tmp_path / "out" / "report.html").read_text()

    @pytest.mark.parametrize("given", [None, "logit_diff", "p_in_context"])
    def test_the_metric_is_what_was_predicted(self, asked, folder, given):
        more = [] if given is None else ["--metric", given]
        data = json.loads(run("attribute", *asked, "--site", SITE, *more, "--json").stdout)
        screen = tlt.attribute(
            tlt.load_model(folder), samples.PAIRS, sites=[SITE], metric=given, progress=False
        )
        assert data["metric"] == screen.metric
        assert data["predicted"][0]["predicted_change"] == pytest.approx(
            float(screen.effect(SITE, data["predicted"][0]["keep"]))
        )


def test_a_page_of_two_runs_replaces_none_of_them(asked, tmp_path, monkeypatch):
    for name, keep in (("a-0.5", "0.5"), ("b", "0.1")):
        run("evaluate", *asked, "--cut", f"{SITE}={keep}", "--out", tmp_path / name)
        run("report", tmp_path / name)
    before = [(tmp_path / name / "report.html").read_text() for name in ("a-0.5", "b")]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    said = run("report", tmp_path / "a-0.5", tmp_path / "b" / "result.json").stdout
    assert "report-a-0.5-b.html" in said
    assert (tmp_path / "here" / "report-a-0.5-b.html").exists()
    assert [(tmp_path / name / "report.html").read_text() for name in ("a-0.5", "b")] == before


def test_the_largest_of_what_falls_is_the_smallest_fall(asked, folder, tmp_path):
    said = run("sweep", *asked, "--site", SITE, "--keep", "0", "--keep", "0.5", "--no-figures",
               "--out", tmp_path / "out").stdout  # fmt: skip
    changes = [
        float(tlt.evaluate(tlt.load_model(folder), samples.PAIRS, tlt.Cut(SITE, keep), progress=False)
              .change("p_in_context"))
        for keep in (0.0, 0.5)
    ]  # fmt: skip
    assert f"; {order_told(changes)}" in " ".join(said.split())


@pytest.mark.parametrize("layers", ["5-3", "0,2-1"])
def test_a_range_of_layers_goes_up(layers, folder):
    with pytest.raises(ValueError, match=r"A range of --layers must go up, .* got '\d-\d'"):
        read_layers(layers)
    said = run("sweep", "-m", folder, "--layers", layers, "--out", "x", code=2)
    assert "must go up" in " ".join(said.stderr.split())


def test_a_range_of_steps_goes_up():
    with pytest.raises(ValueError, match=r"A range of --steps must go up, .* got '2000,...,512'"):
        read_steps("0,2000,...,512", "pythia-70m")
    assert read_steps("512,...,512", "pythia-70m") == [512, 512]
