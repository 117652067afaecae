"""The laws of the four methods, each against another path, on every architecture."""

import architectures
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tl_truncate as tlt
from tl_truncate.decompose.ablation import ablated_pattern
from tl_truncate.decompose.own_path import source_streams
from tl_truncate.weights.locate import locate
from tl_truncate.weights.site import Site

METHODS = ["token_mean", "context_ablation", "own_path", "spectral"]


@pytest.fixture(scope="module")
def rows() -> torch.Tensor:
    """Six rows of nine tokens."""
    return torch.randint(3, 97, (6, 9), generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def fitted(shared, rows):
    """Means without shrinkage, in-sample, by model."""
    made = {}

    def get(kind, name, dtype=torch.float64):
        if (kind, name, dtype) not in made:
            made[kind, name, dtype] = tlt.TokenMeans.fit(shared(kind, name, dtype), rows, kappa=0)
        return made[kind, name, dtype]

    return get


def mlp_out(model, tokens, layer):
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens, names_filter=f"blocks.{layer}.hook_mlp_out")
    return cache[f"blocks.{layer}.hook_mlp_out"]


def split(method, means):
    return dict(method=method, means=means if method == "token_mean" else None)


@pytest.mark.parametrize(("kind", "name"), architectures.CASES)
@pytest.mark.parametrize("method", METHODS)
def test_the_parts_are_the_output(shared, fitted, rows, kind, name, method):
    model = shared(kind, name, torch.float64)
    found = tlt.decompose_layers(model, rows, **split(method, fitted(kind, name)))
    assert sorted(found) == [0, 1, 2]
    for layer, parts in found.items():
        expected = mlp_out(model, rows, layer)
        torch.testing.assert_close(parts.global_ + parts.in_context, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(sum(parts.terms.values()), expected, rtol=0, atol=1e-12)
        alone = tlt.decompose_mlp(model, rows, layer, **split(method, fitted(kind, name)))
        torch.testing.assert_close(alone.global_, parts.global_, rtol=0, atol=1e-12)
        if method == "token_mean":
            together = parts.corpus_mean + parts.token
            torch.testing.assert_close(together, parts.global_, rtol=0, atol=1e-12)
            mean = fitted(kind, name).corpus_mean(f"blocks.{layer}.mlp.W_out")
            torch.testing.assert_close(parts.corpus_mean, mean.expand_as(expected))


@pytest.mark.parametrize(
    ("kind", "name"), [*(("bridge", name) for name in architectures.SPECIAL), *architectures.WINDOWED]
)
def test_on_further_architectures(shared, rows, kind, name):
    """The parts are the output, or it is said why there are none."""
    model = shared(kind, name, torch.float64)
    rounding = (
        1e-6 if (kind, name) == ("bridge", "gptneo-local") else 1e-12
    )  # its attention is in float32
    for method in METHODS[1:]:
        if name == "gpt1":
            with pytest.raises(ValueError, match=r"must be visible.*cannot be decomposed"):
                tlt.decompose_mlp(model, rows, 1, method)
            continue
        if (kind, name, method) == ("bridge", "gptneo-local", "context_ablation"):
            with pytest.raises(ValueError, match="must show its pattern before it acts"):
                tlt.decompose_mlp(model, rows, 1, method)
            continue
        for layer, parts in tlt.decompose_layers(model, rows, method=method).items():
            expected = mlp_out(model, rows, layer).view(6, 9, -1)  # OPT has all positions in one axis
            torch.testing.assert_close(sum(parts.terms.values()), expected, rtol=0, atol=rounding)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_other_precisions(shared, fitted, rows, dtype, method):
    model = shared("bridge", "neox-parallel", dtype)
    means = tlt.TokenMeans.fit(model, rows, layers=[1])
    parts = tlt.decompose_mlp(model, rows, 1, **split(method, means))
    expected = mlp_out(model, rows, 1).float()
    assert parts.global_.dtype == torch.float32
    torch.testing.assert_close(parts.mlp_out, expected, rtol=1e-5, atol=1e-5)
    exact = tlt.decompose_mlp(
        shared("bridge", "neox-parallel", torch.float64),
        rows,
        1,
        **split(
            method,
            tlt.TokenMeans.fit(shared("bridge", "neox-parallel", torch.float64), rows, layers=[1]),
        ),
    )
    allowed = 1e-4 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(parts.global_.double(), exact.global_, rtol=0, atol=allowed)


@pytest.mark.parametrize(("kind", "name"), architectures.CASES)
def test_in_sample_means_leave_nothing_on_average(shared, fitted, rows, kind, name):
    parts = tlt.decompose_mlp(shared(kind, name, torch.float64), rows, 1, means=fitted(kind, name))
    current, valid = parts.tokens[parts.valid], parts.valid
    assert valid.tolist() == [[False] + [True] * 8] * 6
    for token in current.unique():
        left = parts.in_context[valid][current == token].mean(0)
        assert float(left.abs().max()) < 1e-10

    def variance(part):
        return (part[valid] - part[valid].mean(0)).square().sum()

    both = variance(parts.global_) + variance(parts.in_context)
    torch.testing.assert_close(both, variance(parts.mlp_out), rtol=1e-9, atol=0)


@pytest.mark.parametrize("kind", sorted({kind for kind, _ in architectures.CASES}))
@pytest.mark.parametrize("method", METHODS[:3])
def test_the_first_mlp_of_a_parallel_rotary_model_has_no_context(shared, fitted, rows, kind, method):
    model = shared(kind, "neox-parallel", torch.float64)
    if method == "token_mean":  # position 0 counts for nothing, and its token may be seen nowhere else
        parts = tlt.decompose_mlp(model, rows, 0, means=fitted(kind, "neox-parallel"))
        assert float(parts.in_context[:, 1:].abs().max()) < 1e-10
    else:
        parts = tlt.decompose_mlp(model, rows, 0, method)
        assert float(parts.in_context.abs().max()) < 1e-10


@torch.no_grad()
@pytest.mark.parametrize("method", ["own_path", "context_ablation", "token_mean"])
@pytest.mark.parametrize(
    ("kind", "name"), [case for case in architectures.CASES if case[1] != "no-norm"]
)
def test_where_the_results_of_heads_are_computed(shared, fitted, rows, kind, name, method):
    model = shared(kind, name, torch.float64)
    means = fitted(kind, name) if method == "token_mean" else None
    expected = tlt.decompose_mlp(model, rows, 1, method, means=means)
    model.set_use_attn_result(True)
    try:
        found = tlt.decompose_mlp(model, rows, 1, method, means=means)
    finally:
        model.set_use_attn_result(False)
    rounding = 1e-6 if "llama" in name else 1e-9  # its norms compute in float32
    for term, value in expected.terms.items():
        torch.testing.assert_close(found.terms[term], value, rtol=0, atol=rounding)


class TestContextAblation:
    """Against prompts that are really shorter."""

    @pytest.mark.parametrize(("kind", "name"), architectures.CASES)
    def test_itself_and_position_0_is_the_shortened_prompt(self, shared, rows, kind, name):
        model = shared(kind, name, torch.float64)
        parts = tlt.decompose_layers(model, rows, method="context_ablation")
        for layer, own in parts.items():
            short = mlp_out(model, rows[:, :2], layer)
            torch.testing.assert_close(own.global_[:, :2], short, rtol=0, atol=1e-10)

    @pytest.mark.parametrize(
        ("kind", "name"), [case for case in architectures.CASES if "neox" in case[1]]
    )
    def test_rotary_positions_matter_only_by_their_distance(self, shared, rows, kind, name):
        """Far positions are compared with a two-token prompt that is placed as far apart."""
        model = shared(kind, name, torch.float64)
        parts = tlt.decompose_layers(model, rows, method="context_ablation")
        # Repeating position 0's token in between changes nothing for a position that may not see it.
        other = rows.clone()
        other[:, 1:6] = 7
        changed = tlt.decompose_layers(model, other, method="context_ablation")
        for layer in parts:
            assert torch.equal(parts[layer].global_[:, 6:], changed[layer].global_[:, 6:])

    def test_self_only_attention_is_a_prompt_of_one_token(self, shared, rows):
        model = shared("bridge", "neox-parallel", torch.float64)
        parts = tlt.decompose_layers(model, rows[:, :1], method="context_ablation")
        for layer, own in parts.items():
            expected = mlp_out(model, rows[:, :1], layer)
            torch.testing.assert_close(own.global_, expected, rtol=0, atol=1e-10)
            assert float(own.in_context.abs().max()) < 1e-10

    def test_from_a_layer_on(self, shared, rows):
        model = shared("bridge", "gpt2", torch.float64)
        late = tlt.decompose_layers(model, rows, method="context_ablation", from_layer=2)
        for layer in (0, 1):
            assert torch.equal(late[layer].global_, late[layer].mlp_out)
        assert float(late[2].in_context.abs().max()) > 1e-3

    @given(
        size=st.integers(1, 9),
        heads=st.integers(1, 3),
        seed=st.integers(0, 99),
        scale=st.floats(0.1, 30),
    )
    def test_renormalising_is_masking_the_scores(self, size, heads, seed, scale):
        generator = torch.Generator().manual_seed(seed)
        scores = scale * torch.randn(2, heads, size, size, generator=generator, dtype=torch.float64)
        ahead = torch.ones(size, size, dtype=torch.bool).triu(1)
        inside = torch.eye(size, dtype=torch.bool)
        inside[:, 0] = True
        masked = scores.masked_fill(~inside, -torch.inf).softmax(-1)
        found = ablated_pattern(scores.masked_fill(ahead, -torch.inf).softmax(-1))
        torch.testing.assert_close(found, masked, rtol=1e-9, atol=1e-12)


def by_hand(hf, cache, tokens, layers):
    """The own path of a GPT-NeoX, token by token and block by block, from its weights and a cache."""
    neox = hf.gpt_neox
    n_heads, width = hf.config.num_attention_heads, hf.config.hidden_size
    d_head = width // n_heads
    written = [torch.zeros(*tokens.shape, width, dtype=torch.float64) for _ in neox.layers]
    with torch.no_grad():
        for row in range(len(tokens)):
            for pos in range(tokens.shape[1]):
                stream = neox.embed_in.weight[tokens[row, pos]]
                for index, block in enumerate(neox.layers):

                    def normed(x, name, norm, index=index, row=row, pos=pos):
                        before = cache[f"blocks.{index}.{name}.hook_in"][row, pos]
                        scale = (before.var(unbiased=False) + norm.eps).sqrt()
                        return (x - x.mean()) / scale * norm.weight

                    read = normed(stream, "ln1", block.input_layernorm)
                    qkv = block.attention.query_key_value.weight.view(n_heads, 3, d_head, width)
                    values = torch.einsum("hdw,w->hd", qkv[:, 2], read)
                    kept = values * cache[f"blocks.{index}.attn.hook_pattern"][row, :, pos, pos, None]
                    attended = block.attention.dense.weight @ kept.flatten()
                    middle = stream if hf.config.use_parallel_residual else stream + attended
                    hidden = block.mlp.dense_h_to_4h.weight @ normed(
                        middle, "ln2", block.post_attention_layernorm
                    )
                    pre = cache[f"blocks.{index}.mlp.hook_pre"][row, pos]
                    post = hidden * torch.nn.functional.gelu(pre) / pre
                    own = block.mlp.dense_4h_to_h.weight @ post
                    written[index][row, pos] = own
                    stream = stream + attended + own
    return {layer: written[layer] for layer in layers}


class TestOwnPath:
    """Against brute force."""

    @pytest.mark.parametrize("name", ["neox-parallel", "neox-sequential"])
    def test_brute_force(self, shared, rows, name):
        model = shared("bridge", name, torch.float64)
        hf = architectures.hf_model(name).double()
        with torch.no_grad():
            _, cache = model.run_with_cache(rows)
        parts = tlt.decompose_layers(model, rows, method="own_path")
        for layer, expected in by_hand(hf, cache, rows, [0, 1, 2]).items():
            torch.testing.assert_close(parts[layer].own, expected, rtol=0, atol=1e-9)

    @pytest.mark.parametrize(("kind", "name"), architectures.CASES)
    def test_all_sources_and_the_bias_are_the_output(self, shared, rows, kind, name):
        model = shared(kind, name, torch.float64)
        parts = tlt.decompose_mlp(model, rows, 2, "own_path")
        streams = source_streams(model, rows, 2)
        rounding = 1e-9 if name != "llama-grouped" else 1e-6  # its norms compute in float32
        torch.testing.assert_close(streams.sum(0) + parts.bias, parts.mlp_out, rtol=0, atol=rounding)
        for source in range(rows.shape[1]):
            assert not bool(streams[source, :, :source].any())  # nothing leads to earlier positions
            torch.testing.assert_close(
                streams[source, :, source], parts.own[:, source], rtol=0, atol=rounding
            )

    def test_under_a_removal_it_refuses(self, shared, rows):
        model = shared("bridge", "gpt2", torch.float64)
        with (
            tlt.truncated(model, tlt.GlobalRemoval(0, "spectral")),
            pytest.raises(
                ValueError, match=r"linear along frozen patterns.*Leave contexts with removals"
            ),
        ):
            tlt.decompose_mlp(model, rows, 1, "own_path")


def test_spectral_is_the_truncation(shared, rows):
    model = shared("bridge", "gpt2", torch.float64)
    parts = tlt.decompose_mlp(model, rows, 1, "spectral", keep=5)
    with tlt.truncated(model, tlt.Cut("blocks.1.mlp.W_out", 5)):
        cut = mlp_out(model, rows, 1)
    torch.testing.assert_close(parts.kept + parts.bias, cut, rtol=0, atol=1e-12)
    bias = locate(model, Site(1, "W_out")).bias()
    torch.testing.assert_close(parts.bias, bias.expand_as(parts.bias))
    assert torch.equal(parts.global_, parts.removed + parts.bias)


class TestNothing:
    """A block that writes nothing has parts of nothing, and no direction."""

    @pytest.fixture
    def silent(self, rows):
        """A model whose second block writes nothing at all."""
        model = architectures.bridge("gpt2", torch.float64)
        with torch.no_grad():
            for name in ("W_O", "W_out"):
                linear = locate(model, Site(1, name))
                linear.weight().zero_()
                linear.bias().zero_()
        return model

    @torch.no_grad()
    @pytest.mark.parametrize("method", METHODS)
    def test_its_parts_are_nothing(self, silent, rows, method):
        means = tlt.TokenMeans.fit(silent, rows, layers=[1, 2], progress=False)
        parts = tlt.decompose_layers(silent, rows, [1, 2], **split(method, means))
        for term in (parts[1].global_, parts[1].in_context, *parts[1].terms.values()):
            assert float(term.abs().max()) == 0
        torch.testing.assert_close(parts[2].mlp_out, mlp_out(silent, rows, 2), rtol=0, atol=1e-12)
        uncut = silent(rows)
        with tlt.without_global(silent, 1, **split(method, means)):
            assert torch.equal(silent(rows), uncut)

    @torch.no_grad()
    def test_a_norm_of_nothing(self, silent, rows):
        """With a weight of zero any scale would do."""
        silent.blocks[1].ln2.original_component.weight.zero_()
        parts = tlt.decompose_layers(silent, rows, [1, 2], "own_path")
        assert bool(parts[2].own.isfinite().all())
        torch.testing.assert_close(parts[2].mlp_out, mlp_out(silent, rows, 2), rtol=0, atol=1e-12)

    def test_it_has_no_direction(self, silent, rows):
        site, token = "blocks.1.mlp.W_out", int(rows[0, 1])
        means = tlt.TokenMeans.fit(silent, rows, layers=[1], progress=False)
        cut = tlt.GlobalDirection(site, means, token)
        with pytest.raises(ValueError, match=rf"G\({token}\) - b of {site} must have a length"):
            tlt.truncated(silent, cut).__enter__()


class TestReadings:
    """What is read off the parts."""

    @pytest.mark.parametrize(("kind", "name"), architectures.CASES)
    def test_logits_of_all_parts_of_the_stream_are_the_logits(self, shared, rows, kind, name):
        """Embedding, attentions and MLPs through the frozen norm, and its biases, are the model's logits."""
        model = shared(kind, name, torch.float64)
        parts = tlt.decompose_mlp(model, rows, 2, "spectral")
        with torch.no_grad():
            logits, cache = model.run_with_cache(rows)
        readout = parts.readout
        stream = readout.logits(cache["blocks.2.hook_resid_post"], centred=False)
        norm = getattr(getattr(model, "ln_final", None), "bias", None)
        norm = getattr(getattr(model, "ln_final", None), "b", None) if norm is None else norm
        offset = 0 if norm is None else norm @ model.W_U
        bias = getattr(model, "b_U", None)
        expected = logits - offset - (0 if bias is None else bias)
        rounding = 1e-9 if name != "llama-grouped" else 1e-5
        torch.testing.assert_close(stream, expected, rtol=0, atol=rounding)
        chosen = parts.logits([5, 9])
        whole = parts.logits()
        for one, all_ in ((chosen.global_, whole.global_), (chosen.in_context, whole.in_context)):
            torch.testing.assert_close(one, all_[..., [5, 9]], rtol=0, atol=1e-10)
        torch.testing.assert_close(whole.total.mean(-1), torch.zeros(6, 9).double(), rtol=0, atol=1e-9)
        assert set(whole.terms) == {"kept", "removed", "bias"}

    def test_shares_sum_to_one_in_both_spaces(self, shared, rows):
        model = shared("bridge", "gpt2", torch.float64)
        parts = tlt.decompose_mlp(model, rows, 2, "own_path")
        table = parts.fractions()
        for space in ("variance", "logits"):
            values = table.xs(space, level="space")["value"]
            assert values["global"] + values["in_context"] == pytest.approx(1, abs=1e-9)
            assert values["own"] + values["bias"] == pytest.approx(values["global"], abs=1e-9)
        assert (table["low"] <= table["value"]).all()
        assert (table["value"] <= table["high"]).all()
        # In the logits: against all logits, written out.
        whole, part = (
            parts.logits().total[:, 1:].flatten(0, 1),
            parts.logits().global_[:, 1:].flatten(0, 1),
        )
        whole, part = whole - whole.mean(0), part - part.mean(0)
        expected = float((whole * part).sum() / whole.square().sum())
        assert table.loc[("global", "logits"), "value"] == pytest.approx(expected, abs=1e-5)

    def test_frame_and_text(self, toy, fitted, rows):
        means = tlt.TokenMeans.fit(toy, rows, layers=[1])
        parts = tlt.decompose_mlp(
            toy, ["Mary gave a drink to", "in Rome"], 1, means=means, prepend_bos=True
        )
        frame = parts.to_frame()
        assert frame["text"].tolist() == ["Mary", " gave", " a", " drink", " to", "in", " Rome"]
        assert (
            frame["count"].tolist()
            == means.counts("blocks.1.mlp.W_out", parts.tokens)[parts.valid].tolist()
        )
        both = frame["global_share"] + frame["in_context_share"]
        assert both.to_numpy() == pytest.approx(1, abs=1e-5)
        assert "token_mean, 7 positions of 2 rows" in str(parts)
        assert parts.record["means"]["hash"] == means.hash
        with pytest.raises(
            AttributeError, match="must be one of corpus_mean, token, in_context, got 'own'"
        ):
            _ = parts.own

    @pytest.mark.parametrize("method", METHODS)
    def test_padding_on_either_side_changes_nothing(self, shared, fitted, rows, method):
        model = shared("bridge", "neox-sequential", torch.float64)
        options = split(method, fitted("bridge", "neox-sequential"))
        padded, mask = torch.zeros(2, 14, dtype=torch.int64), torch.zeros(2, 14, dtype=torch.bool)
        padded[0, 4:13], padded[1, :5] = rows[0], rows[1, :5]
        mask[0, 4:13], mask[1, :5] = True, True
        found = tlt.decompose_mlp(model, padded, 1, mask=mask, **options)
        for row, own, where in ((0, rows[:1], slice(4, 13)), (1, rows[1:2, :5], slice(0, 5))):
            alone = tlt.decompose_mlp(model, own, 1, **options)
            for one, other in ((found.global_, alone.global_), (found.in_context, alone.in_context)):
                torch.testing.assert_close(one[row, where], other[0], rtol=0, atol=1e-10)
            assert found.valid[row, where].tolist() == alone.valid[0].tolist()
            logits = found.logits([3]).global_[row, where]
            torch.testing.assert_close(logits, alone.logits([3]).global_[0], rtol=0, atol=1e-9)
        assert float(found.mlp_out[~mask].abs().max()) == 0


class TestRefusals:
    """Before any work."""

    def test_post_norms(self, shared, rows):
        model = shared("bridge", "gemma2-post-norm")
        with pytest.raises(ValueError, match="what its block adds to the residual stream"):
            tlt.decompose_mlp(model, rows, 1, "spectral")

    def test_post_norms_by_every_door(self, shared, rows):
        model = shared("bridge", "gemma2-post-norm")
        means = tlt.TokenMeans.fit(model, rows, layers=[1], progress=False)
        task = tlt.Task("numbers", [(5, 6)], [(7,)], [(8,)])
        for call in (
            lambda: tlt.decompose_mlp(model, rows, 1, means=means),
            lambda: tlt.global_removal_hooks(model, rows, 1, "spectral"),
            lambda: tlt.without_global(model, 1, means=means).__enter__(),
            lambda: tlt.without_in_context(model, 1, "own_path").__enter__(),
            lambda: tlt.evaluate(model, task, tlt.GlobalRemoval(1, means=means)),
        ):
            with pytest.raises(ValueError, match="what its block adds to the residual stream"):
                call()

    def test_what_a_block_adds_is_looked_at_as_it_is_now(self, shared, rows):
        model = shared("bridge", "gpt2", torch.float64)
        tlt.decompose_mlp(model, rows, 1, "spectral")
        handle = model.blocks[1].mlp.register_forward_hook(lambda module, args, value: 2 * value)
        try:
            with pytest.raises(ValueError, match="what its block adds to the residual stream"):
                tlt.decompose_mlp(model, rows, 1, "spectral")
        finally:
            handle.remove()
        tlt.decompose_mlp(model, rows, 1, "spectral")

    def test_sparse_mlps(self, shared, rows):
        with pytest.raises(ValueError, match="W_out"):
            tlt.decompose_mlp(shared("bridge", "mixtral-sparse"), rows, 1, "spectral")

    @pytest.mark.parametrize(
        ("options", "error", "wording"),
        [
            (dict(layer=1), ValueError, "means must be a TokenMeans for method='token_mean'.*NoneType"),
            (dict(layer=1, method="guess"), ValueError, "method must be one of token_mean.*got 'guess'"),
            (dict(layer=5, method="spectral"), ValueError, r"0\.\.2"),
            (
                dict(layer=1, method="context_ablation", from_layer=3),
                ValueError,
                r"block in 0\.\.2, got 3",
            ),
            (dict(layer=1, method="spectral", keep=99), ValueError, "at most 32"),
        ],
    )
    def test_arguments(self, toy, rows, options, error, wording):
        with pytest.raises(error, match=wording):
            tlt.decompose_mlp(toy, rows, **options)

    def test_means_of_other_layers(self, toy, rows):
        means = tlt.TokenMeans.fit(toy, rows, layers=[1])
        with pytest.raises(
            ValueError, match=r"The means must be of blocks\.0\.mlp\.W_out, got means of"
        ):
            tlt.decompose_mlp(toy, rows, 0, means=means)
        with pytest.raises(ValueError, match="token_mean' and None for the others, got TokenMeans"):
            tlt.decompose_mlp(toy, rows, 1, "own_path", means=means)

    def test_prompts(self, toy):
        for prompts in (torch.zeros(1, 99).long(), [[]], []):
            with pytest.raises(ValueError, match="context of 64 tokens"):
                tlt.decompose_mlp(toy, prompts, 1, "own_path")
