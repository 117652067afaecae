"""A folder that a long run can be stopped in and resumed from: a manifest, a baseline, finished lines.

`manifest.json` says what is being computed, `baseline.json` what the uncut model says, and
`settings.jsonl` has one line for each finished setting, in the order in which they were finished. Lines
are written and flushed together with those of the same pass. A last line that a crash has torn is
dropped; everything before it stays.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tl_truncate.runs.files import read_json, write_json
from tl_truncate.weights.provenance import versions

_MANIFEST, _BASELINE, _SETTINGS = "manifest.json", "baseline.json", "settings.jsonl"
_SHOWN = 8
#: Of the manifest.
FORMAT = 1


def make_manifest(kind: str, **facts: Any) -> dict[str, Any]:
    """What a run computes, as plain data: its kind, everything that its numbers depend on, versions.

    Examples:
        >>> manifest = make_manifest("recall", checkpoints=[0, 1])
        >>> manifest["format"], manifest["kind"], manifest["checkpoints"]
        (1, 'recall', [0, 1])
    """
    return {"format": FORMAT, "kind": kind, "versions": versions(), **facts}


class RunFolder:
    """Reads and writes one run folder.

    Args:
        path: of the folder, made when it is first written to.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def open(self, manifest: dict[str, Any], *, resume: bool) -> None:
        """Starts a run, or goes on with the same one.

        Raises:
            ValueError: if the folder holds another run, saying what differs, or holds a run at all
                without `resume`, or is not empty and no run folder.
        """
        manifest = json.loads(json.dumps(manifest))
        existing = self.path / _MANIFEST
        if existing.exists():
            if not resume:
                raise ValueError(
                    f"The run folder must be new without resume, got {self.path}, which holds a run."
                )
            found = self.manifest()
            # The first manifests did not say their format.
            different = list(_differences({"format": 1, **found}, {"format": 1, **manifest}))
            if different:
                shown = "; ".join(different[:_SHOWN])
                more = f"; and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
                raise ValueError(
                    f"The run in {self.path} must be of the same model, prompts and settings to be "
                    f"resumed. It differs in: {shown}{more}. Use another folder."
                )
            self._drop_torn_line()
            return
        if self.path.exists() and (not self.path.is_dir() or any(map(_is_content, self.path.iterdir()))):
            raise ValueError(
                f"The run folder must be new, empty, or hold a run, got {self.path} with other content."
            )
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(existing, manifest)

    def manifest(self) -> dict[str, Any]:
        """What the run computes.

        Raises:
            ValueError: if there is no run, or one that a later version has written.
        """
        if not (self.path / _MANIFEST).exists():
            raise ValueError(f"A run folder must hold {_MANIFEST}, got {self.path} without one.")
        found = read_json(self.path / _MANIFEST)
        if found.get("format", FORMAT) > FORMAT:
            raise ValueError(
                f"The run in {self.path} must be of format {FORMAT} or earlier, got {found['format']}. "
                "Read it with the version that wrote it."
            )
        return found

    def baseline(self) -> Any | None:
        """What the uncut model says; None if the run ended before that was known."""
        path = self.path / _BASELINE
        return json.loads(path.read_text()) if path.exists() else None

    def write_baseline(self, data: Any) -> None:
        """Stores what the uncut model says."""
        write_json(self.path / _BASELINE, data)

    def lines(self) -> list[dict[str, Any]]:
        """The finished settings; a torn last line is left out.

        Raises:
            ValueError: if a line in the middle is damaged.
        """
        path = self.path / _SETTINGS
        if not path.exists():
            return []
        *whole, _ = path.read_bytes().split(b"\n")
        found = []
        for number, line in enumerate(whole, 1):
            try:
                found.append(json.loads(line))
            except ValueError:
                raise ValueError(
                    f"Line {number} of {path} must be JSON, but it is damaged. Delete that line; its "
                    "setting will be computed again."
                ) from None
        return found

    def append(self, lines: Sequence[dict[str, Any]]) -> None:
        """Adds finished settings, in one write, and waits until they are on the disk."""
        text = "".join(json.dumps(line) + "\n" for line in lines).encode()
        with open(self.path / _SETTINGS, "ab", buffering=0) as file:
            file.write(text)
            os.fsync(file.fileno())

    def _drop_torn_line(self) -> None:
        path = self.path / _SETTINGS
        if not path.exists():
            return
        content = path.read_bytes()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            os.truncate(path, end)


def _is_content(path: Path) -> bool:
    """Whether it is more than what a crash has left of a file that was being written."""
    return not path.name.endswith(".part")


def _differences(found: Any, wanted: Any, name: str = "") -> Iterator[str]:
    """Paths at which two manifests differ, with both values."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in dict.fromkeys([*found, *wanted]):
            path = f"{name}.{key}" if name else str(key)
            yield from _differences(found.get(key), wanted.get(key), path)
    elif isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        for place, (one, other) in enumerate(zip(found, wanted, strict=True)):
            yield from _differences(one, other, f"{name}[{place}]")
    elif found != wanted:
        yield f"{name} ({_short(found)} in the folder, {_short(wanted)} now)"


def _short(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} entries"
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
