"""The recall models that tests share.

They take minutes each, so they are kept in `data/recall/` and read from there. What is kept is an ordinary
run folder of `train_recall`, with its manifest (configuration and versions) and its history, of which only
the checkpoints that tests ask for are left, in half precision, as the nano-Pythia's are. `make
recall-models` trains them again, `python tests/recall_models.py [NAME ...]` those whose names begin so.

Training is tested all the same: tutorial 05 trains the first of the small ones from scratch and asserts
what it learns, and of a separable one the tests take the first steps, which must lead to what is kept.
"""

import argparse
import shutil
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tl_truncate.toys import RecallConfig, RecallRun, train_recall
from tl_truncate.toys.recall import train
from tl_truncate.toys.recall.train import recall_loss

FOLDER = Path(__file__).parent / "data" / "recall"
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Model:
    """A model that tests share.

    Attributes:
        config: of the training.
        looked_at: the steps of its history; None for `train_recall`'s own.
        kept: the steps whose weights are kept.
    """

    config: RecallConfig
    looked_at: tuple[int, ...] | None = None
    kept: tuple[int, ...] = ()

    def stored(self) -> RecallRun:
        """What is kept.

        Raises:
            ValueError: if that is the run of another configuration, or there is none.
        """
        for folder in sorted(FOLDER.iterdir()):
            run = RecallRun.load(folder)
            if run.config.hash == self.config.hash:
                return run
        raise ValueError(
            f"{FOLDER} must hold the run of configuration {self.config.hash}, but it does not: the "
            "configuration has changed since. Run `make recall-models`."
        )

    def begun(self, steps: int, folder: Path) -> RecallRun:
        """Its first steps, from scratch: the training is stopped there."""
        taken = 0

        def loss(*given):
            nonlocal taken
            if taken == steps:
                raise Enough
            taken += 1
            return recall_loss(*given)

        with pytest.MonkeyPatch.context() as patch, suppress(Enough):
            patch.setattr(train, "recall_loss", loss)
            train_recall(self.config, run_dir=folder, checkpoints=(steps,), progress=False)
        return RecallRun.load(folder)

    def keep(self, to: Path) -> None:
        """Trains, and replaces a folder by what is kept of it."""
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "run"
            train_recall(self.config, run_dir=folder, checkpoints=self.looked_at, progress=False)
            for path in (folder / "checkpoints").iterdir():
                weights = load_file(path)
                path.unlink()
                if path.stem in {f"step{step}" for step in self.kept}:
                    save_file({name: value.half() for name, value in weights.items()}, path)
            (folder / "state.safetensors").unlink(missing_ok=True)
            shutil.rmtree(to, ignore_errors=True)
            shutil.copytree(folder, to)


class Enough(Exception):
    """As many steps as were asked for."""


def separable(loss: str, seed: int) -> Model:
    """Whose second MLP does half of the recall."""
    config = RecallConfig.separable(loss, seed=seed)
    kept = (64, config.steps) if loss == "triggers" else (config.steps,)
    return Model(config, (64, config.steps), kept)


def small(seed: int) -> Model:
    """The small preset, with its whole history."""
    return Model(RecallConfig.small(seed=seed), kept=(0, 32, 64, 400))


def models() -> dict[str, Model]:
    """Those that are kept, by the names of their folders."""
    own = {
        f"{loss}-{seed}": separable(loss, seed) for loss in ("triggers", "everywhere") for seed in SEEDS
    }
    return own | {f"small-{seed}": small(seed) for seed in SEEDS}


def main() -> int:
    """Trains what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[""], help="beginnings of names")
    wanted = tuple(parser.parse_args().names)
    torch.set_num_threads(1)
    for name, model in models().items():
        if name.startswith(wanted):
            model.keep(FOLDER / name)
            print(model.stored(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
