"""Attributions of parts, comparisons, and the view of one prompt."""

import numpy as np
import pytest
import torch
from samples import PAIRS
from scipy import stats

import tl_truncate as tlt
from tl_truncate import plots
from tl_truncate.experiments.comparison.families import Ways, last_token
from tl_truncate.experiments.scoring.drawn import DrawnScores
from tl_truncate.tasks.encode import encode


@pytest.fixture(scope="module")
def means(shared):
    """Of the small GPT-2, on tokens among which are those of the prompts."""
    model = shared("bridge", "gpt2")
    rows = torch.randint(3, 60, (40, 12), generator=torch.Generator().manual_seed(2))
    return tlt.TokenMeans.fit(model, rows, progress=False)


class TestPartAttribution:
    """Logits of the parts at each prompt's last token."""

    def test_each_prompt_alone_says_the_same(self, toy, drinks, means):
        found = tlt.part_attribution(toy, drinks, means=means)
        assert found.logits.shape == (4, 3, 2, 2)
        rows = encode(toy, drinks).prompts
        for index, row in enumerate(rows):
            for layer in range(3):
                parts = tlt.decompose_mlp(toy, torch.tensor([row.prompt]), layer, means=means)
                said = parts.logits([row.in_context[0], row.global_[0]])
                for place, values in enumerate((said.global_, said.in_context)):
                    assert found.logits[index, layer, place] == pytest.approx(
                        values[0, -1].numpy(), abs=1e-5
                    )
                energy = float(parts.global_[0, -1].square().sum())
                assert found.energy[index, layer, 0] == pytest.approx(energy, rel=1e-4)

    def test_frame_and_choice(self, toy, means):
        found = tlt.part_attribution(toy, PAIRS, means=means)
        table = found.frame
        assert len(table) == 3 * 2 * 2
        own = table[
            (table["layer"] == 1) & (table["part"] == "in_context") & (table["answer"] == "global")
        ]
        assert float(own["logits"].iloc[0]) == pytest.approx(found.logits[:, 1, 1, 1].mean())
        assert (table["low"] <= table["logits"]).all()
        means_ = found.logits[:, :, 0, 1].mean(0)
        assert found.largest(k=3) == list(np.argsort(-means_))
        with pytest.raises(ValueError, match=r"part must be one of global, in_context.*got 'both'"):
            found.largest("both")
        assert "token_mean" in str(found)
        figure = plots.parts(found)
        assert len(figure.axes) == 3

    def test_other_methods_and_refusals(self, toy, drinks, means):
        for method in ("own_path", "context_ablation", "spectral"):
            assert tlt.part_attribution(toy, drinks, method=method).layers == (0, 1, 2)
        with pytest.raises(ValueError, match="means must be a TokenMeans"):
            tlt.part_attribution(toy, drinks)
        with pytest.raises(TypeError, match="task must be a Task"):
            tlt.part_attribution(toy, "ioi", means=means)


class TestCompare:
    """Every way side by side."""

    def test_rows_are_those_of_evaluate(self, toy, means):
        task = PAIRS
        ways = Ways(keeps=(0.5, 2), ks=(1, 4), strengths=(1.0, 0.5), methods=("token_mean", "own_path"))
        found = tlt.compare(toy, task, 1, means, ways=ways, token=10)
        frame = found.frame
        assert frame.index[0] == "uncut"
        expected = ["MLP dropped", "minus global, token_mean", "minus global, token_mean x 0.5"]
        assert list(found.cuts)[:3] == expected
        for name in (
            "direction G(10)",
            "LASER W_in, rank 2 kept",
            "4 most global at 10",
            "1 random (control)",
        ):
            draws = found.draws.get(name, (found.cuts[name],))
            each = [tlt.evaluate(toy, task, draw) for draw in draws]
            scores = DrawnScores(tuple(each))
            assert frame.loc[name, "draws"] == len(draws) == (16 if "control" in name else 1)
            assert float(frame.loc[name, "p_global"]) == pytest.approx(
                float(scores.estimate("p_global")), abs=1e-6
            )
            change = scores.change("p_in_context")
            assert float(frame.loc[name, "p_in_context_change"]) == pytest.approx(
                float(change), abs=1e-6
            )
            assert (
                frame.loc[name, "p_in_context_change_low"] <= frame.loc[name, "p_in_context_change_high"]
            )
        spread = DrawnScores(tuple(each)).spread("p_in_context")
        row = frame.loc["1 random (control)"]
        assert row["p_in_context_change_spread"] == pytest.approx(spread, abs=1e-6)
        assert len(found.draws["minus another token's mean (control)"]) == 4
        p = [found.scores(name).change("p_global").p for name in found.cuts if "(control)" not in name]
        q = frame.loc[~frame.index.str.contains("control|uncut"), "p_global_change_q"]
        assert q.to_numpy() == pytest.approx(stats.false_discovery_control(p))
        assert "MLP dropped" in str(found)
        assert len(plots.comparison(found).axes) == 2
        with pytest.raises(ValueError, match="way must be one of MLP dropped"):
            found.scores("nothing")

    def test_the_token_that_prompts_end_in(self, toy, drinks):
        (expected,) = toy.tokenizer(" to", add_special_tokens=False)["input_ids"]
        assert last_token(toy, drinks) == expected

    def test_chosen_on_one_half_reported_on_the_other(self, toy, means, tmp_path):
        names = ["Mary", "John", "Paris", "London", "Rome", "Italy"]
        task = tlt.Task(
            name="gifts",
            prompts=[
                f"When {a} and {b} went to the store , {a} gave a drink to"
                for a in names
                for b in names
                if a != b
            ],
            in_context=[f" {b}" for a in names for b in names if a != b],
            global_=" the",
        )
        ways = Ways(keeps=(0.5,), ks=(2,))
        found = tlt.compare_chosen(
            toy, task, means, ways=ways, texts=["the store in Paris"], run_dir=tmp_path / "run", token=10
        )
        frame = found.frame
        assert frame.index.tolist() == [
            "uncut",
            "LASER",
            "targeted",
            "direction",
            "global removal",
            "dropping",
        ]
        for family, result in found.found.items():
            test = result.test["gifts"]
            assert set(test.frame["prompt"]) | set(result.validation["gifts"].frame["prompt"]) == set(
                task.prompts
            )
            assert not set(test.frame["prompt"]) & set(result.validation["gifts"].frame["prompt"])
            assert float(frame.loc[family, "p_in_context"]) == pytest.approx(float(test.p_in_context))
            if result.cuts:
                assert frame.loc[family, "perplexity"] == pytest.approx(result.cost.perplexity)
                assert result.validation["gifts"].change("p_in_context") > 0
        assert (tmp_path / "run" / "table.csv").exists()
        again = tlt.compare_chosen(
            toy, task, means, ways=ways, texts=["the store in Paris"], run_dir=tmp_path / "run", token=10
        )
        assert again.frame.equals(frame)
        assert "perplexity" in str(found)
        assert len(plots.comparison(found).axes) == 2


class TestPromptView:
    """One prompt, looked at."""

    def test_the_numbers_are_the_decompositions(self, toy, means):
        view = tlt.view_prompt(toy, "Mary gave a drink to", [" John", " the"], means=means)
        parts = tlt.decompose_mlp(toy, ["Mary gave a drink to"], 2, means=means)
        ids = list(view.answers)
        said = parts.logits(ids)
        frame = view.frame
        own = frame[
            (frame["layer"] == 2) & (frame["part"] == "in_context") & (frame["answer"] == " the")
        ]
        assert own["logits"].to_numpy() == pytest.approx(said.in_context[0, :, 1].numpy(), abs=1e-6)
        pushed = view.pushed(2, "global", k=3)
        whole = parts.logits().global_[0, -1]
        assert pushed.index[0] == int(whole.argmax())
        assert pushed.index[-1] == int(whole.argmin())
        assert "logits added at the last token" in str(view)

    def test_html_escapes(self, shared, means):
        toy = shared("bridge", "gpt2")
        view = tlt.view_prompt(toy, "Mary gave <script> to", [" John", " the"], means=means)
        page = view.to_html(" the") + view._repr_html_()
        assert "<script>" not in page
        assert "rgba(" in page

    def test_refusals(self, toy, means):
        for answers, wording in (
            ([" gave a"], "one token, got ' gave a' with 2"),
            ([], "must be a list of texts"),
        ):
            with pytest.raises(ValueError, match=wording):
                tlt.view_prompt(toy, "Mary gave", answers, means=means)
        view = tlt.view_prompt(toy, "Mary gave", [" the"], means=means)
        with pytest.raises(ValueError, match="layer must be one of 0, 1, 2"):
            view.pushed(9)
        with pytest.raises(ValueError, match="answer must be one of"):
            view.to_html("x")
