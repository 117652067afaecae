"""How fast this machine is, measured in a few seconds on products of the model's own shapes."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tl_truncate.experiments.planning.counting.flops import BlockShape, factorising
from tl_truncate.experiments.planning.counting.passes import Passes, Piece
from tl_truncate.experiments.planning.machine import Machine
from tl_truncate.experiments.scoring.answers import Answer, Batch, read_answers
from tl_truncate.weights.files import load_tensors, save_tensors
from tl_truncate.weights.holding.placement import model_device, model_dtype
from tl_truncate.weights.identity.content import content_key
from tl_truncate.weights.linear import compute_dtype
from tl_truncate.weights.mlp import find_activation
from tl_truncate.weights.spectra.gram import add_lower_gram, no_gram

# Most FLOPs of what is timed, most columns of a product, and the largest eigenproblem: what is larger
# takes as long for each FLOP.
_FLOPS, _COLUMNS, _EIGEN = 3e10, 8192, 1024
_DISK_BYTES = 16 * 2**20
# Of each measurement: repeats, and the seconds after which there are no more.
_REPEATS, _ENOUGH = 5, 0.6


def measure(model: Any, passes: Passes) -> Machine:
    """Times what a sweep is made of.

    Args:
        model: with a block of the planned model's shape and numbers in it.
        passes: that are planned, whose sizes are timed as far as they take no longer than a second.

    Returns:
        The machine, with the thread count that torch has now.
    """
    shape = passes.shape
    first = max(passes.pieces, key=lambda piece: piece.tokens)
    tall = _tall(shape, first, passes.plan.copies_at_once)
    with torch.no_grad():
        block, flop = _blocks(model, shape, first, tall)
        return Machine(
            name=f"this machine, {torch.get_num_threads()} threads",
            source="measured just now, at the model's own shapes; disk from its cache",
            block=block,
            flop=flop,
            unembed=_unembedding(model, shape, max(1, tall.answers), passes.vocabulary),
            logit=_reading(model, max(1, tall.answers), passes.vocabulary),
            activation=_activation(model, shape, tall),
            number=_number(model, shape, tall),
            gram=_gram(shape),
            eigh=_eigh(min(shape.linears["W_out"])),
            **_disk(),
            memory=_memory(),
        )


def _tall(shape: BlockShape, piece: Piece, copies: int) -> Piece:
    """A tall batch, or as many of its rows as are timed in about a second, and at least two."""
    each = shape.whole(1, piece.queries)
    wanted = max(2, copies * piece.rows)
    return Piece(max(2, min(wanted, int(_FLOPS // each))), piece.queries, piece.queries, piece.positions)


def seconds(work: Callable[[], object], device: torch.device | None = None) -> float:
    """The median time of some calls, the first one left out."""
    cuda = device is not None and device.type == "cuda"
    taken: list[float] = []
    begin = time.perf_counter()
    for _ in range(_REPEATS + 1):
        start = time.perf_counter()
        work()
        if cuda:
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - start)
        if len(taken) > 2 and time.perf_counter() - begin > _ENOUGH:
            break
    return statistics.median(taken[1:])


def _blocks(model: Any, shape: BlockShape, first: Piece, tall: Piece) -> tuple[float, float]:
    """Seconds of a call of a block, and of a FLOP in it: the line through one row and a tall batch."""
    sizes = [Piece(1, first.queries, first.queries, first.positions), tall]
    times = [_block_seconds(model, piece) for piece in sizes]
    flops = [shape.whole(piece.rows, piece.queries) for piece in sizes]
    flop = (times[1] - times[0]) / (flops[1] - flops[0])
    if flop <= 0:  # one row took as long: a machine that is busy, or that waits for Python
        return times[1], 0.0
    return max(times[0] - flops[0] * flop, 0.0), flop


def _block_seconds(model: Any, piece: Piece) -> float:
    """How long the first block takes within a pass, where it is called as it always is."""
    clock = _Clock(model_device(model))
    handles = [
        model.blocks[0].register_forward_pre_hook(clock.start),
        model.blocks[0].register_forward_hook(clock.stop),
    ]
    tokens = torch.zeros(piece.rows, piece.queries, dtype=torch.int64, device=clock.device)
    begin = time.perf_counter()
    try:
        while len(clock.taken) <= _REPEATS:
            model(tokens)
            if len(clock.taken) > 2 and time.perf_counter() - begin > 2 * _ENOUGH:
                break
    finally:
        for handle in handles:
            handle.remove()
    return statistics.median(clock.taken[1:])


class _Clock:
    """Hooks before and after a module that note how long it took."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.taken: list[float] = []
        self._since = 0.0

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def start(self, module: Any, args: Any) -> None:
        """As a hook before."""
        self._since = self._now()

    def stop(self, module: Any, args: Any, output: Any) -> None:
        """As a hook behind."""
        self.taken.append(self._now() - self._since)


def _unembedding(model: Any, shape: BlockShape, answers: int, vocabulary: int) -> float:
    """Seconds of a FLOP, in part of the vocabulary."""
    options: dict[str, Any] = dict(dtype=model_dtype(model), device=model_device(model))
    columns, rows = min(vocabulary, _COLUMNS), min(answers, 1024)
    weight = torch.full((columns, shape.d_model), 0.01, **options)
    resid = torch.full((rows, shape.d_model), 0.01, **options)
    work = partial(torch.nn.functional.linear, resid, weight)
    return seconds(work, options["device"]) / (2 * rows * shape.d_model * columns)


def _reading(model: Any, answers: int, vocabulary: int) -> float:
    """Seconds of a logit that two answers are read off."""
    rows = min(answers, 64)
    asked = tuple(
        (Answer(0, row, "in_context", (0,)), Answer(0, row, "global", (0,))) for row in range(rows)
    )
    batch = Batch(((0,),) * rows, asked, 1)
    logits = torch.rand(rows, 1, vocabulary).to(model_device(model), model_dtype(model))
    return seconds(partial(read_answers, batch, logits), logits.device) / logits.numel()


def _activation(model: Any, shape: BlockShape, tall: Piece) -> float:
    """Seconds of a number on its way through the activation."""
    inside = find_activation(model, 0)
    if inside is None:
        return 0.0
    pre = torch.full((tall.tokens, shape.d_mlp), 0.3).to(model_device(model), model_dtype(model))
    bias = inside.bias()
    pre = pre if bias is None else pre + bias
    return seconds(partial(inside.post, pre, pre if inside.gated else None), pre.device) / pre.numel()


def _number(model: Any, shape: BlockShape, tall: Piece) -> float:
    """Seconds of a number that is read, changed and written."""
    values = torch.ones(tall.tokens, shape.d_model, device=model_device(model))
    values = values.to(compute_dtype(model_dtype(model)))
    return seconds(partial(torch.add, values, values), values.device) / values.numel()


def _gram(shape: BlockShape) -> float:
    """Seconds of a FLOP of the products in float64 that a spectrum takes."""
    short = min(*shape.linears["W_out"], _EIGEN)
    rows, vectors = torch.rand(2 * short, short, dtype=torch.float64), no_gram(short)

    def work() -> None:
        add_lower_gram(no_gram(short), rows)
        torch.mm(rows, vectors)

    return seconds(work) / factorising((short, 2 * short))[0]


def _eigh(short: int) -> tuple[float, float]:
    """Seconds of a FLOP of an eigenproblem and of each `n^2`, from two sizes."""
    sizes = [max(2, min(short, _EIGEN) // 2), max(3, min(short, _EIGEN))]
    times = []
    for size in sizes:
        matrix = torch.rand(size, size, dtype=torch.float64)
        times.append(seconds(partial(torch.linalg.eigh, matrix @ matrix.T)))
    flops = [factorising((size, size))[1] for size in sizes]
    ratio = (sizes[0] / sizes[1]) ** 2
    cubic = (times[1] - times[0] / ratio) / (flops[1] - flops[0] / ratio)
    square = (times[1] - cubic * flops[1]) / sizes[1] ** 2
    return (cubic, square) if cubic > 0 and square > 0 else (times[1] / flops[1], 0.0)


def _disk() -> dict[str, float]:
    """Seconds of a byte read, written and hashed."""
    values = {"values": torch.rand(_DISK_BYTES // 4)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "disk.safetensors"
        write = seconds(lambda: save_tensors(path, values, {}))
        read = seconds(lambda: load_tensors(path)[0]["values"].sum())
    hash_ = seconds(partial(content_key, values["values"]))
    return dict(read=read / _DISK_BYTES, write=write / _DISK_BYTES, hash=hash_ / _DISK_BYTES)


def _memory() -> int | None:
    """Bytes that this machine has; None where it does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None
