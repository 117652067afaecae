"""The disk cache: by content, whole or not at all, shared between processes."""

import subprocess
import sys

import pytest
import torch

import tl_truncate as tlt
from tl_truncate.weights import cache


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """A folder of the test's own, and nothing in memory."""
    monkeypatch.setenv("TL_TRUNCATE_CACHE", str(tmp_path))
    monkeypatch.delenv("TL_TRUNCATE_CACHE_GB", raising=False)
    cache._memory.clear()
    yield tmp_path / "spectra"
    cache._memory.clear()


def matrix(seed: int = 0, shape=(12, 20)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def same(first, second) -> bool:
    pairs = zip((first.U, first.S, first.V), (second.U, second.S, second.V), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def counted(monkeypatch) -> list[int]:
    calls = []
    original = cache.factorise
    monkeypatch.setattr(cache, "factorise", lambda weight: calls.append(1) or original(weight))
    return calls


def test_computed_once_then_read(own_folder, monkeypatch):
    calls = counted(monkeypatch)
    first = cache.cached_factors(matrix())
    assert cache.cached_factors(matrix()) is first
    cache._memory.clear()
    again = cache.cached_factors(matrix())
    assert same(first, again)
    assert (again.method, again.defect) == (first.method, first.defect)
    assert len(calls) == 1
    assert len(list(own_folder.iterdir())) == 1


def test_the_key_is_the_content(monkeypatch):
    calls = counted(monkeypatch)
    weight = matrix()
    cache.cached_factors(weight)
    weight.data[0, 0] += 1  # unseen by autograd's version counter
    changed = cache.cached_factors(weight)
    assert len(calls) == 2
    assert torch.allclose((changed.U * changed.S) @ changed.V.T, weight, atol=1e-5)
    keys = {
        cache.content_key(each) for each in (weight, weight.T, weight.double(), weight.reshape(20, 12))
    }
    assert len(keys) == 4
    assert cache.content_key(weight.T.contiguous()) == cache.content_key(weight.T)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "foreign"])
def test_a_damaged_file_is_computed_anew_with_a_warning(own_folder, damage):
    first = cache.cached_factors(matrix())
    (path,) = own_folder.iterdir()
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[-20] ^= 1
    elif damage == "empty":
        content = b""
    else:
        content = b"not a safetensors file, but long enough to be read as one"
    path.write_bytes(bytes(content))
    cache._memory.clear()
    with pytest.warns(UserWarning, match="damaged.*computed anew"):
        again = cache.cached_factors(matrix())
    assert same(first, again)
    cache._memory.clear()
    assert same(first, cache.cached_factors(matrix())), "and it was stored again"


def test_two_processes_share_it(own_folder):
    code = (
        "import torch\nfrom tl_truncate.weights import cache\n"
        "for seed in range(12):\n"
        "    w = torch.randn(60, 90, generator=torch.Generator().manual_seed(seed))\n"
        "    f = cache.cached_factors(w)\n"
        "    assert torch.allclose((f.U * f.S) @ f.V.T, w, atol=1e-4)\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", code], stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    for process in processes:
        _, problem = process.communicate(timeout=120)
        assert process.returncode == 0, problem.decode()
    assert len(list(own_folder.iterdir())) == 12, "no temporary file is left"


def test_off_keeps_nothing(own_folder, monkeypatch):
    monkeypatch.setenv("TL_TRUNCATE_CACHE", "off")
    cache.cached_factors(matrix())
    assert not own_folder.exists()
    assert "switched off" in str(tlt.cache_info())
    assert tlt.cache_clear().files == 0


def test_size_and_clearing_touch_only_spectra(own_folder):
    for seed in range(3):
        cache.cached_factors(matrix(seed))
    (own_folder / "notes.txt").write_text("mine")
    before = tlt.cache_info()
    assert before.files == 3
    assert before.size == sum(path.stat().st_size for path in own_folder.glob("*.safetensors"))
    assert tlt.cache_clear() == before
    assert [path.name for path in own_folder.iterdir()] == ["notes.txt"]
    assert tlt.cache_info().files == 0


def test_the_oldest_go_when_it_outgrows_its_limit(own_folder, monkeypatch):
    cache.cached_factors(matrix(0))
    one = tlt.cache_info().size
    monkeypatch.setenv("TL_TRUNCATE_CACHE_GB", str(3.5 * one / 1e9))
    for seed in range(1, 6):
        cache.cached_factors(matrix(seed))
    assert tlt.cache_info().files == 3
    newest = own_folder / f"{cache.content_key(matrix(5))}.safetensors"
    assert newest.exists()


def test_a_disk_that_cannot_be_written_does_not_stop_an_analysis(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    monkeypatch.setenv("TL_TRUNCATE_CACHE", str(blocked))
    with pytest.warns(UserWarning, match="could not be stored"):
        factors = cache.cached_factors(matrix())
    assert torch.allclose((factors.U * factors.S) @ factors.V.T, matrix(), atol=1e-5)


def test_nothing_is_pickled(own_folder):
    from safetensors import safe_open

    cache.cached_factors(matrix())
    (path,) = own_folder.iterdir()
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == {"U", "S", "V"}
        assert set(file.metadata()) == {"format", "method", "defect", "checksum"}
