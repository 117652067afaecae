"""A task as lm-evaluation-harness reads one: JSON lines and YAML."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tl_truncate.weights.files import as_path, replacing

#: What is asked of the answers: by the ending of the task's name, the output type and its metrics.
_ASKED = {
    # Whether the in-context answer is more probable than the global one, which stands first: of answers
    # that are as probable lm-eval takes the first.
    "": ("multiple_choice", "choices", "target", ("acc",)),
    # Whether the in-context answer is the most probable of all, and how probable it is.
    "_greedy": ("loglikelihood", None, "in_context", ("acc", "perplexity")),
}


def write_harness_task(
    folder: str | os.PathLike[str],
    name: str,
    rows: Sequence[tuple[str, ...]],
    description: str,
) -> list[Path]:
    """Writes the files of one task.

    Args:
        folder: made if need be.
        name: of the task; the harness's names are made of it.
        rows: prompt, right answer and, if there is one, global answer, in text.
        description: for the YAML.

    Returns:
        The data and the YAML files: `<name>` is left out where there is no global answer to choose from.

    Raises:
        ValueError: if the name is none that the harness takes, or a prompt ends in white space.
        FileExistsError: if a file of that name is there.
    """
    _check(name, rows)
    place = as_path(folder)
    data = place / f"{name}.jsonl"
    own = {ending: how for ending, how in _ASKED.items() if len(rows[0]) > 2 or how[1] is None}
    paths = [data, *(place / f"{name}{ending}.yaml" for ending in own)]
    there = [path for path in paths if path.exists()]
    if there:
        raise FileExistsError(
            f"The folder must not hold the task yet, got {there[0]}, which exists. Use another folder."
        )
    place.mkdir(parents=True, exist_ok=True)
    texts = ["\n".join(json.dumps(_line(*row)) for row in rows) + "\n"]
    texts += [_yaml(f"{name}{ending}", data, description, *how) for ending, how in own.items()]
    for path, text in zip(paths, texts, strict=True):
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return paths


def _line(prompt: str, in_context: str, *global_: str) -> dict[str, Any]:
    """A prompt as the harness reads it, with what there is to choose from if that is anything."""
    choice = dict(choices=[*global_, in_context], target=1) if global_ else {}
    return dict(prompt=prompt) | choice | dict(in_context=in_context)


def _check(name: str, rows: Sequence[tuple[str, ...]]) -> None:
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(
            "A task's name must be of letters, digits, '_', '-' and '.' to be an lm-eval task, got "
            f"{name!r}. Use dataclasses.replace(task, name=...)."
        )
    for index, (prompt, *_) in enumerate(rows):
        if prompt != prompt.rstrip():
            raise ValueError(
                "A prompt must not end in white space to be an lm-eval task, since lm-eval counts that "
                f"as part of the answer, got {prompt[-20:]!r} at {index}."
            )


def _yaml(
    name: str,
    data: Path,
    description: str,
    output: str,
    choices: str | None,
    target: str,
    metrics: Sequence[str],
) -> str:
    """Texts in it are JSON strings, which YAML reads as they are."""
    lines = [
        *(f"# {line}" for line in description.splitlines()),
        "# Where the folder was written; after it has moved, write the task again.",
        f"task: {json.dumps(name)}",
        "dataset_path: json",
        "dataset_kwargs:",
        "  data_files:",
        f"    test: {json.dumps(str(data.resolve()))}",
        "test_split: test",
        f"output_type: {output}",
        "doc_to_text: prompt",
        *([] if choices is None else [f"doc_to_choice: {choices}"]),
        f"doc_to_target: {target}",
        # Answers have their own space in front.
        'target_delimiter: ""',
        "metric_list:",
    ]
    for metric in metrics:
        lines += [
            f"  - metric: {metric}",
            f"    aggregation: {'perplexity' if metric == 'perplexity' else 'mean'}",
            f"    higher_is_better: {'false' if metric == 'perplexity' else 'true'}",
        ]
    return "\n".join([*lines, "metadata:", "  version: 1.0"]) + "\n"
