"""Tasks of the harness asked of a model uncut, cut and with controls, on the same samples."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from tqdm.auto import tqdm

from tl_truncate.checks import natural, positive, require_extra
from tl_truncate.evals.answered import Answered
from tl_truncate.evals.answers import Answers
from tl_truncate.evals.asking import FEWSHOT_SEED, How, Loaded, ask, check_tasks, key_of_task, load_tasks
from tl_truncate.evals.foreign import require_no_hooks
from tl_truncate.evals.quiet import quiet
from tl_truncate.evals.result import CUT, KIND, UNCUT, Benchmarks
from tl_truncate.experiments.scoring.evaluate import check_model
from tl_truncate.runs.codec import plain, read
from tl_truncate.runs.folder import RunFolder
from tl_truncate.runs.manifests import make_manifest
from tl_truncate.surgery.controls import controls_of, draws_for
from tl_truncate.surgery.cut import Cuts, SiteCut
from tl_truncate.surgery.hooks import active_cuts
from tl_truncate.weights.identity.content import hashed_once
from tl_truncate.weights.identity.provenance import of_model

_ANSWERS = "answers.jsonl"


@dataclass(frozen=True)
class _Place:
    """Where finished tasks are kept; without a folder, for the time of the call."""

    folder: RunFolder | None
    answers: Answers | None

    def found(self) -> list[Answered]:
        return [] if self.folder is None else [read(Answered, line) for line in self.folder.lines()]

    def keep(self, answered: Answered) -> None:
        if self.folder is not None:
            self.folder.append([plain(answered)])


def benchmark(
    model: Any,
    cuts: SiteCut | Sequence[SiteCut] = (),
    *,
    tasks: Sequence[str],
    include_path: str | os.PathLike[str] | None = None,
    num_fewshot: int | None = None,
    limit: int | float | None = None,
    apply_chat_template: bool = False,
    system_instruction: str | None = None,
    gen_kwargs: Mapping[str, Any] | None = None,
    fewshot_seed: int = FEWSHOT_SEED,
    controls: bool = False,
    draws: int | None = None,
    seed: int = 0,
    tokenizer: Any = None,
    add_bos_token: bool | None = None,
    max_length: int | None = None,
    batch_size: int = 8,
    run_dir: str | os.PathLike[str] | None = None,
    resume: bool = True,
    answers: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Benchmarks:
    """Runs tasks of lm-evaluation-harness on a model uncut and cut, and pairs the samples.

    Every number is the harness' own; the interval is that of the paired change. With a run folder the
    call can be stopped, and goes on with the task that was under way, of which given answers are kept.

    Args:
        model: as for `TruncatedLM`.
        cuts: made together; none for the uncut numbers alone.
        tasks: names of the harness' tasks or groups; those of `include_path`; or `tl_truncate_sums`,
            the miniature that ships with the package.
        include_path: a folder of further tasks, such as `Task.to_lm_eval` writes.
        num_fewshot: examples in front of each question; as each task says by default.
        limit: so many samples of each task from its beginning, or a share of them.
        apply_chat_template: of the tokenizer.
        system_instruction: in front of all.
        gen_kwargs: change what tasks ask of generation.
        fewshot_seed: of the choice of examples.
        controls: whether as much is removed at random too, several times.
        draws: how often; by default 16 times for one site and 4 times for several.
        seed: of the controls.
        tokenizer, add_bos_token, max_length, batch_size: as for `TruncatedLM`.
        run_dir: where finished tasks are kept.
        resume: whether the folder may hold the same run.
        answers: a file for single answers; in the run folder by default. Runs may share one.
        progress: shows a bar of tasks, and the harness' own.

    Returns:
        The result.

    Raises:
        ModuleNotFoundError: if the harness is not installed.
        ValueError: if an argument does not fit, there is no task of a name or its data are out of reach,
            it cannot be asked of this model, or the folder holds another run; before any work.

    Examples:
        >>> found = tlt.evals.benchmark(  # doctest: +SKIP
        ...     model, tlt.Cut("blocks.1.mlp.W_out", 0.1), tasks=["gsm8k"], num_fewshot=4
        ... )
        >>> print(found)  # doctest: +SKIP
    """
    require_extra("evals")
    check_model(model)
    chosen, seed = Cuts(cuts), natural("seed", seed)
    how = How(num_fewshot, limit, apply_chat_template, system_instruction, gen_kwargs, fewshot_seed)
    if controls and not chosen:
        raise ValueError("There must be cuts for controls, got none. Give cuts, or leave controls away.")
    asked: dict[str, Any] = dict(
        tokenizer=tokenizer,
        add_bos_token=add_bos_token,
        max_length=max_length,
        batch_size=positive("batch_size", batch_size),
    )
    with hashed_once(model):
        variants = _variants(model, chosen, controls=controls, draws=draws, seed=seed)
        models = _Models(model, variants, asked)
        with quiet(progress=False):
            loaded = load_tasks(tasks, include_path, how)
        check_tasks(models.first, loaded, how, greedy=getattr(model, "original_model", None) is None)
        if run_dir is not None or answers is not None:
            require_no_hooks(model)
        manifest = _manifest(model, chosen, loaded, how, models, seed)
        with _opened(run_dir, answers, manifest, resume=resume) as place:
            found = _all(models, loaded, how, place, progress=progress)
    return Benchmarks(tuple(found), manifest)


class _Models:
    """The variants as models of the harness, made when they are asked for.

    What is wrong with the cuts or the tokenizer is said at once, before any task is loaded.
    """

    def __init__(self, model: Any, variants: Mapping[str, Cuts], asked: Mapping[str, Any]) -> None:
        self.variants = variants
        self._model, self._asked = model, dict(asked)
        self.first = self.make(UNCUT)
        self._asked["tokenizer"] = self.first.tokenizer  # which is read from its files once
        if CUT in variants:
            self.make(CUT)

    def make(self, variant: str, answers: Answers | None = None) -> Any:
        from tl_truncate.evals.truncated_lm import TruncatedLM

        return TruncatedLM(self._model, self.variants[variant], answers=answers, **self._asked)


def _variants(
    model: Any, cuts: Cuts, *, controls: bool, draws: int | None, seed: int
) -> dict[str, Cuts]:
    found = {UNCUT: Cuts()} | ({CUT: cuts} if cuts else {})
    if not controls:
        return found
    count = draws_for(len({cut.site for cut in cuts}), draws)
    for kind, drawn in controls_of(model, cuts, seed=seed, draws=count).items():
        found |= {f"{kind} {place}": Cuts(each) for place, each in enumerate(drawn)}
    return found


def _manifest(
    model: Any, cuts: Cuts, loaded: Mapping[str, Loaded], how: How, models: _Models, seed: int
) -> dict[str, Any]:
    lm = models.first
    return make_manifest(
        KIND,
        **of_model(model),
        around=[cut.to_json() for cut in active_cuts(model)],
        cuts=[cut.to_json() for cut in cuts],
        variants={name: [cut.to_json() for cut in each] for name, each in models.variants.items()},
        seed=seed,
        tasks={name: key_of_task(each, how) for name, each in loaded.items()},
        **how.to_json(),
        tokenizer=lm.tokens_hash,
        max_length=lm.max_length,
        generation=lm.model.generation,
        batch_size=lm.batch_size,
        lm_eval=metadata.version("lm_eval"),
    )


@contextmanager
def _opened(
    run_dir: str | os.PathLike[str] | None,
    answers: str | os.PathLike[str] | None,
    manifest: dict[str, Any],
    *,
    resume: bool,
) -> Iterator[_Place]:
    """The folder, for as long as no other process works in it."""
    given = None if answers is None else Answers(answers)
    if run_dir is None:
        yield _Place(None, given)
        return
    folder = RunFolder(run_dir)
    with folder.held():
        folder.open(
            manifest,
            resume=resume,
            free=("model",),
            grows=("tasks", "variants"),
            noted=("device", "batch_size"),
        )
        yield _Place(folder, Answers(folder.path / _ANSWERS) if given is None else given)


def _all(
    models: _Models, loaded: Mapping[str, Loaded], how: How, place: _Place, *, progress: bool
) -> list[Answered]:
    """Task after task, of each the uncut model first."""
    known = {(each.name, each.variant): each for each in place.found()}
    wanted = [(name, variant) for name in loaded for variant in models.variants]
    found = []
    with tqdm(total=len(wanted), desc="lm-eval", disable=not progress) as bar:
        for name, variant in wanted:
            answered = known.get((name, variant))
            if answered is None:
                lm = models.make(variant, place.answers)
                answered = ask(lm, name, variant, loaded[name], how, progress=progress)
                place.keep(answered)
            found.append(answered)
            bar.update()
    return found
