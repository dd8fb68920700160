"""The cache folder, removed while everything runs."""

from __future__ import annotations

import shutil
import stat
import time
from pathlib import Path

from tests.support.answers import backwards, check_whole
from tests.support.places import Place
from tests.support.servers import Readers, gunicorn_server
from tests.support.waiting import until


def check_private(folder: Path) -> None:
    """Only the owner may enter the folder and read its files."""
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def remove(folder: Path) -> None:
    """``rm -rf``, again if something was made in the folder meanwhile."""

    def gone() -> bool:
        shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()

    until(gone, "an empty place")


def test_removing_the_folder_under_load_costs_no_answer(gated: Place) -> None:
    gated.gate.touch()
    with gunicorn_server(gated) as server:
        old = server.warm_up()
        assert len(server.next_of_each_worker()) == 4  # each has the list mapped
        gated.gate.unlink()
        with Readers(server, clients=3) as readers:
            readers.wait_for(50)
            remove(gated.cache)
            removed_at = time.monotonic()
            gated.builder_at_gate(2)
            readers.wait_for(100)

            def all_know() -> bool:
                return all(answer.json["cache_rebuilding"] for answer in server.next_of_each_worker().values())

            until(all_know, "that all have noticed")
            noticed_at = time.monotonic()
            readers.wait_for(20)
            gated.gate.touch()
            until(lambda: readers.answers[-1].generation != old.generation, "the new list")
            readers.wait_for(100)
        for answer in readers.answers:
            check_whole(answer)
        assert backwards(readers.answers) == []
        after = [answer for answer in readers.answers if answer.begin > removed_at]
        assert [answer for answer in after if answer.generation == old.generation], "old items were not served"
        noticed = [answer for answer in after if answer.begin > noticed_at]
        assert all(answer.json["cache_rebuilding"] for answer in noticed if answer.generation == old.generation)
        assert [answer for answer in noticed if answer.generation == old.generation], "nobody looked in time"
        assert len({answer.generation for answer in readers.answers}) == 2
        assert readers.errors == []
        # A build that begins while the removal is under way may lose its lock file to it, and is made again.
        assert len(gated.calls("source")) in (2, 3)
        assert "Traceback" not in server.log or "the lock file was removed" in server.log
    check_private(gated.cache)


def test_removing_the_folder_during_a_build_keeps_the_list_and_ends_in_a_new_one(gated: Place) -> None:
    gated.env["TEST_RETRY_MIN"] = "0.5"
    gated.gate.touch()
    with gunicorn_server(gated, workers=2) as server:
        old = server.warm_up()
        server.next_of_each_worker()
        gated.gate.unlink()
        server.get("/invalidate", "POST")
        gated.builder_at_gate(2)
        with Readers(server, clients=2) as readers:
            remove(gated.cache)
            readers.wait_for(30)
            gated.gate.touch()
            until(lambda: readers.answers[-1].generation > old.generation, "the new list")
            readers.wait_for(30)
        for answer in readers.answers:
            check_whole(answer)
        assert backwards(readers.answers) == []
        server.warm_up()
    check_private(gated.cache)
