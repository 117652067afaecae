"""Runs the tutorials from top to bottom and keeps their outputs; or checks what is kept.

`python tutorials/execute.py [NAME ...]` runs notebooks whose names begin so (all by default) and writes
them back. `--check` runs nothing: it fails if a cell was not run, in order, or if an output holds a path
of the machine or a warning. What runs say on their way (stderr) is not kept.
"""

import argparse
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import nbformat

WIDGET = "application/vnd.jupyter.widget-view+json"
FOLDER = Path(__file__).parent
#: Home folders, temporary folders and environments: what another machine does not have.
_PATHS = re.compile(
    r"/home/|/root/|/Users/|/tmp/|/work/|/mnt/|site-packages|[A-Z]:\\\\|\.venv|0x[0-9a-f]{8,}"
)


def notebooks(names: list[str] | None = None) -> list[Path]:
    """The tutorials in reading order, or those whose names begin with one of `names`."""
    found = sorted(FOLDER.glob("[0-9]*.ipynb"))
    return [path for path in found if not names or path.name.startswith(tuple(names))]


def run(path: Path, *, folder: Path = FOLDER, timeout: int = 900) -> Any:
    """The notebook with fresh outputs; raises as its cells do.

    Cells run in the notebooks' folder, as in Jupyter, or in another one; progress bars are left out,
    since they are of no use to whoever reads the notebook later.
    """
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    quiet = {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
    )
    client.execute(env={**os.environ, **quiet})
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if WIDGET not in each.get("data", {})]
    notebook.metadata.pop("widgets", None)
    return notebook


def without_stderr(notebook: Any) -> Any:
    """The notebook as it is published: what its runs said on their way is of no use to a reader."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
    return notebook


def problems(notebook: Any) -> list[str]:
    """What is wrong with the outputs that a notebook carries."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    found = []
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append("the cells were not run once each, in order")
    if not any(cell.outputs for cell in code):
        found.append("there are no outputs")
    for place, cell in enumerate(code, 1):
        for output in cell.outputs:
            found += [f"cell {place}: {told}" for told in _complaints(output)]
    return found


def _complaints(output: Any) -> list[str]:
    told = []
    if output.output_type == "error":
        told.append(f"an error, {output.ename}")
    if output.output_type == "stream" and output.name == "stderr" and "Warning" in output.text:
        told.append(f"a warning: {output.text[:200]!r}")
    texts = [output.text] if output.output_type == "stream" else []
    texts += [
        value
        for kind, value in output.get("data", {}).items()
        if kind.startswith("text/") and isinstance(value, str)
    ]
    for text in texts:
        match = _PATHS.search(text)
        if match:
            around = text[max(0, match.start() - 40) : match.end() + 40]
            told.append(f"a path or an address of the machine: {around!r}")
    return told


def main() -> int:
    """Runs or checks; the exit status is the number of notebooks with problems."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="beginnings of names")
    parser.add_argument("--check", action="store_true", help="look at the outputs, run nothing")
    options = parser.parse_args()
    bad = 0
    for path in notebooks(options.names):
        start = time.perf_counter()
        notebook = nbformat.read(path, as_version=4) if options.check else run(path)
        complaints = problems(notebook)
        if not options.check:
            nbformat.write(without_stderr(notebook), path)
            print(f"{path.name}: {time.perf_counter() - start:.0f} s", flush=True)
        bad += bool(complaints)
        for complaint in complaints:
            print(f"{path.name}: {complaint}", file=sys.stderr)
    return bad


if __name__ == "__main__":
    sys.exit(main())
