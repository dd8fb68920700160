"""Run the poller's unit tests in Node, and check their coverage and the script's size."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.needs import need_program, node_module
from tests.support.processes import run

HERE = Path(__file__).parent
SCRIPT = HERE.parents[1] / "static" / "warmcache.js"

# The size as shipped, with comments. For comparison, swr is 6.4 kB minified and gzipped, without React.
MOST_BYTES = 32 * 1024
MOST_BYTES_GZIPPED = 9000
MOST_BYTES_MINIFIED_GZIPPED = 6000
# The share of its lines.
LEAST_COVERED = 0.98


def node() -> str:
    return need_program("node", package="nodejs")


def test_node_tests_pass_and_cover_the_script(tmp_path: Path) -> None:
    # Name the files, because Node 22 treats a folder as a module.
    files = sorted(str(path) for path in HERE.glob("*.test.cjs"))
    done = run([node(), "--test", *files], {"NODE_V8_COVERAGE": str(tmp_path)}, timeout=120)
    assert done.returncode == 0, f"node --test failed:\n{done.stdout}\n{done.stderr}"
    bare = uncovered_lines(tmp_path)
    covered = 1 - len(bare) / len(code_lines())
    assert covered >= LEAST_COVERED, f"{covered:.1%} of the lines are covered, not {bare}"


@pytest.mark.parametrize("pages", [100, pytest.param(1000, marks=pytest.mark.long)])
def test_polls_of_many_pages_are_limited(pages: int) -> None:
    # This runs separately, because measuring the coverage of so many pages would be slow.
    command = [node(), "--test", "--test-reporter=tap", str(HERE / "crowd.cjs")]
    done = run(command, {"PAGES": str(pages)}, timeout=300)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert re.search(r"# pass 2$", done.stdout, re.MULTILINE), done.stdout
    print("\n".join(re.findall(r"^# (\d+ polls .*)", done.stdout, re.MULTILINE)))


def code_lines() -> list[int]:
    """Return the numbers of the lines that hold more than a comment or brackets."""
    lines = enumerate(SCRIPT.read_text().splitlines(), 1)
    return [number for number, line in lines if line.strip(" {}();,") and not line.lstrip().startswith(("/", "*"))]


def uncovered_lines(folder: Path) -> list[int]:
    """Return the numbers of the lines that no test executed.

    V8 reports ranges with counts. An inner range overrides the outer one.
    """
    source = SCRIPT.read_text()
    ran = bytearray(len(source))
    for report in folder.glob("coverage-*.json"):
        for script in json.loads(report.read_text())["result"]:
            if script["url"].removeprefix("file://") == str(SCRIPT):
                once = counts(script["functions"], len(source))
                ran = bytearray(a | b for a, b in zip(ran, once, strict=True))
    bare, start = [], 0
    code = set(code_lines())
    for number, line in enumerate(source.splitlines(keepends=True), 1):
        first = start + len(line) - len(line.lstrip())
        if number in code and not ran[first]:
            bare.append(number)
        start += len(line)
    return bare


def counts(functions: list[dict[str, Any]], length: int) -> bytearray:
    ran = bytearray(length)
    ranges = [one for function in functions for one in function["ranges"]]
    for one in sorted(ranges, key=lambda one: (one["startOffset"], -one["endOffset"])):
        size = one["endOffset"] - one["startOffset"]
        ran[one["startOffset"] : one["endOffset"]] = bytes([one["count"] > 0]) * size
    return ran


def test_script_is_small() -> None:
    source = SCRIPT.read_bytes()
    assert len(source) <= MOST_BYTES
    assert len(gzip.compress(source, 9)) <= MOST_BYTES_GZIPPED


def test_minified_script_is_small() -> None:
    terser = node_module("terser") / "bin" / "terser"
    # Names that start with _ are private, so a minifier may shorten them.
    options = ["--compress", "passes=3,ecma=2022", "--mangle", "--mangle-props", "regex=/^_/"]
    minified = run([node(), str(terser), str(SCRIPT), *options], check=True).stdout.encode()
    assert 10_000 < len(minified)  # the output is the whole script
    assert len(gzip.compress(minified, 9)) <= MOST_BYTES_MINIFIED_GZIPPED


def test_script_works_with_a_strict_policy() -> None:
    source = SCRIPT.read_text()
    # insertAdjacentHTML and friends would let a list's data become markup; unload blocks the bfcache.
    for word in (
        "innerHTML:",
        ".innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "eval(",
        "new DOMParser",
        '"unload"',
    ):
        assert word not in source, word


# A program as an editor checks it: correct use passes, and the marked line is an error.
USE = """
/// <reference path="{types}" />
import type {{ WarmcacheApi }} from "{types}";
const api: WarmcacheApi = Warmcache;
const all: Record<keyof WarmcacheApi, true> = {{ {names} }};
api.configure({{ {options} }});
const watcher = api.watch("files", {{ refresh: async (status, self) => status.generation !== self.generation }});
api.json<{{ files: string[] }}>("/api/files", (data, info) => [data.files, info.rebuilding]);
document.body.addEventListener("warmcache:blocked", (event) => event.detail.proceed());
// @ts-expect-error
api.watch("files", {{ refresch: "swap" }});
export {{ all, watcher }};
"""


def test_types_match_the_api(tmp_path: Path) -> None:
    print_names = (
        f"const api = require({json.dumps(str(SCRIPT))}); process.stdout.write(JSON.stringify(Object.keys(api)))"
    )
    names = json.loads(run([node(), "-e", print_names], check=True).stdout)
    settings = re.search(r"const settings = \{(.*?)\n  \};", SCRIPT.read_text(), re.DOTALL)
    assert settings is not None and len(names) == 10
    types = SCRIPT.with_name("warmcache.d.ts")
    (tmp_path / "use.ts").write_text(
        USE.format(types=types, names=", ".join(f"{name}: true" for name in names), options=settings[1])
    )
    compiler = node_module("typescript") / "bin" / "tsc"
    options = [
        "--noEmit",
        "--strict",
        "--target",
        "es2022",
        "--lib",
        "es2022,dom",
        "--module",
        "es2022",
    ]
    done = run([node(), str(compiler), *options, str(tmp_path / "use.ts")])
    assert done.returncode == 0, done.stdout
