"""Workers of Ray: whatever is lost is done again, nothing is counted twice, and no process is left."""

import json
import os
import random
import signal
import socket
import threading
import time
from functools import partial
from pathlib import Path

import documents
import pandas as pd
import pytest
import ray_jobs
import torch
from documents import ROOT
from ray_laws import SWEEP, require_same, surround
from typer.testing import CliRunner

import tl_truncate as tlt
from tl_truncate.cli import app
from tl_truncate.runs.workers.cluster import running
from tl_truncate.runs.workers.pool import pool
from tl_truncate.runs.workers.sending import as_load, require_sendable

ray = pytest.importorskip("ray")
TWO = tlt.Ray(workers=2)


@pytest.fixture(scope="module", autouse=True)
def surroundings():
    with pytest.MonkeyPatch.context() as patch:
        surround(patch)
        # Ray's workers stand behind all else on a machine, other tests too: here they are waited for.
        patch.setenv("RAY_worker_niceness", "0")
        yield


def three_machines(again: int = 2):
    """A head and two others; once more where a busy machine took longer than Ray waits."""
    from ray.cluster_utils import Cluster

    found = Cluster()
    try:
        found.add_node(num_cpus=1, include_dashboard=False)
        found.others = [found.add_node(num_cpus=1) for _ in range(2)]
    except Exception:
        found.shutdown()
        if not again:
            raise
        return three_machines(again - 1)
    return found


@pytest.fixture(scope="module")
def cluster(surroundings):
    """Three machines, as far as Ray knows; this process is connected to them."""
    found = three_machines()
    ray.init(address=found.address, log_to_driver=False, logging_level="ERROR")
    yield found
    ray.shutdown()
    found.shutdown()


MEANS = dict(layers=[0, 2], bigrams=True, max_tokens=8, batch_size=4, progress=False)


@pytest.fixture(scope="module")
def one_process(drinks_task):
    return tlt.sweep(ray_jobs.tiny_model(), drinks_task, **SWEEP)


def cubes(tasks):
    return {task: (task + 0.5) ** 3 for task in tasks}


def kill_now_and_then(folder: Path, times: int, stop: threading.Event, killed: list) -> None:
    """Kills one of the processes that have loaded, at random moments."""
    draw = random.Random(0)
    while len(killed) < times and not stop.is_set():
        time.sleep(draw.uniform(0.1, 0.8))
        files = sorted(folder.glob("*.pid"))
        if files:
            chosen = draw.choice(files)
            chosen.unlink()
            try:
                os.kill(int(chosen.stem), signal.SIGKILL)
                killed.append(chosen.stem)
            except ProcessLookupError:
                pass


class TestOfAModel:
    """What two workers do with the model that they have loaded."""

    @pytest.fixture(scope="class")
    def of_a_model(self, cluster):
        with pool(TWO, ray_jobs.tiny_model) as workers:
            yield workers

    def test_a_sweep_is_that_of_one_process(self, of_a_model, drinks, one_process, tmp_path):
        options = dict(SWEEP, run_dir=tmp_path / "run")
        shared = tlt.sweep(ray_jobs.tiny_model, drinks, on=of_a_model, **options)
        require_same(shared, one_process)
        # Gone on with by one process, and by workers again: nothing is left to do.
        lines = (tmp_path / "run" / "settings.jsonl").read_bytes()
        assert lines.count(b"\n") == len(shared.grid)
        require_same(tlt.sweep(ray_jobs.tiny_model(), drinks, **options), one_process)
        torn = lines[: len(lines) // 2]
        (tmp_path / "run" / "settings.jsonl").write_bytes(torn)
        require_same(tlt.sweep(ray_jobs.tiny_model, drinks, on=of_a_model, **options), one_process)
        assert (tmp_path / "run" / "settings.jsonl").read_bytes().startswith(torn[: torn.rfind(b"\n")])

    def test_a_search_is_that_of_one_process(self, of_a_model, tmp_path):
        task = tlt.Task(
            name="pairs",
            prompts=[
                f"{one} and {two} went to the store , {two} gave a drink to"
                for one, two in [("Mary", "John"), ("John", "Mary")]
            ]
            * 6,
            in_context=[" Mary", " John"] * 6,
            global_=" the",
        )
        options = dict(
            sites=SWEEP["sites"],
            keeps=[0.0, 0.3],
            draws=2,
            splits=2,
            null=True,
            seed=1,
            texts=["Mary gave a drink to John . The capital of France is Paris"],
            prepend_bos=False,
            progress=False,
        )
        found = tlt.search(
            ray_jobs.tiny_model, task, on=of_a_model, run_dir=tmp_path / "shared", **options
        )
        means = tlt.TokenMeans.fit(ray_jobs.tiny_model, ray_jobs.wide_texts(), on=of_a_model, **MEANS)
        wanted = tlt.search(ray_jobs.tiny_model(), task, run_dir=tmp_path / "one", **options)
        assert found.to_json() == wanted.to_json()
        one, other = (
            json.loads((tmp_path / each / "search.json").read_text()) for each in ("shared", "one")
        )
        assert one == other
        alone = tlt.TokenMeans.fit(ray_jobs.tiny_model(), ray_jobs.wide_texts(), **MEANS)
        assert means.hash == alone.hash
        assert means.record == alone.record

    def test_means_of_rows_that_are_read_while_batches_are_seen(self, of_a_model):
        """Many short passages: rows of the next are made while the first batches are summed up."""
        texts = [text for text in ray_jobs.wide_texts() for _ in range(3)]
        options = MEANS | dict(batch_size=2)
        wanted = tlt.TokenMeans.fit(ray_jobs.tiny_model(), texts, **options)
        of_a_model.wait()
        found = tlt.TokenMeans.fit(ray_jobs.tiny_model, texts, on=of_a_model, **options)
        assert found.hash == wanted.hash


class TestWorkers:
    """On three machines, of which one is lost in the last test."""

    def test_tasks_are_done_once_and_what_was_loaded_is_kept(self, cluster, tmp_path):
        load = partial(ray_jobs.note_the_process, str(tmp_path))
        with pool(TWO, load) as workers:
            workers.wait()
            job = workers.share(partial(ray_jobs.Cubes, seconds=0.02))
            assert workers.told(job) == dict(weights=0.5, at="here")
            found = dict(workers.run(job, range(20)))
            again = dict(workers.run(workers.share(ray_jobs.Cubes), range(3)))
        assert {task: each["cube"] for task, each in found.items()} == cubes(range(20))
        assert {task: each["cube"] for task, each in again.items()} == cubes(range(3))
        processes = {each["process"] for each in found.values()}
        assert len(list(tmp_path.glob("*.pid"))) == len(processes) == 2
        assert (
            sum(
                max(each["asked"] for each in found.values() if each["process"] == one)
                for one in processes
            )
            == 20
        )
        assert ray.is_initialized()
        assert sum(node["Alive"] for node in ray.nodes()) == 3

    def test_what_a_worker_has_and_what_it_says(self, cluster):
        with pool(tlt.Ray(workers=1, threads=1), ray_jobs.several_threads) as workers:
            job = workers.share(ray_jobs.Surroundings)
            with pytest.warns(UserWarning, match="the ground is wet") as warned:
                ((_, found), _) = workers.run(job, ["warn", "warn"])
            assert found == dict(
                threads=1,
                OMP_NUM_THREADS="1",
                TQDM_DISABLE="1",
                TL_TRUNCATE_CACHE=os.environ["TL_TRUNCATE_CACHE"],
            )
            assert len(warned) == 1
            with pytest.raises(ValueError, match=r"^the bridge must be dry, got a wet one$"):
                list(workers.run(job, ["fail"]))
            # The error was the task's: the worker is there, however often.
            assert len(list(workers.run(job, ["warn"]))) == 1

    def test_workers_outlive_what_tasks_raise(self, cluster):
        with pool(TWO, partial(float, 1)) as workers:
            job = workers.share(ray_jobs.Surroundings)
            for _ in range(3):
                with pytest.raises(ValueError, match="the bridge must be dry"):
                    list(workers.run(job, ["fail", "fail", "fail"]))
            assert len(list(workers.run(job, ["look"] * 3))) == 3

    def test_runs_that_are_stopped_in_the_middle_get_their_own_answers(self, cluster):
        with pool(TWO, partial(float, 1)) as workers:
            workers.wait()
            job = workers.share(partial(ray_jobs.Cubes, seconds=0.02))
            first = workers.run(job, range(8))
            found = [next(first)]
            second = dict(workers.run(job, range(100, 110)))
            workers.wait()
            found += first
            left = workers.run(job, range(200, 204))
            next(left)
            left.close()
            third = dict(workers.run(job, range(300, 304)))
        cube = {task: (task + 1) ** 3 for task in range(400)}
        assert {place: each["cube"] for place, each in found} == {n: cube[n] for n in range(8)}
        assert {place: each["cube"] for place, each in second.items()} == {
            n: cube[100 + n] for n in range(10)
        }
        assert {place: each["cube"] for place, each in third.items()} == {
            n: cube[300 + n] for n in range(4)
        }

    def test_a_task_that_takes_its_workers_down_ends_it(self, cluster, monkeypatch):
        monkeypatch.setattr("tl_truncate.runs.workers.pool.TRIES", 2)
        with pool(tlt.Ray(workers=1), partial(float, 1)) as workers:
            job = workers.share(ray_jobs.Surroundings)
            with pytest.raises(ChildProcessError, match=r"but 2 were lost at the same one.*use fewer"):
                list(workers.run(job, ["die"]))
        monkeypatch.setattr("tl_truncate.runs.workers.pool.LOADS", 1)
        refused = pytest.raises(ChildProcessError, match=r"live to load the model, but 1 were lost")
        with pool(tlt.Ray(workers=1), ray_jobs.dies) as workers, refused:
            workers.wait()

    def test_workers_that_cannot_load_say_so_once(self, cluster):
        broken = partial(ray_jobs.cannot_load, "no such file")
        with (
            pool(TWO, broken) as workers,
            pytest.raises(OSError, match=r"^pythia-1 could not be loaded: no such file$"),
        ):
            workers.told(workers.share(ray_jobs.Cubes))

    def test_workers_with_other_weights_are_refused(self, cluster):
        with pool(TWO, partial(float, 1)) as workers:
            job = workers.share(partial(ray_jobs.Elsewhere, seconds=0.5))
            with pytest.raises(
                ValueError, match=r"All workers must have the same model.*in: told.weights \("
            ):
                list(workers.run(job, range(8)))

    def test_there_must_be_room(self, cluster):
        with (
            pytest.raises(
                ValueError,
                match=r"room for 4 workers of 1 CPU each, but there is room for 3, "
                r"on 3 machines with 1 CPU; 1 CPU; 1 CPU",
            ),
            pool(tlt.Ray(workers=4), float),
        ):
            pass
        with (
            pytest.raises(
                ValueError, match=r"1 workers of 1 CPU, 0.5 GPU each, but there is room for 0"
            ),
            pool(tlt.Ray(workers=1, gpus=0.5), float),
        ):
            pass

    def test_by_its_address_it_is_used_and_goes_on(self, cluster):
        refused = pytest.raises(ValueError, match=r"connected to another Ray than 10.0.0.1:1, but it is")
        with refused, pool(tlt.Ray(workers=1, address="10.0.0.1:1"), float):
            pass
        ray.shutdown()
        try:
            on = tlt.Ray(workers=1, address=cluster.address)
            with pool(on, partial(float, 1)) as workers:
                assert workers.told(workers.share(ray_jobs.Cubes)) == dict(weights=1.0, at="here")
            assert not ray.is_initialized()
        finally:
            ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        assert sum(node["Alive"] for node in ray.nodes()) == 3

    def test_checkpoints_are_those_of_one_process(self, cluster, tmp_path):
        task, cut = tlt.tasks.induction(6, d_vocab=100), tlt.Cut("blocks.3.mlp.W_out", 0.5)
        options = dict(name="nano", progress=False)
        load = tlt.Checkpoints("nano-pythia")
        found = tlt.dynamics(load, load.steps, task, cut, on=TWO, run_dir=tmp_path, **options)
        wanted = tlt.dynamics(load, load.steps, task, cut, **options)
        pd.testing.assert_frame_equal(found.frame, wanted.frame, check_exact=True)
        assert len((tmp_path / "settings.jsonl").read_text().splitlines()) == 4

    def test_the_guide_and_the_command(self, cluster, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        page = ROOT / "docs" / "guides" / "clusters.md"
        (block,) = [each for each in documents.blocks(page, "py") if "tlt.Ray(" in each]
        names = dict(tlt=tlt)
        exec(compile(block, "clusters.md", "exec"), names)
        wanted = tlt.sweep(
            tlt.load_model("nano-pythia"), names["task"], keeps=[0.1, 0.5], progress=False
        )
        require_same(names["result"], wanted)
        names["task"].save("task.json")
        asked = ["sweep", "--model", "nano-pythia", "--task", "task.json", "--matrices", "W_in,W_out"]
        asked += [
            "--keep",
            "0.1",
            "--keep",
            "0.5",
            "--out",
            "out",
            "--ray",
            "2",
            "--json",
            "--no-figures",
        ]
        done = CliRunner().invoke(app, asked)
        assert done.exit_code == 0, done.output + done.stderr
        found = pd.DataFrame(json.loads(done.stdout))
        assert found["p_in_context"].tolist() == wanted.frame["p_in_context"].tolist()

    def test_the_command_of_checkpoints(self, cluster, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        task = tlt.tasks.induction(6, d_vocab=100)
        task.save("task.json")
        asked = (
            "dynamics --model nano-pythia --task task.json --cut blocks.3.mlp.W_out=0.5 --steps 64,2000"
        )
        done = CliRunner().invoke(app, [*asked.split(), "--out", "out", "--ray", "2", "--json"])
        assert done.exit_code == 0, done.output + done.stderr
        found = pd.DataFrame(json.loads(done.stdout))
        cut, load = tlt.Cut("blocks.3.mlp.W_out", 0.5), tlt.Checkpoints("nano-pythia")
        wanted = tlt.dynamics(load, [64, 2000], task, cut, progress=False).frame
        assert found["p_in_context"].tolist() == wanted["p_in_context"].tolist()

    def test_ten_are_killed_and_a_machine_is_lost(self, cluster, tmp_path):
        load, stop, killed = partial(ray_jobs.note_the_process, str(tmp_path)), threading.Event(), []
        work = dict(target=kill_now_and_then, args=(tmp_path, 10, stop, killed))
        killer = threading.Thread(**work)
        with pool(tlt.Ray(workers=3), load) as workers:
            job, found, tasks = workers.share(partial(ray_jobs.Cubes, seconds=0.1)), [], range(150)
            for task, each in workers.run(job, tasks):
                found.append((task, each["cube"]))
                if len(found) == 5:
                    killer.start()
                if len(found) == 40:
                    cluster.remove_node(cluster.others[0], allow_graceful=False)
        stop.set()
        killer.join()
        assert len(killed) == 10
        assert len(found) == 150
        assert dict(found) == cubes(tasks)


class TestOptions:
    """Before any work."""

    def test_what_is_no_place_to_work(self, drinks):
        for call in (tlt.sweep, tlt.search):
            with pytest.raises(TypeError, match=r"on must be tlt.Ray\(workers=...\), got 2"):
                call("nano-pythia", drinks, on=2, progress=False)
            with pytest.raises(TypeError, match="which is not sent to other processes"):
                call(torch.nn.Linear(1, 1), drinks, on=TWO, progress=False)
        with pytest.raises(TypeError, match=r"on must be tlt.Ray"):
            tlt.TokenMeans.fit("nano-pythia", ["a"], on="ray")

    def test_which_ray_is_taken(self, monkeypatch):
        noted = "ray._private.services.find_bootstrap_address"
        with socket.create_server(("127.0.0.1", 0)) as server:
            there = f"127.0.0.1:{server.getsockname()[1]}"
            monkeypatch.setattr(noted, lambda _: there)
            assert running(tlt.Ray(workers=1)) == there
            assert running(tlt.Ray(workers=1, address="local")) is None
        assert running(tlt.Ray(workers=1)) is None  # it was killed
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
        assert running(tlt.Ray(workers=1)) == "10.0.0.1:6379"
        assert running(tlt.Ray(workers=1, address="10.0.0.2:6379")) == "10.0.0.2:6379"

    def test_without_ray(self, drinks, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "ray" else name)
        with pytest.raises(ModuleNotFoundError, match=r"pip install '\.\[ray\]'. Or go without it"):
            tlt.sweep("nano-pythia", drinks, on=TWO)

    def test_the_commands_other_options_need_workers(self):
        asked = ["sweep", "--model", "nano-pythia", "--out", "x", "--ray-threads", "2", "--no-figures"]
        done = CliRunner().invoke(app, asked)
        assert done.exit_code == 2
        assert "--ray must say how many workers there are" in " ".join(done.stderr.split())

    @pytest.mark.parametrize(
        ("options", "wrong"),
        [
            (dict(workers=0), "workers must be an integer from 1 up, got 0"),
            (dict(workers=2, threads=1.5), "threads must be an integer from 1 up, got 1.5"),
            (dict(workers=2, gpus=1.5), "gpus must be 0, a share of one such as 0.5, or a whole number"),
            (dict(workers=2, gpus="1"), "gpus must be 0"),
            (dict(workers=2, memory="1G"), "memory must be an integer from 1 up"),
        ],
    )
    def test_numbers(self, options, wrong):
        with pytest.raises(ValueError, match=wrong):
            tlt.Ray(**options)

    def test_the_address_is_a_text(self):
        with pytest.raises(TypeError, match=r"address must be a text such as '10.0.0.1:6379'"):
            tlt.Ray(workers=1, address=6379)

    def test_a_model_is_never_sent(self):
        model = torch.nn.Linear(2, 2)
        with pytest.raises(
            TypeError, match=r"give a name, a folder or a function .* got a Linear, which"
        ):
            as_load(model, TWO)
        with pytest.raises(
            TypeError, match=r"but it holds a Linear of this process.*inside the function"
        ):
            as_load(lambda: model, TWO)
        with pytest.raises(TypeError, match=r"must be given as a name, a folder or a function.* got 3"):
            as_load(3, TWO)

    def test_what_cannot_be_sent_is_said(self):
        lock = threading.Lock()
        with pytest.raises(
            ValueError, match=r"must be something that can be sent.*lock.*inside a function"
        ):
            as_load(lambda: lock, TWO)
        require_sendable(lambda: 3, "It")

    def test_names_are_loaded_where_the_worker_is(self, tmp_path):
        assert as_load(tmp_path, TWO).args == (str(tmp_path),)
        assert as_load("pythia-70m", tlt.Ray(workers=2, gpus=0.5)).keywords == dict(device="cuda")
        with pytest.raises(ValueError, match=r"With gpus=2, a function must divide the model"):
            as_load("pythia-70m", tlt.Ray(workers=2, gpus=2))
