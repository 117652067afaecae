"""Results on disk: each comes back as itself, and files of another version are read as far as can be."""

import json
from dataclasses import fields, is_dataclass

import numpy as np
import pandas as pd
import pytest
import torch

import tl_truncate as tlt
from tl_truncate.runs.codec import plain, read
from tl_truncate.runs.record import Record
from tl_truncate.runs.saved import FORMAT, find_result, load_result
from tl_truncate.surgery.cut import SiteCut


@pytest.fixture(scope="module")
def model(shared):
    return shared("bridge", "gpt2")


@pytest.fixture(scope="module")
def means(model):
    tokens = torch.randint(3, 40, (8, 9), generator=torch.Generator().manual_seed(1))
    return tlt.TokenMeans.fit(model, tokens, layers=[1], progress=False)


def attribution(model, means, task):
    return tlt.attribute(model, task, progress=False)


def side_effects(model, means, task):
    texts = ["the store in Paris", "Mary gave a drink to John"]
    return tlt.side_effects(model, tlt.Cut("blocks.1.mlp.W_in", 0.2), texts, progress=False)


def scores(model, means, task):
    cuts = [tlt.Cut("blocks.1.mlp.W_in", tlt.Energy(0.9)), tlt.Ablated("blocks.0.attn.W_O.1")]
    return tlt.evaluate(model, task, cuts, progress=False)


def part_attribution(model, means, task):
    return tlt.part_attribution(model, task, means=means, progress=False)


def comparison(model, means, task):
    ways = tlt.Ways(keeps=[0.5], ks=[2])
    return tlt.compare(model, task, 1, means, ways=ways, progress=False)


def chosen_comparison(model, means, task):
    return tlt.compare_chosen(
        model, task, means, ways=tlt.Ways(keeps=[0.5], ks=[2]), texts=(), progress=False
    )


RESULTS = {
    each.__name__: each
    for each in (attribution, side_effects, scores, part_attribution, comparison, chosen_comparison)
}


def saved(result, folder):
    path = folder / ("result" + (".safetensors" if isinstance(result, tlt.Attribution) else ".json"))
    result.save(path)
    return path


def same(one, other) -> bool:
    """Equal to the last bit, through dataclasses, mappings, frames and tensors."""
    if isinstance(one, pd.DataFrame):
        return (
            one.astype(object)
            .where(one.notna(), None)
            .equals(other.astype(object).where(other.notna(), None))
        )
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, tlt.Spectrum):
        return one.site == other.site and torch.equal(one.S, other.S) and one.shape == other.shape
    if isinstance(one, (tlt.Cut, tlt.GlobalRemoval, tlt.Site, tlt.Task)) or hasattr(one, "edit"):
        return one == other or one.to_json() == other.to_json()
    if is_dataclass(one):
        return type(one) is type(other) and all(
            same(getattr(one, each.name), getattr(other, each.name)) for each in fields(one)
        )
    if isinstance(one, dict):
        return list(map(str, one)) == list(map(str, other)) and all(
            same(value, other[key]) for key, value in one.items()
        )
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or (one != one and other != other)


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_comes_back_as_itself(name, model, means, drinks_task, tmp_path):
    result = RESULTS[name](model, means, drinks_task)
    path = saved(result, tmp_path)
    again = type(result).load(path)
    assert same(result, again)
    assert type(load_result(path)) is type(result)
    assert str(again) == str(result)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", RESULTS)
def test_what_it_says_is_computed_from_what_was_stored(name, model, means, drinks_task, tmp_path):
    result = RESULTS[name](model, means, drinks_task)
    again = type(result).load(saved(result, tmp_path))
    assert again.frame.equals(result.frame)
    if isinstance(result, tlt.Attribution):
        for site in result.by_row:
            assert again.effect(site, 0.5) == result.effect(site, 0.5)
        assert again.predict([0.5, tlt.DropTop(1)]).equals(result.predict([0.5, tlt.DropTop(1)]))
    if isinstance(result, tlt.Comparison):
        way = "LASER W_in, 50% kept"
        assert again.scores(way).change("p_global") == result.scores(way).change("p_global")


def test_a_file_of_another_version_loads(model, drinks_task, tmp_path):
    """One field more is passed over, one that is missing takes its default, at every depth."""
    result = tlt.evaluate(model, drinks_task, progress=False)
    path = saved(result, tmp_path)
    data = json.loads(path.read_text())
    data["later"] = data["result"]["later"] = data["result"]["record"]["later"] = 1
    del data["result"]["record"]["versions"], data["result"]["record"]["prepend_bos"]
    path.write_text(json.dumps(data))
    again = tlt.Scores.load(path)
    assert again.frame.equals(result.frame)
    assert again.record.versions == {}
    assert again.record.prepend_bos is None
    assert "with or without BOS" in str(again)


def test_what_is_in_a_task_may_be_more_too(model, drinks_task, means, tmp_path):
    result = comparison(model, means, drinks_task)
    path = saved(result, tmp_path)
    data = json.loads(path.read_text())
    data["result"]["result"]["tasks"][0]["later"] = 1
    path.write_text(json.dumps(data))
    assert tlt.Comparison.load(path).frame.equals(result.frame)


def test_a_comparison_of_one_draw_each_loads(model, drinks_task, means, tmp_path):
    """As earlier versions wrote it."""
    ways = tlt.Ways(keeps=[0.5], ks=[2])
    result = tlt.compare(model, drinks_task, 1, means, ways=ways, draws=1, progress=False)
    path = saved(result, tmp_path)
    data = json.loads(path.read_text())
    assert data["result"].pop("draws") == {}
    path.write_text(json.dumps(data))
    again = tlt.Comparison.load(path)
    assert again.frame.equals(result.frame)
    assert (again.frame["draws"] == 1).all()


@pytest.mark.parametrize("keep", [tlt.Components((1, 2, 3)), tlt.Without((0,)), tlt.Band(1, 4)])
def test_a_loaded_baseline_is_as_good_as_the_one_that_was_saved(model, drinks_task, tmp_path, keep):
    """Inside a context, whose cuts it records."""
    cut = tlt.Cut("blocks.1.mlp.W_in", 0.2)
    with tlt.truncated(model, tlt.Cut("blocks.0.mlp.W_out", keep)):
        baseline = tlt.evaluate(model, drinks_task, progress=False)
        again = tlt.Scores.load(saved(baseline, tmp_path))
        assert again.record == baseline.record
        wanted = tlt.evaluate(model, drinks_task, cut, baseline=baseline, progress=False)
        found = tlt.evaluate(model, drinks_task, cut, baseline=again, progress=False)
    assert found.summary().equals(wanted.summary())


@pytest.mark.parametrize(
    "changes", [dict(alpha=1), dict(alpha=0.0), dict(weight_decay=0), dict(momentum=0)]
)
def test_a_configuration_keeps_its_hash(changes):
    config = tlt.toys.RecallConfig.small(**changes)
    again = tlt.toys.RecallConfig.from_json(json.loads(json.dumps(config.to_json())))
    assert again.hash == config.hash


class TestRefusals:
    """What cannot be read is said, and what would be."""

    def test_another_kind(self, model, drinks_task, tmp_path):
        path = saved(tlt.evaluate(model, drinks_task, progress=False), tmp_path)
        with pytest.raises(ValueError, match="must hold a SideEffects, got a Scores"):
            tlt.SideEffects.load(path)

    def test_a_later_format(self, model, drinks_task, tmp_path):
        path = saved(tlt.evaluate(model, drinks_task, progress=False), tmp_path)
        path.write_text(json.dumps({**json.loads(path.read_text()), "format": FORMAT + 1}))
        with pytest.raises(ValueError, match=f"must be of format {FORMAT} or earlier, got {FORMAT + 1}"):
            tlt.Scores.load(path)

    @pytest.mark.parametrize(
        ("text", "wording"),
        [
            ("{", "must be JSON, but it is damaged"),
            ("[]", "must hold an object, got list"),
            ("{}", "must be a result that was saved, one of .*Scores"),
            (
                '{"kind": "Scores", "format": 1, "result": {}}',
                "must be those of a Scores, but: .*baseline",
            ),
            (
                '{"kind": "Scores", "format": 1, "result": {"frame": null, "record": {}, "baseline": null}}',
                "but: must be columns of a table, got None",
            ),
            (
                '{"kind": "Scores", "format": 1, "result": {"frame": {}, "record": {"seed": "x"}, '
                '"baseline": null}}',
                "must be a int, got 'x'",
            ),
        ],
    )
    def test_something_else(self, text, wording, tmp_path):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(ValueError, match=wording):
            tlt.Scores.load(tmp_path / "a.json")

    def test_no_file(self, tmp_path):
        for name in ("a.json", "a.safetensors"):
            with pytest.raises(FileNotFoundError):
                tlt.Scores.load(tmp_path / name)

    def test_damaged_tensors(self, tmp_path):
        (tmp_path / "a.safetensors").write_bytes(b"\x00" * 20)
        with pytest.raises(ValueError, match="must be a safetensors file, but it is damaged"):
            tlt.Attribution.load(tmp_path / "a.safetensors")

    def test_a_wrong_ending(self, model, means, drinks_task, tmp_path):
        with pytest.raises(ValueError, match=r"must end in \.safetensors, got"):
            attribution(model, means, drinks_task).save(tmp_path / "a.json")
        with pytest.raises(ValueError, match=r"must end in \.json, got"):
            scores(model, means, drinks_task).save(tmp_path / "a.pt")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [attribution, scores])
def test_a_folder_holds_one_result(make, model, means, drinks_task, tmp_path):
    assert find_result(tmp_path) is None
    result = make(model, means, drinks_task)
    assert find_result(tmp_path / "out") is None
    path = result.save_into(tmp_path / "out")
    assert find_result(tmp_path / "out") == path
    assert same(result, load_result(path))


def test_a_folder_holds_results_of_one_kind(model, means, drinks_task, tmp_path):
    scores(model, means, drinks_task).save_into(tmp_path)
    scores(model, means, drinks_task).save_into(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for make in (attribution, side_effects):
        with pytest.raises(
            ValueError, match=r"must be new, or hold a .*, got .*result\.json of another kind"
        ):
            make(model, means, drinks_task).save_into(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_plain_data_and_back():
    cuts = (tlt.Cut("blocks.0.mlp.W_in", 3), tlt.NormMatched("blocks.0.mlp.W_in", 0.5))
    values = {tlt.Site(1, "W_O", 2): cuts}
    data = json.loads(json.dumps(plain(values)))
    assert read(dict[tlt.Site, tuple[SiteCut, ...]], data) == values


def test_a_record_has_a_default_for_everything():
    assert read(Record, {}) == Record()
