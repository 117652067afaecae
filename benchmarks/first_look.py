"""What a newcomer pays: `make first-look`, or `python benchmarks/first_look.py --python python3.11`.

Clones this repository beside an empty home, makes the demo's environment, and goes on to the first
picture, the first cut and the first task of one's own, as the README says. Prints minutes and gigabytes.
Needs nothing but git, make and Python.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMMAND = ".venv/bin/tl-truncate"
OWN_CUT = ["evaluate", "--model", "demo", "--task", "ioi", "--cut", "blocks.23.mlp.W_gate=0.5"]
#: A task of one's own is a file: prompts, and what they call for.
OWN_TASK = {
    "name": "colours",
    "prompts": [
        f"The {thing} that I bought is {colour}. When I look at the {thing}, I see that it is"
        for thing, colour in [
            ("car", "red"),
            ("lamp", "green"),
            ("coat", "blue"),
            ("chair", "white"),
            ("hat", "black"),
            ("cup", "yellow"),
        ]
    ],
    "in_context": [" red", " green", " blue", " white", " black", " yellow"],
    "global_": " a",
}


def steps(clone: Path, python: str) -> list[tuple[str, list[str]]]:
    """What is done, in order, each with its command."""
    task = str(clone / "colours.json")
    return [
        ("clone", ["git", "clone", "-q", str(ROOT), str(clone)]),
        ("environment", ["make", "-s", ".venv/ready", f"PYTHON={python}"]),
        ("first picture", ["make", "-s", "demo", f"PYTHON={python}"]),
        ("first own cut", [COMMAND, *OWN_CUT]),
        ("first own task", [COMMAND, "evaluate", "--model", "demo", "--task", task, *OWN_CUT[-2:]]),
    ]


def gigabytes(folder: Path) -> float:
    """What the files of a folder take; links are not followed."""
    paths = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in paths) / 1e9


def main() -> None:
    """Prints a row for each step, and what lies on the disk in the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=sys.executable, help="which Python makes the environment")
    parser.add_argument("--folder", type=Path, help="where to work, kept; a temporary one by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        home, clone = folder / "home", folder / "clone"
        home.mkdir(parents=True)
        # Nothing that the user has: caches, configuration of pip, spectra that were computed before.
        environment = {**os.environ, "HOME": str(home), "CI": "1"}
        for name in ("XDG_CACHE_HOME", "TL_TRUNCATE_CACHE", "PIP_CACHE_DIR", "PYTHONPATH"):
            environment.pop(name, None)
        spent, rows = 0.0, []
        for name, command in steps(clone, options.python):
            print(f"$ {' '.join(command)}", flush=True)
            started = time.perf_counter()
            where = clone if clone.is_dir() else folder
            subprocess.run(command, cwd=where, env=environment, check=True, stdin=subprocess.DEVNULL)
            seconds = time.perf_counter() - started
            spent += seconds
            rows.append(f"| {name} | {seconds / 60:.1f} | {spent / 60:.1f} |")
            if name == "clone":
                (clone / "colours.json").write_text(json.dumps(OWN_TASK))
        load = os.getloadavg()[2] / (os.cpu_count() or 1)
        print(f"\n{os.cpu_count()} cores, {load:.1f} programs waiting for each over 15 minutes\n")
        print("| step | minutes | since the start |\n|---|---|---|")
        print("\n".join(rows))
        print(f"\nenvironment {gigabytes(clone / '.venv'):.2f} GB, home {gigabytes(home):.2f} GB")


if __name__ == "__main__":
    main()
