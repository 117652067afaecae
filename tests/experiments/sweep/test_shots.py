"""A sweep behind several numbers of demonstrations, against prompts joined by hand in edited models."""

import architectures
import inplace
import numpy as np
import pandas as pd
import pytest
import torch
from architectures import CASES, with_tokenizer
from samples import PAIRS

import tl_truncate as tlt
from tl_truncate import plots
from tl_truncate.experiments.search.judge import split_tasks
from tl_truncate.report.kinds.sweep import sweep_page

TASK = tlt.tasks.induction(n=7, seed=2, d_vocab=architectures.VOCAB, length=4)
SITES, KEEPS, SHOTS = ["blocks.1.mlp.W_out", "blocks.2.attn.W_V"], [0.1, 0.5], (0, 3, 1)


def joined_by_hand(task, shots, most, seed) -> list[list[int]]:
    """The prompts of `TASK` that are in none of the demonstrations, behind the first `shots` of them."""
    asked = task.with_demonstrations(most, seed).demonstrations.prompts
    answers = dict(zip(task.prompts, task.in_context, strict=True))
    front = [token for prompt in asked[:shots] for token in (*prompt, *answers[prompt])]
    return [[*front, *prompt] for prompt in task.prompts if prompt not in asked]


def plain_log_probabilities(model, prompts, answers) -> np.ndarray:
    found = []
    for prompt, answer in zip(prompts, answers, strict=True):
        with torch.no_grad():
            last = model(torch.tensor([prompt]))[0, -1].double().log_softmax(0)
        found.append(float(last[answer]))
    return np.array(found)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_equals_in_place_editing(shared, precise, kind, name):
    model = shared(kind, name, torch.float64)
    result = tlt.sweep(
        model, TASK, sites=SITES, keeps=KEEPS, shots=SHOTS, prepend_bos=False, seed=4, progress=False
    )
    assert [task.shots for task in result.tasks] == list(SHOTS)
    for number in SHOTS:
        prompts = joined_by_hand(TASK, number, max(SHOTS), 4)
        tested = [prompt[-len(own) :] for prompt, own in zip(prompts, result.tasks[0].prompts)]
        assert tested == list(map(list, result.tasks[0].prompts)), "the same prompts for all numbers"
        answers = [TASK.in_context[TASK.prompts.index(tuple(each))][0] for each in tested]
        name_ = f"induction-{number}-shot"
        for site in SITES:
            for keep in KEEPS:
                found = np.log(result.scores(site, keep, task=name_).frame["p_in_context"])
                with inplace.edited(model, (site, inplace.top(keep))):
                    expected = plain_log_probabilities(model, prompts, answers)
                assert np.abs(found - expected).max() <= 1e-9
        uncut = np.log(result.baselines[name_].frame["p_in_context"])
        assert np.abs(uncut - plain_log_probabilities(model, prompts, answers)).max() <= 1e-9


def test_in_text_it_is_evaluate(shared):
    model = with_tokenizer(shared("bridge", "neox-parallel", torch.float64))
    tasks = [PAIRS.with_demonstrations(k, 1, reserve=2, separator=" .") for k in (0, 2)]
    result = tlt.sweep(model, tasks, sites=SITES[:1], keeps=[0.5], progress=False)
    front = tasks[1].demonstrations.front
    for task, before in zip(tasks, ("", front), strict=True):
        texts = [before + prompt for prompt in tasks[0].prompts]
        by_hand = tlt.Task("hand", texts, task.in_context, " the")
        expected = tlt.evaluate(model, by_hand, tlt.Cut(SITES[0], 0.5), progress=False)
        found = result.scores(SITES[0], 0.5, task=task.name)
        assert np.abs(found.frame["logit_diff"] - expected.frame["logit_diff"]).max() <= 1e-9
        assert found.record.task_hash == by_hand.hash


@pytest.fixture(scope="module")
def swept(shared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shots") / "run"
    options = dict(sites=SITES, keeps=KEEPS, controls=["random_subspace"], draws=2, progress=False)
    options |= dict(prepend_bos=False, run_dir=folder)
    model = shared("bridge", "gpt2")
    return model, tlt.sweep(model, TASK, shots=SHOTS, **options), options


def test_the_table_says_the_numbers(swept, shared):
    model, result, options = swept
    frame = result.frame
    assert frame["shots"].dtype == "Int64"
    assert dict(zip(frame["task"], frame["shots"])) == {f"induction-{k}-shot": k for k in SHOTS}
    assert frame.groupby("shots").size().nunique() == 1
    assert [len(scores.frame) for scores in result.baselines.values()] == [4, 4, 4]
    without = tlt.sweep(model, TASK, **options | dict(run_dir=None)).frame
    assert list(without) == [name for name in frame if name != "shots"]
    beside = tlt.sweep(model, [TASK, TASK.with_demonstrations(1)], **options | dict(run_dir=None)).frame
    assert beside["shots"].isna().sum() == len(without)


def test_a_folder_is_read_and_gone_on_with(swept):
    model, result, options = swept
    again = tlt.SweepResult.load(options["run_dir"])
    assert again.tasks == result.tasks
    pd.testing.assert_frame_equal(again.frame, result.frame)
    more = tlt.sweep(model, TASK, shots=SHOTS, **options | dict(keeps=[*KEEPS, 0.9]))
    assert len(more.settings) == 3 * len(result.settings) // 2
    for other in ((0, 3), (0, 1, 3, 4), None):
        with pytest.raises(ValueError, match=r"same model, prompts and settings .* task_hashes"):
            tlt.sweep(model, TASK, shots=other, **options)


def test_pages_and_pictures_have_them(swept):
    _, result, _ = swept
    page = sweep_page(result)
    assert "induction-3-shot" in page.title
    told = "behind 3 of them, answered (3 set aside, drawn with seed 0); 4 are tested"
    assert told in page.sections[-1].before
    assert "induction-1-shot" in result._repr_html_()
    assert plots.heatmap(result, task="induction-3-shot").axes


def test_a_figure_shows_the_values(swept):
    _, result, _ = swept
    cut = tlt.Cut(SITES[1], 0.5)
    figure = plots.shots(result, [cut], metrics=["p_in_context", "accuracy"])
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0", "1", "3"]
    drawn = {each.get_label(): each.lines[0].get_ydata() for each in axis.containers}
    uncut = [float(result.baselines[f"induction-{k}-shot"].p_in_context) for k in (0, 1, 3)]
    assert list(drawn["uncut"]) == pytest.approx(uncut)
    own = result.frame[(result.frame["site"] == SITES[1]) & (result.frame["keep"] == 0.5)]
    own = own.sort_values("shots")
    values = own[own["kind"] == "Cut"]["p_in_context"].tolist()
    assert list(drawn["2 W_V, 50% kept"]) == pytest.approx(values)
    (control,) = [each for each in axis.containers if str(each.get_label()).startswith("_")]
    values = own[own["kind"] == "RandomSubspace"]["p_in_context"].tolist()
    assert list(control.lines[0].get_ydata()) == pytest.approx(values)
    assert len(plots.shots(result).axes[0].containers) == 1 + 2 * len(SITES) * len(KEEPS)


def test_figures_that_cannot_be_drawn(swept):
    model, result, options = swept
    with pytest.raises(ValueError, match="one of the sweep's finished settings"):
        plots.shots(result, [tlt.Cut(SITES[0], 0.3)])
    with pytest.raises(ValueError, match="asked for rank"):
        plots.shots(result, metrics=["rank"])
    plain = tlt.sweep(model, TASK, **options | dict(run_dir=None, controls=[]))
    with pytest.raises(ValueError, match="settings with demonstrations, got none"):
        plots.shots(plain)
    unlike = [TASK.with_demonstrations(k) for k in (0, 2)]
    mixed = tlt.sweep(model, unlike, **options | dict(run_dir=None, controls=[]))
    with pytest.raises(ValueError, match=r"all on the same prompts, got .* on 2 sets of prompts"):
        plots.shots(mixed)


def test_evaluate_takes_one_number(shared):
    model = shared("bridge", "gpt2")
    cut = tlt.Cut(SITES[0], 0.5)
    options = dict(prepend_bos=False, progress=False, seed=3)
    found = tlt.evaluate(model, TASK, cut, shots=2, **options)
    expected = tlt.evaluate(model, TASK.with_demonstrations(2, seed=3), cut, **options)
    pd.testing.assert_frame_equal(found.frame, expected.frame)
    assert found.record == expected.record
    assert found.record.task == "induction-2-shot"
    with pytest.raises(ValueError, match="The baseline must be of the same prompts"):
        tlt.evaluate(model, TASK, cut, shots=1, baseline=found.baseline, **options)
    with pytest.raises(ValueError, match="k must be an integer from 0 up"):
        tlt.evaluate(model, TASK, shots=(0, 1), **options)


def test_what_does_not_fit_is_said_before_any_pass(shared, monkeypatch):
    model = shared("bridge", "gpt2")
    monkeypatch.setattr(model, "forward", None)
    options = dict(sites=SITES, keeps=KEEPS, prepend_bos=False, progress=False)
    long = tlt.tasks.induction(n=12, d_vocab=architectures.VOCAB, length=8)
    with pytest.raises(
        ValueError, match=r"context of 64 tokens, got .* with 8 demonstrations. Show fewer"
    ):
        tlt.sweep(model, long, shots=(0, 8), **options)
    with pytest.raises(ValueError, match="than the 7 that are set aside for demonstrations, got 7"):
        tlt.sweep(model, TASK, shots=(0, 7), **options)
    with pytest.raises(ValueError, match="no demonstrations yet"):
        tlt.sweep(model, TASK.with_demonstrations(1), shots=(0, 1), **options)


class TestSearch:
    """A prompt is on one side, with any number of demonstrations, and never shown."""

    @pytest.mark.parametrize("seed", range(5))
    def test_the_same_sides_for_all_numbers(self, seed):
        task = tlt.tasks.ioi(n=30, seed=1)
        tasks = [task.with_demonstrations(k, seed, reserve=4) for k in (4, 0)]
        sides = [
            split_tasks(order, test_fraction=0.4, seed=seed) for order in (tasks, tasks[:1], tasks[1:])
        ]
        tests = [set(part.test.without_demonstrations().prompts) for parts in sides for part in parts]
        assert tests[0] == tests[1] == tests[2] == tests[3]
        for part in sides[0]:
            tested = [*part.validation.without_demonstrations().prompts, *part.test.prompts]
            assert not set(tasks[0].demonstrations.prompts) & set(tested)
            assert part.validation.demonstrations == part.test.demonstrations

    def test_a_demonstration_that_another_task_tests_is_refused(self, shared):
        shown = TASK.with_demonstrations(2)
        with pytest.raises(ValueError, match="'induction-2-shot' shows what 'induction' asks"):
            tlt.search(shared("bridge", "gpt2"), [TASK, shown], sites=SITES, keeps=KEEPS, progress=False)

    def test_a_search_behind_demonstrations(self, shared):
        task = tlt.tasks.induction(n=12, d_vocab=architectures.VOCAB, length=4)
        shown = task.with_demonstrations(2)
        found = tlt.search(
            shared("bridge", "gpt2"),
            shown,
            sites=SITES,
            keeps=KEEPS,
            splits=1,
            texts=(),
            prepend_bos=False,
            progress=False,
        )
        front = " ".join(map(str, shown.demonstrations.front))
        (scores,) = found.test.values()
        assert scores.frame["prompt"].str.startswith(front).all()
        assert len(scores.frame) == 5
