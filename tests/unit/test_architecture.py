"""docs/architecture.md names files and functions that exist."""

from __future__ import annotations

import ast
import re

from tests.support.processes import CHECKOUT

from .test_rooms import ORDER

PAGE = (CHECKOUT / "docs" / "architecture.md").read_text()
REFERENCES = sorted(set(re.findall(r"`((?:\w+/)?\w+\.py):([\w.]+)`", PAGE)))


def names_in(source: str) -> set[str]:
    """Return the functions, classes and methods that a file defines, methods with their class."""
    found = set()
    for node in ast.parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return found


def test_every_place_that_page_names_exists() -> None:
    assert len(REFERENCES) > 30
    sources = {file: (CHECKOUT / "flask_warmcache" / file).read_text() for file, _ in REFERENCES}
    assert [f"{file}:{name}" for file, name in REFERENCES if name not in names_in(sources[file])] == []


def test_page_lists_rooms_in_their_order() -> None:
    table = PAGE.split("## Words")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| ") and "question" not in line]
    listed = [set(re.findall(r"[a-z]\w+", re.sub(r"root:|and|__init__", "", row))) for row in rows]
    assert listed == [rooms - {"__init__"} for rooms in ORDER]
