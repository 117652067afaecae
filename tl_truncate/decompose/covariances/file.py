"""Symmetric matrices of sites on disk: one safetensors file, with the record of where they come from."""

import json
import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tl_truncate.weights.files import as_path, load_tensors, save_tensors
from tl_truncate.weights.site import Site

#: By role, such as `inputs`, and site.
Sums = dict[str, dict[Site, Tensor]]


def tensors_of(sums: Mapping[str, Mapping[Site, Tensor]]) -> dict[str, Tensor]:
    """All sums by a name of their own."""
    return {
        f"{role}/{site}": matrix.contiguous()
        for role, by_site in sums.items()
        for site, matrix in by_site.items()
    }


def write_sums(
    path: str | os.PathLike[str],
    kind: str,
    positions: int,
    sums: Mapping[str, Mapping[Site, Tensor]],
    record: Mapping[str, Any],
) -> None:
    """Writes sums with their record, under a temporary name first.

    Args:
        path: of the file.
        kind: the class that they are of.
        positions: that they are over.
        sums: symmetric matrices.
        record: where they come from.
    """
    note = dict(format=1, kind=kind, positions=positions, record=dict(record))
    as_path(path).parent.mkdir(parents=True, exist_ok=True)
    save_tensors(path, tensors_of(sums), {"covariances": json.dumps(note)})


def read_sums(path: str | os.PathLike[str], kind: str) -> tuple[int, Sums, dict[str, Any]]:
    """Positions, sums and record, as `write_sums` wrote them.

    Raises:
        ValueError: if the file holds none of this kind.
    """
    tensors, notes = load_tensors(path)
    note = json.loads(notes.get("covariances", "{}"))
    if note.get("format") != 1 or note.get("kind") != kind:
        raise ValueError(f"{path} must be a file written by {kind}.save.")
    sums: Sums = {}
    for name in sorted(tensors):
        role, site = name.split("/", 1)
        sums.setdefault(role, {})[Site.parse(site)] = tensors[name]
    in_order = {role: dict(sorted(by_site.items())) for role, by_site in sums.items()}
    return note["positions"], in_order, note["record"]
