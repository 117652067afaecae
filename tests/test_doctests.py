"""Every example in a docstring runs, in a notebook where model, tokens, tlt and torch are at hand."""

import doctest
import importlib
import pkgutil

import pytest
import torch

import tl_truncate as tlt

MODULES = [
    each.name
    for each in pkgutil.walk_packages(tlt.__path__, "tl_truncate.")
    if not each.name.endswith("__main__")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name, toy, tokens):
    module = importlib.import_module(name)
    globs = dict(vars(module), model=toy, tokens=tokens, tlt=tlt, torch=torch)
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in finder.find(module, module.__name__, globs=globs):
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


def test_there_are_examples():
    counted = sum(
        len(test.examples)
        for name in MODULES
        for test in doctest.DocTestFinder().find(importlib.import_module(name))
    )
    assert counted >= 40
