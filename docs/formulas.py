"""Formulas of the pages as MathML, which browsers draw themselves: no script, nothing fetched.

A hook of mkdocs: arithmatex finds `$...$` and `$$...$$`, and what it marks is translated here.
"""

import html
import re
from typing import Any
from xml.etree import ElementTree

from latex2mathml import exceptions
from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

_MARKED = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)
#: They have no base of their own.
_PROBLEMS = tuple(
    each for each in vars(exceptions).values() if isinstance(each, type) and issubclass(each, Exception)
)
#: A command, or a column of a table outside of one, that came through untranslated.
_LEFT = re.compile(r"\\[A-Za-z]+|(?<=<mi>)&(?=</mi>)")

#: How many parts these have; browsers draw nothing of use where one is missing.
_PARTS = {"mfrac": 2, "msub": 2, "msup": 2, "munder": 2, "mover": 2, "msubsup": 3, "munderover": 3}


def mathml(latex: str, *, display: bool = False) -> str:
    r"""One formula as a `<math>` element.

    Raises:
        ValueError: if part of it is not understood.

    Examples:
        >>> mathml("x^2")[:5]
        '<math'
        >>> mathml(r"\frob x")
        Traceback (most recent call last):
        ...
        ValueError: A formula must be LaTeX that latex2mathml knows; of '\\frob x' it left '\\frob'.
    """
    try:
        found = convert(latex, display="block" if display else "inline")
    except _PROBLEMS as problem:
        raise ValueError(
            f"A formula must be LaTeX that latex2mathml knows; of {latex!r} it says {problem!r}."
        ) from problem
    left = _LEFT.search(found)
    if left:
        raise ValueError(
            f"A formula must be LaTeX that latex2mathml knows; of {latex!r} it left {left[0]!r}."
        )
    for element in ElementTree.fromstring(found).iter():
        name = element.tag.rpartition("}")[2]
        if len(element) != _PARTS.get(name, len(element)):
            raise ValueError(
                f"A formula must be LaTeX that latex2mathml knows; of {latex!r} it made a {name} "
                f"with {len(element)} of {_PARTS[name]} parts."
            )
    return found


def on_page_content(content: str, page: Any, **_: Any) -> str:
    """Called by mkdocs with the HTML of a page."""

    def translated(found: re.Match[str]) -> str:
        try:
            return mathml(html.unescape(found["latex"]).strip(), display=found["tag"] == "div")
        except ValueError as problem:
            raise PluginError(f"{page.file.src_uri}: {problem}") from problem

    return _MARKED.sub(translated, content)
