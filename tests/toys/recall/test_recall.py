"""Three trained models, and everything about the training that can be checked against another path."""

import architectures
import numpy as np
import pandas as pd
import pytest
import recall_models
import torch
import torch.nn.functional as F
from children import killed_often

import tl_truncate as tlt
from tl_truncate.toys import RecallConfig, RecallData, RecallRun, recall_task, train_recall
from tl_truncate.toys.recall.model import TRAINED, tensors
from tl_truncate.toys.recall.probes import Probes, truncations
from tl_truncate.toys.recall.train import make_optimizer, recall_loss
from tl_truncate.toys.training import log_spaced
from tl_truncate.weights.locate import find_sites

BACKENDS = ["bridge"] if architectures.HookedTransformer is None else ["bridge", "hooked"]
TINY = RecallConfig.small(d_model=24, length=20, batch_size=6, steps=12, eval_size=10)


@pytest.fixture(scope="module", params=recall_models.SEEDS)
def trained(request) -> RecallRun:
    """The small preset, as training left it."""
    return recall_models.small(request.param).stored()


class TestTheSmallPreset:
    """What the paper found, on three seeds."""

    def test_noise_comes_first_and_recall_later(self, trained):
        print(trained)
        assert trained.noise_learnt < trained.recall_learnt <= 200
        # Not only for a moment: while recall is absent, the noise is already what the model says.
        history = trained.history.set_index("step")
        before = history[(history.index >= 32) & (history["accuracy"] < 0.25)]
        assert len(before) >= 3
        assert (before["p_noise"] > 0.4).all()

    def test_the_full_model_says_both(self, trained):
        last = trained.history.iloc[-1]
        assert last["p_noise"] == pytest.approx(0.5, abs=0.07)
        assert last["p_correct"] == pytest.approx(0.5, abs=0.07)
        assert 0.3 < last["accuracy"] < 0.75

    def test_without_the_last_mlp_it_recalls(self, trained):
        last = trained.history.iloc[-1]
        assert last["accuracy_mlp1_dropped"] >= 0.75
        assert last["p_noise_mlp1_dropped"] <= 0.1
        assert last["p_correct_mlp1_dropped"] > last["p_correct"] + 0.2

    def test_the_mlp_holds_the_noise_and_the_attention_the_target(self, trained):
        last = trained.history.iloc[-1]
        assert last["margin_ff1"] > 1
        assert last["attention_correct"] > 0.7
        assert last["attention_noise"] < 0.15
        assert last["induction"] == pytest.approx(last["attention_correct"] + last["attention_noise"])
        first = trained.history.iloc[0]
        assert last["previous_token"] > first["previous_token"] + 0.15

    def test_the_rest_of_the_package_takes_it(self, trained):
        task = trained.task(80, seed=7)
        scores = tlt.evaluate(trained.model, task, tlt.Ablated("blocks.1.mlp.W_out"), progress=False)
        assert scores.accuracy >= 0.75
        assert scores.p_global <= 0.1
        assert scores.change("p_in_context").low > 0.2
        result = tlt.sweep(
            trained.model, task, sites=["blocks.1.mlp.W_in"], keeps=[0.0, 0.1, 0.5], progress=False
        )
        dropped = result.scores("blocks.1.mlp.W_in", 0.0)
        assert float(dropped.p_in_context) == pytest.approx(float(scores.p_in_context), abs=1e-5)
        found = tlt.search(
            trained.model,
            task,
            sites=["blocks.1.mlp.W_in", "blocks.0.mlp.W_in"],
            objective="logit_diff",
            max_perplexity_ratio=None,  # it reads no running text
            texts=(),
            progress=False,
        )
        assert found.survives
        assert found.cuts[0].site.layer == 1

    def test_dynamics_over_its_checkpoints(self, trained):
        history = tlt.dynamics(
            trained.at,
            [0, 32, 64, 400],
            trained.task(60, seed=3),
            {"without the last MLP": tlt.Ablated("blocks.1.mlp.W_out")},
            progress=False,
        )
        global_, in_context = (
            history.first_step(metric, 0.3) for metric in ("p_global", "p_in_context")
        )
        assert global_ < in_context
        assert history.first_step("p_in_context", 0.7) is None
        assert history.first_step("p_in_context", 0.7, name="without the last MLP") == 400
        last = tlt.evaluate(trained.model, history.task, progress=False)
        assert history.scores(400).frame["p_global"].tolist() == pytest.approx(
            last.frame["p_global"].tolist(), abs=1e-6
        )


def reference_step(weights, velocity, batch, *, rate, momentum, decay):
    """The published model and update rule, written out: two blocks, then SGD with momentum and decay."""
    leaves = {name: value.clone().requires_grad_() for name, value in weights.items()}
    tokens = torch.from_numpy(batch.inputs.copy())
    width = leaves["W_E"].shape[1]
    stream = leaves["W_E"][tokens] + leaves["W_pos"][: tokens.shape[1]]
    mask = torch.full((tokens.shape[1],) * 2, -torch.inf, dtype=stream.dtype).triu(1)
    for layer in (0, 1):
        key, value, out = (leaves[f"blocks.{layer}.attn.{name}"] for name in ("W_K", "W_V", "W_O"))
        scores = (
            stream @ (stream @ key).transpose(1, 2) / width**0.5 + mask
        )  # the queries are the stream
        stream = stream + scores.softmax(-1) @ (stream @ value) @ out
        up, down = (leaves[f"blocks.{layer}.mlp.{name}"] for name in ("W_in", "W_out"))
        stream = stream + (stream @ up).relu() @ down
    logits = stream @ leaves["W_U"]
    seen = torch.from_numpy(batch.recalled)
    loss = F.cross_entropy(logits[seen], torch.from_numpy(batch.labels.copy())[seen])
    loss.backward()
    for name, leaf in leaves.items():
        if name.split(".")[-1] not in TRAINED:
            continue
        update = leaf.grad + decay * weights[name]
        velocity[name] = momentum * velocity[name] + update if name in velocity else update
        weights[name] = weights[name] - rate * velocity[name]
    return float(loss.detach())


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_official_preset_takes_the_published_steps(backend):
    config = RecallConfig.official(batch_size=4, steps=3, eval_size=2, dtype="float64", backend=backend)
    assert (config.d_model, config.data.length, config.data.n_triggers, config.data.alpha) == (
        256,
        256,
        1,
        0.5,
    )
    assert (config.optimizer, config.learning_rate, config.momentum, config.weight_decay) == (
        "sgd",
        0.03,
        0.9,
        1e-4,
    )
    assert (RecallConfig.official().batch_size, RecallConfig.official().steps) == (512, 5000)
    run = train_recall(config, progress=False)
    weights, velocity, losses = tensors(run.at(0)), {}, []
    for step in range(3):
        batch = config.data.sample(4, seed=(0, step))
        losses.append(reference_step(weights, velocity, batch, rate=0.03, momentum=0.9, decay=1e-4))
    # The history's losses are those before each look: after step 1, 2 (of 0, 1, 2, 3).
    assert run.history["step"].tolist() == [0, 1, 2, 3]
    assert run.history["loss"].tolist()[1:] == pytest.approx(losses, abs=1e-9)
    for name, value in tensors(run.model).items():
        assert torch.allclose(value, weights[name], atol=1e-9, rtol=0), name


def test_the_official_initialisation():
    model = train_recall(RecallConfig.official(batch_size=1, steps=1, eval_size=1), progress=False).at(0)
    weights = tensors(model)
    assert torch.equal(weights["blocks.0.attn.W_Q"], torch.eye(256))
    for name in ("W_E", "W_pos"):
        error = weights[name].numel() ** -0.5  # of the mean of standard normals
        assert float(weights[name].mean()) == pytest.approx(0, abs=4 * error)
        assert float(weights[name].std()) == pytest.approx(1, abs=4 * error)
    for name, n_in in {"W_U": 256, "blocks.1.attn.W_V": 256, "blocks.0.mlp.W_out": 1024}.items():
        assert float(weights[name].abs().max()) <= n_in**-0.5
        assert float(weights[name].std()) == pytest.approx((3 * n_in) ** -0.5, rel=0.05)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("loss", ["triggers", "everywhere"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_only_the_named_weights_are_trained(backend, loss, optimizer):
    run = train_recall(TINY.changed(backend=backend, loss=loss, optimizer=optimizer), progress=False)
    before, after = tensors(run.at(0)), tensors(run.model)
    for name, value in before.items():
        assert torch.equal(value, after[name]) == (name.split(".")[-1] not in TRAINED), name
    trained = sum(each.numel() for each in run.model.parameters() if each.requires_grad)
    assert trained == sum(
        tensors(run.model)[str(site)].numel() for site in find_sites(run.model, TRAINED)
    )
    # Whatever is not a weight with a name is a bias, and zero.
    assert sum(float(each.detach().abs().sum()) for each in run.model.parameters()) == pytest.approx(
        sum(float(each.abs().sum()) for each in after.values()), rel=1e-6
    )


@pytest.mark.skipif(len(BACKENDS) == 1, reason="TransformerLens 4 has only the Bridge")
def test_both_classes_train_alike():
    runs = [
        train_recall(TINY.changed(backend=each, dtype="float64"), progress=False) for each in BACKENDS
    ]
    pd.testing.assert_frame_equal(runs[0].history, runs[1].history, atol=1e-8, rtol=0)


def test_a_loss_by_hand():
    model = train_recall(TINY.changed(steps=1, dtype="float64"), progress=False).model
    batch = TINY.data.sample(5, seed=1)
    with torch.no_grad():
        logs = model(torch.from_numpy(batch.inputs.copy())).log_softmax(-1)
    losses = {"triggers": [], "everywhere": []}
    for row in range(5):
        for position in range(20):
            value = -float(logs[row, position, batch.labels[row, position]])
            losses["everywhere"].append(value)
            if batch.occurrence[row, position] >= 2:
                losses["triggers"].append(value)
    for name, values in losses.items():
        found = float(recall_loss(model, TINY.changed(loss=name), batch).detach())
        assert found == pytest.approx(np.mean(values), abs=1e-12)


def test_probes_by_loops():
    run = train_recall(TINY.changed(dtype="float64"), progress=False)
    model, data = run.model, TINY.data
    probes = Probes(data, 10, 0)
    found = probes.measure(model)
    assert found == pytest.approx(run.history.iloc[-1].drop(["step", "loss"]).to_dict(), abs=1e-9)
    weights = tensors(model)
    embedding = weights["W_E"][data.fixed_triggers[0]]
    first, second = (
        lambda x, layer=layer: (
            (x @ weights[f"blocks.{layer}.mlp.W_in"]).clamp_min(0) @ weights[f"blocks.{layer}.mlp.W_out"]
        )
        for layer in (0, 1)
    )
    for name, out in {
        "ff0": first(embedding),
        "ff1": second(embedding),
        "ff0_ff1": second(first(embedding)),
    }.items():
        logits = (out @ weights["W_U"]).tolist()
        noise = logits.pop(data.noise_token)
        assert found[f"margin_{name}"] == pytest.approx(noise - max(logits), abs=1e-9)
    batch = probes.noisy
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.from_numpy(batch.inputs.copy()))
    previous, correct, noise = [], [], []
    for row, tokens in enumerate(batch.inputs.tolist()):
        first, last = (cache[f"blocks.{layer}.attn.hook_pattern"][row, 0] for layer in (0, 1))
        previous += [float(first[position, position - 1]) for position in range(1, 20)]
        for query in np.flatnonzero(batch.recalled[row]):
            keys = [key for key in range(1, query + 1) if tokens[key - 1] == tokens[query]]
            noise.append(sum(float(last[query, key]) for key in keys if tokens[key] == data.noise_token))
            correct.append(
                sum(float(last[query, key]) for key in keys if tokens[key] != data.noise_token)
            )
    expected = dict(previous_token=previous, attention_correct=correct, attention_noise=noise)
    for name, values in expected.items():
        assert found[name] == pytest.approx(np.mean(values), abs=1e-9)


def test_truncated_columns_are_in_place_edits():
    run = train_recall(TINY.changed(dtype="float64"), progress=False)
    probes = Probes(TINY.data, 10, 0)
    for name, cut in truncations(2):
        edited = run.at(12)
        weight = tensors(edited)[str(cut.site)]
        u, s, v = np.linalg.svd(weight.numpy(), full_matrices=False)
        kept = int(cut.keep.rho * 24)
        weight.copy_(torch.from_numpy((u[:, :kept] * s[:kept]) @ v[:kept]))
        with torch.no_grad():
            scores = probes.scores(edited)
        for metric, value in scores.items():
            assert run.history.iloc[-1][f"{metric}_{name}"] == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_killed_and_resumed_it_is_the_same_to_the_bit(tmp_path, optimizer):
    config = TINY.changed(optimizer=optimizer, steps=60)
    whole = train_recall(config, progress=False)
    folder = tmp_path / "run"
    kills = killed_often(
        lambda: train_recall(config, run_dir=folder, resume=True, progress=False),
        times=4,
        first=0.15,
        later=0.05,
    )
    assert kills >= 2
    resumed = train_recall(config, run_dir=folder, resume=True, progress=False)
    pd.testing.assert_frame_equal(resumed.history, whole.history, check_exact=True)
    assert resumed.checkpoints == whole.checkpoints == log_steps(60)
    for run in (resumed, RecallRun.load(folder)):
        for step in (0, 4, 60):
            one, other = tensors(run.at(step)), tensors(whole.at(step))
            assert all(torch.equal(one[name], other[name]) for name in other)
    assert tlt.evaluate(resumed.at(60), resumed.task(3), progress=False).record.model.endswith("@step60")


def log_steps(steps: int) -> tuple[int, ...]:
    fine = [step for step in log_spaced(steps, per_octave=4) if step > 16]
    return tuple(sorted({*log_spaced(steps), *fine}))


def test_a_folder_holds_one_run(tmp_path):
    train_recall(TINY.changed(steps=2), run_dir=tmp_path / "a", progress=False)
    with pytest.raises(ValueError, match="must be new without resume"):
        train_recall(TINY.changed(steps=2), run_dir=tmp_path / "a", progress=False)
    with pytest.raises(ValueError, match=r"differs in: config.seed \(0 in the folder, 5 now\)"):
        train_recall(TINY.changed(steps=2, seed=5), run_dir=tmp_path / "a", resume=True, progress=False)
    with pytest.raises(ValueError, match="resume must go with the run_dir"):
        train_recall(TINY, resume=True, progress=False)


def test_configurations_go_through_json():
    config = RecallConfig.small(alpha=0.3, seed=4, n_triggers=2, triggers="random", loss="everywhere")
    again = RecallConfig.from_json(config.to_json())
    assert again.to_json() == config.to_json()
    assert again.hash == config.hash != RecallConfig.small(alpha=0.3).hash
    assert (again.data.table.conditional == config.data.table.conditional).all()


def test_random_triggers_and_several_of_them_train():
    run = train_recall(TINY.changed(n_triggers=2, triggers="random", steps=2), progress=False)
    assert len(run.history) == 3
    assert np.isfinite(run.history["loss"].iloc[1:]).all()
    assert len(run.task(5)) == 5


def test_first_steps():
    run = train_recall(TINY.changed(steps=4), progress=False)
    run.history["p_noise"] = [0.0, 0.5, 0.3, 0.6]
    assert run.history["step"].tolist() == [0, 1, 2, 4]
    assert run.first_step("p_noise", 0.4) == run.noise_learnt == 1
    assert run.first_step("p_noise", 0.55) == 4
    assert run.first_step("p_noise", 0.9) is None


def test_prompts_end_in_a_trigger_seen_before():
    data = RecallData(TINY.data.table, length=40)
    task = recall_task(data, 30, seed=2)
    assert len(task) == 30
    for prompt, answer in zip(task.prompts, task.in_context, strict=True):
        assert len(prompt) == 40
        assert prompt[-1] == 1
        assert prompt[-1] in prompt[:-1]
        place = prompt.index(1)
        assert prompt[place + 1] == answer[0] != data.noise_token
    assert recall_task(data, 30, seed=2) == task != recall_task(data, 30, seed=3)


def test_the_global_random_state_is_left_alone():
    torch.manual_seed(0), np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    train_recall(TINY.changed(steps=1), progress=False)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(optimizer="adam"), "optimizer must be one of sgd, adamw, got 'adam'"),
        (dict(steps=0), "steps must be an integer from 1 up"),
        (dict(learning_rate=-1.0), "learning_rate must be positive"),
        (dict(temperature=1), r"A change must be of one of .*alpha.*, got temperature"),
        (dict(dtype="bfloat16"), "dtype must be one of float32, float64"),
    ],
)
def test_bad_configurations(changes, message):
    with pytest.raises(ValueError, match=message):
        RecallConfig.small(**changes)


def test_bad_calls(tmp_path):
    with pytest.raises(TypeError, match="config must be a RecallConfig"):
        train_recall("small")
    with pytest.raises(ValueError, match="checkpoints must be steps from 0 to 12, got 13"):
        train_recall(TINY, checkpoints=(13,), progress=False)
    run = train_recall(TINY.changed(steps=1), progress=False)
    with pytest.raises(ValueError, match="The step must be one of 0, 1, got 7"):
        run.at(7)
    with pytest.raises(ValueError, match=r"must hold manifest\.json"):
        RecallRun.load(tmp_path)
    with pytest.raises(ValueError, match=r"more frequent trigger|longer sequences"):
        recall_task(RecallData(TINY.data.table, length=1), 1)


def test_a_diverging_run_says_so():
    with pytest.raises(FloatingPointError, match="Lower the learning rate"):
        train_recall(TINY.changed(optimizer="sgd", learning_rate=1e6, steps=40), progress=False)


def test_the_optimizer_is_the_one_named():
    model = train_recall(TINY.changed(steps=1), progress=False).model
    assert isinstance(make_optimizer(model, TINY.changed(optimizer="sgd")), torch.optim.SGD)
    assert isinstance(make_optimizer(model, TINY), torch.optim.AdamW)
