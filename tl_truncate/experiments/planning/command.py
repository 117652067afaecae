"""The command that runs what was planned."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from tl_truncate.checks import real
from tl_truncate.experiments.sweep.grid import Control
from tl_truncate.experiments.sweep.options import SweepOptions
from tl_truncate.surgery.cut import SiteCut
from tl_truncate.tasks.task import Task
from tl_truncate.weights.keep import Components, Fraction, Keep, Rank
from tl_truncate.weights.locate import find_sites, n_layers
from tl_truncate.weights.site import Site

#: What a shell puts in place of a shard's number.
EACH = "$i"
#: And in place of a training step.
STEP = "$step"
_USUAL = SweepOptions()


@dataclass(frozen=True)
class Asked:
    """What a sweep was asked for.

    Attributes:
        model: by the name that `load_model` takes; None where there is none.
        loading: options of that, as a command has them.
        checkpoints: at each of which the sweep is made; none where it is made once.
        tasks: that are scored.
        prompts: how a command names them; none where they are to be saved first, under `files`.
        shots: numbers of demonstrations of each, with which it is scored; None where there are none.
        sites, keeps, cuts, controls, draws: as for `sweep`.
        options: how it is run.
        out: the folder that is written to.
        workers: shards that it is run in.
    """

    model: str | None
    loading: tuple[str, ...]
    checkpoints: tuple[int, ...]
    tasks: tuple[Task, ...]
    prompts: tuple[str, ...]
    files: tuple[str, ...]
    shots: tuple[int, ...] | None
    sites: tuple[Site, ...]
    keeps: tuple[Keep, ...]
    cuts: tuple[SiteCut, ...]
    controls: tuple[Control, ...]
    draws: int | None
    options: SweepOptions
    out: str
    workers: int

    @property
    def folder(self) -> str:
        """That is written to, of one checkpoint where there are several."""
        return f"{self.out}/step{STEP}" if self.checkpoints else self.out

    @property
    def is_a_command(self) -> bool:
        """Whether `tl-truncate sweep` has options for all of it."""
        all_controls = set(self.controls) in (set(), set(get_args(Control)))
        usual = self.draws is None and self.options.tokens_in_flight == _USUAL.tokens_in_flight
        return not self.cuts and all_controls and usual and all(map(_has_text, self.keeps))


def arguments(asked: Asked, model: Any) -> tuple[str, ...] | None:
    """What `tl-truncate` is to be given; None if the command has no options for it.

    Args:
        asked: of the sweep.
        model: whose sites they are.
    """
    if not asked.is_a_command:
        return None
    options = asked.options
    given = ["sweep", "--model", asked.model or "MODEL", *asked.loading]
    given += asked.prompts or [text for name in asked.files for text in ("--task", f"{name}.json")]
    if asked.shots is not None:
        given += ["--shots", ",".join(map(str, asked.shots))]
    if options.prepend_bos is not None:
        given.append("--prepend-bos" if options.prepend_bos else "--no-prepend-bos")
    if options.seed:
        given += ["--seed", str(options.seed)]
    given += _site_options(asked.sites, model)
    given += [text for keep in asked.keeps for text in ("--keep", keep_text(keep))]
    given += ["--controls"] if asked.controls else []
    given += [] if options.batch_size == _USUAL.batch_size else ["--batch-size", str(options.batch_size)]
    if options.max_memory is not None:
        given += ["--max-memory", repr(options.max_memory / 2**30)]
    given += ["--out", asked.folder]
    return (*given, "--shard", f"{EACH}/{asked.workers}") if asked.workers > 1 else tuple(given)


def _site_options(sites: Sequence[Site], model: Any) -> list[str]:
    """The sites by their matrices and layers where these are all of them, else one by one."""
    matrices = list(dict.fromkeys(site.matrix for site in sites))
    layers = list(dict.fromkeys(site.layer for site in sites))
    in_a_row = layers == list(range(layers[0], layers[-1] + 1))
    if not in_a_row or list(sites) != find_sites(model, matrices, layers):
        return [text for site in sites for text in ("--site", str(site))]
    found = ["--matrices", ",".join(matrices)]
    return found if len(layers) == n_layers(model) else [*found, "--layers", f"{layers[0]}-{layers[-1]}"]


def _has_text(keep: Keep) -> bool:
    """Whether a command can be told of a rule: by its name and numbers."""
    values = [value for name, value in keep.to_json().items() if name != "rule"]
    return type(keep) is Components or all(real(value) is not None for value in values)


def keep_text(keep: Keep) -> str:
    """A keep as a command reads it.

    Examples:
        >>> keep_text(Rank(8)), keep_text(Fraction(0.1)), keep_text(Components((0, 2)))
        ('8', '0.1', 'Components(0, 2)')
    """
    if type(keep) in (Rank, Fraction):
        return str(keep.table_label)
    values = [value for name, value in keep.to_json().items() if name != "rule"]
    flat = [part for value in values for part in (value if isinstance(value, list) else [value])]
    return f"{type(keep).__name__}({', '.join(map(repr, flat))})"


def shown(asked: Asked, given: Sequence[str] | None) -> tuple[str, ...]:
    """Lines to be typed, or to be put into a program where the command has no such options."""
    if given is None:
        return (_call(asked),)
    command = _quoted(["tl-truncate", *given])
    lines = (
        [command] if asked.workers == 1 else [command, _quoted(["tl-truncate", "merge", asked.folder])]
    )
    if not asked.checkpoints:
        return tuple(lines)
    steps = " ".join(map(str, asked.checkpoints))
    return tuple(f"for step in {steps}; do {line}; done" for line in lines)


def _quoted(words: Sequence[str]) -> str:
    """A line for a shell, which itself puts in the numbers of shards and steps."""
    names = (EACH, STEP)
    return " ".join(
        f'"{word}"' if any(name in word for name in names) else shlex.quote(word) for word in words
    )


def _call(asked: Asked) -> str:
    """The sweep in Python."""
    told = ["sites=sites", "keeps=keeps"] if asked.sites else []
    told += ["cuts=cuts"] if asked.cuts else []
    told += [f"controls={asked.controls!r}"] if asked.controls else []
    told += [] if asked.shots is None else [f"shots={asked.shots!r}"]
    told += [] if asked.draws is None else [f"draws={asked.draws}"]
    for name in ("seed", "prepend_bos", "batch_size", "tokens_in_flight", "max_memory"):
        value = getattr(asked.options, name)
        told += [] if value == getattr(_USUAL, name) else [f"{name}={value!r}"]
    told += ["run_dir=folder" if asked.checkpoints else f"run_dir={asked.out + '/run'!r}"]
    told += [f"shard=(i, {asked.workers})"] if asked.workers > 1 else []
    task = "task" if len(asked.files) == 1 else "tasks"
    step = ", checkpoint=step" if asked.checkpoints else ""
    model = "model" if asked.model is None else f"tlt.load_model({asked.model!r}{step})"
    return f"tlt.sweep({model}, {task}, {', '.join(told)})"
