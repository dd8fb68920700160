from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from demo.markers import Counts, Markers, MarkerStore


@pytest.fixture
def store(tmp_path: Path) -> MarkerStore:
    return MarkerStore(tmp_path / "new" / "markers.sqlite3")


def test_new_store_is_empty(store: MarkerStore) -> None:
    assert store.all() == {}
    assert store.counts() == Counts(0, 0, 0)


def test_marker_is_stored_in_the_file(store: MarkerStore) -> None:
    store.set_markers(["a/b.cbz"], processed=True)
    assert MarkerStore(store.path).all() == {"a/b.cbz": Markers(True, False, True)}


def test_other_marker_is_kept(store: MarkerStore) -> None:
    store.set_markers(["a.cbz"], duplicate=True)
    assert store.set_markers(["a.cbz"], processed=True) == {"a.cbz": Markers(True, True, True)}
    assert store.set_markers(["a.cbz"], duplicate=False) == {"a.cbz": Markers(True, False, True)}


def test_only_changes_by_the_page_are_web_modified(store: MarkerStore) -> None:
    store.set_markers(["a.cbz", "b.cbz"], processed=True, by_web=False)
    assert store.counts() == Counts(2, 0, 0)
    store.set_markers(["b.cbz"], processed=False)
    assert store.counts() == Counts(1, 0, 1)
    store.set_markers(["b.cbz"], processed=True, by_web=False)
    assert store.counts().web_modified == 1


def test_names_are_not_executed_as_sql(store: MarkerStore) -> None:
    name = "x'); drop table markers; --.cbz"
    store.set_markers([name, "ü \N{SNOWMAN}.cbz"], processed=True)
    assert set(store.all()) == {name, "ü \N{SNOWMAN}.cbz"}


def test_concurrent_threads_lose_no_marker(store: MarkerStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: store.set_markers([f"{n}.cbz"], processed=True), range(80)))
    assert store.counts().processed == 80


def test_processes_can_open_a_new_store_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from demo.markers import MarkerStore\n"
        "store = MarkerStore(Path(sys.argv[1]))\n"
        "for n in range(20): store.set_markers([f'{sys.argv[2]}-{n}.cbz'], processed=True)\n"
    )
    path = tmp_path / "markers.sqlite3"
    command = [sys.executable, "-c", code, str(path)]
    root = Path(__file__).parents[2]
    processes = [subprocess.Popen([*command, str(n)], cwd=root, stderr=subprocess.PIPE) for n in range(4)]
    assert [(process.communicate(timeout=120)[1], process.returncode) for process in processes] == [(b"", 0)] * 4
    assert MarkerStore(path).counts().processed == 80
