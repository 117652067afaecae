"""A sweep against in-place editing, setting by setting, and against plain hooked passes."""

import warnings
from contextlib import nullcontext
from dataclasses import replace

import architectures
import inplace
import numpy as np
import pytest
import torch
from architectures import CASES, SPECIAL, WINDOWED, with_tokenizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from luck import examples
from samples import PAIRS, SEQUENCES
from scipy import stats

import tl_truncate as tlt
from tl_truncate.experiments.sweep.work import engine
from tl_truncate.replay.acting import Acting
from tl_truncate.statistics import estimate_against_draws
from tl_truncate.tasks.encode import encode
from tl_truncate.weights.site import MATRICES

KEEPS = [0.0, 0.1, 0.5, 0.9]


def all_sites(model) -> list[tlt.Site]:
    sites = tlt.find_sites(model, MATRICES)
    return [*sites, tlt.Site(1, "W_O", 2), tlt.Site(2, "W_O", 0), tlt.Site(0, "W_K", 1)]


def edited_log_probabilities(model, task, site, keep) -> np.ndarray:
    """One plain pass a prompt, of the model edited in place by NumPy: `[prompt, 2]`."""
    rows = []
    with inplace.edited(model, (str(site), inplace.top(keep))):
        for each in encode(model, task, prepend_bos=False).prompts:
            with torch.no_grad():
                last = model(torch.tensor([each.prompt]))[0, -1].double().log_softmax(0)
            rows.append([float(last[each.in_context[0]]), float(last[each.global_[0]])])
    return np.array(rows)


def swept_log_probabilities(result, site, keep) -> np.ndarray:
    frame = result.scores(site, keep).frame
    return np.log(frame[["p_in_context", "p_global"]].to_numpy())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_equals_in_place_editing(shared, drinks, kind, name, dtype):
    model = with_tokenizer(shared(kind, name, dtype))
    sites = all_sites(model)
    result = tlt.sweep(model, drinks, sites=sites, keeps=KEEPS, prepend_bos=False, progress=False)
    assert result.finished
    assert len(result.frame) == len(sites) * len(KEEPS)
    allowed = 1e-5 if dtype == torch.float32 else 1e-9
    for site in sites:
        for keep in KEEPS:
            gap = swept_log_probabilities(result, site, keep) - edited_log_probabilities(
                model, drinks, site, keep
            )
            assert np.abs(gap).max() <= allowed, (site, keep)


def hooked_frame(model, task, site, keep, uncut=None):
    """The same setting by full passes with the cut at work."""
    cut = tlt.Cut(site, keep)
    return tlt.evaluate(model, task, cut, baseline=uncut, prepend_bos=False, progress=False).frame


@pytest.mark.parametrize("name", ["neox-parallel", "llama-grouped"])
def test_bfloat16_agrees_with_full_passes(shared, drinks, name):
    model = shared("bridge", name, torch.bfloat16)
    result = tlt.sweep(
        model, drinks, sites=all_sites(model), keeps=[0.1, 0.5], prepend_bos=False, progress=False
    )
    uncut = tlt.evaluate(model, drinks, prepend_bos=False, progress=False)
    for site in all_sites(model):
        for keep in (0.1, 0.5):
            full = hooked_frame(model, drinks, site, keep, uncut)
            found = result.scores(site, keep).frame
            assert np.abs(found["logit_diff"] - full["logit_diff"]).max() <= 0.06, (site, keep)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["bridge", "hooked"] if ("hooked", "gpt2") in CASES else ["bridge"])
def test_padding_side_mixed_lengths_and_company_change_nothing(shared, drinks, side, kind):
    model = with_tokenizer(shared(kind, "gpt2"))
    site, before = "blocks.1.mlp.W_in", model.tokenizer.padding_side
    model.tokenizer.padding_side = side
    options = dict(sites=[site], keeps=[0.2], prepend_bos=False, progress=False)
    try:
        together = tlt.sweep(model, drinks, **options).scores(site, 0.2).frame
        for index in range(len(drinks)):
            alone = tlt.sweep(model, drinks.subset([index]), **options).scores(site, 0.2).frame
            for metric in ("p_in_context", "p_global", "logit_diff", "rank"):
                assert alone[metric][0] == pytest.approx(together[metric][index], rel=1e-5), metric
    finally:
        model.tokenizer.padding_side = before


@pytest.mark.parametrize(("kind", "name"), [("bridge", "neox-sequential"), ("bridge", "gpt2")])
def test_several_tasks_and_answers_of_several_tokens(shared, drinks, kind, name):
    model = shared(kind, name)
    sites = tlt.find_sites(model, ("W_in", "W_out", "W_K"))
    result = tlt.sweep(
        model, [drinks, SEQUENCES], sites=sites, keeps=[0.3], prepend_bos=False, progress=False
    )
    assert list(dict.fromkeys(result.frame["task"])) == ["drinks", "sequences"]
    for task in (drinks, SEQUENCES):
        for site in sites:
            full = hooked_frame(model, task, site, 0.3)
            found = result.scores(site, 0.3, task=task.name).frame
            for metric in ("p_in_context", "p_global", "logit_diff", "rank", "accuracy"):
                assert found[metric].tolist() == pytest.approx(full[metric].tolist(), rel=1e-5, abs=1e-7)
            assert list(found.columns) == list(full.columns)
    with pytest.raises(ValueError, match="one task to have one baseline, got drinks, sequences"):
        _ = result.baseline


def block_calls(model):
    """Counts the rows and positions that each block is asked for."""
    seen, handles = [], []
    for layer, block in enumerate(model.blocks):

        def note(module, args, kwargs, layer=layer):
            seen.append((layer, *(args[0] if args else kwargs["hidden_states"]).shape[:2]))

        handles.append(block.register_forward_pre_hook(note, with_kwargs=True))
    return seen, handles


def count_work(model, task, site, **options):
    seen, handles = block_calls(model)
    try:
        tlt.sweep(model, task, sites=[site], prepend_bos=False, progress=False, **options)
    finally:
        for handle in handles:
            handle.remove()
    return seen


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_only_what_is_above_the_cut_is_run(shared, drinks, kind, name):
    """More cuts of an MLP's weight add passes through the blocks above it and through no other."""
    model = with_tokenizer(shared(kind, name))
    task, keeps = drinks.subset([0]), [0.1, 0.2, 0.3, 0.4]
    for site in tlt.find_sites(model, ("W_in", "W_gate", "W_out")):
        few = count_work(model, task, str(site), keeps=keeps[:1])
        many = count_work(model, task, str(site), keeps=keeps, tokens_in_flight=1)
        added = [call for call in many if call not in few] + many[len(few) :]
        assert all(layer > site.layer for layer, _, _ in added), site


def test_the_last_block_sees_the_answers_positions_alone(shared, drinks):
    model = shared("bridge", "neox-parallel")
    seen = count_work(model, drinks.subset([0]), "blocks.0.mlp.W_out", keeps=[0.1, 0.2])
    length = seen[0][2]
    assert (2, 2, 1) in seen  # two cuts, one position
    assert (1, 2, length) in seen  # two cuts share the blocks between


def test_cuts_share_a_pass_up_to_the_tokens_in_flight(shared, drinks):
    model = shared("bridge", "neox-parallel")
    one, site = drinks.subset([0]), "blocks.0.mlp.W_out"
    length = len(encode(model, one, prepend_bos=False).prompts[0].prompt)  # a trial's rows are shorter
    seen = count_work(model, one, site, keeps=[0.1, 0.2, 0.3, 0.4], tokens_in_flight=10_000)
    assert max(rows for _, rows, positions in seen if positions == length) == 4
    seen = count_work(model, one, site, keeps=[0.1, 0.2, 0.3, 0.4], tokens_in_flight=1)
    assert max(rows for _, rows, positions in seen if positions == length) == 1


def test_hooks_of_the_users_own_mean_full_passes(shared, drinks):
    model = shared("bridge", "gpt2")
    double = ("blocks.1.hook_mlp_out", lambda value, hook: value * 2)
    options = dict(sites=["blocks.1.mlp.W_in"], keeps=[0.2], prepend_bos=False, progress=False)
    with model.hooks(fwd_hooks=[double]):
        with pytest.warns(tlt.FullPassesWarning, match="hooks of your own"):
            found = tlt.sweep(model, drinks, **options)
        full = hooked_frame(model, drinks, "blocks.1.mlp.W_in", 0.2)
    assert found.scores("blocks.1.mlp.W_in", 0.2).frame.equals(full)


@pytest.fixture(scope="module")
def as_many_rows_as_heads():
    """Four prompts of one length, which make a batch of four rows; the models have four heads."""
    names = [" Mary", " John", " Paris", " Rome"]
    prompts = [f"Mary and John gave a drink to{name} and{names[i - 1]}" for i, name in enumerate(names)]
    return tlt.Task("equal", prompts, names, " the")


@pytest.mark.parametrize(("kind", "name"), [*(("bridge", name) for name in SPECIAL), *WINDOWED])
def test_wherever_blocks_can_be_called_again_or_not(shared, precise, as_many_rows_as_heads, kind, name):
    """What belongs to a batch is never guessed: one row, and as many rows as heads."""
    model = with_tokenizer(shared(kind, name, torch.float64))
    sites = ["blocks.1.mlp.W_in", "blocks.1.mlp.W_out", "blocks.0.attn.W_V", "blocks.2.attn.W_O.1"]
    for task in (as_many_rows_as_heads, as_many_rows_as_heads.subset([0])):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", tlt.FullPassesWarning)
            result = tlt.sweep(
                model, task, sites=sites, keeps=[0.2, 0.5], prepend_bos=False, progress=False
            )
        assert all("its blocks" in str(each.message) or name == "opt-learnt" for each in told)
        uncut = tlt.evaluate(model, task, prepend_bos=False, progress=False)
        for site in sites:
            for keep in (0.2, 0.5):
                full = hooked_frame(model, task, site, keep, uncut)["logit_diff"].to_numpy()
                gap = result.scores(site, keep).frame["logit_diff"].to_numpy() - full
                assert np.abs(gap).max() <= 1e-9, (site, keep)


def test_a_block_that_raises_when_it_is_called_again_means_full_passes(shared, drinks):
    model = shared("bridge", "gpt2")

    def once(module, args):
        if len(args[0]) > 3:
            raise RuntimeError("a block of another kind")

    handle = model.blocks[1].register_forward_pre_hook(once)
    try:
        with pytest.warns(tlt.FullPassesWarning, match="do not give the logits of a whole pass"):
            found = tlt.sweep(model, drinks, sites=["blocks.1.mlp.W_in"], keeps=[0.2], prepend_bos=False)
        full = hooked_frame(model, drinks, "blocks.1.mlp.W_in", 0.2)
    finally:
        handle.remove()
    assert found.scores("blocks.1.mlp.W_in", 0.2).frame.equals(full)


def test_a_model_that_cannot_be_replayed_is_run_in_full(shared, drinks, monkeypatch):
    from tl_truncate.replay.upwards import Replayer

    model = shared("bridge", "gpt2")
    monkeypatch.setattr(Replayer, "accepts", lambda self, seen: False)
    with pytest.warns(tlt.FullPassesWarning, match="do not give the logits of a whole pass"):
        found = tlt.sweep(model, drinks, sites=["blocks.1.mlp.W_in"], keeps=[0.2], prepend_bos=False)
    full = hooked_frame(model, drinks, "blocks.1.mlp.W_in", 0.2)
    assert found.scores("blocks.1.mlp.W_in", 0.2).frame.equals(full)


def test_work_is_shared_only_where_the_hooks_agree(shared, drinks, monkeypatch):
    """A wrong idea of what an MLP does is noticed on one row, and hooks are used instead."""
    from tl_truncate.weights import mlp

    model = shared("bridge", "llama-grouped")
    monkeypatch.setattr(mlp.Activation, "post", lambda self, pre, gate: torch.relu(pre))
    sites = tlt.find_sites(model, ("W_in", "W_gate"))
    result = tlt.sweep(model, drinks, sites=sites, keeps=[0.3], prepend_bos=False, progress=False)
    for site in sites:
        full = hooked_frame(model, drinks, site, 0.3)
        found = result.scores(site, 0.3).frame
        assert found["logit_diff"].tolist() == pytest.approx(full["logit_diff"].tolist(), abs=1e-5)


@pytest.mark.parametrize("name", ["gemma2-post-norm"])
def test_post_norm_blocks_are_exact_too(shared, drinks, name):
    """There the MLP's output is normalised before it is added, so nothing of the block is shared."""
    model = shared("bridge", name)
    sites = tlt.find_sites(model, MATRICES)
    result = tlt.sweep(model, drinks, sites=sites, keeps=[0.3], prepend_bos=False, progress=False)
    for site in sites:
        full = hooked_frame(model, drinks, site, 0.3)
        found = result.scores(site, 0.3).frame
        assert found["logit_diff"].tolist() == pytest.approx(full["logit_diff"].tolist(), abs=1e-5)


@pytest.mark.parametrize("matrix", ["W_in", "W_gate"])
@pytest.mark.parametrize("keeps", [[0.0, 0.5], [0.5, 0.0], [0.0]])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_what_lies_between_the_activation_and_w_out_is_seen(drinks, matrix, keeps, dtype, monkeypatch):
    """Such as a norm, which keeps nothing of nothing, where W_out has no bias; beside one large channel
    of the residual stream, which hides much in half precision."""
    model = with_tokenizer(architectures.build("bridge", "llama-grouped", torch.float64))
    with torch.no_grad():
        model.embed.weight[:, 0] += 60.0
    model.to(dtype)
    out = model.original_model.model.layers[1].mlp.down_proj
    out.register_forward_pre_hook(
        lambda module, args: (args[0] / args[0].norm(dim=-1, keepdim=True).clamp(1e-6),)
    )
    # As if it were in the module's own code, which nobody looks into.
    monkeypatch.setattr(engine, "watch_hooks", lambda model: nullcontext(Acting()))
    site, options = f"blocks.1.mlp.{matrix}", dict(prepend_bos=False, progress=False)
    found = tlt.sweep(model, drinks, sites=[site], keeps=keeps, **options)
    for keep, setting in zip(keeps, found.settings, strict=True):
        wanted = tlt.evaluate(model, drinks, tlt.Cut(site, keep), **options).frame
        own = setting.outcomes[0].metrics()
        gap = (own["logit_diff"] - wanted["logit_diff"]).abs().max()
        assert gap <= (1e-9 if dtype == torch.float64 else 0.02)


def test_inside_a_context_its_cuts_belong_to_both_sides(shared, drinks):
    model = shared("bridge", "llama-grouped")
    outer = tlt.Cut("blocks.1.mlp.W_in", 0.3)
    sites = ["blocks.0.mlp.W_out", "blocks.1.mlp.W_out", "blocks.1.attn.W_V", "blocks.2.mlp.W_gate"]
    options = dict(sites=sites, keeps=[0.2], prepend_bos=False, progress=False)
    with tlt.truncated(model, outer):
        result = tlt.sweep(model, drinks, **options)
    assert result.baseline.record.cuts == (outer.to_json(),)
    for site in sites:
        both = tlt.evaluate(model, drinks, [outer, tlt.Cut(site, 0.2)], prepend_bos=False)
        found = result.scores(site, 0.2)
        assert found.record.cuts == both.record.cuts
        values = found.frame["logit_diff"].tolist()
        assert values == pytest.approx(both.frame["logit_diff"].tolist(), abs=1e-5), site


def test_controls_and_rules(shared, drinks):
    model = shared("bridge", "llama-grouped")
    keeps = [0.0, 8, 0.3, tlt.Energy(0.8), tlt.DropTop(3), tlt.Components([0, 5, 9]), tlt.Band(2, 20)]
    sites = ["blocks.1.mlp.W_out", "blocks.1.mlp.W_in", "blocks.0.attn.W_Q"]
    result = tlt.sweep(
        model,
        drinks,
        sites=sites,
        keeps=keeps,
        controls=["random_subspace", "norm_matched"],
        draws=1,
        prepend_bos=False,
        progress=False,
        seed=3,
    )
    assert len(result.settings) == 3 * (len(keeps) + 2 * (len(keeps) - 1))
    for setting in result.settings:
        full = tlt.evaluate(model, drinks, setting.cut, prepend_bos=False, progress=False).frame
        found = result.scores_of(setting.cut).frame
        values = found["logit_diff"].tolist()
        assert values == pytest.approx(full["logit_diff"].tolist(), abs=1e-5), setting.cut
        if isinstance(setting.cut, tlt.Cut):
            kept = len(tlt.spectrum(model, setting.cut.site).kept(setting.cut.keep))
            assert setting.rank == kept, setting.cut
    kinds = result.frame.groupby("kind").size().to_dict()
    assert kinds == {"Cut": 21, "NormMatched": 18, "RandomSubspace": 18}


def test_the_table(toy):
    task = PAIRS
    sites, keeps = ["blocks.2.mlp.W_out", "blocks.0.mlp.W_in"], [0.5, 0.0]
    metrics = ("accuracy", "p_in_context", "p_global", "logit_diff", "rank")
    result = tlt.sweep(toy, task, sites=sites, keeps=keeps, metrics=metrics, seed=4, progress=False)
    frame = result.frame
    assert frame[["site", "keep", "rank"]].values.tolist() == [
        ["blocks.2.mlp.W_out", 0.5, 16],
        ["blocks.2.mlp.W_out", 0.0, 0],
        ["blocks.0.mlp.W_in", 0.5, 16],
        ["blocks.0.mlp.W_in", 0.0, 0],
    ]
    assert frame["keep"].dtype == float
    for place, row in frame.iterrows():
        scores = tlt.evaluate(
            toy, task, tlt.Cut(row["site"], row["keep"]), seed=4, baseline=result.baseline
        )
        for metric in metrics:
            name = "answer_rank" if metric == "rank" else metric
            change = scores.change(metric)
            assert row[name] == pytest.approx(float(scores.estimate(metric)), abs=1e-5)
            assert row[f"{name}_se"] == pytest.approx(scores.estimate(metric).se, abs=1e-5)
            assert row[f"{name}_change"] == pytest.approx(float(change), abs=1e-5)
            assert row[f"{name}_change_se"] == pytest.approx(change.se, abs=1e-5)
            assert row[f"{name}_change_low"] == pytest.approx(change.low, abs=1e-5), place
            assert row[f"{name}_change_high"] == pytest.approx(change.high, abs=1e-5)
    assert "4 of 4 settings" in str(result)
    assert "test a pick on prompts of its own" in str(result)


class TestControlsAreDistributions:
    """Several draws of each share a row, and a verdict has both uncertainties."""

    @pytest.fixture(scope="class")
    def result(self, shared):
        model = shared("bridge", "gpt2", torch.float64)
        return tlt.sweep(
            model,
            PAIRS,
            sites=["blocks.1.mlp.W_out"],
            keeps=[0.0, 0.5, 1.0, tlt.Energy(1.0), tlt.Energy(0.7)],
            controls=["random_subspace"],
            seed=3,
            progress=False,
        )

    def test_sixteen_draws_of_one_site_share_a_row(self, result):
        frame = result.frame
        controls = frame[frame["kind"] == "RandomSubspace"]
        assert controls["draws"].tolist() == [16, 16]
        assert (frame.loc[frame["kind"] == "Cut", "draws"] == 1).all()
        draws = [tlt.RandomSubspace("blocks.1.mlp.W_out", 0.5, seed) for seed in range(3, 19)]
        changes = [float(result.scores_of(draw).change("p_global")) for draw in draws]
        row = controls.iloc[0]
        assert row["p_global_change"] == pytest.approx(np.mean(changes))
        assert row["p_global_change_spread"] == pytest.approx(np.std(changes, ddof=1))
        assert row["p_global_change_low"] < np.mean(changes) < row["p_global_change_high"]

    def test_draws_that_are_all_right_or_all_wrong_are_not_certain(self, result):
        row = result.frame[result.frame["kind"] == "RandomSubspace"].iloc[0]
        assert row["accuracy_high"] - row["accuracy_low"] > 0.3
        assert row["accuracy_change_high"] - row["accuracy_change_low"] > 0.3

    def test_a_control_that_is_the_cut_is_none(self, result):
        """Nothing or everything kept, also by a rule whose count the spectrum decides."""
        kept = set(result.frame.loc[result.frame["kind"] == "RandomSubspace", "keep"].astype(str))
        assert len(kept) == 2
        assert "0.5" in kept
        assert not {"0.0", "1.0"} & kept

    def test_the_verdict_beside_controls(self, result):
        table = result.beside_controls
        assert len(table) == 2 * len(result.metrics)
        row = table[(table["keep"].astype(str) == "0.5") & (table["metric"] == "p_global")].iloc[0]
        own = result.scores("blocks.1.mlp.W_out", 0.5).frame["p_global"]
        draws = [
            result.scores_of(tlt.RandomSubspace("blocks.1.mlp.W_out", 0.5, seed)).frame["p_global"]
            for seed in range(3, 19)
        ]
        found = estimate_against_draws(own, draws)
        assert (row["difference"], row["low"]) == pytest.approx((float(found), found.low))
        assert set(table["verdict"]) <= {"more", "less", "alike"}

    def test_few_draws_where_there_are_many_sites(self, shared):
        model = shared("bridge", "gpt2", torch.float64)
        sites = ["blocks.0.mlp.W_out", "blocks.1.mlp.W_out"]
        options = dict(sites=sites, keeps=[0.5], controls=["norm_matched"], progress=False)
        assert len(tlt.sweep(model, PAIRS, **options).grid) == 2 * (1 + 4)
        one = tlt.sweep(model, PAIRS, **options, draws=1)
        assert len(one.grid) == 4
        assert set(one.beside_controls["verdict"]) == {"none"}
        with pytest.raises(ValueError, match="draws must be an integer from 1 up"):
            tlt.sweep(model, PAIRS, **options, draws=0)


def test_q_is_among_all_changes_of_a_metric(toy):
    result = tlt.sweep(toy, PAIRS, keeps=[0.1, 0.5], progress=False)
    frame = result.frame
    p = [float(result.scores_of(cut).change("logit_diff").p) for cut in result.grid]
    assert frame["logit_diff_change_q"].to_numpy() == pytest.approx(stats.false_discovery_control(p))
    assert (frame["logit_diff_change_q"].to_numpy() >= np.array(p) - 1e-12).all()


def test_too_few_prompts_have_no_interval_and_no_verdict(toy, drinks):
    result = tlt.sweep(toy, drinks, sites=["blocks.1.mlp.W_in"], keeps=[0.1], progress=False)
    row = result.frame.iloc[0]
    assert np.isnan([row["p_global_change_low"], row["p_global_change_q"]]).all()
    assert "[n < 5]" in str(result)


def test_memory_is_bounded(toy, drinks, capsys):
    options = dict(sites=["blocks.1.mlp.W_in"], keeps=[0.2, 0.5], prepend_bos=False)
    free = tlt.sweep(toy, drinks, **options)
    assert "beside the model" in "".join(capsys.readouterr())
    with pytest.raises(ValueError, match=r"max_memory must be at least (\d+) bytes") as refused:
        tlt.sweep(toy, drinks, max_memory=1, **options)
    least = int(str(refused.value).split("at least ")[1].split()[0])
    tight = tlt.sweep(toy, drinks, max_memory=least, **options)
    for keep in (0.2, 0.5):
        one, other = (each.scores("blocks.1.mlp.W_in", keep).frame for each in (free, tight))
        assert one["logit_diff"].tolist() == pytest.approx(other["logit_diff"].tolist(), abs=1e-5)
    longest = max(len(each.prompt) for each in encode(toy, drinks, prepend_bos=False).prompts)
    # The least is that of these keeps, whose directions are counted.
    seen = count_work(toy, drinks, "blocks.1.mlp.W_in", keeps=[0.2, 0.5], max_memory=least)
    assert max(rows for _, rows, positions in seen if positions == longest) == 1
    # Two rows in two copies, of eight tokens at most, have been tried.
    assert max(rows * positions for _, rows, positions in seen) <= 4 * 8


def test_states_are_computed_anew_where_they_may_not_be_kept(toy, drinks):
    from tl_truncate.experiments.sweep.grid import make_grid
    from tl_truncate.experiments.sweep.work.engine import Engine
    from tl_truncate.experiments.sweep.work.memory import make_plan

    encoded = [encode(toy, drinks)]
    grid = make_grid(toy, None, [0.2, 0.5], (), 0)
    sites = list(dict.fromkeys(cut.site for cut in grid))
    found = []
    for remembers in ("blocks", "block", "nothing"):
        plan = make_plan(toy, encoded, sites, batch_size=1, tokens_in_flight=16, max_memory=None)
        engine = Engine(toy, [drinks], replace(plan, remembers=remembers))
        found.append([each for group in engine.run(grid) for each in group])
    assert found[0] == found[1] == found[2]


def test_the_same_call_gives_the_same_numbers_and_leaves_no_trace(toy, drinks):
    state = torch.get_rng_state()
    options = dict(sites=["blocks.1.mlp.W_in"], keeps=[0.2], controls=["random_subspace"], seed=2)
    first, second = (tlt.sweep(toy, drinks, progress=False, **options) for _ in range(2))
    assert first.frame.equals(second.frame)
    assert torch.equal(state, torch.get_rng_state())


@settings(max_examples=examples(25), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keeps=st.lists(st.integers(0, 32), min_size=1, max_size=5, unique=True),
    matrix=st.sampled_from(("W_in", "W_out", "W_gate")),
    strength=st.sampled_from((1.0, 0.5, -1.0)),
)
def test_stacked_edits_are_the_single_ones(shared, keeps, matrix, strength):
    """Shared coefficients, any number of ranks, any strength: as each edit by itself."""
    from tl_truncate.surgery.stack import stack
    from tl_truncate.weights.locate import locate

    model = shared("bridge", "llama-grouped", torch.float64)
    site = tlt.Site(1, matrix)
    linear = locate(model, site)
    y = torch.randn(2, 3, linear.shape[1], dtype=torch.float64, generator=torch.manual_seed(0))
    bias = torch.linspace(-1, 1, linear.shape[1], dtype=torch.float64)
    cuts = [tlt.Cut(site, keep, strength=strength) for keep in keeps]
    edits = stack(model, cuts).moved(y.device, y.dtype)
    single = torch.cat([cut.edit(model).apply(y, bias, None, strength) for cut in cuts])
    tall = y.repeat(len(cuts), 1, 1)
    for found in (
        edits.each(y, bias),
        edits.each(y, bias, edits.coefficients(y, bias)),
        edits.apply(tall, bias, None, 1.0),
        tall - edits.removed(tall - bias, None),
        bias + edits.kept(tall - bias, None),
    ):
        assert torch.allclose(found, single, atol=1e-12)
    part = edits.part(slice(1, None))
    if len(cuts) > 1:
        assert torch.allclose(part.each(y, bias), single[2:], atol=1e-12)
