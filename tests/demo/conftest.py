"""Run the demo as people do: with a library of real files, two gunicorn workers and a browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests

from demo import library
from demo.markers import Counts, MarkerStore
from tests.support.ports import free_port
from tests.support.processes import CHECKOUT, environment
from tests.support.servers import OUR_CONF, ServerProcess, gunicorn_command, running
from tests.support.waiting import until

if TYPE_CHECKING:
    pass

COUNT = 120  # comics, among them twelve broken ones and twelve duplicates; they fill three pages of 48


class Server(ServerProcess):
    """A running demo, with its library and its data in a folder."""

    def __init__(self, folder: Path, **more: str) -> None:
        self.root = folder / "library"
        self.data = folder
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        options = [*OUR_CONF, "--worker-class", "gthread", "--threads", "4"]
        command = gunicorn_command("demo.app:app", port, 2, *options)
        env = environment(WATCHED_DIR=self.root, DEMO_DATA=folder, **more)
        super().__init__(command, port, folder / "gunicorn.log", env, CHECKOUT)

    def get(self, path: str, **query: str | int) -> requests.Response:
        """Send a GET request."""
        return requests.get(self.url + path, params=query, timeout=120)

    def mark(self, body: object, **headers: str) -> requests.Response:
        """Send markers."""
        return requests.post(self.url + "/api/files/mark", json=body, headers=headers, timeout=120)

    def settle(self) -> None:
        """Wait until no list is being rebuilt."""
        until(
            lambda: self.get("/api/files", per_page=1).json()["cache_rebuilding"] is False,
            lambda: f"the list is still being rebuilt:\n{self.log}",
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


@pytest.fixture
def cold_server(small_library: Path, tmp_path: Path) -> Iterator[Server]:
    """Start a demo for one test, which has not read the comics yet."""
    with running(Server(Path(shutil.copytree(small_library, tmp_path / "demo")))) as demo:
        yield demo


@pytest.fixture(scope="module")
def server(small_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start a demo that has read its comics; the tests of a module share it and their marks."""
    with running(Server(shutil.copytree(small_library, tmp_path_factory.mktemp("shared") / "demo"))) as demo:
        demo.settle()
        yield demo
