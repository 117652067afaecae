"""Which published weights a model has: by what name others find them, and where their files are here."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tl_truncate.runs.files import read_json
from tl_truncate.weights.files import as_path
from tl_truncate.weights.identity.provenance import base_of

_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class Base:
    """The weights that a cut is made in, as transformers finds them.

    Attributes:
        name: of the hub, or a folder's whole path.
        revision: branch, tag or commit on the hub; None for the main one.
        folder: where the files are on this machine; None if they are not.
    """

    name: str
    revision: str | None
    folder: Path | None

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name} at {self.revision}"


def find_base(
    model: Any, base: str | os.PathLike[str] | None = None, revision: str | None = None
) -> Base:
    """The base of a model: what the caller names, or else what the model was loaded from.

    Nothing is fetched: a name of the hub is looked up in the local cache.

    Args:
        model: a HookedTransformer or TransformerBridge.
        base: a folder or a name of the hub.
        revision: on the hub.

    Raises:
        ValueError: if it cannot be the base of anything.
    """
    if base is None:
        noted, noted_revision = base_of(model)
        return _find(noted, noted_revision if revision is None else revision)
    return _find(os.fspath(base), revision)


def _find(name: str, revision: str | None) -> Base:
    folder = as_path(name)
    if folder.is_dir():
        if revision is not None:
            raise ValueError(f"A revision must go with a name of the hub, got {revision!r} and {name}.")
        return base_in(folder)
    if not name.strip() or name.startswith((".", "/", "~")):
        raise ValueError(f"base must be a folder that exists, or a name of the hub, got {name!r}.")
    found = _cached(name, revision)
    return Base(name, revision, None if found is None else base_in(found).folder)


def base_in(folder: Path) -> Base:
    """The base that a folder holds.

    Raises:
        ValueError: if it is no plain model in safetensors.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"A base's folder must hold a Hugging Face config.json, got none in {str(folder)!r}."
        )
    if (folder / "adapter_config.json").exists():
        raise ValueError(
            f"A base must be a plain model, but {str(folder)!r} holds an adapter. Merge it first: "
            "AutoPeftModelForCausalLM.from_pretrained(folder).merge_and_unload().save_pretrained(new)."
        )
    if read_json(folder / "config.json").get("quantization_config"):
        raise ValueError(
            f"A base's weights must be in floating point, but those in {str(folder)!r} are quantised. "
            "Name the folder of the weights that were quantised."
        )
    if not any((folder / name).is_file() for name in (_WHOLE, _INDEX)):
        raise ValueError(
            f"A base's weights must be in safetensors, got neither {_WHOLE} nor {_INDEX} in "
            f"{str(folder)!r}. Write them so: "
            "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new)."
        )
    missing = sorted({file for file in shards_of(folder).values() if not (folder / file).is_file()})
    if missing:
        raise ValueError(
            f"A base's files must be whole, but {_INDEX} in {str(folder)!r} names {missing[0]}, which "
            "is not there. Download or save the model again."
        )
    return Base(str(folder.resolve()), None, folder)


def _cached(name: str, revision: str | None) -> Path | None:
    """The folder of a name of the hub in the local cache, if its safetensors are there."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = [try_to_load_from_cache(name, file, revision=revision) for file in (_WHOLE, _INDEX)]
    except HFValidationError:  # a name that a caller has made up for a model in memory
        return None
    paths = [Path(each).parent for each in found if isinstance(each, str)]
    return paths[0] if paths else None


def shards_of(folder: Path) -> dict[str, str]:
    """The file of each tensor of a base, both by name; where one file is there with shards, transformers
    reads that."""
    from safetensors import SafetensorError, safe_open

    if not (folder / _WHOLE).is_file():
        return dict(read_json(folder / _INDEX)["weight_map"])
    try:
        with safe_open(folder / _WHOLE, framework="pt") as file:
            return dict.fromkeys(file.keys(), _WHOLE)
    except SafetensorError as problem:
        raise ValueError(
            f"{folder / _WHOLE} must be a whole safetensors file, but: {problem}"
        ) from problem
