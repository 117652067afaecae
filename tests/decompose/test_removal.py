"""Running without a part: as hooks, as a context, as cuts among cuts."""

import architectures
import pytest
import torch

import tl_truncate as tlt
from tl_truncate.surgery.controls import controls_of
from tl_truncate.surgery.surgeon import CutNotApplied

METHODS = ["token_mean", "context_ablation", "own_path", "spectral"]
MODELS = [("bridge", "neox-parallel"), ("bridge", "llama-grouped"), ("bridge", "no-norm")]
MODELS += [("hooked", "gpt2"), ("hooked", "llama-grouped")] if architectures.HOOKED else []


@pytest.fixture(scope="module")
def rows() -> torch.Tensor:
    """Four rows of eight tokens."""
    return torch.randint(3, 97, (4, 8), generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="module")
def options(shared, rows):
    """The arguments of a method for a model."""

    def get(kind, name, method):
        if method != "token_mean":
            return dict(method=method)
        model = shared(kind, name, torch.float64)
        return dict(method=method, means=tlt.TokenMeans.fit(model, rows, layers=[0, 1, 2]))

    return get


def by_hand(model, rows, layers, strength, parts, which="global_"):
    """Subtracts given parts at the MLPs' outputs, but not at position 0."""

    def hook_for(part):
        def hook(value, hook):
            value = value.clone()
            value[:, 1:] -= strength * part[:, 1:]
            return value

        return hook

    hooks = [
        (f"blocks.{layer}.hook_mlp_out", hook_for(getattr(parts[layer], which))) for layer in layers
    ]
    return model.run_with_hooks(rows, fwd_hooks=hooks)


@torch.no_grad()
@pytest.mark.parametrize(("kind", "name"), MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_context_and_hooks_subtract_the_part(shared, options, rows, kind, name, method):
    model, own = shared(kind, name, torch.float64), options(kind, name, method)
    parts = tlt.decompose_layers(model, rows, layers=[1], **own)
    for strength in (1.0, 0.5, -1.0):
        expected = by_hand(model, rows, [1], strength, parts)
        with tlt.without_global(model, 1, **own, strength=strength):
            found, cache = model.run_with_cache(rows)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
        hooks = tlt.global_removal_hooks(model, rows, [1], **own, strength=strength)
        again = model.run_with_hooks(rows, fwd_hooks=hooks)
        torch.testing.assert_close(again, expected, rtol=0, atol=1e-10)
        left = parts[1].mlp_out[:, 1:] - strength * parts[1].global_[:, 1:]
        torch.testing.assert_close(cache["blocks.1.hook_mlp_out"][:, 1:], left, rtol=0, atol=1e-10)
        first = cache["blocks.1.hook_mlp_out"][:, 0]
        torch.testing.assert_close(first, parts[1].mlp_out[:, 0], rtol=0, atol=1e-10)
    with tlt.without_in_context(model, [1], **own):
        found = model(rows)
    expected = by_hand(model, rows, [1], 1.0, parts, "in_context")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("method", ["token_mean", "own_path"])
def test_several_layers(shared, options, rows, method):
    """Each layer loses what it has in the model as it was, but for the token means, which are fixed."""
    model, own = shared("bridge", "gpt2", torch.float64), options("bridge", "gpt2", method)
    parts = tlt.decompose_layers(model, rows, layers=[0, 2], **own)
    with tlt.without_global(model, [0, 2], **own):
        found = model(rows)
    expected = by_hand(model, rows, [0, 2], 1.0, parts)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    with tlt.without_global(model, [0], **own), tlt.without_global(model, [2], **own):
        torch.testing.assert_close(model(rows), expected, rtol=0, atol=1e-10)


@torch.no_grad()
def test_with_cuts(shared, options, rows):
    """Behind a cut of W_out as after it: what is left of the output loses the part."""
    for kind, name in MODELS:
        model, own = shared(kind, name, torch.float64), options(kind, name, "token_mean")
        part = tlt.decompose_mlp(model, rows, 1, **own).global_
        cut = tlt.Cut("blocks.1.mlp.W_out", 5)
        with tlt.truncated(model, cut):
            _, cache = model.run_with_cache(rows)
            written = cache["blocks.1.hook_mlp_out"]
            with tlt.without_global(model, 1, **own):
                _, both = model.run_with_cache(rows)
        expected = written.clone()
        expected[:, 1:] -= part[:, 1:]
        torch.testing.assert_close(both["blocks.1.hook_mlp_out"], expected, rtol=0, atol=1e-10)
        together = [cut, tlt.GlobalRemoval(1, **own), tlt.Cut("blocks.0.mlp.W_in", 4)]
        with tlt.truncated(model, together):
            one = model(rows)
        with tlt.truncated(model, together[2]), tlt.truncated(model, together[:2]):
            torch.testing.assert_close(model(rows), one, rtol=0, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("method", METHODS)
def test_padding_in_front(shared, options, rows, method):
    """Position 0 is the first real token, and padding is left alone."""
    model, own = (
        shared("bridge", "neox-parallel", torch.float64),
        options("bridge", "neox-parallel", method),
    )
    padded = torch.cat([torch.ones(4, 3, dtype=torch.int64), rows], 1)
    mask = torch.cat([torch.zeros(4, 3), torch.ones(4, 8)], 1).long()
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    with tlt.without_global(model, 1, **own):
        expected = model(rows)
        found = model(padded, attention_mask=mask, position_ids=positions)
    torch.testing.assert_close(found[:, 3:], expected, rtol=0, atol=1e-8)


@torch.no_grad()
@pytest.mark.parametrize(("kind", "name"), MODELS)
def test_generation_with_a_cache_of_keys(shared, options, rows, kind, name):
    model = shared(kind, name, torch.float64)
    means = tlt.TokenMeans.fit(model, rows, layers=[1], bigrams=True)
    own = dict(means=means)
    settings = dict(max_new_tokens=5, do_sample=False, verbose=False, return_type="tokens")
    if name == "no-norm" and kind == "bridge":
        pytest.skip("TransformerLens' native model has no cache of keys")
    if (kind, name) == ("hooked", "gpt2"):
        pytest.skip("TransformerLens 3.9 places learnt positions wrongly with a cache, also without us")
    if kind == "bridge":
        model = architectures.with_tokenizer(model)
    else:
        settings["stop_at_eos"] = False
    uncut = [model.generate(rows[:1], use_past_kv_cache=cached, **settings) for cached in (True, False)]
    if not torch.equal(*uncut):
        pytest.skip("TransformerLens 4.3 ignores the cache of transformers 5.24, also without us")
    plain = rows[:1]
    for _ in range(5):
        with tlt.without_global(model, 1, **own):
            plain = torch.cat([plain, model(plain)[:, -1:].argmax(-1)], 1)
    with tlt.without_global(model, 1, **own):
        cached = model.generate(rows[:1], use_past_kv_cache=True, **settings)
    assert cached[0].tolist() == plain[0, : len(cached[0])].tolist()
    if kind == "hooked":
        with tlt.without_global(model, 1, **own):
            again = model.generate(rows[:1], use_past_kv_cache=False, **settings)
        assert again[0].tolist() == plain[0].tolist()
        by_own_path = rows[:1]
        with tlt.without_global(model, 1, "own_path"):
            for _ in range(5):
                by_own_path = torch.cat([by_own_path, model(by_own_path)[:, -1:].argmax(-1)], 1)
            again = model.generate(rows[:1], use_past_kv_cache=False, **settings)
        assert again[0].tolist() == by_own_path[0].tolist()
        with (
            tlt.without_global(model, 1, "own_path"),
            pytest.raises(CutNotApplied, match=r"must see whole prompts.*use_past_kv_cache=False"),
        ):
            model.generate(rows[:1], use_past_kv_cache=True, **settings)


class TestTheUsersHooks:
    """They see the pass that they are in, and no other."""

    @torch.no_grad()
    @pytest.mark.parametrize("method", METHODS)
    def test_each_fires_once(self, shared, options, rows, method):
        model, own = shared("bridge", "gpt2", torch.float64), options("bridge", "gpt2", method)
        calls = []

        def count(value, hook):
            calls.append(hook.name)

        names = ["blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"]
        with tlt.without_global(model, 1, **own):
            model.run_with_hooks(rows, fwd_hooks=[(name, count) for name in names])
        assert len(calls) == 2

    @torch.no_grad()
    def test_patches_come_after_the_part_is_found(self, shared, rows):
        model = shared("bridge", "gpt2", torch.float64)
        clean = tlt.decompose_mlp(model, rows, 1, "own_path").global_

        def patch(value, hook):
            return value * 0

        with tlt.without_global(model, 1, "own_path"), model.hooks([("blocks.0.hook_mlp_out", patch)]):
            _, cache = model.run_with_cache(rows, names_filter=None)
        with model.hooks([("blocks.0.hook_mlp_out", patch)]):
            _, uncut = model.run_with_cache(rows)
        left = cache["blocks.1.hook_mlp_out"][:, 1:]
        torch.testing.assert_close(
            left, (uncut["blocks.1.hook_mlp_out"] - clean)[:, 1:], rtol=0, atol=1e-10
        )

    def test_gradients_flow_past_what_is_removed(self, shared, options, rows):
        model, own = shared("bridge", "gpt2", torch.float64), options("bridge", "gpt2", "token_mean")
        grads, parts = [], {2: tlt.decompose_mlp(model, rows, 2, **own)}
        for context in (tlt.without_global(model, 2, **own), None):
            seen = {}

            def watch(value, hook, seen=seen):
                value.retain_grad()
                seen["stream"] = value

            with model.hooks([("blocks.0.hook_resid_post", watch)]):
                if context is None:
                    logits = by_hand(model, rows, [2], 1.0, parts)
                else:
                    with context:
                        logits = model(rows)
                logits[:, -1].square().sum().backward()
            grads.append(seen["stream"].grad)
            model.zero_grad()
        torch.testing.assert_close(grads[0], grads[1], rtol=1e-9, atol=1e-12)


class TestExperiments:
    """Wherever a cut is taken."""

    def test_evaluate_sweep_and_search(self, toy, drinks, rows, tmp_path):
        means = tlt.TokenMeans.fit(toy, rows, layers=[0, 1, 2])
        means.save(tmp_path / "means.safetensors")
        shares = tlt.component_shares(toy, "blocks.1.mlp.W_out", means)
        token = int(rows[0, 1])
        cuts = [
            tlt.GlobalRemoval(1, means=means),
            tlt.GlobalRemoval(2, "own_path", strength=0.5),
            tlt.InContextRemoval(1, "context_ablation"),
            tlt.GlobalDirection("blocks.1.mlp.W_out", means, token),
            tlt.Ablated("blocks.2.mlp.W_out"),
        ]
        result = tlt.sweep(
            toy,
            drinks,
            sites=["blocks.1.mlp.W_out"],
            keeps=[0.5, shares.without_most_global(3), shares.without_least_global(3)],
            cuts=cuts,
            run_dir=tmp_path / "run",
        )
        assert result.frame["kind"].tolist() == ["Cut"] * 3 + [type(cut).__name__ for cut in cuts]
        assert result.frame["keep"].tolist()[1:6] == [
            "Without(3 most global)",
            "Without(3 least global)",
            "token_mean",
            "own_path",
            "context_ablation",
        ]
        assert result.frame["rank"].tolist() == [16, 29, 29, 32, 32, 32, 31, 0]
        for cut in cuts:
            scores = tlt.evaluate(toy, drinks, cut)
            again = result.scores_of(cut)
            for metric in ("p_in_context", "p_global", "logit_diff"):
                assert scores.frame[metric].tolist() == pytest.approx(
                    again.frame[metric].tolist(), abs=1e-6
                )
                change = float(again.change(metric))
                assert abs(change) > 1e-6
        read = tlt.SweepResult.load(tmp_path / "run")
        assert read.frame.equals(result.frame)
        again = run_in(toy, rows, read.grid[3])
        torch.testing.assert_close(again, run_in(toy, rows, cuts[0]))
        found = tlt.search(toy, drinks, cuts=cuts, texts=(), greedy=2, run_dir=tmp_path / "search")
        assert set(found.cuts) <= set(cuts)
        assert found.settings["grid"] == "5 settings"

    def test_inside_a_context_nothing_is_replayed(self, toy, drinks, rows):
        means = tlt.TokenMeans.fit(toy, rows, layers=[1])
        sites = ["blocks.2.mlp.W_in"]
        with tlt.without_global(toy, 1, means=means):
            with pytest.warns(tlt.FullPassesWarning, match="reads the tokens at the embedding"):
                result = tlt.sweep(toy, drinks, sites=sites, keeps=[0.2])
            scores = tlt.evaluate(toy, drinks, tlt.Cut(sites[0], 0.2))
        assert float(result.scores(sites[0], 0.2).p_global) == pytest.approx(
            float(scores.p_global), abs=1e-6
        )
        assert scores.record.cuts[0]["kind"] == "GlobalRemoval"

    def test_cuts_as_json(self, toy, rows, tmp_path):
        means = tlt.TokenMeans.fit(toy, rows, layers=[1])
        token = int(rows[0, 1])
        cuts = tlt.Cuts(
            tlt.GlobalRemoval(1, means=means, strength=0.5),
            tlt.InContextRemoval(2, "spectral", keep=tlt.Energy(0.9)),
            tlt.GlobalDirection("blocks.1.mlp.W_out", means, token),
            tlt.Cut("blocks.0.mlp.W_in", tlt.Without([3, 1], "two")),
        )
        cuts.save(tmp_path / "cuts.json")
        again = tlt.Cuts.load(tmp_path / "cuts.json")
        assert [repr(cut) for cut in again] == [repr(cut) for cut in cuts]
        assert again[1:] == cuts[1:]
        with pytest.raises(ValueError, match="must have been saved to be used again"):
            run_in(toy, rows, again[0])
        means.save(tmp_path / "means.safetensors")
        tlt.Cuts(cuts).save(tmp_path / "cuts.json")
        torch.testing.assert_close(
            run_in(toy, rows, tlt.Cuts.load(tmp_path / "cuts.json")[0]), run_in(toy, rows, cuts[0])
        )
        tlt.TokenMeans.fit(toy, rows, layers=[1], kappa=1).save(tmp_path / "means.safetensors")
        with pytest.raises(ValueError, match="must be those that the cut was made with"):
            run_in(toy, rows, tlt.Cuts.load(tmp_path / "cuts.json")[0])


@torch.no_grad()
def run_in(model, rows, cut):
    with tlt.truncated(model, cut):
        return model(rows)


class TestTargeted:
    """Cuts of the components that carry the global part."""

    def test_all_components_removed_is_the_ablation(self, shared, rows):
        model = shared("bridge", "gpt2", torch.float64)
        means = tlt.TokenMeans.fit(model, rows, layers=[1])
        site = "blocks.1.mlp.W_out"
        shares = tlt.component_shares(model, site, means)
        found = run_in(model, rows, tlt.Cut(site, shares.without_most_global(32)))
        torch.testing.assert_close(found, run_in(model, rows, tlt.Ablated(site)), rtol=0, atol=1e-12)
        order = shares.order.tolist()
        assert shares.values[order].tolist() == sorted(shares.values.tolist(), reverse=True)
        assert shares.without_most_global(3).components == tuple(sorted(order[:3]))
        assert shares.without_least_global(3).components == tuple(sorted(order[-3:]))
        above = shares.without_above(float(shares.values[order[4]]))
        assert above.components == tuple(sorted(order[:4]))
        assert shares.to_frame()["energy_share"].sum() == pytest.approx(1)

    @pytest.mark.parametrize(("kind", "name"), MODELS)
    @torch.no_grad()
    def test_the_direction_is_projected_out(self, shared, rows, kind, name):
        model = shared(kind, name, torch.float64)
        site, token = "blocks.1.mlp.W_out", int(rows[0, 1])
        means = tlt.TokenMeans.fit(model, rows, layers=[1])
        bias = tlt.decompose_mlp(model, rows, 1, "spectral").bias[0, 0]
        direction = means.of_tokens(site, torch.tensor(token)) - bias
        direction = direction / direction.norm()
        with tlt.truncated(model, tlt.GlobalDirection(site, means, token)):
            _, cache = model.run_with_cache(rows)
        _, uncut = model.run_with_cache(rows)
        written = uncut["blocks.1.hook_mlp_out"] - bias
        expected = bias + written - (written @ direction)[..., None] * direction
        torch.testing.assert_close(cache["blocks.1.hook_mlp_out"], expected, rtol=0, atol=1e-10)

    def test_refusals(self, toy, rows):
        site = "blocks.1.mlp.W_out"
        means = tlt.TokenMeans.fit(toy, rows, layers=[1])
        bare = tlt.TokenMeans.fit(toy, rows, layers=[1], shares=False)
        unseen = next(token for token in range(97) if not int(means.counts(site, torch.tensor([token]))))
        cases = [
            (lambda: tlt.component_shares(toy, site, bare), ValueError, "shares=False"),
            (lambda: tlt.component_shares(toy, "blocks.0.mlp.W_in", means), ValueError, "sites="),
            (
                lambda: tlt.component_shares(toy, site, means, unseen),
                ValueError,
                f"got {unseen}, which was not",
            ),
            (lambda: tlt.GlobalDirection(site, means, " the"), TypeError, "to_single_token"),
            (lambda: tlt.GlobalDirection(site, None, 3), TypeError, "means must be a TokenMeans"),
            (
                lambda: tlt.component_shares(toy, site, means).without_most_global(33),
                ValueError,
                "0 to 32",
            ),
            (
                lambda: tlt.GlobalRemoval("blocks.1.mlp.W_in", means=means),
                ValueError,
                "must be an MLP's W_out",
            ),
            (
                lambda: tlt.truncation_hooks(toy, tlt.GlobalRemoval(1, "own_path")),
                ValueError,
                "plain hooks",
            ),
        ]
        for call, error, wording in cases:
            with pytest.raises(error, match=wording):
                call()

    @torch.no_grad()
    def test_without_tokens_it_says_so(self, shared, rows):
        model = shared("bridge", "gpt2", torch.float64)
        with tlt.truncated(model, tlt.GlobalRemoval(1, "spectral")):
            stream = torch.zeros(1, 4, 32, dtype=torch.float64)
            with pytest.raises(CutNotApplied, match="did not go by"):
                model.blocks[1](stream)

    @torch.no_grad()
    def test_hooks_fit_their_tokens_alone(self, shared, rows):
        model = shared("bridge", "gpt2", torch.float64)
        hooks = tlt.global_removal_hooks(model, rows, [1], "spectral")
        with pytest.raises(ValueError, match=r"shape \(4, 8\), got \(4, 7\)"):
            model.run_with_hooks(rows[:, :7], fwd_hooks=hooks)


class TestControls:
    """As much, of no particular meaning."""

    def test_exchanged_tokens_are_others(self, toy, rows):
        means = tlt.TokenMeans.fit(toy, rows, layers=[1])
        site = "blocks.1.mlp.W_out"
        seen = rows[:, 1:].unique()
        found = means.exchanged(site, seen, seed=3)
        assert sorted(found.tolist()) == seen.tolist()
        assert bool((found != seen).all())
        assert torch.equal(found, means.exchanged(site, seen, seed=3))
        unseen = torch.tensor([token for token in range(97) if token not in seen.tolist()])
        assert torch.equal(means.exchanged(site, unseen, seed=3), unseen)
        cut = tlt.GlobalRemoval(1, means=means)
        control = cut.controls(3)["ExchangedTokens"]
        _, cache = toy.run_with_cache(rows)
        with tlt.truncated(toy, control):
            _, changed = toy.run_with_cache(rows)
        expected = cache["blocks.1.hook_mlp_out"] - means.global_part(
            site, means.exchanged(site, rows, seed=3)
        )
        torch.testing.assert_close(
            changed["blocks.1.hook_mlp_out"][:, 1:], expected[:, 1:].float(), rtol=0, atol=1e-5
        )

    def test_which_controls_a_cut_has(self, toy, rows):
        means = tlt.TokenMeans.fit(toy, rows, layers=[1])
        site, token = "blocks.1.mlp.W_out", int(rows[0, 1])
        direction = tlt.GlobalDirection(site, means, token)
        assert list(direction.controls(0)) == ["RandomSubspace"]
        assert direction.controls(0)["RandomSubspace"].kept_rank(toy) == 31
        assert list(tlt.Cut(site, 3).controls(0)) == ["RandomSubspace", "NormMatched"]
        assert tlt.GlobalRemoval(1, "own_path").controls(0) == {}
        both = [direction, tlt.Cut("blocks.0.mlp.W_in", 3)]
        assert list(controls_of(toy, both, seed=1)) == ["RandomSubspace"]
        assert controls_of(toy, [*both, tlt.GlobalRemoval(1, means=means)], seed=1) == {}
