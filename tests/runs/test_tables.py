"""A result's table is the reader's own: writing into it changes nothing that comes later."""

import pandas as pd
import pytest

import tl_truncate as tlt


@pytest.fixture(scope="module")
def results(shared, drinks_task):
    model = shared("bridge", "gpt2")
    sites = ["blocks.1.mlp.W_in", "blocks.1.mlp.W_out"]
    means = tlt.TokenMeans.fit(model, [list(range(3, 40))], layers=[1], progress=False)
    options = dict(progress=False)
    return {
        "sweep": tlt.sweep(model, drinks_task, sites=sites, keeps=[0.5], **options),
        "attribute": tlt.attribute(model, drinks_task, sites=sites, **options),
        "parts": tlt.part_attribution(model, drinks_task, means=means, layers=[1], **options),
    }


@pytest.mark.parametrize("name", ["sweep", "attribute", "parts"])
def test_it_can_be_written_into(results, name):
    result = results[name]
    before, told = result.frame, str(result)
    mine = result.frame
    for column in mine.select_dtypes("number"):
        mine[column] = 7
    mine.drop(index=mine.index[1:], inplace=True)
    pd.testing.assert_frame_equal(result.frame, before)
    assert str(result) == told
