"""The site as a reader has it: nothing is cut off, nothing is fetched, and what it shows is drawn by its code."""

import html
import os
import re
import shutil
import subprocess
import sys

import documents
import pytest
from mkdocs.utils.yaml import get_yaml_loader, yaml_load

import tl_truncate as tlt

playwright = pytest.importorskip("playwright.sync_api")
sys.path.insert(0, str(documents.ROOT / "docs"))
import formulas  # noqa: E402

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
#: What reaches over the right edge without a frame of its own to scroll in, and what is cut off in one
#: that does not scroll.
OVER_THE_EDGE = """() => {
  const width = document.documentElement.clientWidth, found = [];
  const told = (what, e) => found.push(what + ': ' + e.tagName + '.' + e.className + ' ' + e.textContent.trim().slice(0, 40));
  if (document.documentElement.scrollWidth > width) found.push('the page scrolls sideways');
  for (const e of document.querySelectorAll('.md-content *')) {
    const box = e.getBoundingClientRect(), style = getComputedStyle(e);
    if (box.width <= 1 || box.height <= 1) continue;
    const hides = ['hidden', 'clip'].includes(style.overflowX) && style.textOverflow != 'ellipsis';
    if (hides && e.clientWidth && e.scrollWidth > e.clientWidth + 1) told('cut off', e);
    if (box.right <= width + 1) continue;
    // A table that scrolls may itself stand in a frame that does.
    const fits = (frame) =>
      ['auto', 'scroll'].includes(getComputedStyle(frame).overflowX) &&
      frame.getBoundingClientRect().right <= width + 1;
    let frame = e.parentElement;
    while (frame && !fits(frame)) frame = frame.parentElement;
    if (!frame) told('over the edge', e);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "site"
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(folder)],
        cwd=documents.ROOT,
        check=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    return folder


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
class TestInABrowser:
    @pytest.fixture(scope="class")
    def chromium(self):
        with playwright.sync_playwright() as p:
            browser = p.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
            yield browser
            browser.close()

    @pytest.mark.parametrize("width", [1280, 400])
    def test_nothing_is_cut_off_at_the_right_edge(self, site, chromium, width):
        page = chromium.new_page(viewport=dict(width=width, height=900))
        problems = {}
        for path in sorted(site.rglob("index.html")):
            page.goto(path.as_uri())
            if page.query_selector("table:not([class])"):
                page.wait_for_selector(".md-typeset__scrollwrap")
            found = page.evaluate(OVER_THE_EDGE)
            if found:
                problems[path.relative_to(site).as_posix()] = found[:3]
        page.close()
        assert problems == {}

    def test_what_is_too_wide_would_be_seen(self, chromium):
        page = chromium.new_page(viewport=dict(width=400, height=900))
        wide = '<div class="md-content"><div style="{}"><pre style="width:900px">wide</pre></div></div>'
        page.set_content(wide.format("width:300px;overflow-x:auto"))
        assert page.evaluate(OVER_THE_EDGE) == []
        page.set_content(wide.format("width:300px;overflow-x:hidden"))
        assert page.evaluate(OVER_THE_EDGE)[0].startswith("cut off")
        page.set_content(wide.format(""))
        assert page.evaluate(OVER_THE_EDGE)[0] == "the page scrolls sideways"
        page.close()

    def test_nothing_is_fetched_and_both_schemes_are_there(self, site, chromium):
        asked, grounds = [], []
        for scheme in ("light", "dark"):
            context = chromium.new_context(color_scheme=scheme)
            page = context.new_page()
            page.on("request", lambda request: asked.append(request.url))
            for name in ("", "theory", "tutorials/01-the-effect"):
                page.goto((site / name / "index.html").as_uri())
                page.wait_for_load_state("networkidle")
            grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            context.close()
        assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
        assert grounds[0] != grounds[1]


class TestFormulas:
    @pytest.mark.parametrize("name", ["theory", "decomposition", "rules", "training"])
    def test_each_is_a_formula_in_the_site(self, site, name):
        written = len(re.findall(r"\$\$.+?\$\$|\$[^$\n]+\$", without_code(name), re.DOTALL))
        page = (site / name / "index.html").read_text()
        assert page.count("<math ") == written > 0
        assert "$" not in re.sub(r"<(script|style|pre|code)\b.*?</\1>", "", page, flags=re.DOTALL)

    def test_what_they_say(self):
        found = formulas.mathml(r"W_K = \sum_{i \in K} S_i", display=True)
        assert 'display="block"' in found
        assert "∑" in html.unescape(found)

    @pytest.mark.parametrize("latex", [r"\frobnicate x", "x^", "a & b", r"\frac{1}"])
    def test_what_is_not_understood(self, latex):
        with pytest.raises(ValueError, match="A formula must be LaTeX that latex2mathml knows"):
            formulas.mathml(latex)


def without_code(name: str) -> str:
    text = (documents.ROOT / "docs" / f"{name}.md").read_text()
    return re.sub(r"^```.*?^```|`[^`\n]+`", "", text, flags=re.DOTALL | re.MULTILINE)


def test_the_gallery_draws_what_it_shows(toy, tokens, drinks, tmp_path, monkeypatch):
    """Each block leaves a figure with data in it; each picture stands over the code of its kind."""
    matplotlib = pytest.importorskip("matplotlib.figure")
    monkeypatch.chdir(tmp_path)
    page = documents.ROOT / "docs" / "gallery.md"
    names = dict(tlt=tlt, model=toy, tokens=tokens, task=drinks)
    first, *blocks = documents.blocks(page, "python")
    exec(compile(first, str(page), "exec"), names)
    assert len(blocks) == len(re.findall("^## ", page.read_text(), re.MULTILINE))
    drawn = set()
    for block in blocks:
        names.pop("figure", None)
        exec(compile(block, str(page), "exec"), names)
        figure = names["figure"]
        assert isinstance(figure, matplotlib.Figure), block
        assert any(axis.has_data() for axis in figure.axes), block
        drawn |= set(re.findall(r"plots\.(\w+)\(", block))
    assert len(drawn) == len(blocks)


def test_the_script_draws_what_pages_show():
    """Each of its figures stands on some page; one of them is drawn, from a model that is kept."""
    pytest.importorskip("matplotlib")
    import figures
    import recall_models

    text = "".join(page.read_text() for page in documents.PAGES)
    assert [name for name in figures.FIGURES if f"{name}.png)" not in text] == []
    line = figures.recall().axes[0].lines[0]
    assert line.get_ydata().tolist() == recall_models.small(0).stored().history["p_correct"].tolist()


def test_newcomers_find_ten_names_first():
    page = (documents.ROOT / "docs" / "api" / "index.md").read_text()
    begin = page[page.index("## Ten names") : page.index("## All names")]
    names = re.findall(r"^\| \[`(\w+)`\]\[tl_truncate\.(\w+)\] \| (.+) \|$", begin, re.MULTILINE)
    assert len(names) == 10
    assert all(shown == meant and hasattr(tlt, shown) and says for shown, meant, says in names)
    everything = page[page.index("## All names") :]
    assert all(f"[tl_truncate.{name}]" in everything for name, _, _ in names)


@pytest.mark.parametrize(
    "page", sorted((documents.ROOT / "docs" / "api").glob("*.md")), ids=lambda path: path.stem
)
def test_each_page_of_the_api_begins_with_an_example(page):
    """They run with those of the other pages."""
    text = page.read_text()
    names = text.find("\n::: ") if "\n::: " in text else text.index("## All names")
    assert 0 < text.index("```python") < names


def test_the_names_are_listed_once():
    page = (documents.ROOT / "docs" / "api" / "index.md").read_text()
    listed = re.findall(r"\]\[tl_truncate\.([\w.]+)\]", page[page.index("## All names") :])
    assert len(listed) == len(set(listed))


def test_what_the_rooms_describe_is_listed():
    pages = (documents.ROOT / "docs" / "api").glob("*.md")
    described = {
        name
        for page in pages
        for name in re.findall(r"^::: tl_truncate\.([\w.]+)$", page.read_text(), re.M)
    }
    index = (documents.ROOT / "docs" / "api" / "index.md").read_text()
    listed = set(re.findall(r"\]\[tl_truncate\.([\w.]+)\]", index[index.index("## All names") :]))
    assert described - listed == set()


def test_every_page_is_in_the_navigation():
    with open(documents.ROOT / "mkdocs.yml") as file:
        listed = yaml_load(file, get_yaml_loader())["nav"]
    text = str(listed)
    assert [next(iter(door)) for door in listed][:5] == ["Home", "See", "Use", "Understand", "API"]
    for page in (documents.ROOT / "docs").rglob("*.md"):
        assert f"'{page.relative_to(documents.ROOT / 'docs').as_posix()}'" in text, page
