"""The independent path: weights really edited in place, with NumPy's SVD, and restored.

Nothing here uses the package. Where a parameter lies is spelt out again on purpose.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch

_BRIDGE = dict(W_Q="q", W_K="k", W_V="v", W_O="o", W_in="in", W_gate="gate", W_out="out")


def truncate(matrix: np.ndarray, kept) -> np.ndarray:
    """The matrix with only some components of its spectrum."""
    u, s, vh = _svd(np.ascontiguousarray(matrix).tobytes(), matrix.shape, matrix.dtype.str)
    return (u[:, kept] * s[kept]) @ vh[kept]


@lru_cache(maxsize=32)  # the same matrix is edited again for other prompts and ranks
def _svd(content: bytes, shape: tuple[int, ...], dtype: str) -> tuple[np.ndarray, ...]:
    return tuple(np.linalg.svd(np.frombuffer(content, dtype).reshape(shape), full_matrices=False))


def top(fraction: float) -> Callable[[np.ndarray], np.ndarray]:
    """LASER's truncation: the floor(fraction * max_rank) largest components."""
    return lambda matrix: truncate(matrix, slice(0, int(min(matrix.shape) * fraction)))


def parameter(model, layer: int, matrix: str) -> tuple[torch.nn.Parameter, str]:
    """The parameter that holds a matrix, and its layout."""
    block = model.blocks[layer]
    part = block.attn if matrix in ("W_Q", "W_K", "W_V", "W_O") else block.mlp
    if hasattr(block, "hook_in"):
        linear = getattr(part, _BRIDGE[matrix]).original_component
        return linear.weight, "in,out" if type(linear).__name__ == "Conv1D" else "out,in"
    if hasattr(part, f"_{matrix}"):
        return getattr(part, f"_{matrix}"), "heads"
    return getattr(part, matrix), "heads" if part is block.attn else "in,out"


def read(model, layer: int, matrix: str) -> np.ndarray:
    """A matrix as `[n_in, n_out]`, all heads jointly."""
    stored, layout = parameter(model, layer, matrix)
    value = stored.detach().double().cpu().numpy()
    if layout == "heads":
        if matrix == "W_O":
            return value.reshape(-1, value.shape[-1])
        return value.transpose(1, 0, 2).reshape(value.shape[1], -1)
    return value.T if layout == "out,in" else value


def write(model, layer: int, matrix: str, value: np.ndarray) -> None:
    """Puts a `[n_in, n_out]` matrix back into its parameter."""
    stored, layout = parameter(model, layer, matrix)
    if layout == "heads":
        heads = stored.shape[0]
        if matrix == "W_O":
            value = value.reshape(stored.shape)
        else:
            value = value.reshape(value.shape[0], heads, -1).transpose(1, 0, 2)
    elif layout == "out,in":
        value = value.T
    with torch.no_grad():
        stored.copy_(torch.tensor(np.ascontiguousarray(value)).to(stored.dtype))


@contextmanager
def edited(model, *edits: tuple[str, Callable[[np.ndarray], np.ndarray]], d_head: int = 8) -> Iterator:
    """The model with matrices replaced in place: pairs of a site's name and a function of the matrix."""
    saved = []
    try:
        for name, change in edits:
            _, layer, _, matrix, *head = name.split(".")
            stored, _ = parameter(model, int(layer), matrix)
            saved.append((stored, stored.detach().clone()))
            value = read(model, int(layer), matrix).copy()
            if head:
                part = slice(int(head[0]) * d_head, (int(head[0]) + 1) * d_head)
                where = (part, slice(None)) if matrix == "W_O" else (slice(None), part)
                value[where] = change(value[where])
            else:
                value = change(value)
            write(model, int(layer), matrix, value)
        yield model
    finally:
        with torch.no_grad():
            for stored, value in reversed(saved):
                stored.copy_(value)


def difference(first: dict, second: dict) -> float:
    """Largest difference between two caches, relative to the size of the activation (at least 1)."""
    assert set(first.keys()) == set(second.keys())
    worst = 0.0
    for name in first.keys():  # noqa: SIM118 - an ActivationCache is no dict
        a, b = first[name], second[name]
        if not isinstance(a, torch.Tensor) or not a.is_floating_point():
            continue
        if a.dtype == b.dtype and torch.equal(a, b):  # as most of what is below an edit
            continue
        finite = torch.isfinite(a)
        assert bool((finite == torch.isfinite(b)).all()), name
        # Masked attention scores are the dtype's least value, which has no size to compare with.
        usual = finite & (a.abs() < 1e30)
        gap = (a - b).abs()[usual].double()
        size = max(1.0, float(a.abs()[usual].max())) if bool(usual.any()) else 1.0
        worst = max(worst, float(gap.max()) / size if len(gap) else 0.0)
    return worst


def outputs(model, tokens: torch.Tensor, **kwargs) -> dict:
    """Logits and every cached activation of one pass."""
    with torch.no_grad():
        logits, cache = model.run_with_cache(tokens, **kwargs)
    return {"logits": logits, **{name: cache[name] for name in cache.keys()}}  # noqa: SIM118
