"""The recall model with the loss everywhere: its global part is the bigram table, too."""

import pytest
import recall_laws
import recall_models
from recall_laws import Separated


@pytest.fixture(scope="module", params=recall_models.SEEDS)
def own(request) -> Separated:
    return Separated(recall_models.separable("everywhere", request.param).stored())


class TestLossEverywhere:
    """Three seeds."""

    def test_removing_the_global_part_denoises(self, own):
        recall_laws.removing_the_global_part_denoises(own)

    def test_targeted_truncation_denoises(self, own):
        recall_laws.targeted_truncation_denoises(own)

    def test_attribution(self, own):
        recall_laws.the_global_part_says_the_noise_and_the_rest_the_target(own)

    def test_the_global_part_is_the_bigram_table(self, own):
        global_, in_context = recall_laws.cosines_with_the_bigram_table(own)
        print(f"cosine with the log bigram table: global {global_:.3f}, in-context {in_context:.3f}")
        assert global_ >= 0.75
        assert abs(in_context) <= 0.1

    def test_where_the_share_is_taken_matters(self, own):
        trigger = own.trigger
        at, all_ = own.frame.loc[f"16 most global at {trigger}"], own.frame.loc["16 most global"]
        assert at["p_in_context"] > all_["p_in_context"] + 0.1
