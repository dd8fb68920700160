"""The table of README.md is complete, and names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.support.processes import CHECKOUT

HERE = CHECKOUT / "tests" / "faults"
ROWS = [*range(1, 28), 32]
THREATS = [
    "code execution through a cache file",
    "planted directory in a shared place",
    "symlink at file or lock name",
    "other account reads the list",
    "other account holds the lock (denial of service)",
    "lock or snapshot deleted by a cleaner",
    "truncated or hostile snapshot",
    "tampering by someone with write access",
    "old snapshot replayed",
    "injection through names",
    "status endpoint leaks",
    "rebuild endpoint abused (denial of service)",
    "pollers as load",
    "child environment and arguments",
    "child runs with other code than the worker",
    "Redis reachable by others",
    "cached data of one user shown to another",
    "XSS through the poller",
    "dependency drift",
]
# Promises of ours that the design notes' tables do not have.
OURS = ["one-time tasks raced for, and their runners killed"]
LINES = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (HERE / "README.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith(("| # ", "| threat "))
]
NAMED = sorted({name for line in LINES for name in re.findall(r"`([\w/]+\.py(?:::\w+)?)`", " ".join(line))})


def path_of(name: str) -> Path:
    """A file of this folder, unless it says which."""
    file = name.partition("::")[0]
    return CHECKOUT / file if "/" in file else HERE / file


def names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_promise_and_every_threat_has_its_row_once() -> None:
    firsts = [line[0] for line in LINES]
    assert [int(first) for first in firsts if first.isdigit()] == ROWS
    assert [first for first in firsts if not first.isdigit()] == [*THREATS, *OURS]
    for line in LINES:
        assert re.search(r"\.py", " ".join(line)) or "pending: " in " ".join(line), line[0]


@pytest.mark.parametrize("name", NAMED)
def test_what_the_table_names_exists(name: str) -> None:
    path = path_of(name)
    if not path.exists() and "/" in name:
        pytest.fail(f"{name} is gone; name the test that proves its row now")
    test = name.partition("::")[2]
    assert not test or test in names_in(path), f"{test} is gone; name the test that proves its row now"


def test_every_test_of_this_folder_is_in_the_table() -> None:
    here = {f"{path.name}::{test}" for path in HERE.glob("test_*.py") for test in names_in(path)}
    ours = {name for name in here if not name.startswith("test_table.py")}
    assert len(ours) >= 40
    assert sorted(ours - set(NAMED)) == []
