"""The order of the rooms: a module imports only from its own room and from the rooms above it."""

from __future__ import annotations

from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from .test_structure import PACKAGE, imports

# From the ground up.  A name is a folder, or one file that is a room of its own; docs/architecture.md says what
# question each room answers.
ORDER: list[set[str]] = [
    {"errors", "events", "declaration", "bytecode", "settings", "signals", "encoding"},
    {"host"},
    {"store"},
    {"status"},
    {"index"},
    {"rebuild"},
    {"query"},
    {"startup"},
    {"keeper"},
    {"registry", "state"},
    {"lists"},
    {"child", "testing", "gunicorn_conf", "gunicorn_small", "doctor"},
    {"web"},
    {"cli"},
    {"extension", "__init__"},
]
FLOOR = {room: floor for floor, rooms in enumerate(ORDER) for room in rooms}


def modules() -> dict[str, Path]:
    """Return every module of the package by its dotted name below the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return found


MODULES = modules()


def imported_modules(name: str) -> Iterator[str]:
    """Yield the modules of this package that one module imports, also inside functions and for type checkers."""
    for full in imports(MODULES[name]):
        root, _, inside = full.partition(".")
        if root == "flask_warmcache":
            yield inside if inside in MODULES else inside.rpartition(".")[0] or "__init__"


def room_of(module: str) -> str:
    return module.partition(".")[0]


def test_every_module_belongs_to_room() -> None:
    assert {room_of(module) for module in MODULES} == set(FLOOR)


def test_modules_import_only_from_their_own_room_and_from_rooms_above() -> None:
    wrong = [
        f"{module} imports {imported}"
        for module in MODULES
        for imported in sorted(set(imported_modules(module)))
        if FLOOR[room_of(imported)] > FLOOR[room_of(module)]
    ]
    assert wrong == []


def test_no_module_is_longer_than_300_lines() -> None:
    assert [name for name, path in MODULES.items() if len(path.read_text().splitlines()) > 300] == []


def test_imports_have_no_cycle() -> None:
    graph = {module: set(imported_modules(module)) - {module} for module in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = " -> ".join(error.args[1])
        raise AssertionError(f"These modules import each other in a circle: {circle}") from None
