"""Jobs for workers of Ray, which import them by name."""

import os
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def note_the_process(folder: str) -> float:
    """What is loaded; a file says which process has."""
    (Path(folder) / f"{os.getpid()}.pid").touch()
    return 0.5


def several_threads() -> float:
    """A load that leaves torch with as many threads as it likes."""
    import torch

    torch.set_num_threads(3)
    return 1.0


@dataclass
class Cubes:
    """Takes its time for the cube of a number, and counts how often it was asked."""

    loaded: float
    seconds: float = 0.0
    at: Any = "here"
    asked: list = field(default_factory=list)

    def told(self):
        return dict(weights=self.loaded, at=self.at)

    def do(self, task):
        time.sleep(self.seconds)
        self.asked.append(task)
        return dict(cube=(task + self.loaded) ** 3, process=os.getpid(), asked=len(self.asked))


@dataclass
class Surroundings:
    """What a worker finds around it."""

    loaded: float

    def told(self):
        return None

    def do(self, task):
        if task == "warn":
            warnings.warn("the ground is wet", UserWarning, stacklevel=1)
        if task == "fail":
            raise ValueError("the bridge must be dry, got a wet one")
        if task == "die":
            os._exit(1)
        import torch  # which takes seconds, and other jobs have nothing of it

        names = ("OMP_NUM_THREADS", "TL_TRUNCATE_CACHE", "TQDM_DISABLE")
        return dict(threads=torch.get_num_threads(), **{name: os.environ.get(name) for name in names})


@dataclass
class Elsewhere(Cubes):
    """Of other weights in every process."""

    def told(self):
        return dict(weights=os.getpid(), at=self.at)


def wide_texts():
    """Passages of different lengths in the words of the small tokenizer."""
    words = "Mary and John went to the store , John gave a drink to the capital of France is".split()
    return [" ".join(words[place % 7 :][: 3 + place % 11]) for place in range(150)]


def cannot_load(why: str) -> None:
    raise OSError(f"pythia-1 could not be loaded: {why}")


def dies() -> None:
    os._exit(1)


def tiny_model():
    """A small GPT-2, which is the same in every process."""
    import architectures

    return architectures.with_tokenizer(architectures.bridge("gpt2"))


def slow_model(seconds: float = 2.0):
    """The same, which takes its time for a pass."""
    model = tiny_model()
    original = model.ln_final.forward

    def forward(*args, **kwargs):
        time.sleep(seconds)
        return original(*args, **kwargs)

    model.ln_final.forward = forward
    return model
