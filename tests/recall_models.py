"""The recall models that tests share.

The separable ones take minutes each, so they are kept in `data/recall/` and read from there. What is kept
is an ordinary run folder of `train_recall`, with its manifest (configuration and versions) and its
history, of which only the checkpoints that tests ask for are left, in half precision, as the
nano-Pythia's are. `make recall-models` trains them again, `python tests/recall_models.py [NAME ...]` those
whose names begin so.

The small ones are trained in every run, and both legs of a run share them.
"""

import argparse
import os
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

FOLDER = Path(__file__).parent / "data" / "recall"
SEEDS = (0, 1, 2)
#: For fixtures: whether a model is trained from scratch, and its seed. All seeds are stored ...
STORED = [pytest.param((False, seed), id=str(seed)) for seed in SEEDS]
#: ... and where a model is trained all the same, so that the training is tested too, one leg does it.
TRAINED = pytest.param((True, 0), marks=[pytest.mark.one_leg, pytest.mark.slow], id="0-from-scratch")


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

    def trained(self) -> RecallRun:
        """From scratch, once a run."""
        folder = Path(os.environ["TL_TRUNCATE_TESTS_CACHE"]) / "recall" / self.config.hash
        if not folder.exists():
            folder.parent.mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                run = Path(scratch) / "run"
                train_recall(self.config, run_dir=run, checkpoints=self.looked_at, progress=False)
                with suppress(OSError):  # another process was faster, with the same result
                    run.rename(folder)
        return RecallRun.load(folder)

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

    def run(self, from_scratch: bool) -> RecallRun:
        """One or the other."""
        return self.trained() if from_scratch else self.stored()

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


def separable(loss: str, seed: int) -> Model:
    """Whose second MLP does half of the recall."""
    config = RecallConfig.separable(loss, seed=seed)
    kept = (64, config.steps) if loss == "triggers" else (config.steps,)
    return Model(config, (64, config.steps), kept)


def small(seed: int) -> Model:
    """The small preset, with its whole history."""
    return Model(RecallConfig.small(seed=seed))


def models() -> dict[str, Model]:
    """Those that are kept, by the names of their folders."""
    return {
        f"{loss}-{seed}": separable(loss, seed) for loss in ("triggers", "everywhere") for seed in SEEDS
    }


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
