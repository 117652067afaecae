"""Tests on another device: what a test mixes is put together, what the package mixes is a fault."""

from types import SimpleNamespace

import architectures
import devices
import failures
import pytest
import torch


@pytest.fixture
def elsewhere(monkeypatch):
    """The device that needs no machine, as the models' own."""
    monkeypatch.setattr(architectures, "DEVICE", torch.device("meta"))
    with devices.OnOneDevice():
        yield torch.ones(2, 2, device="meta")


def test_a_test_may_mix(elsewhere):
    here = torch.ones(2, 2)
    assert (here @ elsewhere).is_meta
    assert torch.cat([here, elsewhere]).is_meta
    assert here.is_cpu


def test_a_test_may_move_a_model(elsewhere, monkeypatch):
    """Numbers, gradients and buffers; by either way that torch has."""
    for swaps in (False, True):
        monkeypatch.setattr(torch.__future__, "_swap_module_params_on_conversion", swaps)
        model = torch.nn.BatchNorm1d(2)
        model(torch.ones(3, 2)).sum().backward()
        model.to("meta")
        held = [*model.parameters(), *model.buffers(), *(each.grad for each in model.parameters())]
        assert len(held) == 7
        assert all(each.is_meta for each in held), held
    layer = torch.nn.Linear(2, 2)
    layer.weight.data = torch.ones(2, 2)
    assert layer.weight.detach().tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_the_package_may_not(monkeypatch):
    """What it asks for is told by its files: here those of a test stand for them."""
    assert devices.asked_by_a_test()
    monkeypatch.setattr(devices, "PACKAGE", __file__)
    assert not devices.asked_by_a_test()


def test_each_test_comes_once_before_its_other_parameters():
    names = ["replay/a.py::t[1]", "replay/a.py::t[2]", "surgery/b.py::t[1]", "surgery/b.py::t[2]"]
    found = devices.ordered([SimpleNamespace(nodeid=f"tests/{name}") for name in names])
    assert [each.nodeid.removeprefix("tests/") for each in found] == [names[i] for i in (2, 0, 3, 1)]


def test_why_is_on_disk_at_once(tmp_path):
    kept = failures.Failures(str(tmp_path))
    for failed in (True, False):
        kept.pytest_runtest_logreport(
            SimpleNamespace(
                failed=failed, when="call", nodeid="a.py::t", longreprtext="x\n" * 30 + "why"
            )
        )
    lines = (tmp_path / "failures.txt").read_text().splitlines()
    assert (lines[0], lines[-1], len(lines)) == ("== call a.py::t", "why", 13)
