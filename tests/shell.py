"""The shell commands of README and documentation, and what each becomes where a test runs it: in small."""

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import documents

#: Of each command: what its options are set to. Where none is named, `sweep` would take every layer.
SIZES = {
    "evaluate": {"--n": "8"},
    "sweep": {"--n": "12"},
    "plan": {"--n": "8"},
    "attribute": {"--n": "8", "--layers": "28-29"},
    "search": {"--n": "12"},
    "learn": {"--n": "24", "--steps": "2", "--components": "4"},
    "dynamics": {"--n": "8", "--steps": "64,2000"},
    "decompose": {"--words": "300", "--layers": "28"},
    "toy": {"--steps": "2"},
    "lm-eval": {"--tasks": "tl_truncate_sums", "--limit": "1", "--max-gen-toks": "2"},
}
#: Of a number that would be too much for the small model, or ask for a card.
VALUES = {"--shots": "0,1", "--num-fewshot": "1", "--device": "cpu"}
#: What serves until Ctrl-C.
SERVING = ("explore",)
GRIDS = ("sweep", "search")
GRID = {"--layers": "28-29", "--keep": "0.5"}
#: What a page takes for granted: commands that are run before its own.
BEFORE = {
    "docs/guides/clusters.md": [
        "tl-truncate sweep --model demo --task ioi --shard 1/2 --out runs/ioi",
    ],
    "docs/guides/elsewhere.md": ["tl-truncate search --model demo --task ioi --out searches/ioi"],
}
#: Arguments that make a benchmark small: enough that it prints a row.
#: Ray has tests of its own and takes longer to start than all of these.
SCRIPTS = {
    "explore.py": "--help",  # drives a browser through the demo model for minutes
    "few_shot.py": "--threads 1 --models neox --shared 4 --layers 1 --keeps 0.1 --prompts 2 --plain 2 --tasks",
    "hero.py": "--model nano-pythia --site blocks.3.mlp.W_in --n 8 --draws 2 --out hero.png",
    "memory.py": "--shapes 14m --works evaluate --prompts 4 --length 8 --times 1",
    "plan.py": "--threads 1 --shapes 70m --n 2 --sites 1 --keeps 0.5",
    "ray.py": "--help",
}


def commands(page: Path) -> Iterator[list[str]]:
    """Shell commands of a page, continued lines joined, comments left out."""
    for block in documents.blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            for start in [0, *(place + 1 for place, word in enumerate(words) if word == "&&")]:
                rest = words[start:]
                yield rest[: rest.index("&&")] if "&&" in rest else rest


def of_the_program(page: Path) -> list[list[str]]:
    """What `tl-truncate` is given on a page, behind what the page takes for granted."""
    before = map(shlex.split, BEFORE.get(documents.name(page), []))
    given = [words for words in [*before, *commands(page)] if words]
    return [words[1:] for words in given if Path(words[0]).name == "tl-truncate"]


def in_small(words: list[str], model: str) -> list[list[str]]:
    """A command line of `tl-truncate` with few prompts, layers and steps; of one shard, both of two.

    Args:
        words: without the program's name.
        model: a folder, for the demo model and those of a hub.
    """
    command, found = words[0], list(words)
    for option, value in SIZES.get(command, {}).items():
        _set(found, option, value)
    if command in GRIDS and "--site" not in found:
        for option, value in GRID.items():
            _set(found, option, value)
    for option, value in VALUES.items():
        if option in found and not (command == "plan" and option == "--device"):
            _set(found, option, value)
    if "--model" in found:
        _set(found, "--model", _model(command, found[found.index("--model") + 1], model))
    if "--delete-after" in found:  # of what was downloaded; the small models lie on this machine
        found.remove("--delete-after")
        del found[found.index("--cache-dir") : found.index("--cache-dir") + 2]
    if "--ray" in found:  # whose tests are in tests/runs/test_ray.py: the same work, here in one process
        del found[found.index("--ray") : found.index("--ray") + 2]
    if _nano(found) and "--layers" in found:
        _set(found, "--layers", "2-3")
    # Its rank is 32.
    found = [word.replace("DropTop(64)", "DropTop(8)") for word in found]
    if "--shard" not in found:
        return [found]
    shards = [list(found), list(found)]
    for place, shard in enumerate(shards):
        _set(shard, "--shard", f"{place + 1}/2")
    return shards


def _model(command: str, name: str, model: str) -> str:
    if name == "nano-pythia" or command == "dynamics":
        return "nano-pythia"
    return model


def _nano(words: list[str]) -> bool:
    return "nano-pythia" in words


def _set(words: list[str], option: str, value: str) -> None:
    if option in words:
        words[words.index(option) + 1] = value
    else:
        words += [option, value]


@contextmanager
def served(words: list[str], *, seconds: float = 300) -> Iterator[tuple[str, list[str]]]:
    """Starts what serves until Ctrl-C, and ends it so.

    Args:
        words: of the command line, without the program's name.
        seconds: after which it has not begun, or not ended.

    Yields:
        The address that it names, and the lines that it printed, the last ones behind the end.
    """
    command = [sys.executable, "-u", "-m", "tl_truncate", *words]
    process = subprocess.Popen(
        [*command, *([] if "--no-browser" in words else ["--no-browser"])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "40"},  # an address is not broken into lines
        preexec_fn=_hears_ctrl_c,
    )
    late = threading.Timer(seconds, process.kill)
    late.start()
    try:
        printed = [process.stdout.readline()]
        address = re.fullmatch(r"Open (http://127\.0\.0\.1:\d+/\?token=\S+)\n", printed[0])
        assert address, printed[0] or process.stderr.read()
        yield address[1], printed
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate()
        printed += out.splitlines(keepends=True)
    finally:
        late.cancel()
        process.kill()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors, errors


def visit(words: list[str]) -> tuple[str, str]:
    """Starts what serves, opens the page that it names, and ends it.

    Returns:
        The page, and what the command printed.
    """
    with served(words) as (address, printed), urllib.request.urlopen(address, timeout=30) as answer:
        page = answer.read().decode()
    return page, "".join(printed)


def _hears_ctrl_c() -> None:
    """Also where the tests run behind a shell that keeps it from what it started."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
