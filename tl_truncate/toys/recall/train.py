"""Training on noisy in-context recall, with all probes on the way."""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from tl_truncate.drawing import Drawn
from tl_truncate.runs.folder import RunFolder
from tl_truncate.runs.manifests import make_manifest
from tl_truncate.tasks.task import Task
from tl_truncate.toys.recall.config import RecallConfig
from tl_truncate.toys.recall.data import RecallBatch, RecallData
from tl_truncate.toys.recall.model import build_recall_model, tensors, write
from tl_truncate.toys.recall.probes import Probes
from tl_truncate.toys.training import Training, log_spaced, train
from tl_truncate.weights.files import load_tensors, remove_parts, save_tensors
from tl_truncate.weights.identity.provenance import note_source

#: What counts as learnt: the noise by its probability, recall by its accuracy.
NOISE_LEARNT, RECALL_LEARNT = 0.4, 0.25


@dataclass(frozen=True, eq=False, repr=False)
class RecallRun(Drawn):
    """A trained recall model and its history.

    Attributes:
        config: what was run.
        model: after the last step.
        history: one row for each step that was looked at: step, loss and the probes' columns.
        checkpoints: the steps whose weights are kept; `at(step)` builds their models.
    """

    config: RecallConfig
    model: Any
    history: pd.DataFrame
    checkpoints: tuple[int, ...]
    _store: "_Store"

    def at(self, step: int) -> Any:
        """A new model with the weights of a checkpoint.

        Raises:
            ValueError: if no weights were kept of that step.
        """
        if step not in self.checkpoints:
            raise ValueError(
                f"The step must be one of {', '.join(map(str, self.checkpoints))}, got {step!r}."
            )
        model = _build(self.config, None)
        write(model, self._store.read(step))
        return note_step(model, self.config, step)

    def task(self, n: int = 100, *, seed: int = 0) -> Task:
        """Clean prompts that end in a trigger seen before."""
        return recall_task(self.config.data, n, seed=seed)

    def first_step(self, column: str, above: float) -> int | None:
        """The first step that was looked at where a column is above a value; None if it never is."""
        found = self.history.loc[self.history[column] > above, "step"]
        return None if found.empty else int(found.iloc[0])

    @property
    def noise_learnt(self) -> int | None:
        """First step with p_noise above 0.4."""
        return self.first_step("p_noise", NOISE_LEARNT)

    @property
    def recall_learnt(self) -> int | None:
        """First step with accuracy above 0.25."""
        return self.first_step("accuracy", RECALL_LEARNT)

    @classmethod
    def load(cls, run_dir: str | os.PathLike[str]) -> "RecallRun":
        """Reads a run folder; of one that is not finished, the checkpoints so far.

        Raises:
            ValueError: if the folder holds no recall run, or no checkpoint yet.
        """
        folder = RunFolder(run_dir)
        manifest = folder.manifest()
        if manifest.get("kind") != "recall":
            raise ValueError(
                f"The run folder must be a recall run's, got kind {manifest.get('kind')!r}."
            )
        return _result(RecallConfig.from_json(manifest["config"]), _Store(folder))

    def __str__(self) -> str:
        last = self.history.iloc[-1]
        top = self.config.n_layers - 1
        metrics = ("accuracy", "p_correct", "p_noise")
        full = [last[metric] for metric in metrics]
        dropped = [last[f"{metric}_mlp{top}_dropped"] for metric in metrics]
        return "\n".join(
            [
                f"noisy in-context recall, alpha {self.config.data.alpha}, seed {self.config.seed}, "
                f"{int(last['step'])} steps",
                f"  noise learnt (p_noise > {NOISE_LEARNT}) {_by(self.noise_learnt)}, "
                f"recall (accuracy > {RECALL_LEARNT}) {_by(self.recall_learnt)}",
                "  in full:          accuracy {:.3f}, p_correct {:.3f}, p_noise {:.3f}".format(*full),
                "  last MLP dropped: accuracy {:.3f}, p_correct {:.3f}, p_noise {:.3f}".format(*dropped),
            ]
        )

    def __repr__(self) -> str:
        return str(self)


def _by(step: int | None) -> str:
    return "at no step" if step is None else f"by step {step}"


def train_recall(
    config: RecallConfig | None = None,
    *,
    run_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    checkpoints: tuple[int, ...] | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> RecallRun:
    """Trains a two-layer transformer on noisy in-context recall, from scratch.

    Args:
        config: `RecallConfig.small()` (a minute) by default; `RecallConfig.official()` wants a GPU.
        run_dir: folder for checkpoints (safetensors) and history; None keeps them in memory.
        resume: goes on with the run in the folder, bit for bit.
        checkpoints: steps to keep and to look at; by default 0, 1, 2, 4, ..., four to an octave from
            16 on, and the last.
        device: to train on.
        progress: shows a bar.

    Returns:
        The model, its history and its checkpoints.

    Raises:
        ValueError: if an argument does not fit, before anything is trained.

    Source: Chen, Bruna and Bietti 2024 (arXiv 2406.03068), its two-layer transformer.

    Examples:
        >>> run = train_recall(RecallConfig.small(steps=2, eval_size=4, d_model=16), progress=False)
        >>> run.checkpoints, len(run.history)
        ((0, 1, 2), 3)
    """
    config = RecallConfig.small() if config is None else config
    if not isinstance(config, RecallConfig):
        raise TypeError(f"config must be a RecallConfig, such as RecallConfig.small(), got {config!r}.")
    steps = _check_steps(_default_steps(config.steps) if checkpoints is None else checkpoints, config)
    store = _Store(None if run_dir is None else RunFolder(run_dir))
    with store.held():
        store.open(
            make_manifest("recall", config=config.to_json(), checkpoints=steps),
            resume=resume,
        )
        model = _build(config, device)
        probes = Probes(config.data, config.eval_size, config.seed)

        def visit(step: int, loss: float) -> None:
            store.write(step, tensors(model))
            store.log({"step": step, "loss": loss, **probes.measure(model)})

        training = Training(
            config.steps,
            make_optimizer(model, config),
            lambda step: recall_loss(
                model, config, config.data.sample(config.batch_size, seed=(config.seed, step))
            ),
            config.rate,
            steps,
            visit,
            store.state,
        )
        train(training, progress=progress, title="recall")
        return _result(config, store, model)


def make_optimizer(model: Any, config: RecallConfig) -> torch.optim.Optimizer:
    """The optimizer over the weights that are not frozen."""
    trained = [each for each in model.parameters() if each.requires_grad]
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            trained, config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
        )
    return torch.optim.AdamW(trained, config.learning_rate, weight_decay=config.weight_decay)


def recall_loss(model: Any, config: RecallConfig, batch: RecallBatch) -> Tensor:
    """Cross-entropy of the next token, where a trigger has occurred before or everywhere."""
    device = model.W_E.device
    logits = model(torch.from_numpy(batch.inputs.copy()).to(device))
    labels = torch.from_numpy(batch.labels.copy()).to(device)
    if config.loss == "everywhere":
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    seen = torch.from_numpy(batch.recalled).to(device)
    return torch.nn.functional.cross_entropy(logits[seen], labels[seen])


def recall_task(data: RecallData, n: int = 100, *, seed: int = 0) -> Task:
    """Clean sequences, all of the same length, that end in a trigger seen before.

    The in-context answer is the sequence's target, the global one the noise token; sequences whose
    target is the noise token are left out.

    Args:
        data: the distribution.
        n: number of prompts.
        seed: of the draws.

    Raises:
        ValueError: if such sequences are too rare.

    Examples:
        >>> len(recall_task(RecallData(tlt.toys.BigramTable.synthetic(8), length=16), 5))
        5
    """
    prompts: list[list[int]] = []
    targets: list[int] = []
    for attempt in range(1000):
        batch = data.clean().sample(max(64, 8 * n), seed=(seed, attempt))
        fits = batch.recalled[:, -1] & (batch.labels[:, -1] != data.noise_token)
        prompts += batch.inputs[fits].tolist()
        targets += batch.labels[fits, -1].tolist()
        if len(prompts) >= n:
            break
    else:
        raise ValueError(
            f"A trigger must end some of the sequences, but {len(prompts)} of {1000 * max(64, 8 * n)} "
            "do after it has occurred before. Use longer sequences or a more frequent trigger."
        )
    return Task(
        "recall",
        prompts[:n],
        [[target] for target in targets[:n]],
        [[data.noise_token]] * n,
        description=f"noisy in-context recall, clean prompts of {data.length} tokens, seed {seed}",
    )


def note_step(model: Any, config: RecallConfig, step: int) -> Any:
    """Notes where a recall model comes from, for the records of results."""
    note_source(model, f"recall {config.hash}@step{step}")
    return model


def _build(config: RecallConfig, device: torch.device | str | None) -> Any:
    return build_recall_model(
        d_vocab=len(config.data.table),
        n_ctx=config.data.length,
        d_model=config.d_model,
        d_mlp=config.mlp_ratio * config.d_model,
        n_layers=config.n_layers,
        seed=config.seed,
        backend=config.backend,
        dtype=config.torch_dtype,
        device=device,
        initialisation=config.initialisation,
        unembedding_scale=config.unembedding_scale,
    )


def _default_steps(steps: int) -> tuple[int, ...]:
    fine = (step for step in log_spaced(steps, per_octave=4) if step > 16)
    return tuple(sorted({*log_spaced(steps), *fine}))


def _check_steps(checkpoints: tuple[int, ...], config: RecallConfig) -> tuple[int, ...]:
    wrong = [step for step in checkpoints if step not in range(config.steps + 1)]
    if wrong:
        raise ValueError(f"checkpoints must be steps from 0 to {config.steps}, got {wrong[0]!r}.")
    return tuple(sorted({*checkpoints, config.steps}))


class _Store:
    """Where checkpoints and history go: a run folder, or memory."""

    def __init__(self, folder: RunFolder | None) -> None:
        self._folder = folder
        self._weights: dict[int, Mapping[str, Tensor]] = {}
        self._rows: list[dict[str, Any]] = []

    @property
    def state(self) -> Path | None:
        return None if self._folder is None else self._folder.path / "state.safetensors"

    def held(self) -> AbstractContextManager[None]:
        """Inside, no other process trains in the folder."""
        return nullcontext() if self._folder is None else self._folder.held()

    def open(self, manifest: dict[str, Any], *, resume: bool) -> None:
        if self._folder is None:
            if resume:
                raise ValueError("resume must go with the run_dir of the run to go on with, got none.")
            return
        self._folder.open(manifest, resume=resume)
        checkpoints = self._folder.path / "checkpoints"
        checkpoints.mkdir(exist_ok=True)
        remove_parts(checkpoints)

    def write(self, step: int, weights: Mapping[str, Tensor]) -> None:
        copies = {name: value.cpu().clone().contiguous() for name, value in weights.items()}
        if self._folder is None:
            self._weights[step] = copies
            return
        save_tensors(self._path(step), copies, {})

    def _path(self, step: int) -> Path:
        assert self._folder is not None
        return self._folder.path / "checkpoints" / f"step{step}.safetensors"

    def read(self, step: int) -> dict[str, Tensor]:
        return dict(self._weights[step]) if self._folder is None else load_tensors(self._path(step))[0]

    def log(self, row: dict[str, Any]) -> None:
        if self._folder is None:
            self._rows.append(row)
        else:
            self._folder.append([row])

    def rows(self) -> list[dict[str, Any]]:
        """One for each step; a resumed run may have looked at one twice, with the same result."""
        rows = self._rows if self._folder is None else self._folder.lines()
        return list({row["step"]: row for row in rows}.values())


def _result(config: RecallConfig, store: _Store, model: Any | None = None) -> RecallRun:
    rows = store.rows()
    if not rows:
        raise ValueError("The recall run must have stored a checkpoint, but it has not. Resume it.")
    steps = tuple(int(row["step"]) for row in rows)
    if model is None:
        model = _build(config, None)
        write(model, store.read(steps[-1]))
    note_step(model, config, steps[-1])
    return RecallRun(config, model, pd.DataFrame(rows), steps, store)
