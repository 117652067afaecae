"""What holds for every test: the environment, and who runs which."""

import atexit
import gc
import os
import shutil
import tempfile

# Before anything reads them: spectra go to a folder of the tests' own, and no hub is asked. It is fresh for
# each run, and its workers share it; the Makefile lets both legs of a run share one.
if "TL_TRUNCATE_TESTS_CACHE" not in os.environ:
    os.environ["TL_TRUNCATE_TESTS_CACHE"] = tempfile.mkdtemp(prefix="tl-truncate-cache-")
    atexit.register(shutil.rmtree, os.environ["TL_TRUNCATE_TESTS_CACHE"], ignore_errors=True)
os.environ["TL_TRUNCATE_CACHE"] = os.environ["TL_TRUNCATE_TESTS_CACHE"]
os.environ["HF_HUB_OFFLINE"] = "1"
# Tables that are read for lm-evaluation-harness are kept there.
os.environ.setdefault(
    "HF_DATASETS_CACHE", os.path.join(os.environ["TL_TRUNCATE_TESTS_CACHE"], "datasets")
)
os.environ.setdefault("TQDM_DISABLE", "1")
# Two workers share two cores, and what they start does too: one thread each. A second one of NumPy's waits
# in a loop while the cores are busy, which made the decomposition of a real matrix take fifty times as long.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import failures
import plan
import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where the models are: `--device cuda` on a card, `--device twin` on what stands for one here."""
    parser.addoption(
        "--device", default="cpu", help="cpu, twin (tests/twin_device.py), or one of torch's"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Models are for where tests run: what only hands them to workers starts without, in a second."""
    if config.getoption("device") != "cpu":
        failures.keep(config)
    if hasattr(config, "workerinput") or config.getoption("dist", "no") == "no":
        if config.getoption("device") != "cpu":
            import devices

            devices.use(config.getoption("device"), config.pluginmanager)
        config.pluginmanager.import_plugin("shared_models")
        # What was imported stays: else every collection of garbage goes through half a million objects of it.
        gc.collect()
        gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Each test gets its place in the plan, before any is chosen by a marker."""
    plan.arrange(items, whole=config.args == config.getini("testpaths"))
    if config.getoption("device") != "cpu":
        import devices

        chosen = [item for item in items if devices.runs(plan.name(item.nodeid))]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = devices.ordered(chosen)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """With `--dist loadscope`, what goes to one worker is decided by the plan."""
    if config.getoption("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Planned(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return plan.group(plan.name(nodeid))

    return Planned(config, log)
