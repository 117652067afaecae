"""The tutorials run from top to bottom, assert their claims, and carry clean outputs."""

import importlib.util
import os

import documents
import nbformat
import pytest

SPEC = importlib.util.spec_from_file_location("execute", documents.ROOT / "tutorials" / "execute.py")
execute = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(execute)
NOTEBOOKS = execute.notebooks()


def test_they_are_numbered():
    assert [path.name[:2] for path in NOTEBOOKS] == "01 02 03 04 05 06 07 08 09".split()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_carries_the_outputs_of_a_whole_run(path):
    assert execute.problems(nbformat.read(path, as_version=4)) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_its_run_said_on_the_way_is_not_published(path):
    cells = nbformat.read(path, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert [output for output in outputs if output.get("name") == "stderr"] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_says_what_will_be_known_and_what_is_not_shown(path):
    cells = nbformat.read(path, as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    for heading in ("**At the end you will know**", "## What this does not show", "## Exercises"):
        assert heading in text
    assert cells[-1].cell_type == "code"
    assert cells[-1].source.startswith("assert ")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_its_claims_hold(path, tmp_path, monkeypatch):
    """In a kernel of its own, with one thread: two workers share two cores."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    fresh = execute.run(path, folder=tmp_path)
    assert execute.problems(fresh) == []


class TestProblems:
    def notebook(self, *outputs, count=1):
        cell = nbformat.v4.new_code_cell("1", execution_count=count, outputs=list(outputs))
        return nbformat.v4.new_notebook(cells=[cell])

    def test_cells_that_were_not_run(self):
        found = execute.problems(self.notebook(count=None))
        assert found == ["the cells were not run once each, in order", "there are no outputs"]

    @pytest.mark.parametrize(
        "text", [f"{os.sep}home/mary/x", "/root/.cache", "/tmp/pytest-1", "at 0x7f00deadbeef"]
    )
    def test_paths_of_a_machine(self, text):
        output = nbformat.v4.new_output("stream", name="stdout", text=f"written to {text}")
        assert "a path or an address" in execute.problems(self.notebook(output))[0]
        shown = nbformat.v4.new_output("execute_result", {"text/html": f"<b>{text}</b>"})
        assert "a path or an address" in execute.problems(self.notebook(shown))[0]

    def test_errors_and_warnings(self):
        error = nbformat.v4.new_output("error", ename="ValueError", evalue="", traceback=[])
        warning = nbformat.v4.new_output("stream", name="stderr", text="x.py:1: UserWarning: careful")
        said = nbformat.v4.new_output("stream", name="stderr", text="sweep: about 200 MB")
        assert execute.problems(self.notebook(error)) == ["cell 1: an error, ValueError"]
        assert "a warning" in execute.problems(self.notebook(warning))[0]
        assert execute.problems(self.notebook(said)) == []

    def test_the_rest_of_an_output_stays(self):
        said = nbformat.v4.new_output("stream", name="stderr", text="sweep: about 200 MB")
        printed = nbformat.v4.new_output("stream", name="stdout", text="1")
        found = execute.without_stderr(self.notebook(said, printed))
        assert [output.text for output in found.cells[0].outputs] == ["1"]
