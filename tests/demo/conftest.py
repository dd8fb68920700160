"""Run the demo as people do: with a library of real files, two gunicorn workers and a browser."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests

from demo import library
from demo.markers import Counts, MarkerStore
from tests.support.ports import free_port
from tests.support.waiting import until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext

CHECKOUT = Path(__file__).parents[2]
COUNT = 120  # comics, among them twelve broken ones and twelve duplicates; they fill three pages of 48


@dataclass(frozen=True)
class Server:
    """A running demo."""

    url: str
    root: Path
    data: Path
    log: Path

    def get(self, path: str, **query: str | int) -> requests.Response:
        """Send a GET request."""
        return requests.get(self.url + path, params=query, timeout=20)

    def mark(self, body: object, **headers: str) -> requests.Response:
        """Send markers."""
        return requests.post(self.url + "/api/files/mark", json=body, headers=headers, timeout=20)

    def settle(self) -> None:
        """Wait until no list is being rebuilt."""
        until(
            lambda: self.get("/api/files", per_page=1).json()["cache_rebuilding"] is False,
            lambda: f"the list is still being rebuilt:\n{self.log.read_text()}",
        )

    def marker_counts(self) -> Counts:
        """Count the markers in the store itself, because the stats may be a second old."""
        return MarkerStore(self.data / "markers.sqlite3").counts()


@pytest.fixture(scope="session")
def planned() -> list[library.Series]:
    """Return the comics of ``small_library``."""
    return library.plan(COUNT)


@pytest.fixture(scope="session")
def small_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with comics and their first markers; copy it before changing it."""
    folder = tmp_path_factory.mktemp("library")
    planned = library.make(folder / "library", COUNT, processes=2)
    processed, duplicates = library.first_markers(planned)
    store = MarkerStore(folder / "markers.sqlite3")
    store.set_markers(processed, processed=True, by_web=False)
    store.set_markers(duplicates, duplicate=True, by_web=False)
    return folder


@contextmanager
def serving(folder: Path, **environment: str) -> Iterator[Server]:
    """Run the demo on ``folder`` until the block ends."""
    address = f"127.0.0.1:{free_port()}"
    log = folder / "gunicorn.log"
    command = [sys.executable, "-m", "gunicorn", "-c", "python:flask_warmcache.gunicorn_conf"]
    command += ["--worker-class", "gthread", "--workers", "2", "--threads", "4", "--bind", address]
    variables = {"WATCHED_DIR": str(folder / "library"), "DEMO_DATA": str(folder), **environment}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "demo.app:app"], cwd=CHECKOUT, env=os.environ | variables, stdout=output, stderr=output
        )
    try:
        server = Server(f"http://{address}", folder / "library", folder, log)
        until(lambda: _answers(server, process), lambda: f"the demo does not answer:\n{log.read_text()}")
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(server: Server, process: subprocess.Popen[bytes]) -> bool:
    if process.poll() is not None:
        pytest.fail(f"the demo ended:\n{server.log.read_text()}")
    try:
        return server.get("/").ok
    except requests.ConnectionError:
        return False


@pytest.fixture
def cold_server(small_library: Path, tmp_path: Path) -> Iterator[Server]:
    """Start a demo for one test, which has not read the comics yet."""
    with serving(Path(shutil.copytree(small_library, tmp_path / "demo"))) as running:
        yield running


@pytest.fixture(scope="module")
def server(small_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start a demo that has read its comics; the tests of a module share it and their marks."""
    with serving(shutil.copytree(small_library, tmp_path_factory.mktemp("shared") / "demo")) as running:
        running.settle()
        yield running


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """Open a browser context without stored data."""
    with browser.new_context(locale="en-GB", viewport={"width": 1280, "height": 900}) as fresh:
        fresh.set_default_timeout(20_000)
        yield fresh
