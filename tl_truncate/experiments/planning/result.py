"""What a run will take, as a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

import pandas as pd

from tl_truncate.drawing import Drawn
from tl_truncate.experiments.planning.machine import Machine
from tl_truncate.experiments.scoring.memory import amount
from tl_truncate.experiments.sweep.work.memory import Memory
from tl_truncate.markup import join, paragraphs, table

_WIDTH = 80


@dataclass(frozen=True)
class Step:
    """A part of the work.

    Attributes:
        name: of it.
        flops: of all workers together.
        seconds: of one worker that does all of it.
        each: of the slowest of the workers.
    """

    name: str
    flops: float
    seconds: float
    each: float

    def __mul__(self, times: int) -> "Step":
        return Step(self.name, times * self.flops, times * self.seconds, times * self.each)


@dataclass(frozen=True)
class Grid:
    """What is run.

    Attributes:
        tasks: their names.
        prompts: of all tasks.
        tokens: that a pass over all prompts computes.
        settings: cuts, controls included.
        sites: that are cut.
        spectra: sites of which a spectrum is needed.
        units: groups of cuts that share their passes.
        checkpoints: at each of which it is run; none where it is run once.
    """

    tasks: tuple[str, ...]
    prompts: int
    tokens: int
    settings: int
    sites: int
    spectra: int
    units: int
    checkpoints: tuple[int, ...]


@dataclass(frozen=True)
class Footprint:
    """Bytes.

    Attributes:
        weights: of the model, in the memory of each worker.
        beside: what each worker's sweep takes beside them.
        spectra: on disk, in the cache.
        run: on disk, in the run folder.
        download: what is fetched, of all checkpoints; None where the model was not given by a name.
        fetched: how many sets of weights that is.
    """

    weights: int
    beside: Memory
    spectra: int
    run: int
    download: int | None
    fetched: int

    @property
    def worker(self) -> int:
        """The memory of a worker, beside Python and its packages."""
        return self.weights + self.beside.total


@dataclass(frozen=True, repr=False)
class RunPlan(Drawn):
    """What a run will take, known before it from the model's configuration alone.

    Attributes:
        model: its name, with its size and precision.
        grid: what is run.
        steps: the parts of the work, in order.
        footprint: memory and disk.
        machine: how fast it is, and where that is known from.
        workers: among whom the work is shared.
        arguments: what `tl-truncate` is to be given for this run; None where it has no options for it.
            A `$i` stands for the number of a shard.
        commands: the lines to type, or to put into a program.
        notes: what the estimate does not know.
    """

    model: str
    grid: Grid
    steps: tuple[Step, ...]
    footprint: Footprint
    machine: Machine
    workers: int
    arguments: tuple[str, ...] | None
    commands: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Until the slowest worker is done, its model loaded and its spectra computed."""
        return sum(step.each for step in self.steps)

    @property
    def flops(self) -> float:
        """Of all workers together."""
        return sum(step.flops for step in self.steps)

    @property
    def frame(self) -> pd.DataFrame:
        """One row for each part of the work: step, flops, seconds of one worker, and of each."""
        rows = [(step.name, step.flops, step.seconds, step.each) for step in self.steps]
        return pd.DataFrame(rows, columns=["step", "flops", "seconds", "each"])

    def __str__(self) -> str:
        return "\n".join([*self._head(), "", *self._table(), "", *self._sizes(), "", *self._tail()])

    def __repr__(self) -> str:
        return str(self)

    def _head(self) -> list[str]:
        grid = self.grid
        one = f"{', '.join(grid.tasks)}: {grid.prompts} prompts, {grid.tokens:,} tokens in a pass"
        two = f"{grid.settings:,} settings at {grid.sites} sites, in {grid.units:,} groups of passes"
        two += f", at {len(grid.checkpoints)} checkpoints" if grid.checkpoints else ""
        return [line for text in (self.model, one, two) for line in wrap(text, _WIDTH)]

    def _table(self) -> list[str]:
        columns = ["one worker"] + ([f"each of {self.workers}"] if self.workers > 1 else [])
        lines = [f"{'':<26}{'TFLOP':>12}" + "".join(f"{name:>18}" for name in columns)]
        every = Step("all", self.flops, sum(step.seconds for step in self.steps), self.seconds)
        for step in (*self.steps, every):
            times = [step.seconds] + ([step.each] if self.workers > 1 else [])
            told = f"{step.flops / 1e12:,.4g}" if step.flops else "-"
            lines.append(
                f"{step.name:<26}{told:>12}" + "".join(f"{duration(each):>18}" for each in times)
            )
        return lines

    def _sizes(self) -> list[str]:
        found = self.footprint
        rows = [
            ("memory of a worker", f"{size(found.worker)}, of which the model {size(found.weights)}"),
            ("disk", f"spectra {size(found.spectra)}, run folder {size(found.run)}"),
        ]
        if found.download is not None:
            several = f" for {found.fetched} checkpoints" if found.fetched > 1 else ""
            told = (
                f"{size(found.download)}{several}" if found.fetched else "nothing: it is on this machine"
            )
            rows.append(("download", told))
        return [f"{name:<26}{text}" for name, text in rows]

    def _tail(self) -> list[str]:
        lines = wrap(f"{self.machine.name}: {self.machine.source}.", _WIDTH)
        for note in self.notes:
            lines += wrap(note, _WIDTH)
        run = "Run it:" if self.workers == 1 else f"Run it, for i from 1 to {self.workers}, and join:"
        return [*lines, "", run, *(f"  {command}" for command in self.commands)]

    def _repr_html_(self) -> str:
        rows: list[Sequence[object]] = [
            (step.name, f"{step.flops / 1e12:,.4g}", duration(step.seconds), duration(step.each))
            for step in self.steps
        ]
        rows.append(("all", f"{self.flops / 1e12:,.4g}", "", duration(self.seconds)))
        columns = ["step", "TFLOP", "one worker", f"each of {self.workers}"]
        parts = [paragraphs(self._head()), table(columns, rows, caption="what the run takes")]
        return str(join([*parts, paragraphs([*self._sizes(), *self._tail()])]))


def size(of: int) -> str:
    """An amount of memory, of any size.

    Examples:
        >>> size(3_000), size(3 * 2**29)
        ('3 kB', '1.5 GB')
    """
    return amount(of) if of >= 2**20 else f"{of / 2**10:.0f} kB"


def duration(seconds: float) -> str:
    """A time as a reader takes it in.

    Examples:
        >>> duration(0.04), duration(42), duration(5000), duration(400_000)
        ('40 ms', '42 s', '83 min', '4.6 days')
    """
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    for size, name, until in ((1, "s", 120), (60, "min", 7200), (3600, "h", 172_800)):
        if seconds < until:
            return (
                f"{seconds / size:.2g} {name}"
                if seconds / size < 100
                else f"{seconds / size:.0f} {name}"
            )
    return f"{seconds / 86_400:.1f} days"
