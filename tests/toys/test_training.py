"""States of a training that is gone on with: what cannot be checked is not believed."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from tl_truncate.toys.training import Training, load_state, train


def training(state, steps=3):
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    return Training(
        steps,
        optimizer,
        lambda step: (weight**2).sum(),
        lambda step: 0.1,
        (0, steps),
        lambda *_: None,
        state,
    )


@pytest.fixture
def state(tmp_path):
    path = tmp_path / "state.safetensors"
    train(training(path), progress=False, title="test")
    return path


def test_it_comes_back(state):
    again = training(state)
    assert load_state(state, again)[0] == 3
    assert [each.name for each in state.parent.iterdir()] == [state.name]


def test_a_damaged_one_is_named(state):
    state.write_bytes(state.read_bytes()[:40])
    with pytest.raises(ValueError, match="must be a safetensors file, but it is damaged"):
        train(training(state), progress=False, title="test")


def test_one_without_its_step(state):
    save_file(load_file(state), state)
    with pytest.raises(ValueError, match=r"must say which step it is of.* Delete it"):
        train(training(state), progress=False, title="test")


def test_a_full_disk_leaves_the_state_that_was(state, monkeypatch):
    from safetensors import SafetensorError

    def full(*args, **options):
        raise SafetensorError("I/O error: No space left on device")

    before = state.read_bytes()
    monkeypatch.setattr("tl_truncate.weights.files.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        train(training(state, 9), progress=False, title="test")
    assert state.read_bytes() == before
    assert [each.name for each in state.parent.iterdir()] == [state.name]
