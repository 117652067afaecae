"""What a sweep has finished, in memory and in its run folder, which one process alone writes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tl_truncate.experiments.scoring.answers import Outcome
from tl_truncate.experiments.sweep.grid import SWEEP, setting_key
from tl_truncate.experiments.sweep.options import SweepOptions
from tl_truncate.experiments.sweep.result import Setting, SweepResult, result_fields
from tl_truncate.runs.codec import plain, read
from tl_truncate.runs.folder import RunFolder
from tl_truncate.runs.sharded.joining import take_over
from tl_truncate.runs.sharded.opening import opened_shard
from tl_truncate.surgery.cut import SiteCut
from tl_truncate.tasks.task import Task

# Uncut scores that a resumed run may differ by, in nats: another number of threads rounds otherwise.
SAME_BASELINE = 0.02


class Finished:
    """Baseline and settings, as they are finished.

    Args:
        manifest: of the run.
        folder: that they are written to, or None.
        settings: that were there before.
        baseline: what the uncut model has said before; None if that is not known.
    """

    def __init__(
        self,
        manifest: Mapping[str, Any],
        folder: RunFolder | None,
        settings: Sequence[Setting] = (),
        baseline: list[dict[str, Any]] | None = None,
    ) -> None:
        self._manifest, self._folder, self._baseline = manifest, folder, baseline
        self.settings = list(settings)
        self._keys = {setting_key(setting.cut) for setting in settings}

    @property
    def has_baseline(self) -> bool:
        """Whether it is known what the uncut model says."""
        return self._baseline is not None

    def done(self, cut: SiteCut) -> bool:
        """Whether a setting is finished."""
        return setting_key(cut) in self._keys

    def add(self, new: Sequence[Setting]) -> None:
        """Keeps finished settings, and waits until they are on the disk."""
        if self._folder is not None:
            self._folder.append(plain(list(new)))
        self.settings += new
        self._keys |= {setting_key(setting.cut) for setting in new}

    def add_baseline(self, found: list[dict[str, Any]]) -> None:
        """Keeps what the uncut model says, or compares it with what is there.

        Raises:
            ValueError: if it says something else than when the run began.
        """
        for now, before in zip(found, self._baseline or found, strict=True):
            require_same(read(Outcome, now["outcome"]), read(Outcome, before["outcome"]))
        if self._baseline is None:
            self._baseline = found
        if self._folder is not None and self._folder.baseline() is None:
            self._folder.write_baseline(self._baseline)

    def result(self, grid: Sequence[SiteCut]) -> SweepResult:
        """The table of what is finished of a grid."""
        assert self._baseline is not None
        return SweepResult(**result_fields(self._manifest, self._baseline, self.settings, grid))


@contextmanager
def finished_in(
    manifest: dict[str, Any],
    tasks: Sequence[Task],
    options: SweepOptions,
    cuts: Sequence[SiteCut] = (),
) -> Iterator[Finished]:
    """What is finished of a sweep; inside, its run folder is held, if it has one.

    Args:
        manifest: of the sweep, as `prepare` makes it.
        tasks: that are scored.
        options: with the run folder, whether it may hold a run, and which shard this is.
        cuts: that are this shard's.

    Raises:
        ValueError: if the folder holds another run.
        BlockingIOError: if another process works in the folder, or on the same shard.
    """
    if options.run_dir is None:
        yield Finished(manifest, None)
    elif options.shard is None:
        folder = RunFolder(options.run_dir)
        with folder.held():
            take_over(folder.path, SWEEP, resume=options.resume)
            opened = folder.open(manifest, resume=options.resume, **SWEEP.may_differ)
            yield Finished(opened, folder, read_settings(folder, tasks), folder.baseline())
    else:
        names = list(map(setting_key, cuts))
        with opened_shard(
            options.run_dir, options.shard, manifest, names, SWEEP, resume=options.resume
        ) as own:
            settings = [*read_settings(own.folder, tasks), *_settings(own.elsewhere, tasks, own.folder)]
            yield Finished(own.manifest, own.folder, settings, own.baseline)


def read_settings(folder: RunFolder, tasks: Sequence[Task]) -> list[Setting]:
    """The finished settings of a folder, each with an outcome for each prompt.

    Raises:
        ValueError: if one has not.
    """
    return _settings(folder.lines(), tasks, folder)


def _settings(
    lines: Sequence[Mapping[str, Any]], tasks: Sequence[Task], folder: RunFolder
) -> list[Setting]:
    return [_checked(read(Setting, line), tasks, folder) for line in lines]


def _checked(setting: Setting, tasks: Sequence[Task], folder: RunFolder) -> Setting:
    """A setting that was read, if it has an outcome for each prompt."""
    found = [len(outcome.log_p_in_context) for outcome in setting.outcomes]
    wanted = list(map(len, tasks))
    if found != wanted:
        raise ValueError(
            f"Each setting in {folder.path} must have an outcome for each of {wanted} prompts, got "
            f"{found} for {setting.cut!r}. Delete its line in settings.jsonl; it will be computed again."
        )
    return setting


def require_same(now: Outcome, before: Outcome) -> None:
    """That the uncut model says what it said before, to some rounding.

    Raises:
        ValueError: if it does not.
    """
    pairs = zip(
        now.log_p_in_context + (now.log_p_global or ()),
        before.log_p_in_context + (before.log_p_global or ()),
        strict=True,
    )
    gap = max(abs(one - other) for one, other in pairs)
    if not gap <= SAME_BASELINE:
        raise ValueError(
            "The uncut model must score as it did when the run began, but a log-probability differs by "
            f"{gap:.3g} nats. Are these the same weights? Use another folder."
        )
