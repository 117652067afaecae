"""Results as files: JSON, or safetensors where a result holds tensors."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from tl_truncate.runs.codec import plain, read
from tl_truncate.runs.files import read_json, write_json
from tl_truncate.weights.files import as_path, load_tensors, save_tensors
from tl_truncate.weights.identity.provenance import versions

#: Of the envelope around a result. What can be read tolerantly needs no new one.
FORMAT = 1
_STEM, _NOTE, _TENSOR = "result", "tl_truncate", "tensor"
S = TypeVar("S", bound="Saved")


class Saved:
    """A result that is saved as one file and loaded as itself."""

    _kinds: ClassVar[dict[str, type["Saved"]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Saved._kinds[cls.__name__] = cls

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the result under a temporary name first.

        Args:
            path: ends in `.json`, or in `.safetensors` for a result that holds tensors.

        Raises:
            ValueError: if it ends in something else.
        """
        envelope, tensors = self._envelope()
        wanted = _suffix(tensors)
        if Path(path).suffix != wanted:
            raise ValueError(
                f"The file of a {type(self).__name__} must end in {wanted}, got {str(path)!r}."
            )
        _write(as_path(path), envelope, tensors)

    def save_into(self, folder: str | os.PathLike[str]) -> Path:
        """Writes the result into a folder, where `find_result` looks for it, and gives its path.

        Raises:
            ValueError: if the folder holds a result of another kind.
        """
        self.require_place(folder)
        envelope, tensors = self._envelope()
        path = as_path(folder) / f"{_STEM}{_suffix(tensors)}"
        _write(path, envelope, tensors)
        return path

    @classmethod
    def require_place(cls, folder: str | os.PathLike[str]) -> None:
        """Refuses a folder in which a result of another kind was saved; to be asked before long work.

        Raises:
            ValueError: if there is one.
        """
        before = find_result(folder)
        if before is not None and type(load_result(before)) is not cls:
            raise ValueError(
                f"The folder must be new, or hold a {cls.__name__}, got {before} of another kind. Use "
                "another folder."
            )

    def _envelope(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        tensors: dict[str, Tensor] = {}
        data = _without_tensors(plain(self), tensors, "")
        kind = type(self).__name__
        return dict(format=FORMAT, kind=kind, versions=versions(), result=data), tensors

    @classmethod
    def load(cls: type[S], path: str | os.PathLike[str]) -> S:
        """Reads what `save` wrote.

        Raises:
            ValueError: if the file holds something else.
            FileNotFoundError: if there is none.
        """
        found = load_result(path)
        if not isinstance(found, cls):
            raise ValueError(f"{path} must hold a {cls.__name__}, got a {type(found).__name__}.")
        return found


def _suffix(tensors: Mapping[str, Tensor]) -> str:
    return ".safetensors" if tensors else ".json"


def _write(path: Path, envelope: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not tensors:
        write_json(path, envelope)
        return
    save_tensors(path, tensors, {_NOTE: json.dumps(envelope)})


def find_result(folder: str | os.PathLike[str]) -> Path | None:
    """The file that `save_into` wrote; None if there is none."""
    places = (as_path(folder) / f"{_STEM}{suffix}" for suffix in (".json", ".safetensors"))
    return next((path for path in places if path.exists()), None)


def required_result(folder: str | os.PathLike[str]) -> Path:
    """The file that `save_into` wrote.

    Raises:
        FileNotFoundError: if there is none.
    """
    found = find_result(folder)
    if found is None:
        raise FileNotFoundError(f"{folder} must hold a result that was saved, but there is none.")
    return found


def load_result(path: str | os.PathLike[str]) -> Saved:
    """Reads a result of whatever kind was saved.

    Raises:
        ValueError: if the file holds none, or one of a later version that this one cannot read.
        FileNotFoundError: if there is none.
    """
    tensors: dict[str, Tensor] = {}
    in_tensors = Path(path).suffix == ".safetensors"
    envelope = _read_tensors(path, tensors) if in_tensors else read_json(path)
    kind = Saved._kinds.get(envelope.get("kind", ""))
    if kind is None or "result" not in envelope:
        raise ValueError(
            f"{path} must be a result that was saved, one of {', '.join(sorted(Saved._kinds))}, got "
            f"kind {envelope.get('kind')!r}."
        )
    if envelope.get("format", 0) > FORMAT:
        made_by = envelope.get("versions", {}).get("tl-truncate", "a later version")
        raise ValueError(
            f"{path} must be of format {FORMAT} or earlier, got {envelope['format']}, written by "
            f"tl-truncate {made_by}. Install that version."
        )
    return read(kind, _with_tensors(envelope["result"], tensors))


def _read_tensors(path: str | os.PathLike[str], tensors: dict[str, Tensor]) -> dict[str, Any]:
    if not as_path(path).exists():
        raise FileNotFoundError(f"{path} must be a file that was saved, but there is none.")
    found_tensors, note = load_tensors(path)
    tensors.update(found_tensors)
    found: dict[str, Any] = json.loads(note.get(_NOTE, "{}"))
    return found


def _without_tensors(data: Any, tensors: dict[str, Tensor], name: str) -> Any:
    """The data with a reference in each tensor's place."""
    if isinstance(data, Tensor):
        tensors[name] = data.detach().cpu().contiguous()
        return {_TENSOR: name}
    if isinstance(data, Mapping):
        return {
            key: _without_tensors(value, tensors, f"{name}/{key}" if name else str(key))
            for key, value in data.items()
        }
    if isinstance(data, (list, tuple)) and any(isinstance(each, (Tensor, Mapping)) for each in data):
        return [_without_tensors(each, tensors, f"{name}/{i}") for i, each in enumerate(data)]
    return data


def _with_tensors(data: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not tensors:
        return data
    if isinstance(data, Mapping):
        if set(data) == {_TENSOR}:
            return tensors[data[_TENSOR]]
        return {key: _with_tensors(value, tensors) for key, value in data.items()}
    return [_with_tensors(each, tensors) for each in data] if isinstance(data, list) else data
