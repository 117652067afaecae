"""The live view in a notebook that is executed: it shows itself, and a cell that runs again keeps where it was."""

from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
VIEW = "application/vnd.jupyter.widget-view+json"
TESTS = Path(__file__).parents[1]

MODEL = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
import architectures
import tl_truncate as tlt
model = architectures.build("bridge", "llama-grouped")
"""
SHOWN = 'view = tlt.explore(model, [("Mary gave a drink to", " John", " the")])\nview'
#: What the page writes when a hand has moved something.
MOVED = """
view.state = {"site": "blocks.1.mlp.W_out", "rule": "largest", "amount": 0.25, "cuts": []}
earlier = view
"""


def test_a_cell_that_runs_again_keeps_its_place():
    cells = [MODEL, SHOWN, MOVED, SHOWN, "print(view is earlier, view.state)"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(each) for each in cells])
    notebook.metadata.kernelspec = dict(name="python3", display_name="Python 3", language="python")
    nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(TESTS)}}
    ).execute()
    views = [cell.outputs[-1].data[VIEW]["model_id"] for cell in notebook.cells if cell.source == SHOWN]
    assert len(set(views)) == 2
    (said,) = notebook.cells[-1].outputs
    assert said.text.strip() == (
        "False {'site': 'blocks.1.mlp.W_out', 'rule': 'largest', 'amount': 0.25, 'cuts': []}"
    )
