"""A folder that a long run can be stopped in and resumed from: a manifest, a baseline, finished lines.

`manifest.json` says what is being computed, `baseline.json` what the uncut model says, and
`settings.jsonl` has one line for each finished setting, in the order in which they were finished. Lines
are written and flushed together with those of the same pass. A last line that a crash has torn is
dropped; everything before it stays. `run.lock` is held by the process that is at work in the folder.
"""

import errno
import json
import os
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from filelock import FileLock, Timeout

from tl_truncate.runs.files import read_json, write_json
from tl_truncate.runs.interrupts import says_how_to_go_on
from tl_truncate.runs.manifests import (
    CIRCUMSTANCES,
    FORMAT,
    WEIGHTS,
    common,
    differences,
    gone_on,
    untold,
)
from tl_truncate.runs.shards import SHARDS, shards_in
from tl_truncate.weights.files import as_path, is_part, remove_parts, replacing

_MANIFEST, _BASELINE, _SETTINGS, _LOCK = "manifest.json", "baseline.json", "settings.jsonl", "run.lock"
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
# Of network filesystems that are mounted without.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
#: The folder of the sweeps that a run makes at its checkpoints, each a run folder of its own.
SWEEPS = "sweeps"


class RunFolder:
    """Reads and writes one run folder.

    Args:
        path: of the folder, made when it is first written to.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = as_path(path)

    @contextmanager
    def held(self, *, wait: float = 0.0) -> Iterator[None]:
        """Inside, no other process works in the folder; and an interrupt says how to go on.

        Args:
            wait: seconds, where another process may hold it for a moment.

        Raises:
            BlockingIOError: if another process is at work in it.
            ValueError: if the folder has other content.
        """
        lock = self._lock(wait)
        try:
            with says_how_to_go_on(self.path):
                yield
        finally:
            if lock is not None:
                # While it is held, which filelock sees in a process that has just opened the file.
                with suppress(OSError):
                    (self.path / _LOCK).unlink()
                lock.release()

    def _lock(self, wait: float) -> FileLock | None:
        """The lock, or None where there are none, or a run is read that nothing can be written to."""
        self.require_room()
        lock = FileLock(self.path / _LOCK)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=wait)
        except Timeout:
            raise BlockingIOError(
                "One process at a time must work in a run folder, but another is at work in "
                f"{self.path}. Wait for it, stop it, or use another folder."
            ) from None
        except OSError as problem:
            if problem.errno in _READ_ONLY and self.exists():
                return None
            if problem.errno not in _NO_LOCKS:
                raise
            warnings.warn(
                f"The disk of {self.path} has no locks ({problem}): see that one process at a time "
                "works in the folder.",
                stacklevel=4,
            )
            return None
        return lock

    def exists(self) -> bool:
        """Whether a run was begun in the folder."""
        return (self.path / _MANIFEST).exists()

    def open(
        self,
        manifest: dict[str, Any],
        *,
        resume: bool,
        free: Collection[str] = (),
        grows: Collection[str] = (),
        noted: Collection[str] = (),
    ) -> dict[str, Any]:
        """Starts a run, or goes on with the same one.

        Versions of libraries may differ, and so may what is named here; all else must be the same.

        Args:
            manifest: of `make_manifest`.
            resume: whether the folder may hold a run.
            free: names in the manifest of what changes no finished number; the latest is kept.
            grows: names of lists and mappings that may have more entries than before, or fewer; all are
                kept. What a mapping has under one key must be the same.
            noted: names of what changes numbers by rounding at most, such as the sizes of batches. The
                first is kept, and in `resumed`, as for versions, each that followed.

        Returns:
            The manifest as this call asks for it, with what was noted before.

        Raises:
            ValueError: if the folder holds another run, saying what differs, or holds a run at all
                without `resume`, or is not empty and no run folder.
        """
        manifest = json.loads(json.dumps(manifest))
        self.require_room()
        if not self.exists():
            self.path.mkdir(parents=True, exist_ok=True)
            remove_parts(self.path)
            write_json(self.path / _MANIFEST, manifest)
            return manifest
        if not resume:
            raise ValueError(
                f"The run folder must be new without resume, got {self.path}, which holds a run."
            )
        self.require_same_run(manifest, free=free, grows=grows, noted=noted)
        found = self.manifest()
        self._drop_torn_line()
        remove_parts(self.path)
        updated = gone_on(found, manifest, free=free, grows=grows, noted=noted, after=len(self.lines()))
        if updated != found:
            write_json(self.path / _MANIFEST, updated)
        asked = {name: manifest[name] for name in (*free, *grows) if name in manifest}
        return {**updated, **asked}

    def require_same_run(
        self,
        manifest: dict[str, Any],
        *,
        free: Collection[str] = (),
        grows: Collection[str] = (),
        noted: Collection[str] = (),
    ) -> None:
        """That the folder's run is the same; `open` says what may differ.

        Raises:
            ValueError: if it is another one, saying what differs.
        """
        manifest, found = json.loads(json.dumps(manifest)), self.manifest()
        both = {name: common(found.get(name), manifest.get(name)) for name in grows}
        self._require_same(
            {**found, **both},
            {**manifest, **{name: common(manifest.get(name), found.get(name)) for name in grows}},
            {*free, *noted, *CIRCUMSTANCES, *untold(found, manifest)},
        )

    def require_room(self) -> None:
        """That the folder is new, empty, or holds a run or shards of one.

        Raises:
            ValueError: if it has other content.
        """
        begun = [self, *(RunFolder(path) for _, path in shards_in(self.path))]
        if not self.path.exists() or any(folder.exists() for folder in begun):
            return
        if not self.path.is_dir() or any(map(_is_content, self.path.iterdir())):
            raise ValueError(
                f"The run folder must be new, empty, or hold a run, got {self.path} with other content."
            )

    def _require_same(self, found: dict[str, Any], wanted: dict[str, Any], free: set[str]) -> None:
        """That both manifests are of one run, so far as its numbers go."""
        if found.get("kind") == wanted.get("kind") and WEIGHTS in wanted and WEIGHTS not in found:
            raise ValueError(
                f"The run in {self.path} must say which weights it is of to be resumed, but an earlier "
                "version wrote it, which did not note them. It can still be read, by .load; to compute "
                "more, use another folder."
            )
        # The first manifests did not say their format.
        one, other = (
            {"format": 1, **{name: value for name, value in each.items() if name not in free}}
            for each in (found, wanted)
        )
        different = differences(one, other, "in the folder", "now")
        if different:
            raise ValueError(
                f"The run in {self.path} must be of the same model, prompts and settings to be "
                f"resumed. It differs in: {different}. Use another folder."
            )

    def manifest(self) -> dict[str, Any]:
        """What the run computes.

        Raises:
            ValueError: if there is no run, or one that a later version has written.
        """
        if not self.exists():
            raise ValueError(f"A run folder must hold {_MANIFEST}, got {self.path} without one.")
        found = read_json(self.path / _MANIFEST)
        if found.get("format", FORMAT) > FORMAT:
            raise ValueError(
                f"The run in {self.path} must be of format {FORMAT} or earlier, got {found['format']}. "
                "Read it with the version that wrote it."
            )
        return found

    def baseline(self) -> Any | None:
        """What the uncut model says; None if the run ended before that was known.

        Raises:
            ValueError: if the file is damaged.
        """
        path = self.path / _BASELINE
        if not path.exists():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as problem:
            raise ValueError(
                f"{path} must be JSON, but it is damaged: {problem}. Delete it; the uncut model will be "
                "scored again."
            ) from None

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
        """Adds finished settings, all or none of them, and waits until they are on the disk.

        Raises:
            OSError: if they cannot be written, such as on a full disk; the folder is as it was before.
        """
        path = self.path / _SETTINGS
        text = memoryview("".join(json.dumps(line) + "\n" for line in lines).encode())
        with open(path, "ab", buffering=0) as file:
            before, written = os.fstat(file.fileno()).st_size, False
            try:
                while text:  # a write may take less than it is given
                    text = text[os.write(file.fileno(), text) :]
                os.fsync(file.fileno())
                written = True
            except OSError as problem:
                raise OSError(
                    problem.errno,
                    f"{problem.strerror}: what was finished before is kept. Make room, or see that the "
                    "folder can be written to, and go on with the same folder",
                    str(path),
                ) from problem
            finally:
                if not written:
                    os.ftruncate(file.fileno(), before)

    def take(self, manifest: Mapping[str, Any], baseline: Any, lines: Sequence[dict[str, Any]]) -> None:
        """Makes this the folder of a run that was done elsewhere; whoever reads it meanwhile finds it
        as it was, or as it will be.

        Args:
            manifest: of the run.
            baseline: what the uncut model says; None if that is not known, or there already.
            lines: all finished settings.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        # A manifest first: without one the rest would be no run's, if a crash left it alone.
        write_json(self.path / _MANIFEST, dict(manifest))
        if baseline is not None:
            self.write_baseline(baseline)
        with (
            replacing(self.path / _SETTINGS) as temporary,
            open(temporary, "w", encoding="utf-8") as file,
        ):
            file.writelines(json.dumps(line) + "\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())

    def _drop_torn_line(self) -> None:
        path = self.path / _SETTINGS
        if not path.exists():
            return
        content = path.read_bytes()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            os.truncate(path, end)


def _is_content(path: os.PathLike[str]) -> bool:
    """Whether it is more than the lock, shards, sweeps, or what a crash has left of a file."""
    found = as_path(path)
    return found.name not in (_LOCK, SHARDS, SWEEPS) and not is_part(found)
