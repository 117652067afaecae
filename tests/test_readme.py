"""The README is short, and what is built from it shows on a package index."""

import re
import subprocess
import sys

import documents
import pytest
import tomllib

README = documents.ROOT / "README.md"
TEXT = README.read_text()


def paragraphs():
    """Running text alone: no code, tables, pictures, headings or sources, and of a link what is read."""
    text = re.sub(r"^```.*?^```", "", TEXT.partition("## Citation")[0], flags=re.DOTALL | re.MULTILINE)
    for each in re.split(r"\n\s*\n", text):
        kept = [line for line in each.splitlines() if not line.startswith(("#", "|", "!["))]
        yield re.sub(r"\]\([^)]*\)|`[^`]*`", "", " ".join(kept))


def numbers(text):
    return re.findall(r"\d[\d.,]*", text)


def test_it_is_read_at_a_glance():
    assert len(TEXT.splitlines()) <= 120
    for each in paragraphs():
        assert len(numbers(each)) <= 2, each
    # One picture, before anything else is said, and the recording of the live view.
    shown = re.findall(r"^!\[.*\]\((.*)\)$", TEXT, re.MULTILINE)
    assert shown == ["docs/hero.png", "docs/explore.gif"]
    assert "docs/hero.png" in TEXT.split("\n## ")[0]
    assert (README.parent / "docs" / "explore.gif").stat().st_size <= 2_000_000


def test_too_many_numbers_would_be_seen():
    assert len(numbers("from .08 to .11 in 16 draws")) == 3


@pytest.mark.parametrize("page", documents.PAGES, ids=documents.name)
def test_links_lead_somewhere(page):
    """Files of this repository, from the README, whose links no builder of sites checks, and from the pages."""
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if path and "://" not in path:
            found = page.parent / path
            assert found.exists(), target
            if anchor and found.suffix == ".md":
                assert anchor in map(slug, re.findall(r"^#+ (.*)$", found.read_text(), re.MULTILINE)), (
                    target
                )


def slug(heading):
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip())


def test_what_is_built_shows_its_readme(tmp_path):
    """Source and wheel, as an index takes them: strictly, with the project's links in the metadata."""
    build = [sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path)]
    subprocess.run(build, cwd=documents.ROOT, check=True, capture_output=True)
    built = sorted(map(str, tmp_path.iterdir()))
    assert [each.rpartition("tl_truncate-")[2].endswith((".whl", ".tar.gz")) for each in built] == [
        True
    ] * 2
    check = [sys.executable, "-m", "twine", "--no-color", "check", "--strict", *built]
    done = subprocess.run(check, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == 2
    named = tomllib.loads((documents.ROOT / "pyproject.toml").read_text())["project"]["urls"]
    assert named
    assert all(url.startswith("https://") for url in named.values())


@pytest.mark.parametrize("folder", ["runs", "screens", "searches", "masks", "adapter", "demo"])
def test_what_its_commands_write_is_no_part_of_the_project(folder):
    """At the root, and not a room of the package that has the same name."""
    ignored = ["git", "check-ignore", "-q", "--no-index", f"{folder}/file"]
    assert subprocess.run(ignored, cwd=documents.ROOT).returncode == 0
    room = ["git", "check-ignore", "-q", "--no-index", f"tl_truncate/{folder}/new.py"]
    assert subprocess.run(room, cwd=documents.ROOT).returncode == 1
