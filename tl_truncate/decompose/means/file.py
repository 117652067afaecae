"""Sums on disk: one safetensors file, with the record of where they come from."""

import json
import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tl_truncate.decompose.means.groups import Groups
from tl_truncate.decompose.means.sums import SiteSums
from tl_truncate.weights.files import as_path, load_tensors, save_tensors
from tl_truncate.weights.site import Site

FIT, HELD_OUT = "fit", "held_out"
#: By fold and site.
Sums = dict[str, dict[Site, SiteSums]]


def tensors_of(sums: Mapping[str, Mapping[Site, SiteSums]]) -> dict[str, Tensor]:
    """All sums by a name of their own."""
    found = {}
    for fold, by_site in sums.items():
        for site, own in by_site.items():
            found[f"{fold}/{site}/energy"] = own.energy
            for name, groups in own.parts():
                for what in ("keys", "counts", "sums"):
                    found[f"{fold}/{site}/{name}/{what}"] = getattr(groups, what).contiguous()
    return found


def write_sums(
    path: str | os.PathLike[str],
    kappa: float,
    sums: Mapping[str, Mapping[Site, SiteSums]],
    record: Mapping[str, Any],
) -> None:
    """Writes the sums with their record, under a temporary name first."""
    text = json.dumps({"format": 1, "kappa": kappa, "record": dict(record)})
    as_path(path).parent.mkdir(parents=True, exist_ok=True)
    save_tensors(path, tensors_of(sums), {"token_means": text})


def read_sums(path: str | os.PathLike[str]) -> tuple[float, Sums, dict[str, Any]]:
    """kappa, sums and record, as `write_sums` wrote them.

    Raises:
        ValueError: if the file holds no sums.
    """
    tensors, note = load_tensors(path)
    data = json.loads(note.get("token_means", "{}"))
    if data.get("format") != 1:
        raise ValueError(f"{path} must be a file written by TokenMeans.save.")
    return data["kappa"], sums_of(tensors), data["record"]


def sums_of(tensors: Mapping[str, Tensor]) -> Sums:
    """The sums that `tensors_of` has given names to."""
    found: Sums = {FIT: {}, HELD_OUT: {}}
    energies = [name.rsplit("/", 1)[0] for name in tensors if name.endswith("/energy")]
    for prefix in energies:
        fold, site = prefix.split("/", 1)
        own = SiteSums(Groups(0), energy=tensors[f"{prefix}/energy"])
        for name in ("tokens", "squares", "pairs"):
            if f"{prefix}/{name}/sums" in tensors:
                keys, counts, sums = (
                    tensors[f"{prefix}/{name}/{what}"] for what in ("keys", "counts", "sums")
                )
                groups = Groups(sums.shape[1])
                groups.add_sums(keys, counts, sums)
                setattr(own, name, groups)
        found[fold][Site.parse(site)] = own
    return {fold: dict(sorted(by_site.items())) for fold, by_site in found.items()}
