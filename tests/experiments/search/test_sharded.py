"""A search by several processes: each look is shared out, and all come to the result of one process."""

import contextlib
import os
import time

import architectures
import pytest
from children import in_a_child, kill

import tl_truncate as tlt
from tl_truncate.experiments.search import file
from tl_truncate.runs.folder import RunFolder

SITES = ["blocks.0.mlp.W_in", "blocks.1.mlp.W_out", "blocks.2.mlp.W_out"]
OPTIONS = dict(
    sites=SITES,
    keeps=[0.0, 0.5],
    greedy=2,
    splits=2,
    null=True,
    draws=2,
    texts=(),
    objective="logit_diff",
    max_perplexity_ratio=None,
    prepend_bos=False,
    progress=False,
)


#: One search on one split.
ONCE = dict(greedy=1, splits=1, null=False)


@pytest.fixture(scope="module")
def model(shared):
    return architectures.with_tokenizer(shared("bridge", "gpt2"))


@pytest.fixture(scope="module")
def task(drinks_task):
    """As many prompts as the first look takes, and more."""
    table = [
        (f"{first} {prompt}", drinks_task.in_context[place])
        for first in ("Mary", "John", "the", "store", "Paris")
        for place, prompt in enumerate(drinks_task.prompts)
    ]
    prompts, answers = map(list, zip(*table, strict=True))
    return tlt.Task(name="drinks", prompts=prompts, in_context=answers, global_=" the")


@pytest.fixture(scope="module")
def alone(model, task):
    return tlt.search(model, task, **OPTIONS)


@pytest.fixture(scope="module")
def once(model, task):
    return tlt.search(model, task, **OPTIONS | ONCE)


def search(model, task, folder, shard, **options):
    return tlt.search(model, task, run_dir=folder, shard=shard, **OPTIONS | dict(patience=60) | options)


@contextlib.contextmanager
def beside(work, *shards):
    """Further processes at work, which have to come to their end."""
    children = {shard: in_a_child(lambda shard=shard: work(shard)) for shard in shards}
    yield children
    for child in children.values():
        assert os.waitpid(child, 0)[1] == 0


def require_equal(found, alone):
    assert found.to_json() == alone.to_json()
    assert found.cuts == alone.cuts
    for split in ("validation", "test"):
        for name, scores in getattr(alone, split).items():
            assert getattr(found, split)[name].frame.equals(scores.frame)
    assert found.looks.equals(alone.looks)
    assert found.repeats == alone.repeats
    assert (found.null is None) == (alone.null is None)
    assert found.null is None or found.null.looks.equals(alone.null.looks)


def test_three_processes_come_to_the_result_of_one(model, task, alone, tmp_path):
    assert alone.cuts or len(alone.looks) > 1
    with beside(lambda shard: search(model, task, tmp_path, shard), (2, 3), (3, 3)):
        found = search(model, task, tmp_path, (1, 3))
    require_equal(found, alone)
    require_equal(tlt.SearchResult.load(tmp_path), alone)
    require_equal(tlt.merge(tmp_path), alone)
    require_equal(tlt.SearchResult.load(tmp_path), alone)
    looks = sorted(
        path.parent for path in tmp_path.glob("**/manifest.json") if path.parent.name[0] == "0"
    )
    assert looks
    for look in looks:
        assert tlt.SweepResult.load(look).finished

    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    require_equal(tlt.merge(tmp_path), alone)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "append", lambda self, lines: calls.append(lines))
        require_equal(tlt.search(model, task, run_dir=tmp_path, **OPTIONS), alone)
    assert calls == []  # one process finds each look finished


def test_a_process_is_killed_and_started_again(model, task, once, tmp_path, monkeypatch):
    original = RunFolder.append

    def append(self, lines):
        time.sleep(0.02)
        original(self, lines)

    monkeypatch.setattr(RunFolder, "append", append)

    def work(shard):
        return search(model, task, tmp_path, shard, **ONCE)

    child = in_a_child(lambda: work((2, 2)))
    other = in_a_child(lambda: work((1, 2)))
    time.sleep(0.1)
    assert kill(child)
    child = in_a_child(lambda: work((2, 2)))
    assert [os.waitpid(each, 0)[1] for each in (child, other)] == [0, 0]
    require_equal(tlt.merge(tmp_path), once)


class TestWaiting:
    def test_patience_and_whom_it_waits_for(self, model, task, tmp_path, capsys):
        options = dict(patience=0.2, progress=True)
        told = (
            r"Shard 1/3 has waited 0\.2 seconds for others in .*00-cut-1-on-8 that do not get on: "
            r"2/3 has not begun, 3/3 has not begun\. Start those; the same call goes on from here"
        )
        with pytest.raises(TimeoutError, match=told):
            tlt.search(model, task, run_dir=tmp_path, shard=(1, 3), **OPTIONS | options)
        assert "cut 1 on 8: shard 1/3 waits for 2/3, 3/3" in capsys.readouterr().err
        with pytest.raises(ValueError, match=r"must hold a finished search's search\.json"):
            tlt.SearchResult.load(tmp_path)
        with pytest.raises(
            ValueError, match=r"All shards must be finished to be merged\. .* 2/3 has not"
        ):
            tlt.merge(tmp_path)

    def test_one_process_goes_on(self, model, task, once, tmp_path):
        with pytest.raises(TimeoutError):
            search(model, task, tmp_path, (1, 2), **ONCE | dict(patience=0.01))
        require_equal(tlt.search(model, task, run_dir=tmp_path, **OPTIONS | ONCE), once)
        require_equal(tlt.merge(tmp_path), once)

    @pytest.mark.parametrize("patience", [0, -1, "long", float("nan"), True, None])
    def test_bad_patience(self, model, task, tmp_path, patience):
        with pytest.raises(ValueError, match="patience must be a number of seconds above 0"):
            tlt.search(model, task, run_dir=tmp_path, shard=(1, 2), patience=patience, **OPTIONS)


class TestRefused:
    @pytest.fixture
    def begun(self, model, task, tmp_path):
        with pytest.raises(TimeoutError):
            search(model, task, tmp_path, (1, 2), patience=0.01)
        return tmp_path

    def test_other_weights(self, begun, task):
        other = architectures.with_tokenizer(architectures.randomise(architectures.bridge("gpt2"), 5))
        with pytest.raises(ValueError, match=r"2/2 differs from 1/2 in: weights_hash"):
            search(other, task, begun, (2, 2))

    @pytest.mark.parametrize(
        "options", [dict(greedy=1), dict(splits=1), dict(budget=3.0), dict(keeps=[0.1]), dict(seed=1)]
    )
    def test_another_search(self, model, begun, task, options):
        with pytest.raises(ValueError, match=r"2/2 differs from 1/2 in: "):
            search(model, task, begun, (2, 2), **options)

    def test_without_a_folder(self, model, task):
        with pytest.raises(ValueError, match="must have a run folder"):
            tlt.search(model, task, shard=(1, 2), **OPTIONS)

    def test_of_another_kind(self, model, begun, task):
        with pytest.raises(ValueError, match=r"must be of kind 'sweep', got kind 'search'"):
            tlt.sweep(model, task, run_dir=begun, shard=(2, 2), sites=SITES, progress=False)
        with pytest.raises(ValueError, match=r"must be of kind 'sweep', got kind 'search'"):
            tlt.SweepResult.load(begun)


def test_a_result_of_an_earlier_grid_is_not_that_of_a_later(model, task, tmp_path):
    """Where shards go on with more to choose from, and have not come to the end."""
    few = ONCE | dict(keeps=[0.5])
    with beside(lambda shard: search(model, task, tmp_path, shard, **few), (2, 2)):
        search(model, task, tmp_path, (1, 2), **few)
    tlt.merge(tmp_path)
    with pytest.raises(TimeoutError):
        search(model, task, tmp_path, (1, 2), **few | dict(keeps=[0.5, 0.0], patience=0.01))
    with pytest.raises(ValueError, match="2/2 has not begun"):
        tlt.merge(tmp_path)
    assert file.search_file(tmp_path) == tmp_path / "search.json"


class TestAskedAnew:
    """In the same folder with other settings: the looks are in common, the result is another's."""

    FEW = ONCE | dict(keeps=[0.5])

    @pytest.fixture(scope="class")
    def results(self, model, task):
        options = OPTIONS | self.FEW
        return {greedy: tlt.search(model, task, **options | dict(greedy=greedy)) for greedy in (1, 3)}

    @pytest.mark.parametrize("merged", [True, False])
    def test_greedy_in_a_shard(self, model, task, tmp_path, results, merged):
        assert results[1].settings != results[3].settings
        for greedy in (1, 3, 1):
            search(model, task, tmp_path, (1, 1), **self.FEW | dict(greedy=greedy))
            require_equal(tlt.SearchResult.load(tmp_path), results[greedy])
            if merged:
                require_equal(tlt.merge(tmp_path), results[greedy])
        require_equal(tlt.merge(tmp_path), results[1])

    def test_greedy_behind_one_process(self, model, task, tmp_path, results):
        search(model, task, tmp_path, None, **self.FEW)
        search(model, task, tmp_path, (1, 1), **self.FEW | dict(greedy=3))
        require_equal(tlt.SearchResult.load(tmp_path), results[3])
        require_equal(tlt.merge(tmp_path), results[3])
        search(model, task, tmp_path, None, **self.FEW)
        require_equal(tlt.SearchResult.load(tmp_path), results[1])
        require_equal(tlt.merge(tmp_path), results[1])

    @pytest.mark.parametrize(
        "options",
        [
            dict(budget=2.0),
            dict(splits=2),
            dict(draws=1),
            dict(null=True),
            dict(texts=["the store in Paris"]),
        ],
    )
    def test_everything_else_that_may_be_asked_anew(self, model, task, tmp_path, options):
        search(model, task, tmp_path, (1, 1), **self.FEW)
        tlt.merge(tmp_path)
        found = search(model, task, tmp_path, (1, 1), **self.FEW | options)
        assert (
            found.to_json() == tlt.merge(tmp_path).to_json() == tlt.SearchResult.load(tmp_path).to_json()
        )

    def test_fewer_cuts(self, model, task, tmp_path):
        search(model, task, tmp_path, (1, 1), **ONCE)
        tlt.merge(tmp_path)
        found = search(model, task, tmp_path, (1, 1), **self.FEW)
        assert tlt.merge(tmp_path).to_json() == found.to_json()

    def test_a_shard_that_has_not_ended(self, model, task, tmp_path, monkeypatch, results):
        search(model, task, tmp_path, (1, 1), **self.FEW)
        with monkeypatch.context() as patch:
            patch.setattr(file, "write_search", stopped)
            with pytest.raises(KeyboardInterrupt):
                search(model, task, tmp_path, (1, 1), **self.FEW | dict(greedy=3))
        with pytest.raises(ValueError, match="1/1 has 1 of "):
            tlt.merge(tmp_path)
        search(model, task, tmp_path, (1, 1), **self.FEW | dict(greedy=3))
        require_equal(tlt.merge(tmp_path), results[3])

    def test_a_folder_of_an_earlier_version(self, model, task, tmp_path, results):
        search(model, task, tmp_path, (1, 1), **self.FEW)
        own = RunFolder(tmp_path / "shards" / "1-of-1")
        manifest = own.manifest()
        names = manifest["share"][:-1]
        del manifest["asked"], manifest["texts_hash"]
        own.take(manifest | dict(share=names), None, [dict(searched=names)])
        require_equal(tlt.SearchResult.load(tmp_path), results[1])
        require_equal(tlt.merge(tmp_path), results[1])
        require_equal(search(model, task, tmp_path, None, **self.FEW), results[1])
        search(model, task, tmp_path, (1, 1), **self.FEW | dict(greedy=3))
        require_equal(tlt.merge(tmp_path), results[3])


def stopped(*_):
    raise KeyboardInterrupt
