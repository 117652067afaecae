"""The same cut three ways: at work, as `--model hf` reads a checkpoint, and as it reads an adapter."""

import harness
import pytest

import tl_truncate as tlt

HFLM = pytest.importorskip("lm_eval.models.huggingface").HFLM
CUTS = [
    tlt.Cut("blocks.1.mlp.W_in", tlt.DropTop(3)),
    tlt.Cut("blocks.1.attn.W_V.1", tlt.DropTop(2)),
    tlt.Cut("blocks.2.mlp.W_out", tlt.DropTop(2)),
]


@pytest.mark.filterwarnings("ignore::tl_truncate.LargeAdapterWarning")
@pytest.mark.parametrize("name", harness.WEIGHTS)
def test_the_harness_says_the_same_of_each(name, tmp_path):
    pytest.importorskip("peft")
    base = harness.save(name, tmp_path / "base")
    model = tlt.load_model(str(base))
    tlt.export_checkpoint(model, CUTS, tmp_path / "checkpoint")
    tlt.export_adapter(model, CUTS, tmp_path / "adapter")
    options = dict(device="cpu", dtype="float32", batch_size=3)
    said = {
        "live": tlt.evals.TruncatedLM(model, CUTS, batch_size=3),
        "checkpoint": HFLM(pretrained=str(tmp_path / "checkpoint"), **options),
        "adapter": HFLM(pretrained=str(base), peft=str(tmp_path / "adapter"), **options),
        "uncut": HFLM(pretrained=str(base), **options),
    }
    said = {way: harness.everything(lm) for way, lm in said.items()}
    for way in ("checkpoint", "adapter"):
        assert harness.apart(said["live"], said[way]) < 1e-5, way
    pairs = zip(said["live"]["loglikelihood"], said["uncut"]["loglikelihood"], strict=True)
    assert max(abs(one - other) for (one, _), (other, _) in pairs) > 0.1
