"""Which tests run where, and in which order: beginnings of their names, in one place.

The suite runs twice, on two versions of TransformerLens. What has nothing to do with TransformerLens
runs on one of these legs only, the newest version's: there `-m "not one_leg"` is not given.
"""

from pathlib import Path

import pytest

FOLDER = Path(__file__).parent

#: Tests of what would compute the same without TransformerLens, or whose other leg would only repeat it.
ONE_LEG = (
    # Numbers and text alone.
    "test_statistics.py",
    "tasks/test_tasks.py",
    "tasks/test_demonstrations.py",
    "tasks/test_generated.py::test_a_hundred",
    "tasks/test_generated.py::test_the_global_random_state",
    "tasks/test_generated.py::test_bad_numbers",
    "tasks/test_generated.py::TestCounterFact",
    # How a run is kept, gone on with and told apart from another one.
    "runs/",
    "test_clusters.py",
    "test_devices.py",
    "test_slurm.py",
    "decompose/means/test_sharded.py",
    "experiments/test_merge.py",
    "experiments/search/test_sharded.py",
    "experiments/search/test_words.py",
    "experiments/sweep/test_sharded.py::TestMissing",
    "experiments/sweep/test_sharded.py::TestRefused",
    "experiments/sweep/test_sharded.py::TestAtWork",
    "experiments/sweep/test_sharded.py::TestMerged",
    "experiments/sweep/test_sharded.py::TestPages",
    "experiments/training/test_dynamics.py::test_killed",
    "experiments/training/test_dynamics.py::test_what_is_finished",
    "experiments/training/test_bad_checkpoints.py",
    "experiments/training/test_several_tasks.py",
    "experiments/training/test_swept.py",
    "experiments/training/test_alike.py::test_of_shards_that_begin_together[dtype",
    "experiments/training/test_alike.py::test_of_shards_that_begin_together[processing",
    "experiments/training/test_alike.py::test_of_shards_that_begin_together[bos",
    "experiments/training/test_alike.py::test_of_shards_that_begin_together[tokenizer",
    "experiments/training/test_alike.py::test_gone_on",
    "experiments/scoring/test_memory.py::test_a_process_grows",
    "experiments/training/test_shards_of_dynamics.py",
    "test_checkpoints.py",
    "toys/recall/test_recall.py::test_killed",
    # How families of cuts are chosen and told apart: splits, nulls and tables of the scores that searches
    # give, whose own tests run on both.
    "experiments/comparison/test_chosen.py::TestFamilies",
    "experiments/screening/test_parts.py::TestCompare::test_chosen",
    # Commands whose work has tests of its own on both.
    "explore/test_server.py",
    "explore/test_widget.py",
    "explore/test_command.py",
    "cli/",
    "test_cli.py::test_toys",
    "test_cli.py::test_dynamics_of_what_ships",
    "test_cli.py::test_as_a_process",
    "test_cli.py::test_ctrl_c",
    "test_cli.py::test_sweep_plot",
    "test_cli.py::test_search_writes",
    "test_extras.py::test_without_pictures",
    "export/test_files.py::test_memory",
    "toys/memory/",
    "toys/test_gradients.py",
    "toys/recall/test_bayes.py",
    "toys/recall/test_data.py",
    "toys/recall/test_stored.py",
    "toys/nano/test_nano.py::test_the_grammar",
    "toys/nano/test_nano.py::test_the_vocabulary",
    "toys/nano/test_nano.py::test_training_tokens",
    "weights/test_cache.py",
    "weights/test_vectors.py",
    "weights/test_other_side.py::test_of_any_matrix",
    "weights/test_unpacked.py",
    "weights/test_keep.py",
    "weights/test_spoken.py",
    "weights/test_spectrum.py::test_factors_of_any_matrix",
    # What trained models have learnt, and what the demo model does: on either version the same weights give
    # the same. That surgery is exact on them is tested on both.
    "toys/recall/test_parts_of_recall",
    "toys/recall/test_recall.py::TestTheSmallPreset",
    "toys/nano/test_nano.py::TestWhatShips::test_a_cut_chosen",
    "experiments/training/test_dynamics.py::TestParts::test_on_the_nano_pythia",
    "experiments/training/test_dynamics.py::TestParts::test_the_nano_pythias",
    "test_docs.py::test_the_block_on_training",
    "real/test_smollm2.py::test_what_is_unpacked",
    "real/test_smollm2.py::test_the_readmes",
    "real/test_smollm2.py::test_the_tour_in_code",
    "real/test_smollm2.py::test_the_page",
    "real/test_smollm2.py::test_without_layer",
    "real/test_smollm2.py::test_the_largest_half",
    "real/test_smollm2.py::test_at_layer_27",
    "real/test_smollm2.py::test_the_model_knows",
    "real/test_smollm2.py::test_the_documented_scores",
    "real/test_smollm2.py::test_generated_tasks",
    "real/test_smollm2.py::test_what_a_search_found",
    "real/test_smollm2.py::TestGlobalParts::test_held_out",
    "real/test_smollm2.py::TestGlobalParts::test_the_layer_that",
    "real/test_smollm2.py::TestGlobalParts::test_attribution",
    # Pictures and pages of results: a result is the same plain data on either version, and the tests of
    # what makes it run on both.
    "report/",
    "test_plots.py",
    "test_plots_layout.py",
    "test_plots_of_results.py",
    "test_plots_of_sweeps.py",
    # The live view as a hand meets it: what answers it is tested on both.
    "explore/test_browser.py",
    "explore/test_notebook.py",
    # The harness' own numbers as plain data: what asks a model is tested on both.
    "evals/test_changes.py",
    "tasks/test_tables.py::test_",
    # Static: the names in the documentation, and what an import loads.
    "test_docs.py::test_it_builds_strictly",
    "test_site.py",
    "test_docs.py::test_shell_blocks",
    "test_shell_blocks.py",
    "test_readme.py",
    # A Bridge around an offloaded model is new in TransformerLens 4.
    "test_docs.py::test_the_page_on_quantised",
    "test_import.py",
    "test_versions.py",
    "test_house.py",
    "test_bars.py",
    # Tutorials carry the outputs of the newest version (`make tutorials`), which is what they are compared
    # with; whatever they call has tests of its own on both.
    "test_tutorials.py",
)

#: Left out of `make test-quick`: more than some seconds each, or many processes, checkpoints and trainings
#: that a change of surgery, scores or statistics does not reach before something quicker fails.
SLOW = (
    "surgery/test_states.py::test_compiled_models",
    "real/",
    "report/",
    "explore/test_browser.py",
    "explore/test_notebook.py",
    "runs/test_going_on.py",
    "runs/test_ray.py",
    "runs/test_stopped_on_ray.py",
    "evals/test_benchmark.py",
    "runs/test_folder.py::test_killed",
    "cli/test_tables.py",
    "test_cli.py",
    "test_checkpoints.py",
    "test_clusters.py",
    "test_slurm.py",
    "test_docs.py",
    "test_shell_blocks.py",
    "test_readme.py::test_what_is_built",
    "test_site.py",
    "test_extras.py",
    "test_models.py",
    "test_tutorials.py::test_it_runs",
    "export/test_laws.py::test_a_checkpoint",
    "export/test_files.py::test_memory",
    "experiments/training/",
    "toys/nano/",
    "toys/recall/",
    "weights/test_cache.py::test_two_processes",
    "weights/test_unpacked.py",
)

#: Handed out first, the longest before the others, so that no worker is left with one at the end.
FIRST = (
    "toys/recall/test_parts_of_recall.py",
    "runs/test_ray.py",
    "real/",
    "toys/recall/test_recall.py::TestTheSmallPreset",
    "report/",
    "test_tutorials.py::test_it_runs",
    "toys/recall/test_parts_of_recall_everywhere.py",
    "test_docs.py::test_it_builds_strictly",
)

#: Files whose tests need nothing that is built for the file: each test is handed out by itself. Of other
#: files all tests go to one worker, one after the other ...
ALONE = (
    "test_tutorials.py",
    "test_docs.py",
    "test_shell_blocks.py",
    "test_cli.py",
    "test_doctests.py",
    "surgery/",
)
#: ... and of these all with the same parameter, since a model of its own is trained or read for each.
BY_PARAMETER = (
    "toys/recall/test_parts_of_recall",
    "toys/recall/test_recall.py::TestTheSmallPreset",
)


def name(test: str) -> str:
    """The test's name without the folder of the tests."""
    return test.removeprefix("tests/")


def place(test: str) -> int:
    """In the order in which tests are handed out."""
    return next((index for index, start in enumerate(FIRST) if test.startswith(start)), len(FIRST))


def group(test: str) -> str:
    """Tests of one group run in one worker, one after the other."""
    if test.startswith(ALONE):
        return test
    file = test.split("::")[0]
    return f"{file} {test.partition('[')[2]}" if test.startswith(BY_PARAMETER) else file


def arrange(items: list[pytest.Item], *, whole: bool) -> None:
    """Marks and orders what was collected.

    Raises:
        pytest.UsageError: if the whole suite was collected and an entry of this file fits no test.
    """
    if whole and unused(items):
        raise pytest.UsageError(f"tests/plan.py names no test with: {', '.join(unused(items))}")
    for item in items:
        if name(item.nodeid).startswith(ONE_LEG):
            item.add_marker(pytest.mark.one_leg)
        if name(item.nodeid).startswith(SLOW):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: place(name(item.nodeid)))


def unused(items: list[pytest.Item]) -> list[str]:
    """Entries of this file that no test's name begins with; of files that could be collected."""
    names = [name(item.nodeid) for item in items]
    files = {each.split("::")[0] for each in names}
    return [
        start
        for start in dict.fromkeys((*ONE_LEG, *SLOW, *FIRST, *ALONE, *BY_PARAMETER))
        if not any(each.startswith(start) for each in names)
        and ("::" not in start or start.split("::")[0] in files)
        and not (FOLDER / start).exists()
    ]
