"""The recall model with the loss on triggers: its second MLP holds noise and target at once."""

import pytest
import recall_laws
import recall_models
from recall_laws import Separated

import tl_truncate as tlt
from tl_truncate import plots


@pytest.fixture(scope="module", params=recall_models.SEEDS)
def own(request) -> Separated:
    return Separated(recall_models.separable("triggers", request.param).stored())


class TestLossOnTriggers:
    """Three seeds."""

    def test_removing_the_global_part_denoises(self, own):
        recall_laws.removing_the_global_part_denoises(own)

    def test_targeted_truncation_denoises(self, own):
        recall_laws.targeted_truncation_denoises(own)

    def test_attribution(self, own):
        recall_laws.the_global_part_says_the_noise_and_the_rest_the_target(own)

    def test_the_corpus_mean_carries_noise_here(self, own):
        """Almost every position that the loss sees is a trigger, so the mean of all is about triggers."""
        part = own.frame.loc["minus token part", "p_in_context"]
        assert part < own.frame.loc["minus global, token_mean", "p_in_context"] - 0.1

    def test_before_recall_there_is_only_the_global_part(self, own):
        """At step 64 the noise is learnt, and what the context adds says no target yet."""
        early = own.run.at(64)
        means = tlt.TokenMeans.fit(early, own.corpus, layers=[1], progress=False)
        found = tlt.part_attribution(early, own.task, means=means, layers=[1], progress=False)
        late = tlt.part_attribution(own.model, own.task, means=own.means, layers=[1], progress=False)
        assert found.logits[:, 0, 0, 1].mean() > 1
        assert abs(found.logits[:, 0, 1, 0].mean()) < 0.1 * late.logits[:, 0, 1, 0].mean()

    def test_the_figure_shows_it(self, own, tmp_path):
        figure = plots.comparison(own.comparison)
        labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
        assert "minus global, token_mean" in labels
        assert "LASER W_out, rank 64 kept" in labels
        plots.save(figure, tmp_path / "comparison.png")

    def test_the_first_mlp_is_no_place_for_it(self, own):
        """Every way of cutting hurts there."""
        means = tlt.TokenMeans.fit(own.model, own.corpus, layers=[0], progress=False)
        cuts = [tlt.GlobalRemoval(0, means=means), tlt.Ablated("blocks.0.mlp.W_out")]
        for cut in cuts:
            scores = tlt.evaluate(own.model, own.task, cut, progress=False)
            assert scores.p_in_context < own.frame.loc["minus global, token_mean", "p_in_context"] - 0.2
