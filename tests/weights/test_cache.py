"""The disk cache: by content, whole or not at all, shared between processes."""

import errno
import os
import subprocess
import sys
import warnings

import pytest
import torch

import tl_truncate as tlt
from tl_truncate.weights.spectra import cache


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


def all_of(weight: torch.Tensor):
    """The singular values and all vectors of a weight, one a row."""
    found = cache.cached_vectors(weight)
    rows = found.rows(slice(None))
    return found.vectors.S.clone(), rows.clone()


def same(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def is_that_of(found, weight: torch.Tensor) -> bool:
    """Whether `W V V^T = W`, and the lengths of `W V` are the singular values."""
    values, rows = found
    written = weight @ rows.T
    near = torch.allclose(written @ rows, weight, atol=1e-5)
    return near and torch.allclose(written.norm(dim=0), values, atol=1e-5)


def counted(monkeypatch) -> list[int]:
    calls = []
    original = cache.factorise
    monkeypatch.setattr(cache, "factorise", lambda weight: calls.append(1) or original(weight))
    return calls


def test_computed_once_then_read(own_folder, monkeypatch):
    calls = counted(monkeypatch)
    first, wanted = cache.cached_vectors(matrix()), all_of(matrix())
    assert cache.cached_vectors(matrix()).vectors is first.vectors
    cache._memory.clear()
    again = cache.cached_vectors(matrix())
    assert same(wanted, all_of(matrix()))
    told = [(each.vectors.method, each.vectors.defect) for each in (first, again)]
    assert told[0] == told[1]
    assert len(calls) == 1
    assert len(list(own_folder.iterdir())) == 1


def test_the_key_is_the_content(monkeypatch):
    calls = counted(monkeypatch)
    weight = matrix()
    all_of(weight)
    weight.data[0, 0] += 1  # unseen by autograd's version counter
    changed = all_of(weight)
    assert len(calls) == 2
    assert is_that_of(changed, weight)
    keys = {
        cache.content_key(each) for each in (weight, weight.T, weight.double(), weight.reshape(20, 12))
    }
    assert len(keys) == 4
    assert cache.content_key(weight.T.contiguous()) == cache.content_key(weight.T)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "foreign"])
def test_a_damaged_file_is_computed_anew_with_a_warning(own_folder, damage):
    first = all_of(matrix())
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
        again = all_of(matrix())
    assert same(first, again)
    cache._memory.clear()
    assert same(first, all_of(matrix())), "and it was stored again"


def test_two_processes_share_it(own_folder):
    code = (
        "import torch\nfrom tl_truncate.weights.spectra import cache\n"
        "for seed in range(12):\n"
        "    w = torch.randn(60, 90, generator=torch.Generator().manual_seed(seed))\n"
        "    v = cache.cached_vectors(w).rows(slice(None))\n"
        "    assert torch.allclose(w @ v.T @ v, w, atol=1e-4)\n"
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
    all_of(matrix())
    assert not own_folder.exists()
    assert "switched off" in str(tlt.cache_info())
    assert tlt.cache_clear().files == 0


def test_size_and_clearing_touch_only_spectra(own_folder):
    for seed in range(3):
        all_of(matrix(seed))
    (own_folder / "notes.txt").write_text("mine")
    before = tlt.cache_info()
    assert before.files == 3
    assert before.size == sum(path.stat().st_size for path in own_folder.glob("*.safetensors"))
    assert tlt.cache_clear() == before
    assert [path.name for path in own_folder.iterdir()] == ["notes.txt"]
    assert tlt.cache_info().files == 0


def test_the_oldest_go_when_it_outgrows_its_limit(own_folder, monkeypatch):
    all_of(matrix(0))
    one = tlt.cache_info().size
    monkeypatch.setenv("TL_TRUNCATE_CACHE_GB", str(3.5 * one / 1e9))
    for seed in range(1, 6):
        all_of(matrix(seed))
    assert tlt.cache_info().files == 3
    newest = own_folder / f"{cache.content_key(matrix(5))}.safetensors"
    assert newest.exists()


def test_a_disk_that_cannot_be_written_does_not_stop_an_analysis(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    monkeypatch.setenv("TL_TRUNCATE_CACHE", str(blocked))
    with pytest.warns(UserWarning, match="could not be stored"):
        found = all_of(matrix())
    assert is_that_of(found, matrix())


def test_nothing_is_pickled(own_folder):
    from safetensors import safe_open

    all_of(matrix())
    (path,) = own_folder.iterdir()
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == {"S", "vectors"}
        assert set(file.metadata()) == {"format", "method", "defect", "rows", "blocks", "checksum"}


def test_a_file_under_another_key_is_not_believed(own_folder):
    """A copy of another weight's spectrum of the same shape is whole, and wrong."""
    all_of(matrix(0))
    right = all_of(matrix(1))
    one, other = (own_folder / f"{cache.content_key(matrix(seed))}.safetensors" for seed in (0, 1))
    other.write_bytes(one.read_bytes())
    cache._memory.clear()
    with pytest.warns(UserWarning, match="its checksum does not match its name and content"):
        found = all_of(matrix(1))
    assert same(found, right)


@pytest.mark.parametrize(
    "left", [None, (), ("format",), ("format", "checksum"), ("format", "method", "checksum")]
)
def test_a_file_without_its_metadata_is_computed_anew(own_folder, left):
    from safetensors import safe_open
    from safetensors.torch import save_file

    first = all_of(matrix())
    (path,) = own_folder.iterdir()
    with safe_open(path, framework="pt") as file:
        note, tensors = file.metadata(), {name: file.get_tensor(name) for name in ("S", "vectors")}
    save_file(tensors, path, metadata=None if left is None else {name: note[name] for name in left})
    cache._memory.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert same(all_of(matrix()), first)
    cache._memory.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(all_of(matrix()), first), "and it was stored again"


def test_what_dead_writers_left_goes_and_what_is_being_written_stays(own_folder):
    own_folder.mkdir(parents=True)
    old, new = (own_folder / f"{'a' * 32}.safetensors.{mark}.part" for mark in ("0a1b2c3d", "11223344"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    all_of(matrix())
    assert sorted(path.name for path in own_folder.glob("*.part")) == [new.name]
    os.utime(new, (0, 0))
    tlt.cache_clear()
    assert list(own_folder.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "limit"), [("8GB", 8), ("8 gb", 8), ("0.5", 0.5), (" 2G", 2), ("1e-3", 1e-3), ("", 8)]
)
def test_the_limit_with_its_unit(monkeypatch, text, limit):
    monkeypatch.setenv("TL_TRUNCATE_CACHE_GB", text)
    assert cache._limit_gb() == limit


@pytest.mark.parametrize("text", ["much", "-1", "nan", "8TB"])
def test_a_limit_that_is_none_is_said_and_stops_nothing(own_folder, monkeypatch, text):
    monkeypatch.setenv("TL_TRUNCATE_CACHE_GB", text)
    with pytest.warns(UserWarning, match="TL_TRUNCATE_CACHE_GB must be a number of gigabytes"):
        all_of(matrix())
    assert tlt.cache_info().files == 1


@pytest.mark.parametrize("where", ["mkdir", "exists", "save", "unlink", "replace"])
def test_no_trouble_with_the_folder_stops_an_analysis(own_folder, monkeypatch, where):
    """Unwritable, unreadable, full: the spectrum is right, and it is said."""
    from safetensors import SafetensorError

    def denied(*args, **options):
        raise OSError(errno.EACCES, "denied")

    def full(*args, **options):
        raise SafetensorError("I/O error: No space left on device")

    if where == "save":
        monkeypatch.setattr("tl_truncate.weights.files.save_file", full)
    elif where == "replace":
        monkeypatch.setattr("tl_truncate.weights.files.os.replace", denied)
    else:
        monkeypatch.setattr(f"pathlib.Path.{where}", denied)
    with pytest.warns(UserWarning, match=r"could not be stored|is damaged"):
        found = all_of(matrix())
    assert is_that_of(found, matrix())
