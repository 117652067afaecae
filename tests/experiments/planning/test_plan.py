"""A plan is that of the sweep: its settings, memory, disk and command, known without the weights."""

import re
from importlib.metadata import version

import architectures
import pytest
import torch
from test_cli import run

import tl_truncate as tlt
from tl_truncate.cli.shared.parse import parse_keep
from tl_truncate.experiments.planning.command import keep_text
from tl_truncate.experiments.planning.machine import CARDS, card
from tl_truncate.experiments.sweep.grid import make_grid
from tl_truncate.experiments.sweep.options import SweepOptions
from tl_truncate.experiments.sweep.work.prepare import prepare
from tl_truncate.models.outline import read_outline
from tl_truncate.weights.keep import Keep

KEEPS = [0.0, 0.3, 5]
#: Its Bridge makes a bias of the unembedding up, of zeros, that no model has.
OLDER = version("transformer-lens") < "4"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model's folder, and one with its configuration and tokenizer alone."""
    whole, bare = (tmp_path_factory.mktemp("plan") / name for name in ("whole", "bare"))
    architectures.save_folder("neox-parallel", whole)
    bare.mkdir()
    for path in whole.glob("*.json"):
        (bare / path.name).write_bytes(path.read_bytes())
    return str(whole), str(bare)


@pytest.fixture(scope="module")
def bare(folders):
    return folders[1]


class TestIsThatOfTheSweep:
    def test_settings_and_units(self, folders, drinks, tmp_path):
        whole, bare = folders
        asked = dict(sites=["blocks.0.mlp.W_in", "blocks.1.attn.W_V"], keeps=KEEPS, seed=3)
        asked["controls"] = ["random_subspace"]
        found = tlt.plan(bare, drinks, device="a100", **asked)
        result = tlt.sweep(tlt.load_model(whole), drinks, run_dir=tmp_path, progress=False, **asked)
        assert found.grid.settings == len(result.grid)
        assert found.grid.prompts == len(drinks)
        batches = result.manifest["batches"]
        assert found.grid.tokens == sum(rows * length for rows, length in batches)

    def test_memory(self, folders, drinks):
        whole, bare = folders
        model = tlt.load_model(whole)
        options = dict(batch_size=2, tokens_in_flight=32, max_memory=None)
        cuts = make_grid(model, None, KEEPS, (), 0)
        expected = prepare(model, [drinks], cuts, SweepOptions(**options)).plan.memory
        found = tlt.plan(bare, drinks, keeps=KEEPS, device="a100", **options)
        assert found.footprint.beside == expected
        made_up = sum(model.unembed.b_U.shape) if OLDER else 0
        assert found.footprint.weights == 4 * (
            sum(each.numel() for each in model.parameters()) - made_up
        )

    def test_a_card_takes_more_tokens_at_once(self, folders, drinks):
        """By default, in the plan as at work; here it is as it was."""
        whole, bare = folders
        usual, many, few = (
            tlt.plan(bare, drinks, keeps=KEEPS, device="a100", tokens_in_flight=tokens).footprint.beside
            for tokens in (None, 8192, 1024)
        )
        assert usual == many != few
        cuts = [tlt.Cut("blocks.1.mlp.W_in", keep) for keep in KEEPS]
        found = prepare(tlt.load_model(whole, device="cpu"), [drinks], cuts, SweepOptions())
        assert found.plan.tokens_at_once == 1024

    def test_disk(self, folders, drinks, tmp_path, monkeypatch):
        whole, bare = folders
        monkeypatch.setenv("TL_TRUNCATE_CACHE", str(tmp_path / "cache"))
        tlt.cache_clear()
        found = tlt.plan(bare, drinks, keeps=KEEPS, device="a100")
        assert tlt.cache_info().size == 0
        tlt.sweep(tlt.load_model(whole), drinks, keeps=KEEPS, run_dir=tmp_path / "run", progress=False)
        info = tlt.cache_info()
        assert found.grid.spectra == info.files == 6
        assert found.footprint.spectra == pytest.approx(info.size, abs=info.files * 64)
        lines = (tmp_path / "run" / "settings.jsonl").stat().st_size
        size = sum(path.stat().st_size for path in (tmp_path / "run").rglob("*.json*"))
        assert lines < found.footprint.run < 1.5 * size

    def test_what_needs_no_spectrum_has_none(self, bare, drinks):
        found = tlt.plan(bare, drinks, keeps=[0.0, 1.0], device="a100")
        assert (found.grid.settings, found.grid.spectra, found.footprint.spectra) == (12, 0, 0)

    @pytest.mark.parametrize("name", ["gpt2", "llama-grouped"])
    def test_of_a_configuration_of_a_folder_and_of_a_model(self, name, drinks, tmp_path):
        whole = architectures.save_folder(name, tmp_path / name)
        model = tlt.load_model(str(whole))
        plans = [
            tlt.plan(each, drinks, keeps=KEEPS, device="a100")
            for each in (str(whole), read_outline(str(whole)), model)
        ]
        config = architectures.HF[name]().config
        plans.append(tlt.plan(config, drinks, keeps=KEEPS, device="a100", tokens=8))
        for plan in plans[1:]:
            assert plan.grid.settings == plans[0].grid.settings
            assert plan.footprint.spectra == plans[0].footprint.spectra
            made_up = 4 * config.vocab_size if OLDER and plan is plans[2] else 0
            assert plan.footprint.weights == plans[0].footprint.weights + made_up
        assert plans[2].flops == plans[1].flops == plans[0].flops
        assert "each prompt is taken to have 8 tokens" in str(plans[3]).replace("\n", " ")
        assert plans[3].footprint.download is None


class TestWorkers:
    def test_all_of_the_work_is_somebodys(self, bare, drinks):
        alone = tlt.plan(bare, drinks, keeps=KEEPS, device="a100", tokens_in_flight=1)
        shared = tlt.plan(bare, drinks, keeps=KEEPS, device="a100", tokens_in_flight=1, workers=3)
        cuts, of_three = (plan.frame.set_index("step").loc["cuts"] for plan in (alone, shared))
        assert cuts.flops <= of_three.flops <= 1.05 * cuts.flops  # what a site's cuts share, twice
        assert cuts.seconds / 3 <= of_three["each"] < cuts.seconds / 2
        first = [plan.frame.set_index("step").flops["before the first cut"] for plan in (alone, shared)]
        assert 2 * first[0] < first[1] <= 3 * first[0]
        assert shared.seconds < alone.seconds

    def test_more_workers_than_units(self, bare, drinks):
        found = tlt.plan(bare, drinks, sites=["blocks.1.mlp.W_in"], keeps=[5], device="a100", workers=4)
        assert found.seconds > 0

    def test_checkpoints(self, drinks, tmp_path):
        plain = tlt.plan("nano-pythia", tlt.tasks.ioi(n=4), keeps=KEEPS, device="a100")
        steps = list(tlt.checkpoint_steps("nano-pythia"))
        found = tlt.plan(
            "nano-pythia", tlt.tasks.ioi(n=4), keeps=KEEPS, device="a100", checkpoints=steps
        )
        assert found.grid.settings == len(steps) * plain.grid.settings
        assert found.seconds == pytest.approx(len(steps) * plain.seconds)
        assert found.commands[0].startswith("for step in 64 512 1024 2000; do tl-truncate sweep --model")
        assert '--checkpoint "$step"' in found.commands[0]


class TestCommand:
    @pytest.mark.parametrize(
        "asked",
        [
            dict(keeps=KEEPS),
            dict(sites=["blocks.2.attn.W_O.1", "blocks.0.mlp.W_out"], keeps=[0.5], seed=4),
            dict(sites=["blocks.1.mlp.W_in", "blocks.2.mlp.W_in"], keeps=[tlt.Energy(0.9)]),
            dict(keeps=[0.5], controls=["random_subspace", "norm_matched"], batch_size=3),
            dict(keeps=[tlt.Components([2, 0]), tlt.Band(1, 4)], prepend_bos=False),
            dict(sites=["blocks.1.mlp.W_in"], keeps=[0.5], shots=[0, 2]),
        ],
    )
    def test_it_is_the_sweep_that_was_planned(self, asked, folders, drinks, tmp_path, monkeypatch):
        """The printed command, run, has the grid that was planned."""
        monkeypatch.chdir(tmp_path)
        drinks.save("drinks.json")
        found = tlt.plan(folders[0], drinks, device="a100", out="out", workers=2, **asked)
        given = [each for each in found.arguments if each not in ("--device", "cuda")]
        assert given[-2:] == ["--shard", "$i/2"]
        run(*given[:-2], "--no-figures")
        result = tlt.SweepResult.load("out/run")
        assert len(result.grid) == found.grid.settings
        assert tuple(task.name for task in result.tasks) == found.grid.tasks
        plain = {key: value for key, value in asked.items() if key != "batch_size"}
        alike = tlt.sweep(tlt.load_model(folders[0]), drinks, progress=False, **plain)
        assert list(map(repr, result.grid)) == list(map(repr, alike.grid))

    def test_what_no_command_has_is_said_in_python(self, bare, drinks):
        cuts = [tlt.Ablated("blocks.1.mlp.W_out")]
        found = tlt.plan(bare, drinks, cuts=cuts, device="a100", workers=2)
        assert found.arguments is None
        (line,) = found.commands
        assert line.endswith("task, cuts=cuts, run_dir='runs/sweep/run', shard=(i, 2))")
        found = tlt.plan(bare, drinks, keeps=[tlt.Without([1])], device="a100", tokens_in_flight=9)
        assert found.arguments is None
        assert "sites=sites, keeps=keeps, tokens_in_flight=9" in found.commands[0]

    @pytest.mark.parametrize("keep", [tlt.Rank(3), tlt.Fraction(0.25), tlt.Energy(0.5),
                                      tlt.DropTop(2), tlt.Band(1, 3), tlt.Components([0, 2]),
                                      tlt.MarchenkoPastur()])  # fmt: skip
    def test_a_keep_is_read_as_it_is_written(self, keep: Keep):
        assert parse_keep(keep_text(keep)) == keep


class TestRefused:
    def test_a_device(self, bare, drinks):
        with pytest.raises(ValueError, match="device must be one of v100, t4, a100, l40s, h100, h200"):
            tlt.plan(bare, drinks, device="cuda")

    def test_what_a_sweep_refuses(self, bare, drinks):
        for asked, words in [
            (dict(sites=["blocks.7.mlp.W_in"]), "must be in 0..2"),
            (dict(sites=["blocks.1.mlp.W_gate"]), "The model must have blocks.1.mlp.W_gate"),
            (dict(keeps=[500]), "must be at most 32"),
            (dict(keeps=[]), "at least one site and one keep"),
            (dict(max_memory=3), "max_memory must be at least"),
            (dict(batch_size=0), "batch_size must be an integer from 1 up"),
            (dict(workers=0), "workers must be an integer from 1 up"),
            (dict(controls=["none"]), "Controls must be among"),
        ]:
            with pytest.raises(ValueError, match=re.escape(words)):
                tlt.plan(bare, drinks, device="a100", **asked)
        with pytest.raises(TypeError, match="task must be a Task"):
            tlt.plan(bare, "ioi", device="a100")
        with pytest.raises(TypeError, match="model must be a name, a folder, a configuration"):
            tlt.plan(3, drinks, device="a100")

    def test_prompts_that_nobody_counts(self, bare, drinks):
        config = architectures.HF["gpt2"]().config
        with pytest.raises(ValueError, match=r"must have a tokenizer .* such as tokens=20"):
            tlt.plan(config, drinks, device="a100")
        with pytest.raises(ValueError, match="tokens must be left away where a tokenizer counts them"):
            tlt.plan(bare, drinks, device="a100", tokens=20)
        with pytest.raises(ValueError, match="must fit into the model's context of 64 tokens"):
            tlt.plan(config, drinks, device="a100", tokens=200)

    def test_a_sparse_model(self, drinks):
        config = architectures.HF["mixtral-sparse"]().config
        with pytest.raises(ValueError, match="block 0 has no dense W_in, W_out"):
            tlt.plan(config, drinks, sites=["blocks.1.attn.W_V"], device="a100", tokens=9)

    def test_checkpoints(self, bare, toy, drinks):
        with pytest.raises(ValueError, match="Give either checkpoint or checkpoints, got 3 and"):
            tlt.plan("nano-pythia", drinks, checkpoint=3, checkpoints=[64])
        with pytest.raises(ValueError, match="must be among 64, 512, 1024, 2000; got 3"):
            tlt.plan("nano-pythia", drinks, checkpoints=[64, 3])
        with pytest.raises(ValueError, match="checkpoints must go with the name of a model"):
            tlt.plan(toy, drinks, checkpoints=[64])


class TestMachine:
    def test_a_card_by_hand(self):
        """A100 in bfloat16: half of 312 TFLOP/s, 60% of 2039 GB/s."""
        found = card("a100", torch.bfloat16, 1_000_000)
        assert found.flop == pytest.approx(1 / 156e12)
        assert found.block == pytest.approx(1.2e-3 + 2e6 / (0.6 * 2039e9))
        assert found.gram == pytest.approx(1 / 4.85e12)
        assert "TF32 off" in card("a100", torch.float32, 1).source
        assert "156" not in card("a100", torch.float32, 1).source

    def test_a_larger_card_is_faster(self, bare, drinks):
        times = [tlt.plan(bare, drinks, keeps=KEEPS, device=name).seconds for name in ("v100", "h200")]
        assert times[1] < times[0]
        assert set(CARDS) == {"v100", "t4", "a100", "l40s", "h100", "h200"}

    def test_this_machine_is_measured(self, bare, drinks):
        """Within what no other process can make of it: a sweep of a tiny model takes no minutes."""
        found = tlt.plan(bare, drinks, keeps=KEEPS)
        assert "measured just now" in found.machine.source
        assert 0.001 < found.seconds < 60
        assert min(found.frame.seconds) > 0

    def test_too_little_memory_is_said(self, drinks):
        config = architectures.HF["gpt2"]().config
        config.n_embd, config.n_head, config.n_inner = 4096, 32, 16_384
        found = tlt.plan(config, drinks, keeps=[0.5], device="t4", tokens=9)
        assert "A worker needs" not in str(found)
        config.n_layer = 40
        assert (
            "GB, and T4 has 15 GB"
            in tlt.plan(config, drinks, keeps=[0.5], device="t4", tokens=9).notes[1]
        )


def test_printed_in_eighty_columns(bare, drinks):
    found = tlt.plan(bare, drinks, keeps=KEEPS, device="h200", workers=8)
    lines = str(found).splitlines()
    commands = {f"  {command}" for command in found.commands}
    assert max(len(line) for line in lines if line not in commands) <= 80
    for word in ("18 settings at 6 sites", "each of 8", "memory of a worker", "published", "for i from"):
        assert word in str(found)
    assert list(found.frame.columns) == ["step", "flops", "seconds", "each"]
    assert "<table" in found._repr_html_()


def test_the_command(bare, drinks, tmp_path):
    drinks.save(tmp_path / "drinks.json")
    given = ["plan", "-m", bare, "--task", tmp_path / "drinks.json", "--device", "h100"]
    given += ["--keep", "0.3", "--layers", "1-2", "--workers", "2", "--out", tmp_path / "runs"]
    text = run(*given).stdout
    for word in ("3 blocks", "4 settings at 4 sites", "H100: published", f"--out {tmp_path}/runs"):
        assert word in " ".join(text.split()), text
    assert "--layers 1-2 --keep 0.3" in " ".join(text.split())
    assert not (tmp_path / "runs").exists()
    assert '"settings": 4' in run(*given, "--json").stdout
    assert "device must be one of" in run("plan", "-m", bare, "--device", "cuda", code=2).stderr
    refused = run("plan", "-m", "EleutherAI/pythia-12b", "--device", "h100", code=2).stderr
    assert "not in the local Hugging Face cache" in " ".join(refused.split())
    assert "--task must be one of" in run("plan", "-m", bare, "--task", "nothing", code=2).stderr
