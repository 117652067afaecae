"""The harness' own evaluation of one task, as plain data. The harness is imported where it is called."""

import contextlib
import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tl_truncate.checks import natural, real, whole
from tl_truncate.evals.answered import Answered, Number, Sample
from tl_truncate.evals.quiet import RandomState, quiet, seeded_as_the_harness
from tl_truncate.evals.sums.folder import SUMS
from tl_truncate.evals.task_key import task_key
from tl_truncate.weights.files import as_path

#: The harness' own, of the examples in front.
FEWSHOT_SEED = 1234
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_SHOWN = 300


@dataclass(frozen=True)
class How:
    """How tasks are asked, as the harness' options of the same names say.

    Raises:
        ValueError: if one does not fit.
    """

    num_fewshot: int | None = None
    limit: int | float | None = None
    apply_chat_template: bool = False
    system_instruction: str | None = None
    gen_kwargs: Mapping[str, Any] | None = None
    fewshot_seed: int = FEWSHOT_SEED

    def __post_init__(self) -> None:
        if self.num_fewshot is not None:
            object.__setattr__(self, "num_fewshot", natural("num_fewshot", self.num_fewshot))
        object.__setattr__(self, "fewshot_seed", natural("fewshot_seed", self.fewshot_seed))
        if self.limit is not None:
            object.__setattr__(self, "limit", _limit(self.limit))
        if self.gen_kwargs is not None and not isinstance(self.gen_kwargs, Mapping):
            raise ValueError(
                f"gen_kwargs must be a mapping such as {{'max_gen_toks': 64}}, got {self.gen_kwargs!r}."
            )

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        kwargs = None if self.gen_kwargs is None else dict(self.gen_kwargs)
        return {**asdict(self), "gen_kwargs": kwargs}


def _limit(value: Any) -> int | float:
    count, share = whole(value), real(value)
    if count is not None and count > 0:
        return count
    if count is None and share is not None and 0 < share < 1:
        return share
    raise ValueError(
        f"limit must be a number of samples from 1 up, or a share between 0 and 1, got {value!r}."
    )


@dataclass(frozen=True)
class Loaded:
    """A task or group as the harness has loaded it.

    Attributes:
        found: of the harness' `TaskManager.load`.
        drawn: random numbers go on from here, as they do in the harness, where a task may draw when it
            is loaded and when it is asked.
    """

    found: Mapping[str, Any]
    drawn: RandomState

    @property
    def tasks(self) -> Mapping[str, Any]:
        """By name, those of a group too."""
        tasks: Mapping[str, Any] = self.found["tasks"]
        return tasks


def load_tasks(
    names: Sequence[str], include_path: str | os.PathLike[str] | None, how: How
) -> dict[str, Loaded]:
    """The harness' tasks by the names that were given, each as if it were the only one.

    Raises:
        ValueError: if there is no task of a name, a task is there twice, or its data cannot be read.
    """
    if isinstance(names, str) or not names or not all(isinstance(each, str) for each in names):
        raise ValueError(f"tasks must be a list of at least one name, got {names!r}.")
    twice = [name for name in names if list(names).count(name) > 1]
    if twice:
        raise ValueError(f"Each task must be named once, got {twice[0]!r} twice.")
    places = [str(SUMS)]
    if include_path is not None:
        folder = as_path(include_path)
        if not folder.is_dir():
            raise ValueError(f"include_path must be a folder of tasks, got {str(include_path)!r}.")
        places.append(str(folder))
    manager = _manager(names, places)
    found = {}
    for name in names:
        with seeded_as_the_harness():
            found[name] = Loaded(_loaded(manager, name), RandomState.now())
        for each in found[name].tasks.values():
            _configure(each, how)
    _require_apart(found)
    return found


def _require_apart(loaded: Mapping[str, Loaded]) -> None:
    """That no task is asked twice, such as by its own name and as part of a group."""
    first: dict[str, str] = {}
    for name, each in loaded.items():
        for task in each.tasks:
            if task in first:
                raise ValueError(
                    f"Each task must be asked once, but {task!r} is in {first[task]!r} and in {name!r}."
                )
            first[task] = name


def _manager(names: Sequence[str], places: list[str]) -> Any:
    """The index of tasks; that of the harness' own thousands only where it is needed."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=places, include_defaults=False)
    if all(name in manager.task_index for name in names):
        return manager
    manager = TaskManager(include_path=places)
    for name in names:
        if name not in manager.task_index:
            near = difflib.get_close_matches(name, list(manager.task_index), n=3)
            hint = f" Near it: {', '.join(near)}." if near else ""
            raise ValueError(
                f"A task must be one of lm-eval's {len(manager.task_index)} (`lm_eval ls tasks`) or in "
                f"include_path, got {name!r}.{hint}"
            )
    return manager


def _loaded(manager: Any, name: str) -> Any:
    try:
        return manager.load([name])
    except (OSError, ValueError, KeyError) as problem:
        told = (str(problem).splitlines() or [""])[0]
        raise ValueError(
            f"The data of task {name!r} must be there or within reach, but: {type(problem).__name__}: "
            f"{told}"
        ) from problem


def _configure(task: Any, how: How) -> None:
    """What the harness' `simple_evaluate` sets; a task that itself asks for no examples gets none."""
    if task.get_config("output_type") == "generate_until" and how.gen_kwargs:
        task.set_config(key="generation_kwargs", value=dict(how.gen_kwargs), update=True)
    own = task.get_config("num_fewshot")
    if how.num_fewshot is not None and own != 0:
        task.set_config(key="num_fewshot", value=how.num_fewshot)
    elif own is None:
        task.set_config(key="num_fewshot", value=0)


def check_tasks(lm: Any, loaded: Mapping[str, Loaded], how: How, *, greedy: bool) -> None:
    """What can be known to fail, before anything is asked.

    Args:
        lm: of the harness.
        loaded: of `load_tasks`.
        how: the tasks are asked.
        greedy: whether the model generates greedily alone.

    Raises:
        ValueError: if a task runs code or shows pictures, asks for more tokens than fit or for what the
            model does not generate, or the tokenizer has no chat template.
    """
    if how.apply_chat_template and not lm.tokenizer.chat_template:
        raise ValueError(
            "The tokenizer must have a chat template for apply_chat_template, got none. Leave that "
            "away, or set tokenizer.chat_template."
        )
    for each in (task for group in loaded.values() for task in group.tasks.values()):
        _check_task(lm, each, greedy=greedy)


def _check_task(lm: Any, task: Any, *, greedy: bool) -> None:
    name = task.config.task
    if getattr(task, "UNSAFE_CODE", False):
        raise ValueError(
            f"A task must not run what a model writes, but {name!r} does. Use lm_eval itself."
        )
    if getattr(task, "MULTIMODAL", False):
        raise ValueError(f"A task must be of text, but {name!r} shows pictures or plays sounds.")
    if task.get_config("output_type") != "generate_until":
        return
    asked = dict(task.get_config("generation_kwargs") or {})
    lengths = [asked[each] for each in _LENGTHS if asked.get(each) is not None]
    tokens = int(lengths[0] if lengths else lm.max_gen_toks)
    if tokens >= lm.max_length:
        raise ValueError(
            f"A task's answer must leave room for its question, but {name!r} asks for {tokens} "
            f"tokens and the model has {lm.max_length}. Use gen_kwargs={{'max_gen_toks': "
            f"{lm.max_length // 4}}}."
        )
    if greedy:
        from tl_truncate.evals.causal import require_greedy, require_plain

        require_plain(lm.model.generation)
        require_greedy({each: asked[each] for each in asked if each not in ("until", *_LENGTHS)})


def key_of_task(loaded: Loaded, how: How) -> str:
    """A hash of a task, by which a run folder knows it again."""
    with quiet(progress=False), seeded_as_the_harness(loaded.drawn):
        return task_key(loaded.tasks, how.limit)


def ask(
    lm: Any, name: str, variant: str, loaded: Loaded, how: How, *, progress: bool = False
) -> Answered:
    """The harness' numbers of one task, and each sample's values.

    Args:
        lm: of the harness.
        name: of the task.
        variant: of the model, for the result.
        loaded: the task.
        how: it is asked.
        progress: shows the harness' bars.

    Raises:
        ValueError: if the model cannot be asked it after all.
    """
    from lm_eval.evaluator import evaluate

    for each in loaded.tasks.values():
        each.set_fewshot_seed(seed=how.fewshot_seed)
    with quiet(progress=progress) as notes, seeded_as_the_harness(loaded.drawn), _explained(name):
        found = evaluate(
            lm=lm,
            task_dict=loaded.found,
            limit=how.limit,
            bootstrap_iters=0,
            system_instruction=how.system_instruction,
            apply_chat_template=how.apply_chat_template,
            fewshot_as_multiturn=True,
        )
    return Answered(
        name, variant, tuple(_numbers(found)), tuple(_samples(found["samples"])), tuple(notes)
    )


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except AssertionError as problem:
        raise ValueError(
            f"The requests of {name!r} must fit the model's context: {problem or 'an answer is longer'}."
        ) from problem


def _numbers(found: Mapping[str, Any]) -> Iterator[Number]:
    """Of tasks, then of groups that have numbers of their own."""
    groups = found.get("groups", {})
    for place in (found["results"], groups):
        for task, facts in place.items():
            if place is not groups and task in groups:
                continue
            better = found.get("higher_is_better", {}).get(task) or {}
            parts = tuple(_leaves(task, found)) if place is groups else ()
            for key, value in facts.items():
                metric, separator, name = key.partition(",")
                if not separator or metric.endswith("_stderr"):
                    continue
                yield Number(
                    task,
                    name,
                    metric,
                    float(value) if real(value) is not None else None,
                    better.get(metric),
                    int(found.get("n-shot", {}).get(task) or 0),
                    parts,
                )


def _leaves(name: str, found: Mapping[str, Any]) -> Iterator[str]:
    below = found.get("group_subtasks", {}).get(name) or []
    if not below and name in found["samples"]:
        yield name
    for each in below:
        yield from _leaves(each, found)


def _samples(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[Sample]:
    for task, rows in samples.items():
        for row in rows:
            values = {metric: _floats(row[metric]) for metric in row["metrics"]}
            yield Sample(
                task,
                row["filter"],
                int(row["doc_id"]),
                tuple(str(row[each]) for each in ("doc_hash", "prompt_hash", "target_hash")),
                {metric: value for metric, value in values.items() if value is not None},
                str(row["arguments"][0][0])[-_SHOWN:],
                str(row["target"])[-_SHOWN:],
                _said(row)[:_SHOWN],
            )


def _floats(value: Any) -> tuple[float, ...] | None:
    """A number, or a sum with its weight; None for what is neither, such as a pair of texts."""
    several = list(value) if isinstance(value, (tuple, list)) else [value]
    found = [float(each) if isinstance(each, (bool, np.bool_)) else real(each) for each in several]
    if len(found) > 2 or not found or None in found:
        return None
    return tuple(each for each in found if each is not None)


def _said(row: Mapping[str, Any]) -> str:
    """The text that was generated, or the continuation that was most probable."""
    answers, asked = row["filtered_resps"], row["arguments"]
    first = answers[0]
    if isinstance(first, str):
        return first
    if isinstance(first, (tuple, list)) and len(first) == 2 and len(asked[0]) == 2 and len(answers) > 1:
        best = max(range(len(answers)), key=lambda place: answers[place][0])
        return str(asked[best][1])
    return str(first)
