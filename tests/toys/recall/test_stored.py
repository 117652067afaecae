"""The recall models that tests read are those that training would give."""

import json

import pytest
import recall_models
from safetensors import safe_open

from tl_truncate.toys import RecallConfig
from tl_truncate.toys.recall.model import tensors


def test_nothing_else_is_kept():
    assert {path.name for path in recall_models.FOLDER.iterdir()} == set(recall_models.models())
    files = [path for path in recall_models.FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 20e6


@pytest.mark.parametrize("name", recall_models.models())
def test_it_says_how_it_was_trained(name):
    model, folder = recall_models.models()[name], recall_models.FOLDER / name
    manifest = json.loads((folder / "manifest.json").read_text())
    assert RecallConfig.from_json(manifest["config"]).hash == model.config.hash
    assert set(model.kept) <= set(manifest["checkpoints"])
    assert {"python", "tl-truncate", "transformer-lens", "torch"} <= set(manifest["versions"])
    assert model.stored().history["step"].tolist() == manifest["checkpoints"]
    kept = {f"step{step}.safetensors" for step in model.kept}
    assert {path.name for path in (folder / "checkpoints").iterdir()} == kept
    for each in kept:
        with safe_open(folder / "checkpoints" / each, framework="pt") as file:
            assert {file.get_slice(key).get_dtype() for key in file.keys()} == {"F16"}  # noqa: SIM118


def test_training_leads_to_what_is_kept(tmp_path):
    """From scratch, as far as the first weights that are kept: to the rounding of what was kept."""
    model = recall_models.separable("triggers", 0)
    found, kept = model.begun(64, tmp_path / "run"), model.stored()
    assert found.checkpoints == (64,)
    new, old = (found.history.set_index("step").loc[64], kept.history.set_index("step").loc[64])
    assert new.to_dict() == pytest.approx(old.to_dict(), rel=1e-3, abs=1e-4)
    start = tensors(found.at(64))
    for name, value in tensors(kept.at(64)).items():
        gap = float((start[name] - value).abs().max() / value.abs().max())
        print(name, gap)
        assert gap < 1e-3, name


def test_another_configuration_is_not_taken_for_it():
    changed = recall_models.Model(RecallConfig.separable("triggers", seed=0, learning_rate=1e-3))
    with pytest.raises(ValueError, match=r"the configuration has changed since\. Run `make recall"):
        changed.stored()
