"""What a test takes from a page of the documentation: its code blocks, to run them, tables and sections."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import CHECKOUT, python
from tests.support.processes import run as run_command

DOCS = CHECKOUT / "docs"
README = CHECKOUT / "README.md"


@dataclass(frozen=True)
class Block:
    """One fenced block of code."""

    language: str
    text: str


def blocks(page: Path, *languages: str) -> list[Block]:
    """Return the code blocks of a page in their order; all of them, or those in these languages."""
    found = re.findall(r"^```([a-z+]+)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [Block(language, text) for language, text in found if not languages or language in languages]


def block(page: Path, language: str, fragment: str) -> str:
    """Return the one code block in this language that contains a fragment."""
    (found,) = [one.text for one in blocks(page, language) if fragment in one.text]
    return found


def section(page: Path, heading: str) -> str:
    """Return the text between a heading and the next heading of the same or a higher level."""
    level = len(heading) - len(heading.lstrip("#"))
    _, found, rest = page.read_text().partition(f"\n{heading}\n")
    assert found, f"{page.name} has no heading {heading!r}"
    return re.split(rf"^#{{1,{level}}} ", rest, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """Return the cells of all table rows, without the heads and without code marks."""
    lines = re.findall(r"^\|(.*)\|$", text, re.MULTILINE)
    table = [[cell.strip().strip("`") for cell in re.split(r"(?<!\\)\|", line)] for line in lines]
    heads = {
        number - 1 for number, cells in enumerate(table) if all(re.fullmatch(":?-+:?", cell) for cell in cells)
    }
    return [cells for number, cells in enumerate(table) if number not in heads and number - 1 not in heads]


def run(script: str, folder: Path, *arguments: str, **variables: str) -> str:
    """Run Python code in a folder and return what it printed; it must not fail, nor warn.

    :param arguments: for Python, in place of the code.
    """
    paths = f"{CHECKOUT}{os.pathsep}{folder}"
    env = {"PYTHONPATH": paths, "XDG_STATE_HOME": str(folder), **variables}
    ran = run_command(python(*(arguments or ("-c", script))), env, cwd=folder)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout
