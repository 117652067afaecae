"""The package's floors: what imports what, and that the drawing of it is today's."""

import importlib.util

import documents
import pytest

SPEC = importlib.util.spec_from_file_location("house", documents.ROOT / "docs" / "house.py")
house = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(house)

#: The ground first. A room may import from those that stand before it in this list.
FLOORS = [
    ["weights", "statistics", "checks", "checkpoints", "drawing"],
    ["surgery", "tasks", "corpora", "markup", "colours", "models"],
    ["replay", "runs"],
    ["decompose", "toys"],
    ["experiments"],
    ["export"],
    ["evals"],
    ["plots", "report", "explore"],
    ["cli"],
]


def test_no_files_import_each_other_in_a_circle():
    assert house.circles(house.file_graph()) == []


def test_a_room_imports_from_its_own_floor_and_those_below():
    floor = {name: place for place, names in enumerate(FLOORS) for name in names}
    for room, others in house.room_graph(house.file_graph()).items():
        for other in others:
            assert floor[other.split("/")[0]] <= floor[room.split("/")[0]], f"{room} imports {other}"


def test_the_drawing_is_todays():
    text = house.PAGE.read_text("utf-8")
    assert text == house.written(text), "run `make house`"


@pytest.mark.parametrize(
    ("graph", "found"),
    [
        ({"a": {"b"}, "b": {"a"}, "c": {"a"}}, [["a", "b"]]),
        ({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": set()}, [["a", "b", "c"]]),
        ({"a": {"b", "c"}, "b": {"c"}, "c": set()}, []),
    ],
)
def test_circles_are_found(graph, found):
    assert house.circles(graph) == found
