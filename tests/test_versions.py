"""What pyproject.toml allows, and what is tested: the lowest versions are pinned as they are declared."""

import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
def test_the_lowest_versions_are_those_that_are_declared():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    pinned = {canonicalize_name(name): Version(version) for name, version in pinned.items()}
    for requirement in map(Requirement, declared):
        name = canonicalize_name(requirement.name)
        (lowest,) = (Version(each.version) for each in requirement.specifier if each.operator == ">=")
        if name != "torch":  # stays at what is tested otherwise, too: others come with gigabytes of CUDA
            assert pinned[name] == lowest, (
                f"run 'make lowest-pins': {requirement}, but {pinned[name]} is pinned"
            )
