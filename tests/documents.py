"""The README and the documentation as the tests read them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        ROOT / "README.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "docs").glob("*/*.md"),
    ]
)
#: Pages whose Python asks for models of its own; tests of their own run it, here and in `tests/real`.
OTHERS = (
    "README.md",
    "docs/decomposition.md",
    "docs/gallery.md",
    "docs/training.md",
    "docs/guides/large-models.md",
    "docs/guides/library.md",
)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def run(page: Path, names: dict) -> dict:
    """Executes the Python blocks of a page from top to bottom, as a reader would; returns the names."""
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), names)
    return names
