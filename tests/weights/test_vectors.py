"""Spectra on disk, a band at a time: what is read, what is checked, and in which precision it is kept."""

import os
import signal
import subprocess
import sys
import time
import warnings

import inplace
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import tl_truncate as tlt
from tl_truncate.weights.spectra import cache, vectors
from tl_truncate.weights.spectra.factors import factorise


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """A folder of the test's own, blocks of four rows, and nothing in memory."""
    monkeypatch.setenv("TL_TRUNCATE_CACHE", str(tmp_path))
    monkeypatch.delenv("TL_TRUNCATE_CACHE_GB", raising=False)
    monkeypatch.setattr(vectors, "BLOCK", 4 * 4 * 48)
    cache._memory.clear()
    yield tmp_path / "spectra"
    cache._memory.clear()


def matrix(seed: int = 0) -> torch.Tensor:
    """With 32 components that are 48 wide: eight blocks."""
    return torch.randn(32, 48, generator=torch.Generator().manual_seed(seed))


def stored(seed: int = 0) -> cache.Cached:
    """A spectrum that is on disk and not in memory."""
    cache.cached_vectors(matrix(seed))
    cache._memory.clear()
    return cache.cached_vectors(matrix(seed))


def present(found: cache.Cached) -> set[int]:
    return set(range(8)) - found.vectors.missing


def test_a_band_reads_the_blocks_that_it_lies_in_and_no_others():
    wanted = factorise(matrix()).V.T
    found = stored()
    assert present(found) == set()
    values = found.vectors.S.numel() * 4
    assert found.vectors.nbytes == values, "the singular values alone"
    assert torch.equal(found.rows(slice(0, 3)), wanted[:3])
    assert present(found) == {0}
    assert torch.equal(found.rows(slice(10, 14)), wanted[10:14])
    assert present(found) == {0, 2, 3}
    assert found.vectors.nbytes == values + 3 * 4 * 48 * 4
    places = torch.tensor([1, 21, 31])
    assert torch.equal(found.rows(places), wanted[places])
    assert present(found) == {0, 2, 3, 5, 7}
    assert torch.equal(found.rows(slice(None)), wanted)
    assert found.rows(slice(0, 0)).shape == (0, 48)


def test_a_cut_reads_what_it_projects_on(toy):
    """The smaller of what is kept and what is removed; a sweep's cuts what any of them does."""
    site = "blocks.1.mlp.W_out"
    tlt.Cut(site, 5).edit(toy)
    for keep, expected in [(1, {0}), (tlt.DropTop(2), {0}), (30, {5}), (16, {0, 1, 2})]:
        cache._memory.clear()
        tlt.Cut(site, keep).edit(toy)
        (held,) = cache._memory.values()
        blocks = set(range(-(-len(held.S) // held.block)))
        assert held.block == 6, "rows of 32 numbers"
        assert blocks - held.missing == expected, keep


def damage(path, block: int) -> None:
    """Changes one bit of one block of the vectors, in its place."""
    content = bytearray(path.read_bytes())
    start = len(content) - 32 * 48 * 4 + block * 4 * 48 * 4
    content[start + 5] ^= 1
    path.write_bytes(bytes(content))


def test_a_damaged_block_is_found_when_it_is_needed(own_folder):
    wanted = stored().rows(slice(None)).clone()
    (path,) = own_folder.glob("*.safetensors")
    damage(path, 6)
    cache._memory.clear()
    found = cache.cached_vectors(matrix())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = found.rows(slice(0, 24))
    assert torch.equal(first, wanted[:24])
    with pytest.warns(UserWarning, match="damaged.*does not match its name and content.*computed anew"):
        rest = found.rows(slice(24, 32))
    assert torch.equal(rest, wanted[24:])
    cache._memory.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(cache.cached_vectors(matrix()).rows(slice(None)), wanted), "stored again"


@pytest.mark.parametrize("change", ["exchanged", "of another", "shorter", "note"])
def test_no_block_is_believed_in_another_place(own_folder, change):
    """Whole blocks, each with what was once a right checksum."""
    wanted = stored().rows(slice(None)).clone()
    cache.cached_vectors(matrix(1))
    path, other = (own_folder / f"{cache.content_key(matrix(seed))}.safetensors" for seed in (0, 1))

    def content(of) -> tuple[dict, dict]:
        with safe_open(of, framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in ("S", "vectors")}
            return tensors, file.metadata()

    tensors, note = content(path)
    if change == "exchanged":
        tensors["vectors"][:8] = tensors["vectors"][:8].roll(4, 0)
    elif change == "of another":
        tensors["vectors"] = content(other)[0]["vectors"]
    elif change == "shorter":
        tensors["vectors"] = tensors["vectors"][:20].clone()
    else:
        note["method"] = "svd"
    save_file(tensors, path, metadata=note)
    cache._memory.clear()
    with pytest.warns(UserWarning, match="damaged.*computed anew"):
        assert torch.equal(cache.cached_vectors(matrix()).rows(slice(None)), wanted)


def test_a_file_that_goes_away_under_a_reader_is_computed_anew(own_folder):
    wanted = stored().rows(slice(None)).clone()
    cache._memory.clear()
    found = cache.cached_vectors(matrix())
    first = found.rows(slice(0, 8))
    tlt.cache_clear()
    with pytest.warns(UserWarning, match="computed anew"):
        assert torch.equal(found.rows(slice(8, 32)), wanted[8:])
    assert torch.equal(first, wanted[:8]), "what was read is one's own"


def test_a_weight_that_changes_under_a_reader_is_refused(own_folder):
    weight = matrix()
    cache.cached_vectors(weight)
    cache._memory.clear()
    found = cache.cached_vectors(weight)
    weight[0, 0] += 1
    tlt.cache_clear()
    with (
        pytest.warns(UserWarning, match="computed anew"),
        pytest.raises(ValueError, match="must stay as it is while its spectrum is read"),
    ):
        found.rows(slice(None))


def test_files_of_an_earlier_format_are_not_looked_at(own_folder):
    factors = factorise(matrix())
    own_folder.mkdir(parents=True)
    path = own_folder / f"{cache.content_key(matrix())}.safetensors"
    tensors = {"S": factors.S, "U": torch.zeros(32, 32), "V": torch.zeros(48, 32)}
    note = {"format": "3", "method": "gram", "defect": "0.0", "checksum": "00000000"}
    save_file(tensors, path, metadata=note)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(cache.cached_vectors(matrix()).rows(slice(None)), factors.V.T)
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == {"S", "vectors"}, "and it is replaced"


def test_memory_is_forgotten_by_what_has_been_read(monkeypatch):
    """A spectrum takes room as its rows are read, not when it is found."""
    whole = 32 * 48 * 4 + 32 * 4
    monkeypatch.setattr(cache, "_memory_bytes", 2 * whole)
    for seed in range(4):
        cache.cached_vectors(matrix(seed))
    cache._memory.clear()
    found = [cache.cached_vectors(matrix(seed)) for seed in range(4)]
    assert len(cache._memory) == 4
    for each in found:
        each.rows(slice(None))
    assert sum(held.nbytes for held in cache._memory.values()) <= 2 * whole


_HOLD = """
import sys, time
from pathlib import Path
from tl_truncate.weights.spectra import cache
with cache._alone(cache._folder(), sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_process_computes_and_a_dead_one_is_not_waited_for(own_folder, monkeypatch):
    computed = []
    original = cache.factorise
    monkeypatch.setattr(
        cache, "factorise", lambda weight: computed.append(time.time()) or original(weight)
    )
    key = cache.content_key(matrix())
    command = [sys.executable, "-c", _HOLD, key]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        monkeypatch.setattr(cache, "_PATIENCE", 0.3)
        start = time.time()
        cache.cached_vectors(matrix())
        assert computed[0] - start >= 0.3, "it was waited for as long as one is willing"
        cache._memory.clear()
        cache.cached_vectors(matrix())
        assert len(computed) == 1, "what is on disk needs no waiting"
        tlt.cache_clear()
        monkeypatch.setattr(cache, "_PATIENCE", 60.0)
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    start = time.time()
    cache.cached_vectors(matrix())
    assert time.time() - start < 10
    assert len(computed) == 2


def test_what_another_process_has_stored_meanwhile_is_read(own_folder, monkeypatch):
    calls = []
    monkeypatch.setattr(cache, "factorise", lambda weight: calls.append(1) or factorise(weight))
    cache.cached_vectors(matrix())
    (path,) = own_folder.glob("*.safetensors")
    content = path.read_bytes()
    tlt.cache_clear()
    original = cache._alone

    def waits(folder, key):
        path.write_bytes(content)
        return original(folder, key)

    monkeypatch.setattr(cache, "_alone", waits)
    cache.cached_vectors(matrix())
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("kept_in", "least", "most"),
    [
        (torch.float64, 0.0, 1e-13),
        (torch.float32, 1e-9, 3e-7),
        (torch.float16, 1e-5, 1e-3),
        (torch.bfloat16, 1e-4, 1e-2),
    ],
    ids=["float64", "float32", "float16", "bfloat16"],
)
def test_the_precision_that_vectors_are_kept_in(kept_in, least, most):
    """The error of a cut's output against the weight edited in place, by the rounding of its vectors."""
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(96, 64, generator=random, dtype=torch.float64)
    x = torch.randn(200, 96, generator=random, dtype=torch.float64)
    exact = x @ torch.tensor(inplace.truncate(weight.numpy(), slice(0, 20)))
    basis = factorise(weight).V[:, :20].to(kept_in).double()
    error = float((x @ weight @ basis @ basis.T - exact).norm() / exact.norm())
    assert least <= error <= most
