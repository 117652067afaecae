"""Draws the package as a house: its rooms by floors, what each imports, and imports in a circle.

python docs/house.py            print the drawing
python docs/house.py --write    put it into docs/CONTRIBUTING.md
"""

import argparse
import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "tl_truncate"
PAGE = ROOT / "docs" / "CONTRIBUTING.md"
BEGIN, END = "<!-- house: begin (make house) -->", "<!-- house: end -->"
# These two are streets, not rooms: each of their wings stands on a floor of its own.
STREETS = ("experiments", "toys")
Graph = dict[str, set[str]]


def modules() -> dict[str, Path]:
    """Every module of the package by its name."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(tree: ast.AST, known: Mapping[str, Path]) -> Iterator[str]:
    """The modules of the package that a module imports, wherever in the file it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            named = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in known else node.module for name in named)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def file_graph() -> Graph:
    """Which module imports which."""
    known = modules()
    return {
        name: {each for each in imports(ast.parse(path.read_text("utf-8")), known) if each in known}
        - {name}
        for name, path in known.items()
    }


def room(module: str) -> str:
    """The room that a module is in; the face and the streets' own faces are no rooms."""
    parts = module.split(".")[1:]
    if not parts or parts in [[street] for street in STREETS] or parts == ["__main__"]:
        return ""
    return "/".join(parts[:2]) if parts[0] in STREETS else parts[0]


def room_graph(files: Graph) -> Graph:
    """Which room imports from which."""
    rooms: Graph = {room(name): set() for name in files if room(name)}
    for name, others in files.items():
        if room(name):
            rooms[room(name)] |= {room(each) for each in others} - {"", room(name)}
    return rooms


def circles(graph: Graph) -> list[list[str]]:
    """Groups whose members reach each other: Tarjan's strongly connected components above one."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in order:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], order[other])
        if low[name] == order[name]:
            members = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(members) > 1:
                found.append(sorted(members))

    for name in sorted(graph):
        if name not in order:
            visit(name)
    return found


def floors(rooms: Graph) -> dict[str, int]:
    """Each room stands one floor above the highest that it imports from."""
    found: dict[str, int] = {}

    def floor(name: str) -> int:
        if name not in found:
            found[name] = 1 + max((floor(other) for other in rooms[name]), default=0)
        return found[name]

    for name in rooms:
        floor(name)
    return found


def drawing() -> str:
    """The house as a table, the top floor first; circles, if there are some, instead."""
    files = file_graph()
    rooms = room_graph(files)
    wrong = circles(files) + circles(rooms)
    if wrong:
        return "\n".join(["Imports in a circle:", *(f"- {', '.join(each)}" for each in wrong)])
    height = floors(rooms)
    lines = ["| floor | room | imports from |", "|---|---|---|"]
    for name in sorted(rooms, key=lambda each: (-height[each], each)):
        below = sorted(rooms[name], key=lambda each: (-height[each], each))
        told = ", ".join(f"`{each}`" for each in below) or "nothing of the package"
        lines.append(f"| {height[name]} | `{name}` | {told} |")
    arrows = sum(map(len, rooms.values()))
    lines += ["", f"{len(rooms)} rooms, {arrows} arrows, all of them down; no files import in a circle."]
    return "\n".join(lines)


def written(text: str) -> str:
    """A page with the drawing in it."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{drawing()}\n{END}{after}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="into docs/CONTRIBUTING.md")
    if parser.parse_args().write:
        PAGE.write_text(written(PAGE.read_text("utf-8")), encoding="utf-8")
    print(drawing())
