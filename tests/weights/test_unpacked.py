"""What is unpacked once: believed as it was written, and no trouble to a load."""

import subprocess
import sys
import warnings

import pytest

import tl_truncate as tlt
from tl_truncate.weights.unpacked import unpacked


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TL_TRUNCATE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.gguf"
    path.write_bytes(b"content")
    return path


class Unpack:
    """Writes two files, and counts how often it was asked to."""

    def __init__(self):
        self.calls = 0

    def __call__(self, empty):
        assert list(empty.iterdir()) == []
        self.calls += 1
        (empty / "weights").write_bytes(bytes(range(256)) * 9)
        (empty / "more").mkdir()
        (empty / "more" / "config").write_text("{}")


def test_once_for_each_content(source, own_folder):
    unpack = Unpack()
    first = unpacked(source, unpack)
    assert (first / "weights").read_bytes() == bytes(range(256)) * 9
    assert unpacked(source, unpack) == first
    assert unpack.calls == 1
    source.write_bytes(b"another")
    assert unpacked(source, unpack) != first
    assert unpack.calls == 2
    assert len(list(own_folder.iterdir())) == 2


def flip(folder):
    (folder / "weights").write_bytes(bytes(range(255)) + b"\0" + bytes(range(256)) * 8)


DAMAGES = {
    "changed": flip,
    "cut short": lambda folder: (folder / "weights").write_bytes(b"\0"),
    "missing": lambda folder: (folder / "more" / "config").unlink(),
    "added": lambda folder: (folder / "more" / "another").write_text("{}"),
    "no note": lambda folder: (folder / "unpacked.json").unlink(),
    "half a note": lambda folder: (folder / "unpacked.json").write_text('{"files": {"wei'),
    "another note": lambda folder: (folder / "unpacked.json").write_text("[1]"),
    "binary note": lambda folder: (folder / "unpacked.json").write_bytes(b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_made_anew(source, damage):
    unpack = Unpack()
    folder = unpacked(source, unpack)
    DAMAGES[damage](folder)
    with pytest.warns(UserWarning, match="is damaged .* made anew"):
        assert unpacked(source, unpack) == folder
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unpacked(source, unpack)
    assert unpack.calls == 2
    assert (folder / "weights").read_bytes() == bytes(range(256)) * 9


def test_off_keeps_nothing(source, monkeypatch):
    monkeypatch.setenv("TL_TRUNCATE_CACHE", "off")
    unpack = Unpack()
    assert unpacked(source, unpack) is None
    assert unpack.calls == 0


def test_a_folder_that_cannot_be_written_is_said(source, own_folder):
    own_folder.parent.write_text("in the way")
    with pytest.warns(UserWarning, match="could not be kept"):
        assert unpacked(source, Unpack()) is None


@pytest.mark.parametrize("problem", [OSError("full"), ValueError("not a model")])
def test_what_cannot_be_unpacked_leaves_nothing(source, own_folder, problem):
    def unpack(empty):
        (empty / "weights").write_bytes(b"half")
        raise problem

    if isinstance(problem, OSError):
        with pytest.warns(UserWarning, match="could not be kept.*full"):
            assert unpacked(source, unpack) is None
    else:
        with pytest.raises(ValueError, match="not a model"):
            unpacked(source, unpack)
    assert list(own_folder.iterdir()) == []


def test_another_process_may_be_first(source, own_folder):
    """Both have unpacked the same; the one that comes later takes what is there."""

    def unpack(empty):
        Unpack()(empty)
        unpacked(source, Unpack())

    folder = unpacked(source, unpack)
    assert (folder / "unpacked.json").is_file()
    assert list(own_folder.iterdir()) == [folder]


def test_a_writer_that_was_killed(source, own_folder):
    script = (
        "import os, pathlib, sys\n"
        "from tl_truncate.weights.unpacked import unpacked\n"
        "def die(empty):\n"
        "    (empty / 'weights').write_bytes(b'half')\n"
        "    os._exit(9)\n"
        "unpacked(pathlib.Path(sys.argv[1]), die)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(source)], check=False).returncode == 9
    (left,) = own_folder.iterdir()
    folder = unpacked(source, Unpack())
    assert (folder / "weights").read_bytes() == bytes(range(256)) * 9
    assert left.exists()  # its writer may still be at work


def test_clearing_touches_nothing_else(source, own_folder):
    folder = unpacked(source, Unpack())
    others = [own_folder / "mine", own_folder / ("0" * 31)]
    for path in others:
        path.mkdir()
    tlt.cache_clear()
    assert not folder.exists()
    assert all(path.exists() for path in others)
