"""The checkpoints of a training run as models: fetched ahead, and deleted afterwards."""

import os
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from tl_truncate.checkpoints import checkpoint_steps, folder_of, hub_name, require_checkpoints
from tl_truncate.models.hub import Repository
from tl_truncate.models.load import load_model, require_of_the_hub
from tl_truncate.models.wanted import Backend
from tl_truncate.weights.files import as_path


@dataclass(eq=False)
class Checkpoints:
    """The checkpoints of a Pythia, of `nano-pythia` or of a local folder, for `dynamics` to load.

    While one is scored, the files of the next are downloaded; no second model is loaded. What will be
    downloaded is said before the first download.

    Args:
        name: as for `load_model`.
        cache_dir: the cache of a hub model's files; the hub's own by default.
        delete_after: deletes each checkpoint after it was read, so that two lie on the disk at a time.
            Only what this object has downloaded: never what was in the cache before or is another's.
        backend, dtype, device, raw: as for `load_model`.

    Raises:
        ValueError: if there are no checkpoints of that name, or `cache_dir` or `delete_after` is given
            for a model that lies on this machine.

    Examples:
        >>> run = Checkpoints("nano-pythia")
        >>> run.steps, run(512).cfg.n_layers
        ((64, 512, 1024, 2000), 4)
    """

    name: str
    cache_dir: str | os.PathLike[str] | None = None
    delete_after: bool = field(default=False, kw_only=True)
    backend: Backend = field(default="bridge", kw_only=True)
    dtype: torch.dtype | str = field(default=torch.float32, kw_only=True)
    device: torch.device | str | None = field(default=None, kw_only=True)
    raw: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        self.steps = checkpoint_steps(self.name)
        for option in ("cache_dir", "delete_after"):
            if getattr(self, option):
                require_of_the_hub(self.name, option)
        self._begun: dict[int, Future[Path]] = {}
        self._own: set[int] = set()
        self._done: set[int] = set()
        self._damaged: set[int] = set()

    @property
    def repository(self) -> Repository | None:
        """Where the files come from; None if they lie on this machine."""
        if folder_of(self.name).is_dir():
            return None
        cache = None if self.cache_dir is None else str(as_path(self.cache_dir))
        return Repository(hub_name(self.name), cache)

    def __call__(self, step: int) -> Any:
        """The model of a step, once its files are there.

        Raises:
            OSError: if they cannot be had, or are damaged.
            ValueError: if there is no such step.
        """
        require_checkpoints(self.name, [step])
        source = self.repository
        if source is not None:
            self.begin(step)
            self._wait(step)
            self._delete_done()
        return load_model(
            self.name,
            checkpoint=step,
            backend=self.backend,
            dtype=self.dtype,
            device=self.device,
            raw=self.raw,
            cache_dir=None if source is None else source.folder.parent,
        )

    def _wait(self, step: int) -> None:
        """Until a step's files are there; an interrupt meanwhile leaves the download to itself."""
        future = self._begun[step]
        try:
            future.result()
        finally:
            if future.done():
                del self._begun[step]

    def begin(self, step: int) -> None:
        """Begins to download a step's files, if they are not there; what goes wrong is raised where its
        model is asked for.
        """
        if self.repository is None or step in self._begun:
            return
        future: Future[Path] = Future()
        self._begun[step] = future
        # Not one that the process waits for at its end: a download may take minutes.
        threading.Thread(target=self._fetch, args=(step, future), daemon=True).start()

    def _fetch(self, step: int, future: "Future[Path]") -> None:
        source, revision = self.repository, f"step{step}"
        assert source is not None
        before = source.revisions()
        try:
            found = source.fetch(revision, again=step in self._damaged and step in self._own)
        except BaseException as problem:  # noqa: BLE001 -- all of it is raised where the model is asked for
            self._note(step, before)
            future.set_exception(problem)
        else:
            self._note(step, before)
            future.set_result(found)

    def _note(self, step: int, before: set[str]) -> None:
        """Notes that a step is this object's to delete, if nothing of it was there before."""
        source = self.repository
        assert source is not None
        commit = source.commit(f"step{step}")
        if commit is not None and commit not in before:
            self._own.add(step)

    @contextmanager
    def in_turn(self, steps: Sequence[int]) -> Iterator[Callable[[int], Any]]:
        """Inside, the models of steps one after the other, from the function that is given.

        When one is asked for, the one before has been read, and may be deleted; and once it is loaded,
        the next one's files are fetched. One that is asked for twice in a row was no good: what was
        downloaded of it is downloaded again.

        Args:
            steps: in the order in which they will be asked for.
        """
        following = dict(pairwise(steps))
        seen: list[int] = []

        def at(step: int) -> Any:
            if seen[-1:] == [step]:
                self._damaged.add(step)
            seen.append(step)
            self._done |= self._own - {step, following.get(step)}
            model = self(step)
            if step in following:
                self.begin(following[step])
            return model

        try:
            yield at
        finally:
            self._done |= self._own
            # One that is under way may be long: it is left to itself, and so is what it may share.
            if all(future.done() for future in self._begun.values()):
                self._delete_done()

    def _delete_done(self) -> None:
        source = self.repository
        for step in sorted(self._done & self._own if self.delete_after else ()):
            assert source is not None
            self._own.discard(step)
            try:
                source.delete(f"step{step}")
            except OSError as problem:
                warnings.warn(
                    f"Step {step} of {self.name} could not be deleted: {problem}", stacklevel=3
                )
        self._done.clear()

    def told(self, steps: Sequence[int]) -> str | None:
        """What will be downloaded for some steps, in words; None if nothing will.

        Raises:
            OSError: if the disk has not the room.
        """
        source = self.repository
        missing = (
            [] if source is None else [step for step in steps if source.here(f"step{step}") is None]
        )
        if source is None or not missing:
            return None
        each, how = _size(source, f"step{missing[0]}")
        head = f"{source.name}: {len(missing)} of {len(steps)} checkpoints are to be downloaded"
        if each is None:
            return f"{head} to {source.folder}; how large they are is not known."
        most = min(2, len(missing)) if self.delete_after else len(missing)
        free = shutil.disk_usage(_existing(source.folder)).free
        if most * each > free:
            raise OSError(
                f"There must be room for {most} checkpoints of {_amount(each)}, {_amount(most * each)}, "
                f"in {source.folder}, but {_amount(free)} are free. Choose another cache_dir, fewer "
                "steps, or delete_after=True, which keeps two at a time."
            )
        kept = (
            f"of which {_amount(most * each)} at a time are kept"
            if self.delete_after
            else "all are kept"
        )
        return (
            f"{head}, {_amount(each)} each ({how}), {_amount(len(missing) * each)} in all, {kept}, in "
            f"{source.folder} ({_amount(free)} free)"
        )


def _size(source: Repository, revision: str) -> tuple[int | None, str]:
    """Bytes of one checkpoint, and how they are known."""
    try:
        return source.missing_bytes(revision), "as the hub says"
    except OSError:
        return (
            source.bytes_by_configuration(),
            "by the model's configuration, since the hub does not say",
        )


def _existing(folder: Path) -> Path:
    return next(each for each in (folder, *folder.parents) if each.exists())


def _amount(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
