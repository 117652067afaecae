"""A Pythia in small: GPT-NeoX on a generated English, with its training steps in folders.

The folder of a run is laid out as the Pythia repositories are, one `step<N>` for each checkpoint, and is
loaded by the same code: `load_model(folder, checkpoint=N)`.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from tl_truncate.checks import as_integers, natural
from tl_truncate.models import Backend, load_model
from tl_truncate.runs.folder import RunFolder
from tl_truncate.runs.manifests import make_manifest
from tl_truncate.toys.nano.grammar import Grammar
from tl_truncate.toys.nano.tokenizer import make_tokenizer, pieces, vocabulary
from tl_truncate.toys.nano.weights import save_checkpoint
from tl_truncate.toys.training import Training, log_spaced, train
from tl_truncate.weights.files import as_path, replacing


@dataclass(frozen=True)
class NanoConfig:
    """Sizes and training of a nano-Pythia; the defaults are those of the one that ships.

    Attributes:
        n_layers, d_model, n_heads: sizes; the MLPs are four times as wide.
        length: tokens in a sequence.
        batch_size: sequences in a step.
        steps: of AdamW.
        learning_rate: its peak, after `warmup` steps; it falls linearly to a twentieth.
        weight_decay: of AdamW.
        seed: of weights and data.
    """

    n_layers: int = 4
    d_model: int = 128
    n_heads: int = 4
    length: int = 64
    batch_size: int = 32
    steps: int = 2000
    learning_rate: float = 2e-3
    warmup: int = 100
    weight_decay: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        as_integers(self, "n_layers", "d_model", "n_heads", "length", "batch_size", "steps", "warmup")
        as_integers(self, "seed", check=natural)
        if self.d_model % self.n_heads:
            raise ValueError(
                f"d_model must be a multiple of n_heads, got {self.d_model} and {self.n_heads}."
            )

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        return self.learning_rate * min(1.0, (step + 1) / self.warmup) * max(0.05, 1 - step / self.steps)


@dataclass(frozen=True)
class NanoRun:
    """A nano-Pythia's folder.

    Attributes:
        folder: with one `step<N>` for each checkpoint.
        checkpoints: the steps, in order.
    """

    folder: Path
    checkpoints: tuple[int, ...]

    def load(self, step: int | None = None, *, backend: Backend = "bridge") -> Any:
        """The model at a step, by default the last."""
        chosen = self.checkpoints[-1] if step is None else step
        return load_model(str(self.folder), checkpoint=chosen, backend=backend)

    def plot(self) -> NoReturn:
        """Says what to draw: checkpoints have no numbers before they are asked something.

        Raises:
            TypeError: always, with what to call.
        """
        raise TypeError(
            "There must be numbers to draw, but a NanoRun has checkpoints alone. Call "
            "tlt.dynamics(run.load, run.checkpoints, task).plot()."
        )


def nano_pythia(
    folder: str | os.PathLike[str],
    config: NanoConfig | None = None,
    *,
    checkpoints: Sequence[int] | None = None,
    resume: bool = False,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> NanoRun:
    """Trains a GPT-NeoX from scratch on the generated English, and stores its checkpoints.

    Args:
        folder: new or empty, or with `resume` one that holds the same run.
        config: sizes and training.
        checkpoints: steps to store; by default 0, 1, 2, 4, ..., with two to an octave from 512 on.
        resume: goes on with a run that was stopped, bit for bit.
        device: to train on.
        progress: shows a bar.

    Returns:
        The run's folder and checkpoints.

    Raises:
        ValueError: if the folder holds something else, or a checkpoint is beyond the last step.

    Source: the architecture is that of Pythia (Biderman et al. 2023); the data are this package's own.
    """
    config = NanoConfig() if config is None else config
    steps = _check_checkpoints(
        _default_steps(config.steps) if checkpoints is None else checkpoints, config
    )
    place = as_path(folder)
    manifest = make_manifest("nano-pythia", config=asdict(config), checkpoints=steps)
    run = RunFolder(place)
    with run.held():
        run.open(manifest, resume=resume)
        model = _fresh_model(config)
        if device is not None:
            model.to(device)
        tokenizer = make_tokenizer()
        optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            betas=(0.9, 0.95),
        )

        def loss(step: int) -> Tensor:
            tokens = training_tokens(config, step).to(model.device)
            logits = model(tokens[:, :-1]).logits
            return torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

        def visit(step: int, _: float) -> None:
            save_checkpoint(model, tokenizer, place / f"step{step}")

        training = Training(
            config.steps,
            optimizer,
            loss,
            config.rate,
            steps,
            visit,
            place / "state.safetensors",
            clip=1.0,
        )
        train(training, progress=progress, title="nano-pythia")
        return NanoRun(place, steps)


def _default_steps(steps: int) -> tuple[int, ...]:
    fine = (step for step in log_spaced(steps, per_octave=2) if step > 512)
    return tuple(sorted({*log_spaced(steps), *fine}))


def _check_checkpoints(checkpoints: Sequence[int], config: NanoConfig) -> tuple[int, ...]:
    wrong = [step for step in checkpoints if step not in range(config.steps + 1)]
    if wrong or not checkpoints:
        raise ValueError(f"checkpoints must be steps from 0 to {config.steps}, got {list(checkpoints)}.")
    return tuple(sorted(set(checkpoints)))


def _fresh_model(config: NanoConfig) -> Any:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    settings = GPTNeoXConfig(
        vocab_size=len(vocabulary()),
        hidden_size=config.d_model,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        intermediate_size=4 * config.d_model,
        max_position_embeddings=config.length,
        use_parallel_residual=True,
        rotary_pct=0.25,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return GPTNeoXForCausalLM(settings)


def training_tokens(config: NanoConfig, step: int) -> Tensor:
    """The sequences of a step: sentences one after the other, each after an end of text.

    Returns:
        `[batch_size, length + 1]`.
    """
    numbers = {word: number for number, word in enumerate(vocabulary())}
    grammar = Grammar(f"{config.seed} {step}")
    wanted = config.batch_size * (config.length + 1)
    tokens: list[int] = []
    while len(tokens) < wanted:
        tokens += [0, *(numbers[piece] for piece in pieces(grammar.draw().text))]
    return torch.tensor(tokens[:wanted]).view(config.batch_size, -1)


def ship(
    run: NanoRun,
    folder: str | os.PathLike[str],
    *,
    steps: Sequence[int] = (64, 512, 1024, 2000),
) -> None:
    """Copies some checkpoints of a run in half precision, and its manifest, as the package has them.

    Args:
        run: a finished run.
        folder: to put them in.
        steps: which checkpoints.
    """
    from transformers import AutoTokenizer, GPTNeoXForCausalLM

    place = as_path(folder)
    for step in steps:
        source = str(run.folder / f"step{step}")
        model = GPTNeoXForCausalLM.from_pretrained(source)
        tokenizer = AutoTokenizer.from_pretrained(source)
        save_checkpoint(model, tokenizer, place / f"step{step}", dtype=torch.float16)
    with replacing(place / "manifest.json") as path:
        shutil.copyfile(run.folder / "manifest.json", path)
