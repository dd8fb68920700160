"""The README is short, its example runs, and what it links to exists; so do the links of the documentation."""

from __future__ import annotations

import os
import re
from configparser import ConfigParser
from pathlib import Path

import pytest

from tests.support.processes import CHECKOUT

from .pages import DOCS, README, block, run

DRIVER = """
client = app.test_client()
cold = client.get("/api/files").json
assert cold["cache_rebuilding"] is True, cold
import time
deadline = time.monotonic() + 60
while (answer := client.get("/api/files?sort=-name&filter=large&search=a").json)["cache_rebuilding"]:
    assert time.monotonic() < deadline, answer
    time.sleep(0.05)
print(*sorted(answer))
"""
PAGES = [
    README,
    *(CHECKOUT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "demo/README.md")),
    *sorted(DOCS.rglob("*.md")),
]


def test_readme_has_at_most_200_lines() -> None:
    assert len(README.read_text().splitlines()) <= 200


def test_example_runs_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "a big file").write_bytes(bytes(1_000_001))
    example = block(README, "python", "# app.py").replace("WarmCache(app)", "WarmCache(app, dir='cache')")
    names = "cache_rebuilding files large_count page per_page total_files total_pages"
    assert run(example + DRIVER, tmp_path) == f"{names}\n"


def test_change_is_visible_as_the_readme_says(tmp_path: Path) -> None:
    script = block(README, "python", "# app.py") + block(README, "python", "@files.lookup")
    driver = """
from flask_warmcache.testing import inline_rebuilds
with inline_rebuilds(app):
    client = app.test_client()
    before = client.get("/api/files").json["files"][0]["size"]
    with open("a file", "a") as file:
        file.write("longer")
    assert client.post("/api/files/a file").status_code == 204
    print(before, client.get("/api/files").json["files"][0]["size"])
"""
    (tmp_path / "a file").write_text("short")
    assert run(script + driver, tmp_path) == "5 11\n"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(CHECKOUT).as_posix())
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    text = re.sub(r"^```.*?^```$|`[^`]*`", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r' (?:src|srcset)="([^"]+)"', text)
    for link in links:
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        linked = page.parent / target if target else page
        assert linked.exists(), link
        if anchor:
            assert anchor in _anchors(linked), link


def _anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub and Sphinx make of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_commands_of_the_checkout_can_be_run() -> None:
    commands = re.findall(r"`?(\./\w+/\w+)", README.read_text())
    assert commands
    for command in commands:
        assert os.access(CHECKOUT / command, os.X_OK), command


def test_every_extra_that_is_named_can_be_installed() -> None:
    setup = ConfigParser()
    setup.read(CHECKOUT / "setup.cfg")
    named = {extra for page in PAGES for extra in re.findall(r"flask-warmcache\[([\w-]+)\]", page.read_text())}
    assert named and named <= set(setup["options.extras_require"])


def test_pictures_in_both_colour_schemes_show_the_same() -> None:
    light, dark = ((DOCS / "_static" / f"request-{scheme}.svg").read_text() for scheme in ("light", "dark"))
    colours = re.compile(r"#[0-9a-f]{6}")
    assert light != dark and colours.sub("", light) == colours.sub("", dark)
